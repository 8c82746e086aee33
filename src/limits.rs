//! Every bound of the daemon, with its reason.
//!
//! A bound that an operator may move has its default and its range here and its flag in `config`; everything else is
//! fixed. Nothing in the daemon grows without naming a line of this file.

use std::time::Duration;

// ---------------------------------------------------------------------------------------------------------------
// Timers: what the contract promises.

/// Seconds a timer may be created with: one day.
pub const DURATION_S_MAX: u32 = 86_400;
/// Seconds one `extend` may add: one hour.
pub const EXTEND_S_MAX: u32 = 3_600;
/// Seconds a timer's duration may reach by extensions: a year keeps every sum far from overflow.
pub const TOTAL_S_MAX: u32 = 366 * 86_400;
/// Unicode scalar values in a timer's name.
pub const NAME_CHARS_MAX: usize = 200;
/// The name of a timer that was given none.
pub const NAME_DEFAULT: &str = "Timer";
/// Warning thresholds of one timer.
pub const THRESHOLDS_MAX: usize = 20;
/// The thresholds of a timer that was given none, in seconds.
pub const THRESHOLDS_DEFAULT: [u32; 3] = [300, 60, 30];
/// How far ahead a start may be scheduled.
pub const START_AT_AHEAD: Duration = Duration::from_secs(30 * 86_400);
/// Ids in one bulk call.
pub const BULK_IDS_MAX: usize = 1_000;
/// Characters of a timer id that anybody may ask for; longer ones are unknown without a look.
pub const ID_CHARS_MAX: usize = 64;
/// Timers held, finished ones included, unless `--max-timers` says otherwise.
pub const TIMERS_MAX_DEFAULT: u32 = 1_000;
/// The most `--max-timers` may say: `GET /timers` is built within one turn, and 10,000 objects take about 10 ms.
pub const TIMERS_MAX_CEILING: u32 = 10_000;
/// Clients of one timer, unless `--clients-per-timer` says otherwise.
pub const CLIENTS_PER_TIMER_DEFAULT: u32 = 100;
/// The most `--clients-per-timer` may say: one lecture hall on one timer, still a short burst.
pub const CLIENTS_PER_TIMER_CEILING: u32 = 100_000;
/// How long a finished timer keeps its place unless `--keep-finished` says otherwise.
pub const KEEP_FINISHED_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
/// Rows of one page of history.
pub const HISTORY_PAGE_ROWS_MAX: u32 = 1_000;

// ---------------------------------------------------------------------------------------------------------------
// Connections.

/// Connections served at a time, unless `--max-connections` says otherwise: the product's promise of 100,000
/// students, with room for instructors and for those who reconnect before the old socket is noticed to be dead.
pub const CONNECTIONS_MAX_DEFAULT: u32 = 110_000;
/// The most `--max-connections` may say.
pub const CONNECTIONS_MAX_CEILING: u32 = 1_000_000;
/// Connections taken beyond the limit, only to be told so (503, or close 1013); beyond these they are cut.
pub const fn connections_over_max(connections_max: usize) -> usize {
    connections_max / 64 + 1
}
/// Descriptors kept back from connections: store, journal, timers, epoll, listeners.
pub const DESCRIPTORS_RESERVED: u64 = 64;
/// Pending connections the kernel queues: a reconnect storm of a whole school must not be throttled (the usual 128
/// lets in a few hundred a second).
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Addresses `--listen` may be given.
pub const LISTENERS_MAX: usize = 16;
/// Bytes that connections may have left unfinished (heads, bodies, half messages) all together; beyond them those
/// that hold most are closed.
pub const UNFINISHED_BYTES_MAX: usize = 256 << 20;
/// Bytes of answers that clients have not taken, all together; beyond them those that have most to take are closed.
pub const UNSENT_BYTES_MAX: usize = 512 << 20;
/// What is closed then frees one part in so many of the bound, so that it is not looked for again at once.
pub const SHED_SHARE: usize = 64;
/// Bytes of one call of recv(2); one buffer serves every connection.
pub const READ_BYTES: usize = 64 << 10;

// ---------------------------------------------------------------------------------------------------------------
// HTTP.

/// Bytes of a request line with its headers; beyond them 431.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header fields of one request; beyond them 431.
pub const HEADERS_MAX: usize = 64;
/// Bytes of a request body unless the route says otherwise; beyond them 413.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Faults of a body that its answer names: enough to mend it by, and no way to have a small body answered by a large
/// list.
pub const FAULTS_MAX: usize = 100;
/// Bytes of a chunk's size line with its extension, and of a trailer section: nobody needs either.
pub const CHUNK_LINE_BYTES_MAX: usize = 1 << 10;
/// Requests of one connection that wait for an answer; beyond them it is not read.
pub const PIPELINE_MAX: usize = 32;
/// A head that has begun must be whole within this time.
pub const HEAD_AGE_MAX: Duration = Duration::from_secs(5);
/// A body must be whole within this time after its head.
pub const BODY_AGE_MAX: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this time.
pub const IDLE_MAX: Duration = Duration::from_secs(30);
/// A client that takes no byte of an answer for this time is gone.
pub const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// How long a connection that is being closed may take to hear the last words and close its side.
pub const LINGER_MAX: Duration = Duration::from_secs(2);
/// Seconds named in `Retry-After` while the store cannot be written, or the server is full.
pub const RETRY_AFTER_S: u32 = 2;
/// Seconds a browser may remember a preflight's answer.
pub const PREFLIGHT_AGE_S: u32 = 600;
/// Printable ASCII characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;
/// Answers kept for replay; the oldest is dropped.
pub const REPLAYS_MAX: usize = 100_000;
/// How long an answer is kept for replay.
pub const REPLAY_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

// ---------------------------------------------------------------------------------------------------------------
// WebSocket.

/// Bytes of a client's message; beyond them close 1009.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Bytes of a message on the echo endpoint of protocol conformance runs.
pub const ECHO_BYTES_MAX: usize = 16 << 20;
/// Messages a second that a client may send for long; beyond them and the burst close 1008.
pub const MESSAGES_PER_S: u32 = 20;
/// Messages that a client may send at once.
pub const MESSAGES_BURST: u32 = 100;
/// A message that has begun must be whole within this time.
pub const MESSAGE_AGE_MAX: Duration = Duration::from_secs(10);
/// Silence of the server after which a client hears `keepalive`.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Time between two protocol pings.
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// A peer that has been silent for this time is dropped: three pings unanswered.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(90);
/// Bytes that may wait in a connection's outbox for a client that does not read; beyond them close 1013. A minute of
/// state changes fits; ticks replace each other and do not add up.
pub const OUTBOX_BYTES_MAX: usize = 32 << 10;
/// Frames that may wait in an outbox.
pub const OUTBOX_FRAMES_MAX: usize = 256;
/// Milliseconds that the client of an event stream is asked to wait before it comes back: each another span of these,
/// so that a hall does not come back at once.
pub const STREAM_RETRY_MS: std::ops::RangeInclusive<u32> = 1_000..=5_000;
/// Seconds named in `Retry-After` to the client of an event stream that finds a timer's places taken.
pub const STREAM_RETRY_AFTER_S: u32 = 10;
/// Characters of a client's own text that an error message repeats.
pub const ECHO_CHARS_MAX: usize = 100;

// ---------------------------------------------------------------------------------------------------------------
// Events.

/// Bytes of a body with an event over REST; beyond them 413.
pub const EVENT_BODY_BYTES_MAX: usize = 512 << 10;
/// Bytes of a message of a publisher or subscriber; beyond them it is told `Message too large`.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a payload as compact JSON.
pub const EVENT_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Objects and lists within each other in a payload: about half of what Python's parser can follow, which reads whole
/// pages or nothing. (serde_json stops at 128 unless it is told otherwise.)
pub const EVENT_PAYLOAD_DEPTH_MAX: usize = 500;
/// Keys of a payload's object; objects within it may have any number.
pub const EVENT_PAYLOAD_KEYS_MAX: usize = 50;
/// Characters of `source`.
pub const EVENT_SOURCE_CHARS_MAX: usize = 100;
/// Characters of `session_id` and `user_id`.
pub const EVENT_ID_CHARS_MAX: usize = 200;
/// Characters that `?event_type=` may have; it need not be one that exists.
pub const EVENT_TYPE_CHARS_MAX: usize = 50;
/// Characters of `?since=`: any timestamp that was ever given out, and nothing much longer.
pub const EVENT_SINCE_CHARS_MAX: usize = 30;
/// Types that a filter may name: each of them, several times over.
pub const EVENT_FILTER_TYPES_MAX: usize = 100;
/// Events of one page.
pub const EVENTS_PAGE_MAX: u32 = 1_000;
/// Events of one page, where the client does not say how many.
pub const EVENTS_PAGE_DEFAULT: u32 = 100;
/// Bytes at which a page over REST ends, however many events were asked for: what the loop can put into words in
/// some 10 ms.
pub const EVENTS_PAGE_BYTES_MAX: usize = 4 << 20;
/// Published events that wait for the disk to take the batch before; beyond them publishers are told so. About
/// 100 ms of a disk thread.
pub const EVENTS_GATHERED_MAX: usize = 10_000;
/// Bytes of such events.
pub const EVENT_BYTES_GATHERED_MAX: usize = 32 << 20;
/// Unanswered messages of a publisher beyond which it is not read.
pub const UNANSWERED_MAX: usize = 2_048;
/// A publisher's message that has begun must be whole within this time, in which it may not be read for as long as a
/// disk hangs and its answers wait to be taken.
pub const PUBLISHER_MESSAGE_AGE_MAX: Duration = Duration::from_secs(90);
/// Subscribers at a time.
pub const SUBSCRIBERS_MAX: usize = 5_000;
/// Sockets of publishers and subscribers from one address, unless `--ws-per-address` says otherwise.
pub const EVENT_SOCKETS_PER_ADDRESS: u32 = 20;
/// How long a subscriber may take to say what it wants.
pub const SUBSCRIBE_AGE_MAX: Duration = Duration::from_secs(10);
/// Bytes that may wait in a subscriber's outbox; one that falls further behind gets its events by pages.
pub const FEED_BYTES_MAX: usize = 256 << 10;
/// Frames that may wait in a subscriber's outbox.
pub const FEED_FRAMES_MAX: usize = 1_024;
/// Events that wait to be routed; beyond them subscribers get them by pages.
pub const EVENTS_UNROUTED_MAX: usize = 2 * EVENTS_GATHERED_MAX;
/// Events of one page for a subscriber.
pub const FEED_PAGE_EVENTS_MAX: u32 = 500;
/// Events looked at for one page for a subscriber, wanted or not: then others have their turn.
pub const FEED_PAGE_ROWS_MAX: u32 = 10 * SLICE_ROWS_MAX;
/// Bytes of one page for a subscriber.
pub const FEED_PAGE_BYTES_MAX: usize = 128 << 10;
/// Pages for subscribers that the disk is asked for at a time: reads of others go between them.
pub const FEED_PAGES_ASKED_MAX: usize = 8;
/// Bytes of pages that subscribers have not taken, all together; beyond them the others wait for their pages until
/// some are taken, or whoever takes nothing is closed.
pub const FEED_PAGES_BYTES_MAX: usize = 256 << 20;
/// A subscriber for whom something waits and who takes no byte of it for this time is closed with 1013.
pub const FEED_STALL_MAX: Duration = Duration::from_secs(5);
/// How long a client that was closed for its slowness has to take what was sent to it.
pub const SLOW_LINGER_MAX: Duration = Duration::from_secs(10);
/// What `events_last_hour` looks back on.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// Addresses whose use of the API is counted at a time; beyond them strangers wait until the minute is over.
pub const RATE_ADDRESSES_MAX: usize = 100_000;

// ---------------------------------------------------------------------------------------------------------------
// Rooms.

/// Rooms held. Anybody can make one, so there is no flag to raise it by.
pub const ROOMS_MAX: usize = 1_000;
/// People of one room.
pub const ROOM_PEOPLE_MAX: usize = 100;
/// Sockets with which one person may be in his room: his devices, and old sockets that are not yet noticed to be dead.
pub const LINES_PER_PERSON: u32 = 5;
/// Seconds that a room lasts unless whoever makes it says otherwise.
pub const ROOM_DURATION_S_DEFAULT: u32 = 1_500;
/// Characters of a person's name.
pub const PERSON_NAME_CHARS_MAX: usize = 40;
/// How long somebody whose line is lost has to come back, unless `--room-leave` says otherwise.
pub const ROOM_LEAVE_DEFAULT: Duration = Duration::from_secs(30);
/// How long a room without a line is kept, unless `--room-empty` says otherwise.
pub const ROOM_EMPTY_DEFAULT: Duration = Duration::from_secs(300);
/// How long somebody at a socket of rooms may be in none.
pub const LOBBY_AGE_MAX: Duration = Duration::from_secs(60);
/// The most `--room-leave` and `--room-empty` may say.
pub const ROOM_SPAN_MAX: Duration = Duration::from_secs(86_400);
/// How long it is gathered who has come or gone before all are told: a whole room that comes back is told of in a few
/// messages, and nobody waits for so little.
pub const PRESENCE_GATHERED_FOR: Duration = Duration::from_millis(50);
/// Bytes that may wait in the outbox of somebody in a room. A whole class that comes in one batch is a hundred lists of
/// up to a hundred people with the longest names, shared by all who hear them.
pub const MEMBER_OUTBOX_BYTES_MAX: usize = 2 << 20;
/// Frames that may wait there: what several people may say in one breath must not throw the others out.
pub const MEMBER_OUTBOX_FRAMES_MAX: usize = 2_048;
/// Unanswered messages of a socket in a room beyond which it is not read.
pub const MEMBER_UNANSWERED_MAX: usize = 64;

// ---------------------------------------------------------------------------------------------------------------
// Delivery.

/// Assessments held.
pub const ASSESSMENTS_MAX: usize = 1_000;
/// Bytes of an assessment's body; beyond them 413.
pub const ASSESSMENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of the content of all assessments held, old versions that sessions still use included.
pub const ASSESSMENTS_BYTES_MAX: usize = 256 << 20;
/// Items of one assessment.
pub const ITEMS_MAX: usize = 500;
/// Sections of one assessment: as many as could have an item each.
pub const SECTIONS_MAX: usize = ITEMS_MAX;
/// Characters of the ids of assessments, sections, items, candidates and test takers.
pub const DELIVERY_ID_CHARS_MAX: usize = 200;
/// Objects and lists within each other in an item's content: with what is around it, as deep as serde_json reads.
pub const CONTENT_DEPTH_MAX: usize = 100;
/// Objects and lists within each other in a response: as in an event's payload.
pub const RESPONSE_DEPTH_MAX: usize = EVENT_PAYLOAD_DEPTH_MAX;
/// Attempts that an assessment may allow, if it limits them.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Seconds after the deadline in which a hand-in may still be taken.
pub const GRACE_S_MAX: u32 = 3_600;
/// The grace of an assessment that names none, in seconds.
pub const GRACE_S_DEFAULT: u32 = 10;
/// Seconds that one extension may add to a session.
pub const SESSION_EXTEND_S_MAX: u32 = 7_200;
/// Characters of an extension's reason.
pub const REASON_CHARS_MAX: usize = 500;
/// Candidates known by name.
pub const CANDIDATES_MAX: usize = 200_000;
/// Sessions held, ended ones included, unless `--max-sessions` says otherwise.
pub const SESSIONS_MAX_DEFAULT: u32 = 120_000;
/// The most `--max-sessions` may say: all of them pause at one instant, in one commit.
pub const SESSIONS_MAX_CEILING: u32 = 200_000;
/// Sessions of one assessment that one candidate may have under way, where attempts are not limited.
pub const SESSIONS_PER_CANDIDATE: usize = 100;
/// Calls a second that a session's candidate may make over REST for long: what each writes is kept.
pub const CANDIDATE_CALLS_PER_S: u32 = 200;
/// Calls that he may make at once: far more than anybody needs, and some megabytes.
pub const CANDIDATE_CALLS_BURST: u32 = 20_000;
/// Sockets of one session: a candidate's devices, and old sockets that are not yet noticed to be dead.
pub const SOCKETS_PER_SESSION: u32 = 5;
/// Bytes of a response as compact JSON.
pub const RESPONSE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all responses of a session.
pub const RESPONSES_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message or body with one answer.
pub const ANSWER_BYTES_MAX: usize = 96 << 10;
/// Bytes of a body that hands in; beyond them 413.
pub const SUBMIT_BYTES_MAX: usize = 2 << 20;
/// Bytes of responses, and of answers to those who sent them, that wait for the disk to take the batch before; beyond
/// them 503.
pub const RESPONSE_BYTES_GATHERED_MAX: usize = 64 << 20;
/// Bytes that may wait in the outbox of a candidate's socket: the largest item there can be, and the next.
pub const CANDIDATE_OUTBOX_BYTES_MAX: usize = 2 * ASSESSMENT_BYTES_MAX + OUTBOX_BYTES_MAX;
/// Unanswered messages of a candidate's socket beyond which it is not read.
pub const CANDIDATE_UNANSWERED_MAX: usize = 256;
/// Bytes of what a client calls its message, which comes back with the answer.
pub const REF_BYTES_MAX: usize = 1 << 10;
/// How late a session's tick may be: all that fall into one such slot are told at its end, in one encoding.
pub const TICK_SLOT: Duration = Duration::from_millis(10);
/// Sessions of one page of a list.
pub const SESSION_ROWS_PAGE_MAX: usize = 1_000;
/// Bytes of responses at which a page of results ends; one session's may be more.
pub const RESULTS_PAGE_BYTES_MAX: usize = 256 << 10;
/// Long answers given page by page at a time.
pub const EXPORTS_MAX: usize = 64;

// ---------------------------------------------------------------------------------------------------------------
// One turn of the loop: what is left over goes to the next turn, so that nobody waits for a burst to end.

/// Connections accepted in one turn: about 10 ms of accept(2).
pub const ACCEPTS_PER_TURN: usize = 256;
/// How long whoever waits to be accepted is left alone when the system has no descriptor or memory for him.
pub const SHORTAGE_RETRY_EVERY: Duration = Duration::from_millis(100);
/// Bytes read in one turn.
pub const READ_BYTES_PER_TURN: usize = 4 << 20;
/// Requests and messages judged in one turn, each KiB of an answer counting as one more: about 10 ms, however many a
/// connection sends at once.
pub const WORK_PER_TURN: u32 = 1_024;
/// Connections flushed in one turn: about 10 ms of send(2).
pub const FLUSHES_PER_TURN: usize = 2_048;
/// Connections fetched from memory together before they are flushed: a few loads overlap, and what is fetched must
/// still be in the cache when its turn comes.
pub const FETCHED_AHEAD: usize = 8;
/// Bytes written in one turn.
pub const WRITE_BYTES_PER_TURN: usize = 16 << 20;
/// Connections with something to send from which on a turn takes no more deadlines: they fit into a core's cache.
pub const BURST_PER_TURN: usize = 512;
/// Bytes of the disk's answers put into words in one turn: one large page, or many small ones.
pub const ANSWER_BYTES_PER_TURN: usize = EVENTS_PAGE_BYTES_MAX;
/// Subscribers looked at in one turn, for all events together: about 5 ms.
pub const ROUTINGS_PER_TURN: usize = 50_000;
/// Deadlines taken from the heap in one turn.
pub const DEADLINES_PER_TURN: usize = 4_096;
/// Alarms in the heap that are known to be stale, beyond a few for each timer and connection, before it is swept.
pub const STALE_ALARMS_MAX: usize = 1_024;
/// Socket events taken from the kernel in one turn.
pub const EVENTS_PER_TURN: usize = 1_024;

// ---------------------------------------------------------------------------------------------------------------
// The store.

/// Jobs between the loop and the disk thread: one batch, and reads behind it.
pub const DISK_JOBS_MAX: usize = 1_024;
/// Answers of the disk that the loop has not taken yet; beyond them the disk thread waits for the loop, which takes
/// some each turn. A page of events has 4 MiB.
pub const DISK_ANSWERS_MAX: usize = 16;
/// Reads that may wait for the disk; beyond them 503.
pub const QUERIES_MAX: usize = 512;
/// Records that gather for one batch; commands beyond them are answered 503. A thousand hand-ins of a hundred answers
/// each, or a pause of every session there may be.
pub const BATCH_RECORDS_MAX: usize = 250_000;
/// A slice of reading or deleting between two batches ends after this many rows.
pub const SLICE_ROWS_MAX: u32 = 500;
/// And after this many stretches of rows in which a name was looked for: a look takes some microseconds.
pub const SLICE_STRETCHES_MAX: u32 = 256;
/// A batch that has not come back after this time leaves its outcome unknown.
pub const DISK_HANG_MAX: Duration = Duration::from_secs(10);
/// How long a degraded store waits between two attempts to write again.
pub const DISK_RETRY_EVERY: Duration = Duration::from_secs(1);
/// While anything runs, the time of life is written this often.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// What is finished, answered or old is looked for at least this often.
pub const UPKEEP_EVERY_MAX: Duration = Duration::from_secs(10);
/// And at most this often, however short a time an operator wants it kept.
pub const UPKEEP_EVERY_MIN: Duration = Duration::from_secs(1);
/// How far the wall clock may move against the boot clock before it counts as a step: sampling jitter is far less.
pub const WALL_STEP_MIN: Duration = Duration::from_millis(20);
/// How long SIGTERM may take before the process leaves with what is durable.
pub const SHUTDOWN_MAX: Duration = Duration::from_millis(900);

// Relations that the bounds must keep to each other.
const _: () = {
    assert!(OUTBOX_BYTES_MAX > 4 * MESSAGE_BYTES_MAX, "a full state and its changes must fit into an outbox");
    assert!(READ_BYTES >= HEAD_BYTES_MAX + CHUNK_LINE_BYTES_MAX, "a head fits into one read");
    assert!(PEER_SILENCE_MAX.as_secs() >= 3 * PING_EVERY.as_secs(), "a lost pong must not cost the connection");
    assert!(BULK_IDS_MAX * 32 < BODY_BYTES_MAX, "a full bulk call fits into a body");
    assert!(BATCH_RECORDS_MAX >= 6 * BULK_IDS_MAX, "one bulk call with its history and events fits into a batch");
    assert!(BATCH_RECORDS_MAX >= 3 * EVENTS_GATHERED_MAX, "a flood of events with keys leaves room for commands");
    assert!(BATCH_RECORDS_MAX > SESSIONS_MAX_CEILING as usize, "every session pauses in one commit");
    assert!(DISK_RETRY_EVERY.as_secs() * 4_096 > GRACE_S_MAX as u64, "no grace has more lapses than are remembered");
    assert!(RESPONSE_BYTES_MAX - 1 <= u16::MAX as usize, "the size of a response fits into a session's mark");
    assert!(ITEMS_MAX <= u16::MAX as usize, "an item's number fits into 16 bits");
    assert!(ANSWER_BYTES_MAX > RESPONSE_BYTES_MAX, "the largest response fits into a message");
    assert!(SUBMIT_BYTES_MAX > RESPONSES_BYTES_MAX, "everything can be handed in at once");
    assert!(RESPONSE_BYTES_GATHERED_MAX > 8 * SUBMIT_BYTES_MAX, "whatever is allowed can be handed in");
    assert!(EVENT_BYTES_GATHERED_MAX >= 8 * EVENT_BODY_BYTES_MAX, "whatever is allowed can be published");
    assert!(FEED_BYTES_MAX >= 2 * EVENT_PAYLOAD_BYTES_MAX, "a subscriber takes any event");
    assert!(
        FEED_PAGE_BYTES_MAX + 2 * EVENT_PAYLOAD_BYTES_MAX <= FEED_BYTES_MAX,
        "a page more leaves room for answers"
    );
    assert!(
        PUBLISHER_MESSAGE_AGE_MAX.as_secs() > 4 * DISK_HANG_MAX.as_secs(),
        "a hanging disk is not the publisher's fault"
    );
    assert!(UNANSWERED_MAX * 4 < EVENTS_GATHERED_MAX, "one publisher does not fill the queue");
    assert!(SHUTDOWN_MAX.as_millis() < 1000, "SIGTERM is answered within a second");
};
