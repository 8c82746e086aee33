// The student's page: one timer, which a student can look at, hide, and do nothing else with.

import { formatClock, formatSeconds, formatTime, inWords } from './clock.js';
import { TimerFeed } from './feed.js';
import { pageKey, pathId } from './line.js';
import { Speaker } from './speak.js';

const at = (id) => document.getElementById(id);
const [clock, state, detail, news] = ['clock', 'state', 'detail', 'news'].map(at);
const speaker = new Speaker(at('speech'));

const STATES = {
  waiting: 'Connecting', unknown: 'No such timer', refused: 'Not connected', created: 'Not started', scheduled: 'Scheduled',
  running: 'Running', paused: 'Paused', completed: 'Stopped', expired: 'Time is up', deleted: 'Deleted',
};

const feed = new TimerFeed(pathId(), { key: pageKey(), show: draw, news: tell });

// -----------------------------------------------------------------------------------------------------------------
// What is shown.

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function draw() {
  const { timer, countdown, line } = feed;
  const now = feed.state;
  const over = ['completed', 'expired', 'deleted', 'unknown', 'refused'].includes(now);
  document.documentElement.dataset.state = now;
  state.dataset.state = now;
  write(state, STATES[now]);
  write(detail, describe(now));

  at('problem').hidden = !['unknown', 'refused', 'deleted'].includes(now);
  write(at('reason'), reason(now));
  at('face').hidden = timer === null && over;
  at('cover').hidden = timer === null || over;
  document.title = title(now);
  if (timer === null) return;

  write(at('name'), timer.name);
  write(clock, formatClock(countdown.seconds));
  clock.classList.toggle('long', countdown.seconds >= 3600);
  at('part').style.width = `${(100 * countdown.seconds) / timer.duration_seconds}%`;

  const mark = line.status.final ? null : feed.warning;
  const warning = at('warning');
  warning.hidden = mark === null || countdown.seconds === 0;
  if (mark !== null) write(warning, `The last ${inWords(mark)}`.replace(/ 1 (hour|minute|second)$/, ' $1'));
  warning.classList.toggle('stop', mark <= 60);

  if (countdown.running) speaker.countdown(countdown.seconds);
}

function describe(now) {
  const time = (ms) => formatTime(ms) + formatSeconds(ms);
  const { countdown, finishMs, line } = feed;
  switch (now) {
    case 'created':
      return 'The clock has not started yet.';
    case 'scheduled':
      return `Starts by itself at ${time(feed.startMs)}.`;
    case 'running':
      if (countdown.seconds > 0) return finishMs ? `Until ${time(finishMs)}` : '';
      // That time is up is for the server to say: somebody may just have added some.
      return line.status.live
        ? 'Waiting for the server’s word.'
        : 'The connection is lost: time may be up. Ask whoever is in charge.';
    case 'paused':
      return 'The clock stands still.';
    case 'completed':
      return finishMs ? `Stopped at ${time(finishMs)}, before its end.` : 'Stopped before its end.';
    case 'expired':
      return finishMs ? `Ended at ${time(finishMs)}.` : '';
    default:
      return '';
  }
}

function reason(now) {
  if (now === 'unknown') return `There is no timer with the id “${pathId()}” here. It may have been deleted.`;
  if (now === 'deleted') return 'Whoever is in charge has deleted this timer.';
  return now === 'refused' ? `${feed.line.status.text}.` : '';
}

function title(now) {
  const name = feed.timer?.name ?? 'Timer';
  const tells = ['running', 'paused'].includes(now) && !isCovered();
  return `${tells ? formatClock(feed.countdown.seconds) : STATES[now]} · ${name}`;
}

// -----------------------------------------------------------------------------------------------------------------
// What is said.

let wait = 0;

function tell(what, added) {
  const left = `${inWords(feed.countdown.seconds)} left`;
  const said = {
    started: `Started. ${left}`, resumed: `Resumed. ${left}`, paused: `Paused. ${left}`,
    extended: `${inWords(added ?? 0)} added. ${left}`, stopped: 'Stopped', expired: 'Time is up', deleted: 'The timer was deleted',
  };
  speaker.forget();
  speaker.say(said[what] ?? what);
  if (what !== 'extended') {
    news.hidden = true;
    return;
  }
  write(news, `${inWords(added)} added.`);
  news.hidden = false;
  clearTimeout(wait);
  wait = setTimeout(() => (news.hidden = true), 30_000);
}

// -----------------------------------------------------------------------------------------------------------------
// A clock can be a burden: it can be hidden, and stays so on this device until it is shown again.

function isCovered() {
  return clock.hidden;
}

function cover(covered) {
  clock.hidden = at('track').hidden = covered;
  at('covered').hidden = !covered;
  write(at('cover'), covered ? 'Show the clock' : 'Hide the clock');
  document.title = title(feed.state);
}

function remember(covered) {
  try {
    localStorage.setItem('timerd-clock', covered ? 'hidden' : 'shown');
  } catch {
    // A browser that keeps nothing forgets this, too.
  }
}

function remembered() {
  try {
    return localStorage.getItem('timerd-clock') === 'hidden';
  } catch {
    return false;
  }
}

at('cover').addEventListener('click', () => {
  cover(!isCovered());
  remember(isCovered());
});
cover(remembered());
