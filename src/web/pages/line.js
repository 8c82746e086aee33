// The line to the server. It knows the network, and neither timers nor rooms.
//
// It tries a WebSocket first. Where two attempts fail although the server answers (a proxy that knows no WebSockets),
// it reads the stream of events instead (EventSource), and where that fails too, it asks every two seconds. From there
// it tries the WebSocket again once a minute. When the line is lost it comes back by itself, after a wait of random
// length, so that a hall full of browsers does not come back at the same instant.
//
//   new Line({
//     socket: '/ws/x',           path of the WebSocket
//     stream: '/timers/x/stream',  path of the same messages as a stream of events; none: left out
//     poll: '/timers/x',         path that answers with the state as JSON; none: left out
//     key,                       for servers that ask for one, see pageKey()
//     hello: () => [{...}],      what to say first on every new WebSocket; none: nothing
//     question: (now) => ({...}),  what to ask over the WebSocket to hear how things stand
//                                (default: {"type":"sync","client_time":now})
//     hear: (message, at) => {}, a message has come; at.received is its instant on the stopwatch, at.sent that of the
//                                question it answers, or null. What was polled comes as {"type":"polled","body":{...}},
//                                with the answer's date in at.dateMs
//     show: (status) => {},      the line's health has changed; while it is lost, every second
//     closes: {4004: 'There is no such timer'},  closing codes after which not to come back, and what to say
//   })
//     .send(message)     true if it went out, over the WebSocket
//     .ask()             ask now; a line that does not answer is given up
//     .wake()            the device may have slept: ask, in two ways at once if need be, or come back now
//     .refetch()         ask for the whole state over HTTP, beside the line
//     .close(text)       for good; the text is shown
//     .patienceMs        silence after which to ask (35 s; a page that expects a tick each second says less)
//     .status            { level, live, final, code, text, heardAt }: level is "websocket", "stream", "polling" or
//                        "offline"; final: it will not come back by itself; code: the WebSocket's closing code, or
//                        4004 and 4001 also where HTTP said 404, 401 or 403; heardAt: of the last message, or null
//
//   showLine(status)     writes status.text into #line, and the level into <html data-line="...">
//   pathId()             the id in the page's address
//   pageKey()            the key in the page's address, #key=K or ?api_key=K; null without one
//   keyed(path, key)     the path with ?api_key=K, for a WebSocket
//   call(path, {key, method, body, headers, patienceMs})  fetches JSON: resolves to {status, body, headers, sent,
//                        received}; status 0 when the server cannot be reached. Never rejects

const OPEN_MS = 5000;
const ANSWER_MS = 2500;
const POLL_MS = 2000;
const ASK_MS = 30_000;
const CLIMB_MS = 60_000;
const BACKOFF_MAX_MS = 10_000;

/** Questions soon after the start: the more answers, the better the clock knows the server's. */
const FIRST_ASKS_MS = [0, 400, 1200, 3000];

/** Closing codes after which to come back, and when: from and to, in milliseconds. */
const WAITS = { 1012: [0, 5000], 1013: [2000, 10_000], 4002: [10_000, 20_000], 4029: [10_000, 20_000] };

/** Closing codes after which not to. */
const FINAL = {
  4000: 'This has been deleted',
  4001: 'This link needs a key: ask whoever gave it to you for the whole link',
  4004: 'There is nothing at this address',
  4009: 'The server does not take connections from this page',
};

const LEVELS = ['websocket', 'stream', 'polling'];
const TEXTS = { websocket: 'live', stream: 'live (event stream)', polling: 'polling' };

const between = (from, to) => from + Math.random() * (to - from);
const about = (ms) => between(0.8 * ms, 1.2 * ms);

export class Line {
  patienceMs = 35_000;
  status = { level: 'offline', live: false, final: false, code: 0, text: 'connecting', heardAt: null };

  #options;
  #level = 0;
  #failures = 0;
  /** Losses since the line last held for a while: each makes the next wait longer. */
  #losses = 0;
  #wire = null;
  #openedAt = null;
  #askedAt = null;
  #timers = {};

  constructor(options) {
    this.#options = { question: (now) => ({ type: 'sync', client_time: now }), ...options };
    setInterval(() => this.#watch(), 1000);
    // A page that the browser keeps for the way back would hold its place at the server, and nobody is there.
    addEventListener('pagehide', (event) => event.persisted && !this.status.final && this.#offline(0));
    addEventListener('pageshow', (event) => event.persisted && !this.status.final && this.#connect());
    this.#connect();
  }

  send(message) {
    if (this.#level !== 0 || this.#wire?.readyState !== WebSocket.OPEN) return false;
    this.#wire.send(JSON.stringify(message));
    return true;
  }

  ask() {
    if (this.#openedAt === null) return;
    this.#askedAt ??= performance.now();
    if (this.#level === 0) this.send(this.#options.question(performance.now()));
    else if (this.#options.poll) this.#poll();
  }

  wake() {
    if (this.status.final) return;
    if (this.#openedAt === null) {
      // Waiting for the next attempt is for servers under load, not for whoever comes back.
      if (this.#timers.connect) this.#connect();
      return;
    }
    this.ask();
    const asked = performance.now();
    const silent = () => this.status.heardAt < asked && this.#poll();
    if (this.#level === 0 && this.#options.poll) this.#later('second', 600, silent);
  }

  refetch() {
    this.#fetch(this.#options.poll);
  }

  close(text = 'closed', code = 0) {
    this.#cut();
    Object.keys(this.#timers).forEach((name) => this.#later(name));
    this.#show({ level: 'offline', live: false, final: true, code, text });
  }

  // -----------------------------------------------------------------------------------------------------------
  // Attempts.

  #connect() {
    this.#cut();
    const { socket, stream, key } = this.#options;
    if (this.#level === 0) {
      this.#wire = this.#socket(keyed(socket, key), () => this.#failed());
    } else if (this.#level === 1) {
      const wire = (this.#wire = new EventSource(keyed(stream, key)));
      wire.onopen = () => this.#opened();
      wire.onmessage = (event) => this.#heard(event.data);
      wire.onerror = () => this.#failed();
    } else {
      this.#poll();
    }
    if (this.#level < 2) this.#later('open', OPEN_MS, () => this.#failed());
  }

  /** A WebSocket whose events mean something only while it is the one in use. */
  #socket(path, fail) {
    const wire = new WebSocket(location.origin.replace(/^http/, 'ws') + path);
    wire.onopen = () => {
      for (const message of this.#options.hello?.() ?? []) wire.send(JSON.stringify(message));
      if (wire !== this.#wire) this.#adopt(wire);
      this.#opened();
    };
    wire.onmessage = (event) => this.#heard(event.data);
    wire.onclose = (event) => (wire === this.#wire && this.#openedAt !== null ? this.#lost(event.code) : fail());
    return wire;
  }

  #opened() {
    this.#later('open');
    this.#openedAt = performance.now();
    this.#askedAt = null;
    this.#failures = 0;
    // A refusal comes right behind the opening, and nothing is live before that.
    this.#later('live', 300, () => this.#live());
    if (this.#level > 0 && !this.#timers.climb) this.#climb();
    if (this.#level === 2) return;
    FIRST_ASKS_MS.forEach((ms, at) => this.#later(`ask${at}`, ms, () => this.ask()));
    this.#askAgain();
  }

  #askAgain() {
    this.#later('ask', about(this.#level === 0 ? ASK_MS : 2 * ASK_MS), () => {
      this.ask();
      this.#askAgain();
    });
  }

  /** The line was open, and is not any more. */
  #lost(code = 0) {
    const held = this.#openedAt !== null && performance.now() - this.#openedAt > 5000;
    this.#losses = held ? 0 : this.#losses + 1;
    const text = this.#options.closes?.[code] ?? FINAL[code];
    if (text !== undefined) return this.close(text, code);
    this.#offline(code);
    const [from, to] = WAITS[code] ?? [0, Math.min(BACKOFF_MAX_MS, 1000 * 2 ** this.#losses)];
    this.#later('connect', between(from, to), () => this.#connect());
  }

  /** It did not open. Whose fault that is, a plain question tells: the server's, or of something on the way. */
  async #failed() {
    if (this.#openedAt !== null) return this.#lost();
    this.#offline(0);
    const wire = (this.#wire = {});
    const { poll, stream } = this.#options;
    const answered = await this.#fetch(poll ?? '/health');
    if (wire !== this.#wire || this.status.final) return;
    if (answered.status === 0 || answered.status >= 500) return this.#lost();
    this.#failures += 1;
    if (this.#failures >= 2 && poll) {
      this.#failures = 0;
      this.#level = this.#level === 0 && stream ? 1 : 2;
    }
    this.#later('connect', between(0, 1000), () => this.#connect());
  }

  /** From below the top: whether a WebSocket works by now. What is in use goes on until it does. */
  #climb() {
    this.#later('climb', about(CLIMB_MS), () => {
      if (this.#level === 0) return;
      const trial = this.#socket(keyed(this.#options.socket, this.#options.key), () => this.#climb());
      setTimeout(() => trial !== this.#wire && trial.close(), OPEN_MS);
    });
  }

  #adopt(wire) {
    this.#cut();
    this.#level = 0;
    this.#wire = wire;
  }

  /** Drops what is in use, without waiting for the other side to agree. */
  #cut() {
    const wire = this.#wire;
    this.#wire = null;
    this.#openedAt = null;
    for (const name of ['open', 'connect', 'live', 'second', 'poll', 'ask', 'ask0', 'ask1', 'ask2', 'ask3']) {
      this.#later(name);
    }
    if (wire?.close) {
      wire.onopen = wire.onmessage = wire.onclose = wire.onerror = null;
      wire.close();
    }
  }

  // -----------------------------------------------------------------------------------------------------------
  // Polling, and questions beside the line.

  async #poll() {
    this.#later('poll');
    const wire = (this.#wire ??= {});
    const { status, headers } = await this.#fetch(this.#options.poll);
    if (wire !== this.#wire || this.#level < 2) return;
    if (status === 200) {
      if (this.#openedAt === null) this.#opened();
      this.#later('poll', about(POLL_MS), () => this.#poll());
    } else if (!this.status.final) {
      this.#lost(status === 429 || status === 503 || headers?.get('retry-after') ? 1013 : 0);
    }
  }

  /** Asks over HTTP, and passes on what was said. */
  async #fetch(path) {
    const { poll, key } = this.#options;
    const answered = await call(path, { key, patienceMs: OPEN_MS });
    if (this.status.final || path !== poll) return answered;
    const { status, body, headers, sent, received } = answered;
    const code = { 401: 4001, 403: 4001, 404: 4004 }[status];
    if (code) this.close(this.#options.closes?.[code] ?? FINAL[code], code);
    if (status === 200) this.#hear({ type: 'polled', body }, { sent, received, dateMs: Date.parse(headers.get('date')) });
    return answered;
  }

  // -----------------------------------------------------------------------------------------------------------
  // What was heard, and how the line is.

  #heard(text) {
    const received = performance.now();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    this.#live();
    const asked = message.type === 'sync_response' && typeof message.client_time === 'number';
    this.#hear(message, { received, sent: asked ? message.client_time : null });
  }

  #hear(message, at) {
    this.status = { ...this.status, heardAt: at.received };
    this.#askedAt = null;
    if (this.#level === 2 && this.#openedAt !== null) this.#live();
    this.#options.hear(message, at);
  }

  #live() {
    this.#later('live');
    const level = LEVELS[this.#level];
    if (this.#openedAt === null || this.status.level === level) return;
    this.#show({ level, live: true, final: false, code: 0, text: TEXTS[level] });
  }

  #offline(code) {
    this.#cut();
    this.#show({ level: 'offline', live: false, final: false, code, text: '' });
  }

  #show(change) {
    this.status = { ...this.status, ...change };
    const { level, final, code, heardAt } = this.status;
    if (level === 'offline' && !final) {
      const seconds = heardAt === null ? null : Math.floor((performance.now() - heardAt) / 1000);
      const rest = seconds === null ? '' : `, last heard ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')} ago`;
      const why = code === 4029 || code === 4002 ? 'too many people are connected' : 'offline';
      this.status.text = why + rest;
    }
    this.#options.show?.(this.status);
  }

  /** Each second: has the silence been too long? */
  #watch() {
    if (this.status.final) return;
    const now = performance.now();
    if (this.#openedAt === null) {
      this.#show({});
    } else if (this.#askedAt !== null && now - this.#askedAt > ANSWER_MS) {
      this.#lost();
    } else if (now - Math.max(this.status.heardAt, this.#openedAt) > this.patienceMs) {
      this.ask();
    }
  }

  /** One timer of each name; without anything to do, none. */
  #later(name, ms, act) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
    if (!act) return;
    this.#timers[name] = setTimeout(() => {
      delete this.#timers[name];
      act();
    }, ms);
  }
}

export function showLine(status) {
  document.documentElement.dataset.line = status.level;
  const element = document.getElementById('line');
  if (element && element.textContent !== status.text) element.textContent = status.text;
}

/** The id in the page's path, as it was before it went into an address. */
export function pathId() {
  const part = location.pathname.split('/')[2] ?? '';
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function pageKey() {
  return (
    new URLSearchParams(location.hash.slice(1)).get('key') || new URLSearchParams(location.search).get('api_key')
  );
}

export function keyed(path, key) {
  return key ? `${path}${path.includes('?') ? '&' : '?'}api_key=${encodeURIComponent(key)}` : path;
}

export async function call(path, { key, method = 'GET', body, headers = {}, patienceMs = 10_000 } = {}) {
  const all = { ...headers, ...(key && { 'X-API-Key': key }), ...(body && { 'Content-Type': 'application/json' }) };
  const giveUp = new AbortController();
  const wait = setTimeout(() => giveUp.abort(), patienceMs);
  const sent = performance.now();
  try {
    const answer = await fetch(path, {
      method, headers: all, body: body && JSON.stringify(body), cache: 'no-store', signal: giveUp.signal,
    });
    const received = performance.now();
    const text = await answer.text();
    let read = null;
    try {
      read = text ? JSON.parse(text) : null;
    } catch {
      // No JSON: something on the way has answered in the server's place.
      return { status: answer.ok ? 0 : answer.status, body: null, headers: answer.headers, sent, received };
    }
    return { status: answer.status, body: read, headers: answer.headers, sent, received };
  } catch {
    return { status: 0, body: null, headers: null, sent, received: performance.now() };
  } finally {
    clearTimeout(wait);
  }
}
