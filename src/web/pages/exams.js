// The console's part about exams: assessments, who sits them and how far they are, and what is done to all of them at
// once. It asks while an assessment is open, and no more often than every five seconds.

import { ask, chance } from './api.js';
import { Countdown, formatClock } from './clock.js';
import { button, capital, copier, count, el, report, sure, write } from './parts.js';

const ASK_MS = 5000;
const LIST_MS = 30_000;
/** Rows shown of one assessment; the search finds the others. */
const ROWS_MAX = 200;
/** Those who need an eye come first. */
const STATES = {
  in_progress: 'in progress',
  paused: 'paused',
  not_started: 'not started',
  expired: 'time is up',
  completed: 'handed in',
  terminated: 'ended by the supervisor',
};
/** In which states a session is touched by what is done to all. */
const TOUCHED = { pause: ['in_progress'], resume: ['paused'], extend: ['in_progress', 'paused'] };

export class Exams {
  #element;
  #tools;
  #parts = new Map();
  #timers = [];

  /** `tools`: tell(text), fail(refusal, whose), link(path, fragment) of the page. */
  constructor(element, tools) {
    this.#element = element;
    this.#tools = tools;
  }

  open() {
    this.close();
    const each = (ms, act) => setInterval(() => document.hidden || act(), ms);
    this.#timers = [
      each(ASK_MS, () => this.#parts.forEach((part) => part.details.open && part.refresh())),
      each(LIST_MS, () => this.#list()),
    ];
    this.#list();
  }

  async #list() {
    let body;
    try {
      ({ body } = await ask('GET', '/delivery/assessments'));
    } catch (refusal) {
      if (refusal.status !== 0) this.#tools.fail(refusal, 'Exams');
      return;
    }
    document.getElementById('no-exams').hidden = body.length > 0;
    const isFirst = this.#parts.size === 0;
    const ids = new Set(body.map((one) => one.assessment_id));
    for (const [id, part] of this.#parts) {
      if (ids.has(id)) continue;
      part.details.remove();
      this.#parts.delete(id);
    }
    for (const one of body.filter((one) => !this.#parts.has(one.assessment_id))) {
      const part = new Assessment(one, this.#tools);
      this.#parts.set(one.assessment_id, part);
      this.#element.append(part.details);
    }
    if (isFirst && body.length === 1) this.#element.firstElementChild.open = true;
  }

  close() {
    this.#timers.forEach(clearInterval);
  }
}

class Assessment {
  #tools;
  #rows = new Map();
  #isAsking = false;

  constructor(assessment, tools) {
    this.#tools = tools;
    this.id = assessment.assessment_id;
    this.title = assessment.title;
    const limit = assessment.time_limit_seconds === null ? 'no time limit' : formatClock(assessment.time_limit_seconds);
    this.tally = el('p', { class: 'faint' });
    this.search = el('input', {
      type: 'search',
      placeholder: 'Candidate',
      autocomplete: 'off',
      'aria-label': `Search the candidates of ${this.title}`,
      oninput: () => this.show(),
    });
    this.list = el('ul', { class: 'entries', 'aria-label': `Sessions of ${this.title}` });
    const all = (label, action, seconds) =>
      button(label, (event) => this.all(event, action, seconds), { 'aria-label': `${label} of ${this.title}` });
    this.details = el(
      'details',
      { class: 'card', ontoggle: () => this.details.open && this.refresh() },
      el(
        'summary',
        null,
        this.title,
        ' ',
        el('span', { class: 'hint' }, `${this.id} · ${count(assessment.total_items, 'question')} · ${limit}`),
      ),
      el(
        'div',
        { class: 'stack' },
        el(
          'div',
          { class: 'row apart' },
          this.tally,
          el(
            'div',
            { class: 'row' },
            all('Pause all', 'pause'),
            all('Resume all', 'resume'),
            all('+5 min for all', 'extend', 300),
          ),
        ),
        this.search,
        this.list,
      ),
    );
  }

  async refresh() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      this.take(await ask('GET', `/delivery/assessments/${encodeURIComponent(this.id)}/sessions`));
    } catch (refusal) {
      if (refusal.status !== 0) this.#tools.fail(refusal, this.title);
    } finally {
      this.#isAsking = false;
    }
  }

  take({ body, sent, received }) {
    const order = Object.keys(STATES);
    this.sessions = body.sort(
      (a, b) =>
        order.indexOf(a.state) - order.indexOf(b.state) ||
        (a.time_remaining_seconds ?? Infinity) - (b.time_remaining_seconds ?? Infinity),
    );
    this.at = (sent + received) / 2;
    this.show();
  }

  show() {
    const word = this.search.value.trim().toLowerCase();
    const all = this.sessions ?? [];
    const found = all.filter((session) => session.candidate_id.toLowerCase().includes(word));
    const shown = found.slice(0, ROWS_MAX);
    const tally = Object.entries(STATES).map(([state, name]) => [
      all.filter((one) => one.state === state).length,
      name,
    ]);
    const words = tally
      .filter(([n]) => n > 0)
      .map(([n, name]) => `${n} ${name}`)
      .join(', ');
    const cut = found.length > shown.length ? `; the first ${ROWS_MAX} are shown, search for others` : '';
    write(this.tally, all.length === 0 ? 'Nobody has begun yet.' : words + cut);

    const ids = new Set(shown.map((session) => session.session_id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.countdown.stop(0);
      row.node.remove();
      this.#rows.delete(id);
    }
    let place = this.list.firstElementChild;
    for (const session of shown) {
      const row = this.#rows.get(session.session_id) ?? this.row(session);
      this.#rows.set(session.session_id, row);
      row.update(session, this.at);
      if (row.node === place) place = place.nextElementSibling;
      else this.list.insertBefore(row.node, place);
    }
  }

  row({ session_id: id, candidate_id: candidate }) {
    const chip = el('p', { class: 'chip' });
    const left = el('p', { class: 'clock left' });
    const facts = el('p', { class: 'facts' });
    const address = () => this.#tools.link(`/exam/${encodeURIComponent(this.id)}`, `session=${id}`);
    const node = el(
      'li',
      { class: 'entry session' },
      el('p', { class: 'name' }, el('b', null, candidate)),
      chip,
      left,
      facts,
      el('div', { class: 'row end' }, copier(`Link of ${candidate}`, address)),
    );
    const countdown = new Countdown(() => write(left, formatClock(countdown.seconds)));
    const update = (session, at) => {
      chip.dataset.state = session.state;
      write(chip, STATES[session.state] ?? session.state);
      const isPresent = session.connected > 0;
      write(
        facts,
        `${session.answered} of ${session.total_items} answered` +
          (TOUCHED.extend.includes(session.state) ? ` · ${isPresent ? '● connected' : '✕ not connected'}` : ''),
      );
      const seconds = session.time_remaining_seconds;
      if (seconds === null || !TOUCHED.extend.includes(session.state)) {
        countdown.stop(0);
        write(left, '');
      } else if (session.state !== 'in_progress') countdown.stop(seconds * 1000);
      // What is told is rounded up: no more than this is left. More of it is an extension.
      else if (!countdown.running || !countdown.atMost(seconds * 1000, at)) countdown.start(seconds * 1000, at);
    };
    return { node, countdown, update };
  }

  /** The same for everybody, at one instant. The count is of now. */
  async all(event, action, seconds) {
    if (event.detail > 1) return;
    try {
      await this.refresh();
      const touched = this.sessions.filter((session) => TOUCHED[action].includes(session.state));
      const names = new Map(this.sessions.map((session) => [session.session_id, session.candidate_id]));
      const verb = action === 'extend' ? 'Add 5 minutes to' : capital(action);
      const many = count(touched.length, 'session');
      if (touched.length === 0) return this.#tools.tell(`${this.title}: there is no session to ${action}`);
      const what = el('p', null, `Of ${this.title}, all at one instant.`);
      if (!(await sure(`${verb} ${many}?`, what, `${verb} ${many}`))) return;
      const body = action === 'extend' ? { seconds } : undefined;
      const path = `/delivery/assessments/${encodeURIComponent(this.id)}/${action}`;
      const { body: results } = await ask('POST', path, body, { once: chance() });
      this.refresh();
      const done = { pause: 'paused', resume: 'resumed', extend: 'extended' }[action];
      // Those who are paused already need no pausing: that is no failure.
      const counted = results.filter(
        (result) => result.success || touched.some((one) => one.session_id === result.session_id),
      );
      this.#tools.tell(`${count(counted.filter((result) => result.success).length, 'session')} ${done}`);
      await report(counted, done, (result) => names.get(result.session_id) ?? result.session_id);
    } catch (refusal) {
      this.#tools.fail(refusal, this.title);
    }
  }
}
