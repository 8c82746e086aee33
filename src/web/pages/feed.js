// One timer, as the server tells of it: what the timer's pages have in common.
//
//   new TimerFeed(id, {
//     key,                show: () => {},   another second, another state or another health of the line: draw
//     news: (what, by) => {}   'started', 'resumed', 'paused', 'extended' (by: seconds), 'stopped', 'expired', 'deleted'
//   })
//     .timer     the timer object of GET /timers/{id}, kept up to date; null before the first message
//     .state     "created", "scheduled", "running", "paused", "completed", "expired", "deleted", "unknown" (there is
//                none), "refused" (a key is missing) or "waiting" (nothing was heard yet)
//     .countdown, .time, .line   as in clock.js and line.js
//     .finishMs  when it ends, or ended, by the server's clock; null while nobody can know
//     .startMs   when it started, or will
//     .warning   the seconds of the latest warning that has been reached; null before the first

import { Countdown, ServerTime, onWake } from './clock.js';
import { Line, showLine } from './line.js';

const ms = (time) => (time ? Date.parse(time) : null);
const iso = (time) => new Date(time).toISOString();

export class TimerFeed {
  timer = null;
  time = new ServerTime();
  countdown;
  line;

  #news;
  #show;

  constructor(id, { key, show, news }) {
    const path = encodeURIComponent(id);
    this.#show = show;
    this.#news = news ?? (() => {});
    this.countdown = new Countdown(() => this.#show());
    this.line = new Line({
      socket: `/ws/${path}`,
      stream: `/timers/${path}/stream`,
      poll: `/timers/${path}`,
      key,
      hear: (message, at) => this.#hear(message, at),
      show: (status) => {
        showLine(status);
        if (this.line) this.#show();
      },
      closes: { 4000: 'the timer was deleted', 4004: 'there is no such timer' },
    });
    onWake(() => {
      // A stopwatch may stand still while a device sleeps, so that nothing that was measured before holds.
      this.time.distrust();
      this.countdown.distrust();
      this.countdown.refresh();
      this.line.wake();
    });
  }

  get state() {
    const { final, code } = this.line.status;
    if (final && code === 4004) return 'unknown';
    if (final && code === 4000) return 'deleted';
    if (final && this.timer === null) return 'refused';
    if (this.timer === null) return 'waiting';
    return this.timer.state === 'created' && this.timer.start_at ? 'scheduled' : this.timer.state;
  }

  get startMs() {
    return ms(this.timer?.started_at) ?? ms(this.timer?.start_at);
  }

  get finishMs() {
    if (this.timer === null) return null;
    const { state, start_at, ends_at, completed_at, duration_seconds } = this.timer;
    if (state === 'created' && start_at) return ms(start_at) + duration_seconds * 1000;
    return ms(ends_at ?? completed_at);
  }

  get warning() {
    if (this.timer === null || !['running', 'paused'].includes(this.timer.state)) return null;
    const { warning_thresholds, duration_seconds } = this.timer;
    const reached = warning_thresholds.filter((mark) => mark < duration_seconds && this.countdown.seconds <= mark);
    return reached.length > 0 ? Math.min(...reached) : null;
  }

  #hear(message, at) {
    switch (message.type) {
      case 'connected':
        this.time.heard(at.received, message.server_time_ms);
        this.#whole(message.timer, at, this.time.instant(message.server_time_ms));
        break;
      case 'polled': {
        const { ends_at, remaining_ms } = message.body;
        if (message.body.revision < this.timer?.revision) return;
        // Of a timer that runs, the answer says what time it is to the millisecond; else its date, to the second.
        if (ends_at) this.time.roundTrip(at.sent, at.received, ms(ends_at) - remaining_ms);
        else if (at.dateMs && this.time.now() === null) this.time.heard(at.received, at.dateMs + 500);
        this.#whole(message.body, at, (at.sent + at.received) / 2);
        break;
      }
      case 'sync_response':
        if (at.sent !== null) this.time.roundTrip(at.sent, at.received, message.server_time_ms);
        this.#synced(message, at);
        break;
      case 'timer_tick':
      case 'keepalive':
        this.#tick(message.remaining_seconds, at);
        break;
      case 'timer_deleted':
        this.line.close('the timer was deleted', 4000);
        this.countdown.stop(this.countdown.remainingMs ?? 0);
        this.#news('deleted');
        break;
      default:
        if (this.timer !== null) this.#changed(message, at);
    }
    const ticking = this.timer?.state === 'running';
    this.line.patienceMs = ticking ? 3500 : 40_000;
  }

  /** The whole timer: after a connection, or as an answer to a poll. */
  #whole(timer, at, instant) {
    const before = this.timer;
    this.timer = timer;
    const changed = before?.revision !== timer.revision || before.state !== timer.state;
    if (timer.state !== 'running') {
      if (changed || !this.#stands(timer.remaining_ms)) this.countdown.stop(timer.remaining_ms);
    } else if (changed) {
      this.countdown.start(timer.remaining_ms, instant);
    } else if (at.sent !== null) {
      this.countdown.measured(timer.remaining_ms, at.sent, at.received);
    } else {
      this.countdown.atMost(timer.remaining_ms, at.received);
    }
    if (before === null || !changed) return;
    // What happened while nobody was listening is news as well.
    if (timer.state !== before.state) {
      const words = { running: before.started_at ? 'resumed' : 'started', completed: 'stopped' };
      this.#news(words[timer.state] ?? timer.state);
    } else if (timer.duration_seconds > before.duration_seconds) {
      this.#news('extended', timer.duration_seconds - before.duration_seconds);
    }
  }

  #synced({ state, remaining_ms, server_time_ms }, at) {
    if (this.timer === null) return;
    if (state !== this.timer.state && this.timer.revision >= 0) {
      // A change that nobody told us of should not be. The whole timer tells all of it.
      this.timer.revision = -1;
      this.line.refetch();
    }
    if (state !== 'running') {
      if (!this.#stands(remaining_ms)) this.countdown.stop(remaining_ms);
      return;
    }
    // Nothing that runs is moved when the server's clock is set, but the time of day at which it ends is.
    const endsMs = server_time_ms + remaining_ms;
    if (!(Math.abs(endsMs - ms(this.timer.ends_at)) < 500)) this.timer.ends_at = iso(endsMs);
    if (!this.countdown.running) this.countdown.start(remaining_ms, this.time.instant(server_time_ms, at.received));
    else if (at.sent !== null) this.countdown.measured(remaining_ms, at.sent, at.received);
  }

  #tick(seconds, at) {
    if (this.countdown.running && !this.countdown.atMost(seconds * 1000, at.received)) this.line.ask();
  }

  /** A change, which raises the revision by one. */
  #changed(message, at) {
    const { timer } = this;
    const runsOn = (from) => {
      this.time.heard(at.received, message.server_time_ms);
      timer.ends_at = iso(message.server_time_ms + message.remaining_ms);
      this.countdown.start(message.remaining_ms, this.time.instant(message.server_time_ms, from));
    };
    let what = message.type.replace('timer_', '');
    switch (what) {
      case 'started':
        if (timer.started_at) what = 'resumed';
        timer.started_at ??= iso(message.server_time_ms);
        Object.assign(timer, { state: 'running', start_at: null });
        runsOn(at.received);
        break;
      case 'paused':
        Object.assign(timer, { state: 'paused', ends_at: null });
        this.countdown.stop(message.remaining_ms);
        break;
      case 'extended':
        timer.duration_seconds += message.added_seconds;
        if (timer.state === 'running') runsOn(at.received);
        else this.countdown.stop(message.remaining_ms);
        break;
      case 'stopped':
      case 'expired': {
        const now = this.time.now() ?? ms(timer.ends_at);
        const end = what === 'expired' ? timer.ends_at : now && iso(now);
        const state = what === 'expired' ? 'expired' : 'completed';
        Object.assign(timer, { state, ends_at: null, start_at: null, completed_at: end });
        this.countdown.stop((message.remaining_seconds ?? 0) * 1000);
        break;
      }
      default:
        return;
    }
    timer.revision += 1;
    this.#show();
    this.#news(what, message.added_seconds);
  }

  #stands(remainingMs) {
    return !this.countdown.running && this.countdown.remainingMs === remainingMs;
  }
}
