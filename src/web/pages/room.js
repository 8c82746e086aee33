// A room: one timer that a team shares.
//
// The server decides. A press is shown at once, as what it is believed to come to (`guess`), and each press says which
// state it was meant for (`revision`); what the server says takes the guess's place, whatever it is. Names are written
// by anybody: they go into the page as text.
//
// Who this is (`userId`) is kept in sessionStorage, so that a refresh is the same person and a new tab is another.

import { Countdown, formatClock, inWords, onWake } from './clock.js';
import { Line, call, pathId, showLine } from './line.js';
import { at, copyable, el, write } from './parts.js';
import { Speaker } from './speak.js';

/** A press without an answer for so long is taken back. */
const ANSWER_MS = 5000;
/** An entry that had to be refused for now is asked for again after so long. */
const RETRY_MS = 2000;
/** Of the last change: whoever presses sooner after it has probably not seen it. */
const RECENT_MS = 3000;
const NAME = 'timerd.name';
const READ_ONLY = 'This network lets no WebSocket through: you can watch, and control the timer from elsewhere.';

/** The room's id, in the form the server gives it. */
let id = plain(pathId());
let line = null;
/** What the server said last, and who changed it when. */
let state = null;
let by = null;
let changedAt = -Infinity;
/** Presses that have no answer, and the state they should come to. */
let pending = [];
let guess = null;
/** Who we are, as far as that is known; and whether the server has let us in on this line. */
let me = {};
let isIn = false;
/** The duration of the last start: what a reset goes back to. */
let full = 0;

const speaker = new Speaker(at('speech'));
const countdown = new Countdown(showClock);
const who = () => `timerd.room.${id}`;

/** Ids are read aloud and typed: as the server reads them. */
function plain(text) {
  return text.toLowerCase().replaceAll('-', '').replaceAll('o', '0').replace(/[il]/g, '1').trim();
}

const spoken = () => id.replace(/^.{5}(?=.)/, '$&-');
const gone = () => `There is no room ${spoken()}, or no longer`;

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(who()));
  } catch {
    return null;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The door.

function showDoor(why = '') {
  line?.close('');
  line = null;
  countdown.stop(0);
  at('room').hidden = true;
  at('door').hidden = false;
  at('refused').hidden = !why;
  write(at('refused'), why);
  at('which').hidden = Boolean(id);
  at('join-here').hidden = !id;
  write(at('door-title'), id ? 'Join the room' : 'One timer for the team');
  write(at('room-id'), id && `Room ${spoken()}`);
  at('name').value = sessionStorage.getItem(NAME) ?? '';
}

const typedName = () => {
  const name = at('name').value.trim();
  sessionStorage.setItem(NAME, name);
  return name ? { name } : {};
};

at('who').addEventListener('submit', (event) => {
  event.preventDefault();
  if (id) enter(typedName());
  else at('create').requestSubmit();
});

at('join').addEventListener('submit', (event) => {
  event.preventDefault();
  // An id, or a link that ends with one.
  const [address] = at('join-id').value.trim().split(/[?#]/);
  id = plain(/[^/]*(?=\/*$)/.exec(address)[0]);
  if (id) enter(typedName());
});

at('create').addEventListener('submit', (event) => {
  event.preventDefault();
  const message = { type: 'session:create', duration: at('create-minutes').valueAsNumber * 60, ...typedName() };
  const socket = new WebSocket(location.origin.replace(/^http/, 'ws') + '/ws/rooms');
  let isMade = false;
  socket.onopen = () => socket.send(JSON.stringify(message));
  socket.onmessage = (event) => {
    const answer = JSON.parse(event.data);
    isMade = true;
    if (answer.type === 'error') {
      socket.close();
      return showDoor(answer.message);
    }
    if (answer.type !== 'session:joined') return;
    id = plain(answer.sessionId);
    remember(answer);
    // The line that holds comes in as the same person.
    enter(answer);
    socket.close();
  };
  socket.onclose = ({ code }) => {
    if (isMade) return;
    showDoor(code === 4004 ? 'Rooms are off here' : 'No room was made: the server cannot be reached by WebSocket');
  };
});

function remember({ userId, name }) {
  sessionStorage.setItem(who(), JSON.stringify({ userId, name }));
}

// ---------------------------------------------------------------------------------------------------------------
// Inside.

function enter({ name, userId }) {
  history.replaceState(null, '', `/room/${id}`);
  me = { name, userId };
  line?.close('');
  line = new Line({
    socket: '/ws/rooms',
    poll: `/rooms/${id}`,
    hello: () => {
      // Whoever could only watch comes back as who he was.
      me = remembered() ?? me;
      isIn = false;
      return [join(me)];
    },
    question: () => ({ type: 'ping' }),
    closes: { 4004: gone() },
    hear,
    show: (status) => {
      showLine(status);
      if (!status.live) forgetPresses();
      if (status.final && status.code) leave(status.text);
      if (status.level === 'polling') tell(READ_ONLY);
      else if (at('told').textContent === READ_ONLY) tell('');
      show();
    },
  });
}

const join = ({ name, userId }) => ({ type: 'session:join', sessionId: id, name, userId });

function hear(message, { sent, received }) {
  const { type } = message;
  if (type === 'session:joined') {
    id = plain(message.sessionId);
    remember(message);
    isIn = true;
    by = null;
    take(message.state, received, true);
    showPeople(message.users, message.name);
    showRoom();
    // The middle of a question's way is nearer to the truth than the end of an answer's.
    measure();
  }
  if (type === 'polled') {
    const told = message.body;
    if (!state || told.revision !== state.revision) take(told, (sent + received) / 2, true);
    else countdown.measured(told.remainingMs, sent, received);
    showPeople(told.users, remembered()?.name);
    showRoom();
  }
  if (type === 'timer:state') {
    const before = state;
    by = message.by;
    changedAt = received;
    take(message.state, received);
    tell(changeOf(before, message.state));
  }
  if (type === 'timer:tick' && !guess && !countdown.atMost(message.remainingTime * 1000, received)) measure();
  if (message.users && type !== 'session:joined') showPeople(message.users, remembered()?.name);
  if (type === 'session:user-joined') tell(`${message.name} has come in`);
  if (type === 'session:user-left') tell(`${message.name} has left`);
  if (type === 'error') refused(message, received);
}

/** How it stands, asked over HTTP, where question and answer belong together. */
async function measure() {
  const { status, body, sent, received } = await call(`/rooms/${id}`);
  if (status === 200 && !guess && body.revision === state.revision)
    countdown.measured(body.remainingMs, sent, received);
}

/** A state of the server. An older one than is known says nothing, but where the line is new. */
function take(told, received, isAnew = false) {
  if (!isAnew && state && told.revision < state.revision) return;
  const isStart = !state || told.startedAt !== state.startedAt || told.revision === 1;
  if (isStart || (!told.isRunning && !told.isPaused && !told.completed)) full = told.duration;
  state = { ...told, heardAt: received };
  pending = isAnew ? [] : pending.filter((press) => press.revision >= told.revision);
  if (pending.length === 0) {
    guess = null;
    run(state, received);
  }
  show();
}

function run({ isRunning, remainingMs }, at) {
  speaker.forget();
  if (isRunning) countdown.start(remainingMs, at);
  else countdown.stop(remainingMs);
}

/** The server said no. */
function refused({ code, message, state: told }, received) {
  forgetPresses();
  if (told) take(told, received, true);
  // A store that cannot be written for now is no reason to forget who we are.
  if (code === 'unavailable' && !isIn) setTimeout(() => line?.send(join(me)), RETRY_MS);
  else if (code === 'not_found') return leave(gone());
  else if (!isIn || code === 'full' || code === 'limited') return leave(message);
  const isRace = code === 'stale' || (code === 'wrong_state' && received - changedAt < RECENT_MS);
  tell(isRace ? `${by ?? 'Somebody'} was faster: the timer is ${wordOf(state).toLowerCase()}` : message);
}

function forgetPresses() {
  clearTimeout(forgetPresses.later);
  if (pending.length === 0) return;
  pending = [];
  guess = null;
  // Where it would be by now, had nobody pressed.
  run(state, state.heardAt);
  show();
}

// ---------------------------------------------------------------------------------------------------------------
// Presses.

/** What a press comes to, as far as can be known here. */
function after(type, { duration, seconds }, from) {
  const stopped = { ...from, isRunning: false, isPaused: false, completed: false };
  if (type === 'timer:start') {
    const total = duration ?? full;
    return { ...stopped, isRunning: true, duration: total, remainingMs: total * 1000 };
  }
  if (type === 'timer:reset') return { ...stopped, duration: full, remainingMs: full * 1000 };
  if (type === 'timer:pause') return { ...from, isRunning: false, isPaused: true };
  if (type === 'timer:resume') return { ...from, isRunning: true, isPaused: false };
  return { ...from, duration: from.duration + seconds, remainingMs: from.remainingMs + seconds * 1000 };
}

function press(type, fields = {}) {
  if (!line?.status.live || !state) return;
  const revision = state.revision + pending.length;
  if (!line.send({ type, ...fields, revision })) return;
  const now = performance.now();
  guess = after(type, fields, { ...shown(), remainingMs: countdown.remainingMs });
  pending.push({ revision });
  clearTimeout(forgetPresses.later);
  forgetPresses.later = setTimeout(() => {
    if (pending.length === 0) return;
    forgetPresses();
    tell('The server has not answered: press again');
  }, ANSWER_MS);
  tell('');
  run(guess, now);
  show();
}

const shown = () => guess ?? state;

function toggle() {
  const { isRunning, isPaused } = shown();
  press(isRunning ? 'timer:pause' : isPaused ? 'timer:resume' : 'timer:start');
}

at('toggle').addEventListener('click', toggle);
at('reset').addEventListener('click', () => press('timer:reset'));
for (const add of document.querySelectorAll('[data-add]')) {
  add.addEventListener('click', () => press('timer:extend', { seconds: Number(add.dataset.add) }));
}
at('anew').addEventListener('submit', (event) => {
  event.preventDefault();
  press('timer:start', { duration: at('minutes').valueAsNumber * 60 });
});
document.addEventListener('keydown', (event) => {
  const isElsewhere = event.target.closest('input, textarea, select, button, a, summary, dialog');
  if (event.key !== ' ' || event.repeat || isElsewhere || at('room').hidden) return;
  event.preventDefault();
  toggle();
});
at('leave').addEventListener('click', () => {
  line?.send({ type: 'session:leave' });
  leave('You have left the room');
});

/** Out of the room, for good. */
function leave(why) {
  sessionStorage.removeItem(who());
  id = '';
  state = guess = null;
  pending = [];
  history.replaceState(null, '', '/room');
  showDoor(why);
}

// ---------------------------------------------------------------------------------------------------------------
// What is shown.

const WORDS = { running: 'Running', paused: 'Paused', expired: 'Time is up', created: 'Ready' };

/** The state by the names that timers have. */
function nameOf({ isRunning, isPaused, completed }) {
  if (isRunning) return 'running';
  if (isPaused) return 'paused';
  return completed ? 'expired' : 'created';
}

const wordOf = (some) => WORDS[nameOf(some)];

function showRoom() {
  at('door').hidden = true;
  at('room').hidden = false;
  write(at('room-id'), `Room ${spoken()}`);
  if (!at('links').firstChild) at('links').append(copyable('Link to this room', `${location.origin}/room/${id}`));
}

function show() {
  if (!state) return;
  const { isRunning, isPaused } = shown();
  const name = nameOf(shown());
  document.documentElement.dataset.state = at('state').dataset.state = name;
  write(at('state'), wordOf(shown()));
  write(at('toggle'), isRunning ? 'Pause' : isPaused ? 'Resume' : 'Start');
  const canPress = line?.status.level === 'websocket';
  for (const one of at('room').querySelectorAll('[data-add]')) one.disabled = !canPress || !(isRunning || isPaused);
  for (const one of [at('toggle'), at('reset'), at('anew').querySelector('button')]) one.disabled = !canPress;
  showClock();
}

function showClock() {
  if (countdown.seconds === null || !state) return;
  write(at('clock'), formatClock(countdown.seconds));
  at('clock').classList.toggle('long', countdown.seconds >= 3600);
  at('part').style.width = `${Math.min(100, countdown.remainingMs / shown().duration / 10)}%`;
  document.title = `${formatClock(countdown.seconds)} ${wordOf(shown())}`;
  if (countdown.running) speaker.countdown(countdown.seconds);
}

function showPeople(users, me) {
  // Two may have one name: then nobody is marked.
  const isMe = users.filter((user) => user.name === me).length === 1;
  const person = ({ name, connected }) => {
    const away = el('span', { class: 'faint' }, ' away');
    const you = isMe && name === me && ' (you)';
    return el('li', { 'data-connected': String(connected) }, el('b', null, name), you, !connected && away);
  };
  at('people').replaceChildren(...users.map(person));
}

/** What has happened, in words; the next takes its place. */
function tell(words) {
  write(at('told'), words);
}

/** Who did what, by what is other than before. */
function changeOf(before, now) {
  if (now.completed) return 'Time is up';
  const added = now.duration - before.duration;
  const left = formatClock(Math.ceil(now.remainingMs / 1000));
  let what = 'reset the timer';
  if (now.isRunning && now.startedAt !== before.startedAt) what = `started ${left}`;
  else if (now.isPaused && !before.isPaused) what = `paused at ${left}`;
  else if (now.isRunning && before.isPaused) what = `resumed at ${left}`;
  else if (added > 0 && (now.isRunning || now.isPaused)) what = `added ${inWords(added)}`;
  return `${by ?? 'timerd'} ${what}`;
}

// ---------------------------------------------------------------------------------------------------------------

onWake(() => {
  // A stopwatch may stand still while a device sleeps, so that nothing that was measured before holds.
  countdown.distrust();
  countdown.refresh();
  line?.wake();
  if (state && line) measure();
});
const known = id && remembered();
if (known) enter(known);
else showDoor();
