// Asks the API, and gives its own words when it refuses. A request that changes something is sent again when no answer
// came, under the same Idempotency-Key, so that it happens once.
//
//   ask(method, path, body, {once, tries})  resolves to {body, sent, received}; the instants are the stopwatch's.
//                          once: the Idempotency-Key, one for each press, see chance(). Throws a Refusal
//   Refusal                .status (0: no answer), .message (for people), .isPassing: later it may well be another
//   key(), keepKey(typed)  the key of the page's address, or the one typed in this tab; null forgets it
//   chance()               128 random bits as text

import { call, pageKey } from './line.js';

const STORED = 'timerd.key';
const TRIES = 3;

export const key = () => pageKey() ?? sessionStorage.getItem(STORED);

export function keepKey(typed) {
  if (typed) sessionStorage.setItem(STORED, typed);
  else sessionStorage.removeItem(STORED);
}

export class Refusal extends Error {
  constructor({ status, body, headers }) {
    super(status === 0 ? 'timerd does not answer' : words(body?.detail ?? body?.message, status));
    this.status = status;
    this.retryAfterMs = 1000 * (Number(headers?.get('retry-after')) || 0);
    this.isPassing = status === 0 || status === 408 || status === 429 || status >= 500;
  }
}

/** The API's `detail`: a sentence, or a list of what is wrong with which field. */
function words(detail, status) {
  if (typeof detail === 'string') return detail;
  if (!Array.isArray(detail)) return `The answer was ${status}`;
  return detail.map(({ loc, msg }) => `${loc.slice(1).join(' ') || loc[0]}: ${msg}`).join('; ');
}

export async function ask(method, path, body, { once, tries = method === 'GET' ? 1 : TRIES } = {}) {
  const headers = once ? { 'Idempotency-Key': once } : {};
  for (let tried = 1; ; tried += 1) {
    const answer = await call(path, { key: key(), method, body, headers });
    if (answer.status >= 200 && answer.status < 300) return answer;
    const refusal = new Refusal(answer);
    if (tried >= tries || !refusal.isPassing) throw refusal;
    await pause(Math.min(3000, refusal.retryAfterMs || 300 * 3 ** tried));
  }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** `crypto.randomUUID` is closed to pages that came by plain HTTP. */
export function chance() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
