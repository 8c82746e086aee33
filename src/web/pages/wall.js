// The projector's page: digits as large as the screen allows, the time of day, and when each may have to stop.

import { formatClock, formatSeconds, formatTime } from './clock.js';
import { TimerFeed } from './feed.js';
import { pageKey, pathId } from './line.js';
import { Speaker } from './speak.js';

const at = (id) => document.getElementById(id);
const [clock, stage, state] = ['clock', 'stage', 'state'].map(at);
const speaker = new Speaker(at('speech'));

const STATES = {
  waiting: 'Connecting', unknown: 'No such timer', refused: 'This link needs a key', created: 'Not started', scheduled: 'Scheduled',
  running: 'Running', paused: 'Paused', completed: 'Stopped', expired: 'Time is up', deleted: 'Deleted',
};
const SAID = {
  started: 'Started', resumed: 'Resumed', paused: 'Paused', extended: 'Time added', stopped: 'Stopped', expired: 'Time is up',
  deleted: 'Deleted',
};

/** Who gets more time finishes later, by this part of the duration. */
const EXTRA = { finish10: 0.1, finish25: 0.25, finish50: 0.5 };

const feed = new TimerFeed(pathId(), {
  key: pageKey(),
  show: draw,
  news: (what) => {
    speaker.forget();
    speaker.say(SAID[what] ?? what);
  },
});

// -----------------------------------------------------------------------------------------------------------------
// What is shown.

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Hours and minutes large, seconds small: they are exact, and do not shout. */
function writeTime(element, ms) {
  const text = ms === null ? '–' : formatTime(ms) + formatSeconds(ms);
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.textContent = ms === null ? text : formatTime(ms);
  if (ms === null) return;
  const seconds = document.createElement('small');
  seconds.textContent = formatSeconds(ms);
  element.append(seconds);
}

function draw() {
  const { timer, countdown } = feed;
  const now = feed.state;
  document.documentElement.dataset.state = now;
  state.dataset.state = now;
  write(state, STATES[now]);
  document.title = timer ? `${timer.name} · ${STATES[now]}` : STATES[now];
  clock.hidden = at('track').hidden = at('times').hidden = timer === null && now !== 'waiting';
  if (timer === null) {
    if (now === 'unknown') write(at('name'), `There is no timer “${pathId()}” here`);
    return;
  }

  write(at('name'), timer.name);
  const text = formatClock(countdown.seconds);
  const grown = text.length !== clock.textContent.length;
  write(clock, text);
  if (grown) fit();
  at('part').style.width = `${(100 * countdown.seconds) / timer.duration_seconds}%`;
  if (countdown.running) speaker.countdown(countdown.seconds);

  const { finishMs } = feed;
  writeTime(at('start'), feed.startMs);
  writeTime(at('finish'), finishMs);
  for (const [id, part] of Object.entries(EXTRA)) {
    // Who has more time goes on when the others' time is up, but not when all were stopped.
    const own = finishMs === null || now === 'completed' ? null : finishMs + part * timer.duration_seconds * 1000;
    writeTime(at(id), own);
  }
}

/** The time of day, by the server's clock: shown anew when its second changes. */
function drawNow() {
  const now = feed.time.now();
  if (now !== null) {
    writeTime(at('now'), now);
    for (const [id, part] of [['finish', 0], ...Object.entries(EXTRA)]) {
      const { finishMs } = feed;
      const passed = finishMs !== null && now >= finishMs + part * feed.timer.duration_seconds * 1000;
      at(id).parentElement.classList.toggle('over', passed && feed.state !== 'running');
    }
  }
  setTimeout(drawNow, now === null ? 200 : 1000 - (now % 1000));
}
drawNow();

// -----------------------------------------------------------------------------------------------------------------
// As large as fits: the digits are measured at one size, and scaled to the room there is.

function fit() {
  const tried = 100;
  clock.style.fontSize = `${tried}px`;
  const { width, height } = clock.getBoundingClientRect();
  const scale = Math.min(stage.clientWidth / width, stage.clientHeight / height);
  clock.style.fontSize = `${Math.max(24, Math.floor(tried * scale))}px`;
}
new ResizeObserver(fit).observe(stage);
document.fonts?.ready.then(fit);

// -----------------------------------------------------------------------------------------------------------------
// A screen that nobody touches: full, awake, and without a pointer on it.

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
}
document.addEventListener('dblclick', toggleFull);
document.addEventListener('keydown', (event) => {
  if (event.key.toLowerCase() === 'f' && !event.ctrlKey && !event.metaKey && !event.altKey) toggleFull();
});

async function stayAwake() {
  // Browsers without it, or on pages without TLS, have the operating system's settings.
  if (!document.hidden) await navigator.wakeLock?.request('screen').catch(() => {});
}
document.addEventListener('visibilitychange', stayAwake);
stayAwake();

let still = 0;
function moved() {
  document.documentElement.classList.remove('still');
  clearTimeout(still);
  still = setTimeout(() => document.documentElement.classList.add('still'), 4000);
}
document.addEventListener('pointermove', moved);
moved();
