// The clock of every page. It knows time, and no network.
//
// The device's own clock may be wrong by hours, so it is never used to count. What counts is performance.now(), a
// stopwatch that nobody can set: every instant below ("sent", "received", "at") is a value of it, in milliseconds.
//
//   new ServerTime()                      what time it is at the server
//     .roundTrip(sent, received, serverMs)  the server answered a question with its time: the best of 8 is believed
//     .heard(received, serverMs)            it told the time unasked: believed while there is nothing better
//     .instant(serverMs, received)          when the server's `serverMs` was, on our stopwatch
//     .now()                                milliseconds since 1970 by the server's clock; null while unknown
//     .distrust()                           the device has slept: the next answer counts more than all before
//
//   new Countdown(show)                   one countdown; calls show() whenever another second is to be shown
//     .start(remainingMs, at)               it runs, and this much was left at that instant: the state has changed
//     .stop(remainingMs)                    it stands still with this much left: the state has changed
//     .measured(remainingMs, sent, received)  the server answered a question: the same state, known better
//     .atMost(remainingMs, received)        a message says that no more than this was left when it came: a tick, for
//                                           one. False when that fits so badly that the server should be asked
//     .distrust()                           as above
//     .refresh()                            look at the stopwatch now (a tab that was hidden does)
//     .running, .seconds, .remainingMs      .seconds (rounded up) is what to show; null before the first message
//
//   onWake(wake)                          calls wake() when the device may have slept or been away: ask the server
//   formatClock(seconds)                  "05:00", "1:00:00"
//   formatTime(ms), formatSeconds(ms)     "14:05" and ":09", the time of day in the device's time zone
//   inWords(seconds)                      "5 minutes", "1 minute 30 seconds"

/** Answers that are compared: the one that came back fastest says best what time it is. */
const SAMPLES = 8;

/** A difference up to this is corrected little by little, 5 % of the time that goes by; a larger one at once. */
const GENTLE_MS = 250;

/** A countdown never shows a larger number again because of a correction, unless the error was larger than this. */
const HOLD_MS = 2000;

/** How far stopwatches drift: 0.1 s in 1000 s at most. */
const DRIFT = 1e-4;

/** The fastest of the latest answers. */
class Best {
  #samples = [];

  add(roundTripMs, value) {
    this.#samples.push({ roundTripMs, value });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    return this.value;
  }

  clear() {
    this.#samples.length = 0;
  }

  get value() {
    if (this.#samples.length === 0) return null;
    return this.#samples.reduce((best, one) => (one.roundTripMs <= best.roundTripMs ? one : best)).value;
  }
}

export class ServerTime {
  /** What the server's clock has to be ahead of the stopwatch, by answers to questions. */
  #asked = new Best();
  #offset = null;

  roundTrip(sent, received, serverMs) {
    // An answer that contradicts the others by seconds: the server's clock was set, or the stopwatch stood still.
    const offset = serverMs - (sent + received) / 2;
    if (this.#offset !== null && Math.abs(offset - this.#offset) > 1000 + received - sent) this.#asked.clear();
    this.#offset = this.#asked.add(received - sent, offset);
  }

  heard(received, serverMs) {
    const late = this.#offset === null ? NaN : received - this.instant(serverMs);
    const fits = late > -100 && late < 30_000;
    if (!fits) this.#asked.clear();
    if (this.#asked.value === null) this.#offset = serverMs - received;
  }

  instant(serverMs, received = performance.now()) {
    return this.#offset === null ? received : serverMs - this.#offset;
  }

  now() {
    return this.#offset === null ? null : performance.now() + this.#offset;
  }

  distrust() {
    this.#asked.clear();
  }
}

export class Countdown {
  running = false;
  seconds = null;
  remainingMs = null;

  #show;
  #wait = 0;
  /** Where the zero lies on the stopwatch: as it is shown, and as it is known. The first follows the second. */
  #zero = 0;
  #known = 0;
  #asked = new Best();
  /** The earliest zero that messages leave possible, and when the last of them came. */
  #latest = Infinity;
  #latestAt = 0;
  #refreshed = 0;

  constructor(show) {
    this.#show = show;
  }

  start(remainingMs, at) {
    this.running = true;
    this.distrust();
    this.#known = this.#zero = at + remainingMs;
    this.seconds = null;
    this.refresh();
  }

  stop(remainingMs) {
    this.running = false;
    clearTimeout(this.#wait);
    this.remainingMs = Math.max(0, remainingMs);
    this.seconds = Math.ceil(this.remainingMs / 1000);
    this.#show();
  }

  measured(remainingMs, sent, received) {
    if (!this.running) return;
    this.#asked.add(received - sent, (sent + received) / 2 + remainingMs);
    this.#learn(received);
  }

  atMost(remainingMs, received) {
    if (!this.running) return true;
    const zero = received + remainingMs;
    this.#latest = Math.min(this.#latest + (received - this.#latestAt) * DRIFT, zero);
    this.#latestAt = received;
    const fits = Math.abs(zero - this.#known) < HOLD_MS;
    this.#learn(received);
    return fits;
  }

  distrust() {
    this.#asked.clear();
    this.#latest = Infinity;
  }

  /** What was measured counts, but no message can tell of more time than there is. */
  #learn(now) {
    this.#known = Math.min(this.#asked.value ?? this.#known, this.#latest);
    this.refresh(now);
  }

  refresh(now = performance.now()) {
    clearTimeout(this.#wait);
    if (!this.running) return;

    const error = this.#known - this.#zero;
    const gentle = Math.max(0, now - this.#refreshed) * 0.05;
    if (error > HOLD_MS) this.seconds = null;
    if (Math.abs(error) > GENTLE_MS) this.#zero = this.#known;
    else this.#zero += Math.min(gentle, Math.max(-gentle, error));
    this.#refreshed = now;

    this.remainingMs = Math.max(0, this.#zero - now);
    const shown = this.seconds;
    this.seconds = Math.min(shown ?? Infinity, Math.ceil(this.remainingMs / 1000));
    // Look again when the next second is due, and not before.
    const next = this.#zero - now - (this.seconds - 1) * 1000;
    if (this.seconds > 0) this.#wait = setTimeout(() => this.refresh(), Math.ceil(Math.min(next, 1000)));
    if (this.seconds !== shown) this.#show();
  }
}

/**
 * Calls `wake` when the page is shown again, the network is back, or the device's clock and the stopwatch disagree by
 * more than a second: one of them stood still, or somebody set the clock. Which, only the server can tell.
 */
export function onWake(wake) {
  let apart = Date.now() - performance.now();
  const look = () => {
    const before = apart;
    apart = Date.now() - performance.now();
    if (Math.abs(apart - before) > 1000) wake();
  };
  setInterval(look, 1000);
  addEventListener('online', () => wake());
  addEventListener('pageshow', (event) => event.persisted && wake());
  document.addEventListener('visibilitychange', () => document.hidden || wake());
}

const two = (number) => String(number).padStart(2, '0');

export function formatClock(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const rest = `${two(minutes)}:${two(seconds % 60)}`;
  return hours > 0 ? `${hours}:${rest}` : rest;
}

export function formatTime(ms) {
  const date = new Date(ms);
  return `${two(date.getHours())}:${two(date.getMinutes())}`;
}

export function formatSeconds(ms) {
  return `:${two(new Date(ms).getSeconds())}`;
}

export function inWords(seconds) {
  const count = (number, unit) => (number === 0 ? [] : [`${number} ${unit}${number === 1 ? '' : 's'}`]);
  const parts = [
    ...count(Math.floor(seconds / 3600), 'hour'),
    ...count(Math.floor(seconds / 60) % 60, 'minute'),
    ...count(seconds % 60, 'second'),
  ];
  return parts.join(' ') || '0 seconds';
}
