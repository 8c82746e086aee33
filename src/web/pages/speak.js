// What the page says to those who do not look at it: screen readers read the polite region aloud when they are idle.
// The clock itself is silent, or it would speak every second.
//
//   new Speaker(element)   element: <p id="speech" class="unseen" role="status"></p>
//     .say(text)             reads this aloud
//     .countdown(seconds)    tell it every second shown of a running clock: it speaks at 30, 15, 10, 5 and 1 minutes
//                            and at 30 seconds
//     .forget()              the clock has changed: the next second is where to count from, and not news

import { inWords } from './clock.js';

// A skip link moves the focus alone: the address keeps its fragment, which may be the key or the session.
document.querySelector('.skip')?.addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});

const SPOKEN_AT = [1800, 900, 600, 300, 60, 30];

export class Speaker {
  #element;
  #last = null;
  #wait = 0;

  constructor(element) {
    this.#element = element;
  }

  say(text) {
    // The same words twice are no change, and no change is not read: empty it first.
    this.#element.textContent = '';
    clearTimeout(this.#wait);
    this.#wait = setTimeout(() => (this.#element.textContent = text), 100);
  }

  countdown(seconds) {
    const crossed = SPOKEN_AT.some((mark) => this.#last > mark && seconds <= mark);
    this.#last = seconds;
    if (crossed && seconds > 0) this.say(`${inWords(seconds)} left`);
  }

  forget() {
    this.#last = null;
  }
}
