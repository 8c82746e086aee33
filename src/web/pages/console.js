// The instructor's console: every timer and every exam, and what can be done to them.
//
// The list is what GET /timers said last; between two answers each row counts by itself. Events only say that
// something has happened: then the list is asked for anew. A press that changes something is one request under one
// Idempotency-Key. Names are written by anybody: they go into the page as text.

import { ask, chance, keepKey, key, pause } from './api.js';
import { Countdown, formatClock, onWake } from './clock.js';
import { Exams } from './exams.js';
import { Line, pageKey, showLine } from './line.js';
import { at, button, capital, copyable, count, dialog, el, report, sure, timeOfDay, write } from './parts.js';
import { Speaker } from './speak.js';

/** Events or not. */
const REFRESH_MS = 10_000;
/** Events that come together are one question. */
const COALESCE_MS = 150;
/** What was done stays on the screen for so long. */
const TOLD_MS = 8000;
/** Ids in one bulk call. */
const BULK_MAX = 1000;
/** After the pointer moved over the rows they keep their places for so long: nobody should press what has just come. */
const HOLD_MS = 1500;

/** Worst first. */
const STATES = { running: 0, paused: 1, created: 2, scheduled: 3, completed: 4, expired: 4 };
const WORDS = { completed: 'stopped', expired: 'time is up' };
const stateOf = (timer) => (timer.state === 'created' && timer.start_at ? 'scheduled' : timer.state);
const isFinished = (timer) => STATES[stateOf(timer)] === 4;

const list = at('timers');
const rows = new Map();
const selected = new Set();
const speaker = new Speaker(at('speech'));
const exams = new Exams(at('exams'), { tell, fail, link });
let holdUntil = 0;

// ---------------------------------------------------------------------------------------------------------------
// One row.

class Row {
  constructor(timer) {
    this.timer = timer;
    this.isBusy = false;
    this.pick = el('input', { type: 'checkbox', onchange: () => select([this.timer.id], this.pick.checked) });
    this.name = el('b');
    this.id = el('span', { class: 'hint' }, timer.id);
    this.state = el('p', { class: 'chip' });
    this.left = el('p', { class: 'clock left' });
    this.facts = el('p', { class: 'facts' });
    this.main = button(
      '',
      (event) => this.press(event, { start: 'start', pause: 'pause', resume: 'resume' }[this.verb]),
      { class: 'primary' },
    );
    this.adds = [1, 5, 10].map((minutes) =>
      button([`+${minutes}`, el('span', { class: 'unit' }, ' min')], (event) =>
        this.press(event, 'extend', minutes * 60),
      ),
    );
    this.unfold = button('More', () => this.showMore(this.more.hidden), { 'aria-expanded': 'false' });
    this.more = el('div', { class: 'more', hidden: true });
    this.node = el(
      'li',
      { class: 'entry' },
      el('label', { class: 'pick' }, this.pick),
      el('p', { class: 'name' }, this.name, ' ', this.id),
      this.state,
      this.left,
      this.facts,
      el('div', { class: 'row' }, this.main, this.adds, this.unfold),
      this.more,
    );
    this.countdown = new Countdown(() => this.showTime());
  }

  /** What an answer says that was asked for at `sent` and came at `received`. One that was overtaken says nothing. */
  update(timer, { sent, received }) {
    if (this.seenAt && timer.revision < this.timer.revision) return;
    const isSame = this.seenAt && timer.revision === this.timer.revision;
    this.seenAt = received;
    this.timer = timer;
    if (timer.state !== 'running') this.countdown.stop(timer.remaining_ms);
    else if (isSame && this.countdown.running) this.countdown.measured(timer.remaining_ms, sent, received);
    else this.countdown.start(timer.remaining_ms, (sent + received) / 2);
    this.show();
  }

  show() {
    const { timer } = this;
    const state = stateOf(timer);
    this.node.dataset.id = timer.id;
    this.node.dataset.state = this.state.dataset.state = state;
    write(this.state, WORDS[state] ?? state);
    this.pick.setAttribute('aria-label', `Select ${timer.name}`);
    this.pick.checked = selected.has(timer.id);
    write(this.name, timer.name);
    const instants = [
      ['ends', timer.ends_at],
      ['starts', timer.start_at],
      ['ended', timer.completed_at],
    ];
    const when = instants.filter(([, at]) => at).map(([word, at]) => `${word} ${timeOfDay(at)}`);
    write(this.facts, [...when, count(timer.connected_clients, 'client')].join(' · '));

    this.verb = { running: 'pause', paused: 'resume', created: 'start' }[timer.state] ?? '';
    const label = capital(this.verb);
    this.main.hidden = !this.verb;
    write(this.main, label);
    this.main.setAttribute('aria-label', `${label} ${timer.name}`);
    for (const one of this.adds) {
      one.hidden = isFinished(timer);
      one.setAttribute('aria-label', `${one.textContent} for ${timer.name}`);
    }
    this.unfold.setAttribute('aria-label', `More for ${timer.name}`);
    for (const one of this.more.querySelectorAll('.unfinished')) one.hidden = isFinished(timer);
    this.showTime();
  }

  showTime() {
    if (this.countdown.seconds !== null) write(this.left, formatClock(this.countdown.seconds));
  }

  showMore(isOpen) {
    this.more.hidden = !isOpen;
    this.unfold.setAttribute('aria-expanded', String(isOpen));
    if (!isOpen) return this.more.replaceChildren();
    const { id, name } = this.timer;
    const minutes = el('input', {
      class: 'short',
      type: 'number',
      min: '1',
      max: '60',
      value: '15',
      required: true,
      inputmode: 'numeric',
    });
    const extend = (event) => {
      event.preventDefault();
      this.press(event, 'extend', minutes.valueAsNumber * 60);
    };
    this.more.replaceChildren(
      el(
        'form',
        { class: 'row unfinished', onsubmit: extend },
        el('label', { class: 'row' }, 'Minutes', minutes),
        el('button', null, 'Extend'),
      ),
      el(
        'p',
        { class: 'row' },
        button('Stop…', (event) => this.stop(event), { class: 'unfinished' }),
        button('Delete…', (event) => this.delete(event), { class: 'danger' }),
        button('History', () => showHistory(id, name)),
      ),
      el('p', { class: 'row' }, copyable('Student page', link(`/timer/${id}`)), copyable('Wall', link(`/wall/${id}`))),
    );
    this.show();
  }

  async stop(event) {
    const left = `${formatClock(this.countdown.seconds)} would be left. A stopped timer cannot be started again.`;
    if (await sure(`Stop ${this.timer.name}?`, el('p', null, left), 'Stop', true)) await this.press(event, 'stop');
  }

  async delete(event) {
    const what = el('p', null, 'Its clients are told and let go. Its history is kept.');
    if (!(await sure(`Delete ${this.timer.name}?`, what, 'Delete', true))) return;
    await this.do(event, async () => {
      // Gone already, perhaps by a first try that had no answer: that was what was wanted.
      await ask('DELETE', `/timers/${this.timer.id}`).catch((refusal) => {
        if (refusal.status !== 404) throw refusal;
      });
      tell(`Deleted ${this.timer.name}`);
      refresh();
    });
  }

  press(event, action, seconds) {
    return this.do(event, async () => {
      const body = { action, ...(seconds && { extend_seconds: seconds }) };
      const answer = await ask('POST', `/timers/${this.timer.id}/control`, body, { once: chance() });
      const timer = answer.body;
      this.update(timer, answer);
      arrange();
      tell(`${timer.name}: ${action === 'extend' ? `${count(seconds / 60, 'minute')} more` : this.state.textContent}`);
    });
  }

  /** One thing at a time; the second half of a double click is none. */
  async do(event, deed) {
    if (this.isBusy || event.detail > 1) return;
    this.isBusy = true;
    try {
      await deed();
    } catch (refusal) {
      fail(refusal, this.timer.name);
      refresh();
    } finally {
      this.isBusy = false;
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// The list.

/** The rows in their order. Nothing moves under a hand that is about to press. */
function arrange() {
  const wait = holdUntil - performance.now();
  if (wait > 0 && list.firstElementChild) {
    clearTimeout(arrange.later);
    arrange.later = setTimeout(arrange, wait);
  } else {
    const focused = document.activeElement;
    let place = list.firstElementChild;
    for (const row of [...rows.values()].sort(worstFirst)) {
      if (row.node === place) place = place.nextElementSibling;
      else list.insertBefore(row.node, place);
    }
    // What is moved loses the focus.
    if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
  }
  for (const row of rows.values()) {
    if (!list.contains(row.node)) list.append(row.node);
    row.node.hidden = !isShown(row.timer);
  }
  showSelection();
  const shown = shownIds().length;
  at('none').hidden = shown > 0;
  write(at('none'), rows.size === 0 ? 'There is no timer yet.' : 'No timer matches.');
}

/** Room 9 before room 10. */
const BY_NAME = new Intl.Collator('en', { numeric: true });

function worstFirst(one, other) {
  const order = (row) => STATES[stateOf(row.timer)];
  const instant = (time) => (time ? Date.parse(time) : 0);
  const [a, b] = [one.timer, other.timer];
  const differences = [
    order(one) - order(other),
    instant(a.ends_at) - instant(b.ends_at),
    instant(a.start_at) - instant(b.start_at),
    instant(b.completed_at) - instant(a.completed_at),
    BY_NAME.compare(a.name, b.name),
  ];
  return differences.find((difference) => difference !== 0) ?? (a.id < b.id ? -1 : 1);
}

function isShown(timer) {
  const only = at('only').value;
  const search = at('search').value.trim().toLowerCase();
  const state = stateOf(timer);
  return (
    (!only || only === state || (only === 'finished' && isFinished(timer))) &&
    (timer.name.toLowerCase().includes(search) || timer.id.includes(search))
  );
}

const shownIds = () => [...rows.values()].filter((row) => !row.node.hidden).map((row) => row.timer.id);

list.addEventListener('pointermove', () => {
  holdUntil = performance.now() + HOLD_MS;
});
list.addEventListener('pointerleave', () => {
  holdUntil = 0;
});
at('search').addEventListener('input', arrange);
at('only').addEventListener('change', arrange);
at('viewer-key').addEventListener('change', () => rows.forEach((row) => row.more.hidden || row.showMore(true)));
for (const id of ['filter', 'links-for']) at(id).addEventListener('submit', (event) => event.preventDefault());

/** A link for somebody else: with the viewer's key in it where one was given, never with the one in use here. */
function link(path, fragment = '') {
  const viewer = at('viewer-key').value.trim();
  const parts = [fragment, viewer && `key=${encodeURIComponent(viewer)}`].filter(Boolean).join('&');
  return location.origin + path + (parts && `#${parts}`);
}

/** What was done, for a while. */
function tell(text) {
  at('trouble').hidden = true;
  at('done').hidden = false;
  write(at('done'), text);
  clearTimeout(tell.later);
  tell.later = setTimeout(() => (at('done').hidden = true), TOLD_MS);
  speaker.say(text);
}

/** What did not work stays until it has been seen, or something has worked. */
function fail(refusal, whose) {
  if (refusal.status === 401 || refusal.status === 403) return showDoor(refusal);
  at('done').hidden = true;
  at('trouble').hidden = false;
  write(at('trouble-text'), `${whose ? `${whose}: ` : ''}${refusal.message}`);
}

at('seen').addEventListener('click', () => (at('trouble').hidden = true));

// ---------------------------------------------------------------------------------------------------------------
// New timers.

let isCreating = false;

at('create').addEventListener('submit', async (event) => {
  event.preventDefault();
  const begin = new FormData(event.target).get('begin');
  at('start-at').setCustomValidity(begin === 'at' && !at('start-at').value ? 'When?' : '');
  const thresholds = at('warnings')
    .value.split(',')
    .map((text) => text.trim())
    .filter(Boolean)
    .map(secondsOf);
  at('warnings').setCustomValidity(thresholds.includes(null) ? 'Write minutes and seconds: 5:00, 0:30' : '');
  if (!event.target.reportValidity() || isCreating) return;
  isCreating = true;
  const body = {
    duration_seconds: Math.round(at('minutes').valueAsNumber * 60),
    ...(at('name').value.trim() && { name: at('name').value.trim() }),
    warning_thresholds: thresholds,
    ...(begin === 'now' && { auto_start: true }),
    ...(begin === 'at' && { start_at: new Date(at('start-at').value).toISOString() }),
  };
  try {
    const answer = await ask('POST', '/timers', body, { once: chance() });
    const timer = answer.body;
    put(timer, answer);
    arrange();
    tell(`Created ${timer.name}`);
    at('name').value = '';
    at('name').focus();
  } catch (refusal) {
    fail(refusal, 'New timer');
  } finally {
    isCreating = false;
  }
});
for (const id of ['start-at', 'warnings']) at(id).addEventListener('input', () => at(id).setCustomValidity(''));
at('start-at').addEventListener('input', () => {
  at('create').elements.begin.value = 'at';
});

/** "5:00" and "5" are minutes, "30s" is seconds; null is nothing of the kind. */
function secondsOf(text) {
  const [, minutes, seconds] = /^(\d+)(?::([0-5]?\d))?$/.exec(text) ?? [];
  if (minutes) return minutes * 60 + Number(seconds ?? 0);
  const [, bare] = /^(\d+) ?s$/.exec(text) ?? [];
  return bare ? Number(bare) : null;
}

// ---------------------------------------------------------------------------------------------------------------
// Many at once.

function select(ids, isSelected) {
  for (const id of ids) selected[isSelected ? 'add' : 'delete'](id);
  showSelection();
}

function showSelection() {
  const shown = shownIds();
  const visible = shown.filter((id) => selected.has(id)).length;
  const hidden = selected.size - visible;
  for (const row of rows.values()) row.pick.checked = selected.has(row.timer.id);
  at('all').checked = visible > 0 && visible === shown.length;
  at('all').indeterminate = visible > 0 && visible < shown.length;
  write(at('all-label'), `Select all ${shown.length} shown`);
  at('bulk').hidden = selected.size === 0;
  write(at('selected'), `${count(selected.size, 'timer')} selected${hidden ? `, ${hidden} of them not shown` : ''}`);
}

at('all').addEventListener('change', () => select(shownIds(), at('all').checked));
at('none-selected').addEventListener('click', () => {
  selected.clear();
  showSelection();
  at('all').focus();
});

const DONE = {
  start: 'started',
  pause: 'paused',
  resume: 'resumed',
  extend: 'extended',
  stop: 'stopped',
  delete: 'deleted',
};

at('bulk').addEventListener('click', async (event) => {
  const action = event.target.dataset.bulk;
  if (!action) return;
  const ids = [...rows.keys()].filter((id) => selected.has(id));
  const names = new Map(ids.map((id) => [id, rows.get(id).timer.name]));
  const verb = capital(action);
  const question = `${verb} ${count(ids.length, 'timer')}?`;
  const minutes = el('input', {
    class: 'short',
    type: 'number',
    min: '1',
    max: '60',
    value: '5',
    inputmode: 'numeric',
  });
  const content = el(
    'div',
    null,
    action === 'extend' && el('p', null, el('label', { class: 'row' }, 'Minutes', minutes)),
    el(
      'ul',
      { class: 'report' },
      [...names.values()].slice(0, 8).map((name) => el('li', null, name)),
      ids.length > 8 && el('li', null, `and ${ids.length - 8} more`),
    ),
  );
  const isFinal = action === 'stop' || action === 'delete';
  if (!(await sure(question, content, `${verb} ${count(ids.length, 'timer')}`, isFinal))) return;
  const results = [];
  try {
    for (let from = 0; from < ids.length; from += BULK_MAX) {
      const body = {
        timer_ids: ids.slice(from, from + BULK_MAX),
        ...(action === 'extend' && { seconds: minutes.valueAsNumber * 60 }),
      };
      results.push(...(await ask('POST', `/timers/bulk/${action}`, body, { once: chance() })).body);
    }
  } catch (refusal) {
    fail(refusal, question);
  }
  refresh();
  if (results.length === 0) return;
  tell(`${count(results.filter((result) => result.success).length, 'timer')} ${DONE[action]}`);
  await report(results, DONE[action], (result) => names.get(result.timer_id));
});

// ---------------------------------------------------------------------------------------------------------------
// The history of one.

async function showHistory(id, name) {
  const facts = [];
  try {
    for (let page; !page || page.length === BULK_MAX;) {
      page = (await ask('GET', `/timers/${id}/history?limit=${BULK_MAX}&after=${facts.at(-1)?.revision ?? 0}`)).body;
      facts.push(...page);
    }
  } catch (refusal) {
    return fail(refusal, name);
  }
  const cell = (text) => el('td', null, text);
  const added = (fact) => (fact.added_seconds ?? fact.added_ms / 1000) || 0;
  await dialog(
    `History of ${name}`,
    el(
      'div',
      { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'History' },
      el(
        'table',
        null,
        el(
          'thead',
          null,
          el(
            'tr',
            null,
            ['When', 'What', 'Who', 'Left'].map((head) => el('th', { scope: 'col' }, head)),
          ),
        ),
        el(
          'tbody',
          null,
          facts.map((fact) =>
            el(
              'tr',
              null,
              cell(timeOfDay(fact.at, 'medium')),
              cell(fact.action + (added(fact) ? ` by ${formatClock(Math.round(added(fact)))}` : '')),
              cell(fact.actor),
              cell(formatClock(fact.remaining_seconds ?? 0)),
            ),
          ),
        ),
      ),
    ),
    [['Close', '', 'primary', true]],
  );
}

// ---------------------------------------------------------------------------------------------------------------
// What the server says.

let line = null;
let asking = null;
let isStale = false;
let refreshed = 0;

function put(timer, answer) {
  if (!rows.has(timer.id)) rows.set(timer.id, new Row(timer));
  rows.get(timer.id).update(timer, answer);
}

/** The whole list, as an answer has it. */
function take({ body, sent, received }) {
  const held = new Set(body.map((timer) => timer.id));
  for (const [id, row] of rows) {
    // What was made after the question is not missing.
    if (held.has(id) || row.seenAt > sent) continue;
    row.countdown.stop(0);
    row.node.remove();
    rows.delete(id);
    selected.delete(id);
  }
  for (const timer of body) put(timer, { sent, received });
  arrange();
}

/** Asks for the list anew. While a question is on its way, more of them are one. */
function refresh() {
  isStale = true;
  if (line?.status.level === 'polling') return;
  asking ??= (async () => {
    await pause(COALESCE_MS);
    isStale = false;
    refreshed = performance.now();
    try {
      take(await ask('GET', '/timers'));
      showDesk();
    } catch (refusal) {
      if (refusal.status === 401 || refusal.status === 403) showDoor(refusal);
      // Without an answer there is nothing to show but that: the line goes on trying.
      else showDesk();
    } finally {
      asking = null;
      if (isStale && line) refresh();
    }
  })();
}

function listen() {
  const types = ['created', 'started', 'warning', 'paused', 'resumed', 'extended', 'stopped', 'expired', 'deleted'];
  line?.close();
  line = new Line({
    socket: '/ws/subscribe',
    poll: '/timers',
    key: key(),
    hello: () => [{ event_types: types.map((type) => `timer_${type}`) }],
    question: () => ({ type: 'ping' }),
    hear: (message, at) => {
      if (message.type === 'polled') take({ body: message.body, ...at });
      else if (message.event_type || message.status === 'subscribed') refresh();
    },
    show: (status) => {
      showLine(status);
      if (status.final && status.code === 4001) refresh();
    },
  });
}

// Clients come and go without an event.
setInterval(() => line && !document.hidden && performance.now() - refreshed > REFRESH_MS && refresh(), 1000);
onWake(() => {
  // A stopwatch may stand still while a device sleeps, so that nothing that was measured before holds.
  for (const row of rows.values()) row.countdown.distrust();
  line?.wake();
  if (line) refresh();
});

// ---------------------------------------------------------------------------------------------------------------
// The door.

function showDesk() {
  if (!at('desk').hidden) return;
  at('door').hidden = true;
  at('desk').hidden = false;
  at('forget').hidden = !key();
  at('new').open = rows.size === 0;
  listen();
  exams.open();
}

/** Asks for a key, and says what is wrong with the one there was. */
function showDoor(refusal) {
  line?.close();
  line = null;
  exams.close();
  at('desk').hidden = at('bulk').hidden = true;
  at('door').hidden = false;
  at('forget').hidden = !key();
  at('refused').hidden = !key() && refusal.status === 401;
  const why =
    refusal.status === 403 ? `${refusal.message}: the console needs the role instructor.` : `${refusal.message}.`;
  write(at('refused'), why);
  at('key').focus();
}

at('open').addEventListener('submit', (event) => {
  event.preventDefault();
  keepKey(at('key').value.trim());
  at('key').value = '';
  refresh();
});
at('forget').addEventListener('click', () => {
  keepKey(null);
  location.reload();
});

// A key that came with the address is kept as a typed one is, and not left standing there.
if (pageKey()) {
  keepKey(pageKey());
  history.replaceState(null, '', location.pathname);
}
refresh();
