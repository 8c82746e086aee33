// The candidate's page: begin, answer, move about, hand in.
//
// The server keeps everything: the session, the answers, the time. This page shows what it said last, and holds what it
// has not confirmed yet: answers ("drafts", in sessionStorage, too, so that a refresh loses none) and flags. "Saved"
// is written only when the server has said so. The session's id stands in the address's fragment, #session=..., which
// browsers keep to themselves.
//
// What is sent as a response is {"answer": "..."}: the text of the choice, or what was typed.
//
// Prompts, choices and names are written by anybody: they go into the page as text.

import { Refusal, ask, chance, keepKey, key, pause } from './api.js';
import { Countdown, ServerTime, formatClock, onWake } from './clock.js';
import { Line, pathId, showLine } from './line.js';
import { at, button, count, el, sure, timeOfDay, write } from './parts.js';
import { Speaker } from './speak.js';

/** An answer that is typed is sent when the keys have been still for so long. */
const TYPING_MS = 800;
const RETRY_MAX_MS = 15_000;
/** Characters of an answer: below the server's 64 KiB in any alphabet. */
const SHORT_MAX = 1000;
const LONG_MAX = 20_000;
const TITLES = { completed: 'Handed in', expired: 'Time is up', terminated: 'The supervisor has ended this exam' };

const assessment = pathId();
let id = new URLSearchParams(location.hash.slice(1)).get('session');

/** The session as the server has it (`GET /delivery/session/{id}`), kept up to date. */
let session = null;
/** Where the candidate is: the answer of `current` or `navigate`. */
let here = null;
/** The ids of all items, in order, and their buttons in the overview. */
let items = [];
const cells = new Map();

/** Answers that are not confirmed, by item: {response, base, sent, refused}. `base` is what the server had before. */
let drafts = new Map();
/** Flags that are not confirmed, by item. */
const flags = new Map();
/** Items whose last change was not taken. */
const lost = new Set();
/** When answers were confirmed, by item. */
const savedAt = new Map();
/** Something was sent and no answer came: what the server has may be other than what we know. */
let inDoubt = false;

let line = null;
let isMoving = false;
let handingIn = null;

const speaker = new Speaker(at('speech'));
const serverTime = new ServerTime();
const countdown = new Countdown(showClock);
const partCountdown = new Countdown(() => write(at('part-clock'), formatClock(partCountdown.seconds)));

const path = (call = '') => `/delivery/session/${encodeURIComponent(id)}${call}`;
const json = (value) => JSON.stringify(value ?? null);
const isOver = () => session.state in TITLES;
const isOpen = () => session.state === 'in_progress' && !handingIn;

// ---------------------------------------------------------------------------------------------------------------
// The door.

let startKey = chance();

at('start').addEventListener('submit', async (event) => {
  event.preventDefault();
  const candidate = at('candidate').value.trim();
  if (at('key').value) keepKey(at('key').value.trim());
  const start = `/delivery/start/${encodeURIComponent(assessment)}`;
  try {
    const { body } = await ask(
      'POST',
      start,
      { candidate_id: candidate, test_taker_id: candidate },
      { once: startKey },
    );
    id = body.session_id;
    const fragment = new URLSearchParams(location.hash.slice(1));
    fragment.set('session', id);
    history.replaceState(null, '', `#${fragment}`);
    await open();
  } catch (refusal) {
    // Where no answer came the exam may have begun: the next press asks for that same start.
    if (!refusal.isPassing) startKey = chance();
    showDoor(refusal);
  }
});
at('candidate').addEventListener('input', () => {
  startKey = chance();
});

function showDoor(refusal) {
  line?.close();
  at('door').hidden = false;
  at('paper').hidden = at('times').hidden = true;
  write(at('title'), assessment);
  at('refused').hidden = !refusal;
  if (!refusal) return;
  const advice = {
    401: 'Ask for the link that has the key in it, or write the key below.',
    404: 'Look at the address again, or ask the supervisor.',
    409: 'You have begun it on another machine or in another tab. To go on here, ask the supervisor for your link.',
  };
  at('key-field').hidden = refusal.status !== 401;
  write(at('refused'), `${refusal.message}. ${advice[refusal.status] ?? ''}`);
}

// ---------------------------------------------------------------------------------------------------------------
// What the server says.

/** Begins with the session in the address: where it stands, and what was not sent before a refresh. */
async function open() {
  await read();
  try {
    drafts = new Map(Object.entries(JSON.parse(sessionStorage.getItem(`timerd.exam.${id}`)) ?? {}));
  } catch {
    drafts = new Map();
  }
  settle();
  at('door').hidden = true;
  write(at('title'), session.title);
  document.title = session.title;
  // Told so while nobody was looking: within the grace it can still be handed in.
  if (session.state === 'expired') return handIn();
  if (isOver()) return showEnd();
  at('paper').hidden = at('times').hidden = false;
  place(await ask('GET', path('/current')));
  listen();
  flush();
}

/** The whole session anew. */
async function read() {
  const { body, received } = await ask('GET', path());
  session = body;
  items = session.sections.flatMap((section) => section.items);
  inDoubt = false;
  tell(session.time_remaining_seconds, received);
}

/** Drafts against what the server has by now: some have arrived, and what was answered elsewhere since is kept. */
function settle() {
  for (const [item, draft] of drafts) {
    const held = json(session.responses[item]);
    if (held === json(draft.response)) confirmed(item, draft.response);
    else if (held !== draft.base && !draft.sent.includes(held)) {
      drafts.delete(item);
      notify(
        `Question ${items.indexOf(item) + 1} has been answered elsewhere since, and that answer counts. ` +
          `Written here was: ${draft.response.answer}`,
      );
      if (item === here?.item.item_id) showItem();
    }
  }
  keep();
}

/** After a silence, a refusal, or a word that something is other than before. */
async function look() {
  const before = session.state;
  await read();
  settle();
  const { state } = session;
  session.state = before;
  await become(state);
  if (!isOver() && !handingIn) place(await ask('GET', path('/current')));
}

const lookQuietly = () =>
  look().catch(() => {
    inDoubt = true;
  });

async function become(state) {
  const before = session.state;
  session.state = state;
  if (handingIn) return;
  if (state === 'expired' && before !== 'expired') {
    show();
    speaker.say('Time is up');
    // A class whose time ends together need not hand in at the same instant, but well within the grace.
    await pause(Math.random() * Math.min(2000, 200 * session.grace_seconds));
    return handIn();
  }
  if (isOver()) return showEnd();
  show();
  if (state === before) return;
  if (state === 'paused') speaker.say('Paused by the supervisor. Your time stands still.');
  if (before === 'paused') speaker.say('The exam goes on');
  tell(countdown.seconds, performance.now(), true);
  flush();
}

function listen() {
  let wasLive = false;
  line = new Line({
    socket: `/delivery/ws/${encodeURIComponent(id)}`,
    poll: path('/current'),
    key: key(),
    question: () => ({ type: 'ping' }),
    closes: { 4003: 'over', 4004: 'This exam is no longer known' },
    hear,
    show: (status) => {
      showLine(status);
      // Before there was a line, and while it was lost, nobody told what happened.
      if (status.live && (inDoubt || !wasLive)) lookQuietly();
      if (status.live) flush();
      wasLive = status.live;
      if (status.code === 4003) lookQuietly();
    },
  });
  // A tick comes each second.
  line.patienceMs = session.time_limit_seconds === null ? line.patienceMs : 4000;
  onWake(() => line.wake());
}

function hear(message, { received }) {
  if (isOver() || handingIn) return;
  const { type } = message;
  if (message.timestamp) serverTime.heard(received, Date.parse(message.timestamp));
  if (type === 'timer') tell(message.time_remaining, received);
  if (type === 'polled') {
    if (message.body.state !== session.state || message.body.item.item_id !== here.item.item_id) lookQuietly();
    else place(message, true);
  }
  if (type === 'extended') {
    tell(message.time_remaining, received, true);
    const words = `The supervisor has added ${spelled(message.added_seconds)}`;
    notify(message.reason ? `${words}: ${message.reason}` : words);
  }
  if (type === 'paused' || type === 'resumed') {
    countdown.stop(1000 * (message.time_remaining ?? 0));
    become(type === 'paused' ? 'paused' : 'in_progress');
    lookQuietly();
  }
  if (type in TITLES) become(type);
  if (type === 'section_expired') {
    const part = session.sections.find((section) => section.section_id === message.section_id)?.name ?? 'This part';
    notify(`${part}: its time is up. What you answered there is kept.`);
    lookQuietly();
  }
  if (type === 'flagged') {
    if (flags.get(message.item_id) === message.is_flagged) flags.delete(message.item_id);
    setFlag(message.item_id, message.is_flagged);
    show();
  }
  // Moved in another tab.
  if (type === 'current_item' && !isMoving && message.item?.item_id !== here.item.item_id) lookQuietly();
}

const spelled = (seconds) => (seconds % 60 ? count(seconds, 'second') : count(seconds / 60, 'minute'));

// ---------------------------------------------------------------------------------------------------------------
// Time. What is told is rounded up: no more than this is left.

function tell(seconds, received, isNew = false) {
  if (seconds === null) return showClock();
  if (session.state !== 'in_progress') return countdown.stop(seconds * 1000);
  if (isNew || !countdown.running) {
    speaker.forget();
    countdown.start(seconds * 1000, received);
  } else if (!countdown.atMost(seconds * 1000, received)) {
    countdown.start(seconds * 1000, received);
  }
}

function tellPart(seconds, received) {
  at('part').hidden = seconds === null || seconds === undefined;
  if (at('part').hidden) return partCountdown.stop(0);
  if (session.state === 'in_progress') partCountdown.start(seconds * 1000, received);
  else partCountdown.stop(seconds * 1000);
}

function showClock() {
  const { seconds } = countdown;
  document.documentElement.dataset.state = session?.state ?? '';
  if (session?.time_limit_seconds === null) return write(at('clock'), 'no time limit');
  if (seconds === null) return;
  write(at('clock'), formatClock(seconds));
  at('clock').dataset.low = seconds <= 60 ? 'last' : seconds <= 300 ? 'low' : '';
  if (countdown.running) speaker.countdown(seconds);
  // Only the server says that time is up.
  if (seconds === 0 && session.state === 'in_progress') write(at('state'), 'Waiting for the server');
}

// ---------------------------------------------------------------------------------------------------------------
// The question.

/** Shows the place that an answer of `current` or `navigate` tells. `isKnown`: the item is on the screen already. */
function place({ body, received }, isKnown = false) {
  const isOther = !isKnown && body.item.item_id !== here?.item.item_id;
  here = body;
  if ('time_remaining_seconds' in body) tell(body.time_remaining_seconds, received);
  tellPart(body.section_remaining_seconds, received);
  if (isOther) showItem();
  show();
}

function showItem() {
  const { item_id: item, content } = here.item;
  const { prompt, choices, type } = content;
  const words = el('p', { id: 'prompt' }, typeof prompt === 'string' ? prompt : json(content));
  const answer = answerOf(item);
  let field;
  if (Array.isArray(choices) && choices.length > 0) {
    field = el(
      'fieldset',
      { class: 'stack', 'aria-labelledby': 'prompt' },
      choices.map((choice) => {
        const text = textOf(choice);
        const radio = el('input', { type: 'radio', name: 'answer', value: text, onchange: () => give(item, text) });
        radio.checked = text === answer;
        return el('label', { class: 'choice' }, radio, el('span', null, text));
      }),
    );
  } else {
    const isShort = type === 'short_text';
    const limit = { maxlength: isShort ? SHORT_MAX : LONG_MAX, 'aria-labelledby': 'prompt', autocomplete: 'off' };
    field = isShort ? el('input', limit) : el('textarea', { ...limit, rows: 10 });
    field.value = answer ?? '';
    field.addEventListener('input', () => give(item, field.value, TYPING_MS));
    field.addEventListener('blur', flush);
  }
  at('item').replaceChildren(words, field);
}

/** A choice is a text; or an object that has one. */
const textOf = (choice) =>
  String(typeof choice === 'object' ? (choice?.text ?? choice?.label ?? json(choice)) : choice);

function answerOf(item) {
  const response = drafts.get(item)?.response ?? session.responses[item];
  return typeof response?.answer === 'string' ? response.answer : undefined;
}

/** Whether there is an answer: an empty one is none. */
const isAnswered = (item) =>
  (drafts.get(item)?.response ?? session.responses[item]) !== undefined && answerOf(item) !== '';
const isFlagged = (item) => flags.get(item) ?? session.flagged_items.includes(item);
const numbersOf = (some) => some.map((item) => items.indexOf(item) + 1).join(', ');
const sectionOf = (item) => session.sections.findIndex((section) => section.items.includes(item));

function show() {
  const { item_id: item } = here.item;
  const isPaused = session.state === 'paused';
  const state = handingIn
    ? 'Handing in'
    : { in_progress: 'Running', paused: 'Paused', expired: 'Time is up' }[session.state];
  write(at('state'), state ?? '');
  at('state').dataset.state = session.state;
  document.documentElement.dataset.state = session.state;

  const section = session.sections[sectionOf(item)];
  const part = session.sections.length > 1 ? `${section.name}: ` : '';
  write(
    at('place'),
    isPaused ? 'Paused by the supervisor' : `${part}Question ${here.current_item_index + 1} of ${items.length}`,
  );
  write(at('part-name'), section.name);
  // Whose time stands still does not read on.
  at('item').hidden = isPaused;
  at('still').hidden = !isPaused;
  for (const field of at('item').querySelectorAll('input, textarea')) field.disabled = !isOpen();

  at('previous').hidden = session.navigation_mode === 'LINEAR';
  at('previous').disabled = !isOpen() || !here.can_go_previous;
  at('next').disabled = !isOpen() || !here.can_go_next;
  at('flag').disabled = at('submit').disabled = !isOpen();
  at('flag').setAttribute('aria-pressed', String(isFlagged(item)));
  write(at('flag'), isFlagged(item) ? '⚑ Flagged' : '⚐ Flag for later');
  showSaved();
  showOverview();
}

function showSaved() {
  const { item_id: item } = here.item;
  const draft = drafts.get(item);
  const time = savedAt.get(item);
  const isHeld = session.responses[item] !== undefined;
  let kind = isHeld ? 'saved' : '';
  if (draft) kind = draft.refused ? 'refused' : 'waiting';
  if (session.state === 'paused') kind = '';
  at('saved').dataset.saved = kind;
  const words = {
    refused: `Not taken: ${draft?.refused}`,
    waiting: 'Not saved yet',
    saved: `Saved ${time ?? ''}`.trim(),
  };
  write(at('saved'), words[kind] ?? '');
}

function showOverview() {
  const answered = items.filter(isAnswered).length;
  const flagged = items.filter(isFlagged).length;
  write(
    at('tally'),
    [
      `${answered} of ${items.length} answered`,
      flagged && `${flagged} flagged`,
      drafts.size && `not saved yet: ${numbersOf([...drafts.keys()])}`,
    ]
      .filter(Boolean)
      .join(', '),
  );
  if (cells.size === 0) layOverview();
  for (const [item, cell] of cells) {
    const index = items.indexOf(item);
    const isHere = item === here.item.item_id;
    const section = sectionOf(item);
    const isClosed =
      !isOpen() ||
      session.sections[section].locked ||
      session.navigation_mode === 'LINEAR' ||
      (session.navigation_mode === 'HYBRID' && section < sectionOf(here.item.item_id));
    cell.disabled = isClosed && !isHere;
    cell.dataset.answered = isAnswered(item);
    cell.dataset.flagged = isFlagged(item);
    if (isHere) cell.setAttribute('aria-current', 'step');
    else cell.removeAttribute('aria-current');
    const marks = [`Question ${index + 1}`, isAnswered(item) && 'answered', isFlagged(item) && 'flagged'];
    cell.setAttribute('aria-label', marks.filter(Boolean).join(', '));
  }
}

function layOverview() {
  for (const [index, item] of items.entries()) {
    cells.set(
      item,
      button(String(index + 1), () => go({ direction: 'specific', target_index: index })),
    );
  }
  at('overview').replaceChildren(
    ...session.sections.map((section) =>
      el(
        'div',
        { class: 'stack' },
        session.sections.length > 1 && el('h3', null, section.name),
        el(
          'ol',
          { class: 'grid' },
          section.items.map((item) => el('li', null, cells.get(item))),
        ),
      ),
    ),
  );
}

/** A word to everybody; the next one takes its place. */
function notify(words) {
  at('notice').hidden = !words;
  write(at('notice-text'), words);
}

at('seen').addEventListener('click', () => {
  notify('');
  at('place').focus();
});

// ---------------------------------------------------------------------------------------------------------------
// Answers on their way.

let typing = 0;
let saving = null;
let failures = 0;
let retry = 0;

/** The candidate's answer. It is sent at once, or after some stillness. */
function give(item, text, afterMs = 0) {
  const draft = drafts.get(item) ?? { base: json(session.responses[item]), sent: [] };
  // Half a character, cut off by a limit, is none that could be sent.
  draft.response = { answer: text.toWellFormed?.() ?? text };
  delete draft.refused;
  drafts.set(item, draft);
  keep();
  show();
  clearTimeout(typing);
  if (afterMs) typing = setTimeout(flush, afterMs);
  else flush();
}

function keep() {
  try {
    if (drafts.size > 0) sessionStorage.setItem(`timerd.exam.${id}`, JSON.stringify(Object.fromEntries(drafts)));
    else sessionStorage.removeItem(`timerd.exam.${id}`);
  } catch {
    // Full, or forbidden: then they are kept by this page alone.
  }
}

function confirmed(item, response) {
  session.responses[item] = response;
  savedAt.set(item, timeOfDay(serverTime.now() ?? Date.now(), 'medium'));
  drafts.delete(item);
}

/** Sends what is not confirmed, one after the other. Resolves to whether all of it is. */
function flush() {
  clearTimeout(typing);
  clearTimeout(retry);
  saving ??= save().finally(() => {
    saving = null;
    if (here && !isOver()) show();
  });
  return saving;
}

async function save() {
  for (const [item, isOn] of flags) line?.send({ type: 'flag', item_id: item, is_flagged: isOn });
  for (;;) {
    const [item, draft] = [...drafts].find(([, one]) => !one.refused) ?? [];
    if (!item) return true;
    if (!isOpen()) return false;
    try {
      // Somebody may have gone on elsewhere while there was no answer here.
      if (inDoubt) {
        await look();
        continue;
      }
      const { response } = draft;
      draft.sent = [...draft.sent, json(response)].slice(-20);
      keep();
      await ask('POST', path('/answer'), { item_id: item, response }, { tries: 1 });
      if (failures > 1) speaker.say('Your answer is saved');
      failures = 0;
      if (draft.response === response) confirmed(item, response);
      else Object.assign(draft, { base: json(response), sent: [] });
      keep();
      show();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      if ([401, 403, 404].includes(refusal.status)) {
        showDoor(refusal);
        return false;
      }
      if (refusal.isPassing) {
        inDoubt = true;
        failures += 1;
        if (failures === 2) speaker.say('Your answer is not saved yet');
        retry = setTimeout(
          flush,
          Math.max(refusal.retryAfterMs, Math.random() * Math.min(RETRY_MAX_MS, 1000 * 2 ** failures)),
        );
        return false;
      }
      // Why: the exam stands still, or is over; or it is this answer that is not taken.
      await lookQuietly();
      if (isOpen() && !inDoubt) draft.refused = refusal.message;
    }
  }
}

at('question').addEventListener('submit', (event) => event.preventDefault());

at('flag').addEventListener('click', () => {
  const { item_id: item } = here.item;
  flags.set(item, !isFlagged(item));
  if (!line?.send({ type: 'flag', item_id: item, is_flagged: flags.get(item) })) {
    // Without the socket a flag travels with an answer.
    const response = session.responses[item];
    if (response && !drafts.has(item)) {
      const body = { item_id: item, response, is_flagged: flags.get(item) };
      ask('POST', path('/answer'), body)
        .then(() => hear({ type: 'flagged', ...body }, {}))
        .catch(() => {});
    }
  }
  show();
});

function setFlag(item, isOn) {
  session.flagged_items = session.flagged_items.filter((one) => one !== item).concat(isOn ? [item] : []);
}

// Leaving with something unsaved is asked about by the browser; it is kept in this tab all the same.
addEventListener('beforeunload', (event) => {
  if (session && !isOver() && drafts.size > 0) event.preventDefault();
});
document.addEventListener('visibilitychange', () => document.hidden && session && flush());

// ---------------------------------------------------------------------------------------------------------------
// Moving about.

at('previous').addEventListener('click', () =>
  go(
    session.navigation_mode === 'NON_LINEAR'
      ? { direction: 'specific', target_index: here.current_item_index - 1 }
      : { direction: 'previous' },
  ),
);
at('next').addEventListener('click', (event) => event.detail < 2 && go({ direction: 'next' }));

async function go(way) {
  if (isMoving || !isOpen()) return;
  isMoving = true;
  try {
    const { navigation_mode: mode } = session;
    const from = here.item.item_id;
    const target = way.target_index ?? here.current_item_index + (way.direction === 'next' ? 1 : -1);
    const leaves = mode === 'LINEAR' || (mode === 'HYBRID' && sectionOf(items[target]) !== sectionOf(from));
    // An answer goes before its question is left; where one can come back to it, it is not waited for long.
    const isAllSaved = await (leaves ? flush() : Promise.race([flush(), pause(1500)]));
    if (leaves && !isAllSaved) return notify('Wait until your answer is saved: you cannot come back to it');
    if (leaves && !(await mayLeave(mode))) return;
    // Moved on by the end of a part, while this was asked.
    if (here.item.item_id !== from || !isOpen()) return;
    const answer = await ask('POST', path('/navigate'), way, { tries: 1 });
    notify('');
    place(answer);
    at('place').focus();
  } catch (refusal) {
    if (refusal.isPassing) inDoubt = true;
    else await lookQuietly();
    if (!isOver())
      notify(
        refusal.status === 0 ? 'Cannot move now: the server does not answer. Your answers are kept.' : refusal.message,
      );
  } finally {
    isMoving = false;
  }
}

/** Asks only where something would be left without an answer for good. */
async function mayLeave(mode) {
  const { item_id: item } = here.item;
  const left = mode === 'LINEAR' ? [item] : session.sections[sectionOf(item)].items;
  const open = left.filter((one) => !isAnswered(one));
  if (open.length === 0 && mode === 'LINEAR') return true;
  const what = open.length ? `Without an answer: ${numbersOf(open)}. ` : '';
  return sure('Go on?', el('p', null, `${what}You cannot come back.`), 'Go on');
}

// ---------------------------------------------------------------------------------------------------------------
// Handing in.

at('submit').addEventListener('click', async () => {
  flush();
  const open = items.filter((item) => !isAnswered(item));
  const flagged = items.filter(isFlagged);
  const words =
    open.length === 0
      ? 'Every question has an answer.'
      : `${count(open.length, 'question')} without an answer: ${numbersOf(open)}.`;
  const content = [
    el('p', { id: 'unanswered' }, words),
    flagged.length > 0 && el('p', null, `Flagged: ${numbersOf(flagged)}.`),
    el('p', null, 'After this nothing can be changed.'),
  ];
  if (await sure('Hand in now?', el('div', { class: 'stack' }, content), 'Hand in')) handIn();
});

/** Hands in, with whatever is not confirmed yet; until the server has said yes or no. */
function handIn() {
  handingIn ??= (async () => {
    if (here) show();
    let once = chance();
    for (let failed = 0; ;) {
      const answers = [...drafts].map(([item, { response }]) => ({ item_id: item, response }));
      try {
        await ask('POST', path('/submit'), { answers }, { once, tries: 1 });
        for (const [item, { response }] of drafts) confirmed(item, response);
        break;
      } catch (refusal) {
        if (refusal.isPassing) {
          failed += 1;
          notify('Not handed in yet: the server does not answer. Trying again.');
          await pause(Math.random() * Math.min(5000, 500 * 2 ** failed));
          continue;
        }
        // They are taken all or none: leave out the one that is not, the oldest first.
        if (drafts.size === 0 || /^Cannot submit in state/.test(refusal.message)) break;
        const [item] = drafts.keys();
        lost.add(item);
        drafts.delete(item);
        once = chance();
      }
    }
    await showEnd();
  })();
  return handingIn;
}

let isEnding = false;

/** What has become of it, as the server has it. */
async function showEnd() {
  if (isEnding) return;
  isEnding = true;
  for (let failed = 1; ; failed += 1) {
    try {
      await read();
      break;
    } catch (refusal) {
      if (!refusal.isPassing) return showDoor(refusal);
      await pause(Math.random() * Math.min(5000, 500 * 2 ** failed));
    }
  }
  const { state, completed_at: ended, late_ms: late } = session;
  settle();
  for (const item of drafts.keys()) lost.add(item);
  drafts.clear();
  keep();
  countdown.stop(0);
  partCountdown.stop(0);
  line?.close('');
  delete document.documentElement.dataset.line;
  document.documentElement.dataset.state = state;
  document.querySelector('dialog')?.close();
  notify('');
  at('paper').hidden = at('times').hidden = true;
  at('end').hidden = false;
  write(at('end-title'), TITLES[state]);
  const answered = items.filter(isAnswered).length;
  at('receipt').replaceChildren(
    ...[
      el('p', { class: 'lead' }, session.title),
      el(
        'dl',
        { class: 'facts' },
        el('dt', null, state === 'completed' ? 'Handed in' : 'Ended'),
        el('dd', null, timeOfDay(ended, 'medium')),
        el('dt', null, 'Answered'),
        el('dd', null, `${answered} of ${items.length}`),
        el('dt', null, 'Candidate'),
        el('dd', null, session.candidate_id),
      ),
      late && el('p', null, `That was ${count(Math.ceil(late / 1000), 'second')} after the end, within the grace.`),
      state === 'expired' && el('p', null, 'What had been saved until then counts.'),
      lost.size > 0 &&
        el('p', { class: 'notice warn' }, `Not taken any more: the last change of question ${numbersOf([...lost])}.`),
      el('p', null, 'You may close this page.'),
    ].filter(Boolean),
  );
  at('end-title').focus();
  speaker.say(TITLES[state]);
}

// ---------------------------------------------------------------------------------------------------------------

// The fragment is the session's: another session is another page.
addEventListener('hashchange', () => location.reload());

if (id) {
  write(at('title'), assessment);
  for (;;) {
    try {
      await open();
      break;
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      if (!refusal.isPassing) {
        showDoor(refusal);
        break;
      }
      showLine({ level: 'offline', text: 'offline' });
      await pause(1000 + Math.random() * 3000);
    }
  }
} else {
  showDoor();
  at('candidate').focus();
}
