//! The order of the disk thread's work.
//!
//! Owns the queues behind the channel and what is done next. It must not know SQL nor what a record says.
//!
//! Invariants: a batch goes before everything else that waits; between two batches at most one slice of reading or
//! forgetting is done; a batch in doubt goes before the batch behind it, and is answered only when the disk has told;
//! nothing that the disk does ends the thread. A failure is logged when it begins and when it ends, not in between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};

use crate::clock::WallMs;
use crate::domain::disk::{Answer, Done, Extent, Job, Old, Query, Search};
use crate::domain::effects::Batch;
use crate::domain::replays::Digest;
use crate::domain::timers::TimerId;
use crate::limits::DISK_RETRY_EVERY;
use crate::store::database::{Checkpoint, Database, Trouble};
use crate::store::events::{Census, Forgetting, Reading};
use crate::store::slice::Slice;
use crate::store::timers::{self, Recital};

/// A question that waits, or is answered in slices.
#[derive(Debug)]
struct Question {
    /// `None`: nobody waits for the answer.
    ticket: Option<u64>,
    task: Task,
}

/// A batch whose COMMIT failed.
#[derive(Debug)]
struct Doubt {
    batch: Batch,
    why: String,
    /// The loop knows that the disk does not tell what came of it.
    is_told: bool,
}

/// What a question takes, with what has been done for it so far.
#[derive(Debug)]
enum Task {
    /// The answer kept under a key.
    Replay(Digest),
    /// One event.
    Event(u64),
    /// The figures of all events.
    Stats(Census),
    /// A page of history.
    History { timer: TimerId, after: u64, limit: u32, recital: Recital },
    /// A page of events.
    Search { search: Search, reading: Reading },
    /// The responses of a session.
    Responses(u32),
    /// A page of what came of an assessment: a slice of its own.
    Results { assessment: Arc<str>, after: u32, bytes_max: usize },
    /// A deletion of events, once it has begun.
    Forget { extent: Extent, begun: Option<Forgetting> },
}

impl Question {
    fn new(ticket: Option<u64>, query: Query) -> Self {
        let task = match query {
            Query::History { timer, after, limit } => {
                Task::History { timer, after, limit, recital: Recital::default() }
            }
            Query::Events(search) => Task::Search { search, reading: Reading::default() },
            Query::ForgetEvents(extent) => Task::Forget { extent, begun: None },
            Query::Replay(key) => Task::Replay(key),
            Query::Event(seq) => Task::Event(seq),
            Query::EventStats(hour_ago) => Task::Stats(Census::of(hour_ago)),
            Query::Responses(session) => Task::Responses(session),
            Query::Results { assessment, after, bytes_max } => Task::Results { assessment, after, bytes_max },
        };
        Question { ticket, task }
    }

    /// Whether it deletes of its own accord what `extent` is about.
    fn is_upkeep_of(&self, extent: Extent) -> bool {
        let same = |other| std::mem::discriminant(&other) == std::mem::discriminant(&extent);
        self.ticket.is_none() && matches!(self.task, Task::Forget { extent, .. } if same(extent))
    }
}

/// What the thread does after a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Look for more.
    Work,
    /// Wait for a job.
    Idle,
    /// Wait for a job, or until it is time to ask the disk again.
    Retry,
    /// Close the database and end.
    End,
}

/// The disk thread.
#[derive(Debug)]
pub(super) struct Disk<W> {
    database: Database,
    jobs: Receiver<Job>,
    done: SyncSender<Done>,
    wake: W,
    writes: VecDeque<Batch>,
    questions: VecDeque<Question>,
    /// History that is being forgotten.
    forget_history: Option<timers::Forgetting>,
    /// What came of sessions that ended before this instant is to be forgotten.
    forget_results: Option<WallMs>,
    /// What has become of the batch in hand must be asked first.
    doubt: Option<Doubt>,
    is_closing: bool,
    is_well: bool,
}

impl<W: Fn()> Disk<W> {
    pub(super) fn new(database: Database, jobs: Receiver<Job>, done: SyncSender<Done>, wake: W) -> Self {
        Disk {
            database,
            jobs,
            done,
            wake,
            writes: VecDeque::new(),
            questions: VecDeque::new(),
            forget_history: None,
            forget_results: None,
            doubt: None,
            is_closing: false,
            is_well: true,
        }
    }

    /// Works until it is told to close.
    pub(super) fn run(mut self) {
        loop {
            match self.turn() {
                Next::Work => {}
                Next::Idle => match self.jobs.recv() {
                    Ok(job) => self.take(job),
                    Err(_) => self.is_closing = true,
                },
                Next::Retry => match self.jobs.recv_timeout(DISK_RETRY_EVERY) {
                    Ok(job) => self.take(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => self.is_closing = true,
                },
                Next::End => break,
            }
        }
        self.turn_away("the store is closing");
        if let Some(Doubt { batch, .. }) = &self.doubt {
            log::error!("the store is closed without knowing whether batch {} is durable", batch.number);
        }
        let Disk { database, done, wake, .. } = self;
        if let Err(why) = database.close() {
            log::error!("the store could not be closed in order, nothing is lost: {why}");
        }
        // The other side may have gone already, as it may at every message: then there is nobody to tell.
        let _ = done.send(Done::Closed);
        wake();
    }

    /// Takes in every job that waits, then does the one piece of work that is most urgent.
    fn turn(&mut self) -> Next {
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.is_closing = true;
                    break;
                }
            }
        }
        // Doubt first: until it is settled no other batch may be judged by its number.
        if let Some(doubt) = self.doubt.take() {
            return self.settle(doubt);
        }
        if let Some(batch) = self.writes.pop_front() {
            self.write(batch);
            return Next::Work;
        }
        // After the batches that were given before it; questions are let go, since answers have nowhere to go.
        if self.is_closing {
            return Next::End;
        }
        let checkpoint = self.database.checkpoint_due();
        if checkpoint == Checkpoint::Due {
            self.checkpoint();
        } else if let Some(question) = self.questions.pop_front() {
            self.answer(question);
        } else if let Some(forgetting) = self.forget_history.take() {
            self.forget_history_slice(forgetting);
        } else if let Some(before) = self.forget_results.take() {
            self.forget_results_slice(before);
        } else if checkpoint == Checkpoint::WhenIdle {
            self.checkpoint();
        } else {
            return Next::Idle;
        }
        Next::Work
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Write(batch) => self.writes.push_back(batch),
            Job::Ask(ticket, query) => self.questions.push_back(Question::new(Some(ticket), query)),
            // One that is not done yet is part of the newer one.
            Job::Forget(Old::History(before)) => {
                self.forget_history.get_or_insert_with(|| timers::Forgetting::of(before)).extend(before);
            }
            Job::Forget(Old::Results(before)) => self.forget_results = self.forget_results.max(Some(before)),
            // One that is not done yet is done first; the next order is never far.
            Job::Forget(Old::Events(extent)) => {
                if !self.questions.iter().any(|question| question.is_upkeep_of(extent)) {
                    self.questions.push_back(Question::new(None, Query::ForgetEvents(extent)));
                }
            }
            Job::Close => self.is_closing = true,
        }
    }

    fn write(&mut self, batch: Batch) {
        match self.database.write(&batch) {
            Ok(last_seq) => {
                self.recover();
                self.tell(Done::Written(batch, last_seq));
            }
            Err(Trouble::Untouched(why)) => {
                self.fall_ill(&why);
                self.tell(Done::Failed(batch, why));
            }
            Err(Trouble::Doubt(why)) => {
                self.fall_ill(&why);
                self.doubt = Some(Doubt { batch, why, is_told: false });
            }
        }
    }

    /// Asks the disk about the batch whose COMMIT failed.
    fn settle(&mut self, doubt: Doubt) -> Next {
        match self.database.judge(doubt.batch.number) {
            Ok(Some(last_seq)) => {
                self.recover();
                self.tell(Done::Written(doubt.batch, last_seq));
                Next::Work
            }
            Ok(None) => {
                self.tell(Done::Failed(doubt.batch, doubt.why));
                Next::Work
            }
            Err(why) => {
                // Whoever is out there must not wait for a disk that is known to fail.
                if !doubt.is_told {
                    self.tell(Done::Doubted(doubt.why.clone()));
                }
                self.doubt = Some(Doubt { is_told: true, ..doubt });
                // Nobody waits for an answer from a disk that does not even tell its own state.
                self.turn_away(&why);
                if self.is_closing { Next::End } else { Next::Retry }
            }
        }
    }

    /// Does a slice of what a question takes. When that was not all, it goes behind the others, so that a long one
    /// does not keep short ones waiting. The slice is one of rows: 500 neighbours by key are a few dozen pages.
    fn answer(&mut self, mut question: Question) {
        match self.slice_of(&mut question.task) {
            Ok(Slice::Unfinished) => self.questions.push_back(question),
            Ok(Slice::Done(answer)) => self.answered(question.ticket, Ok(answer)),
            Err(why) => {
                if question.ticket.is_none() {
                    self.fall_ill(&why);
                }
                self.answered(question.ticket, Err(why));
            }
        }
    }

    fn answered(&mut self, ticket: Option<u64>, answer: Result<Answer, String>) {
        if let Some(ticket) = ticket {
            self.tell(Done::Answered(ticket, answer));
        }
    }

    fn slice_of(&mut self, task: &mut Task) -> Result<Slice<Answer>, String> {
        let database = &mut self.database;
        Ok(match task {
            Task::Replay(key) => Slice::Done(match database.replay(key)? {
                Some((_, Some(seq))) => Answer::ReplayedEvent(database.event(seq)?),
                found => Answer::Replay(found.map(|(replay, _)| replay)),
            }),
            Task::Event(seq) => Slice::Done(Answer::Event(database.event(*seq)?)),
            Task::Stats(census) => database.event_stats(census)?.map(Answer::EventStats),
            Task::Responses(session) => Slice::Done(Answer::Responses(*session, database.responses(*session)?)),
            Task::Results { assessment, after, bytes_max } => {
                Slice::Done(Answer::Results(database.results(assessment, *after, *bytes_max)?))
            }
            Task::History { timer, after, limit, recital } => {
                database.history(recital, timer, *after, *limit)?.map(Answer::History)
            }
            Task::Search { search, reading } => database.events(reading, search)?.map(Answer::Events),
            Task::Forget { extent, begun } => {
                let forgetting = match begun {
                    Some(forgetting) => forgetting,
                    none => none.insert(database.begin_forgetting(*extent)?),
                };
                let slice = database.forget_events(forgetting);
                slice
                    .map_err(|why| format!("{why}; {} events had been deleted", forgetting.gone))?
                    .map(Answer::Forgotten)
            }
        })
    }

    /// Nobody gets an answer.
    fn turn_away(&mut self, why: &str) {
        for question in std::mem::take(&mut self.questions) {
            self.answered(question.ticket, Err(why.to_owned()));
        }
    }

    /// Forgets a slice. What is left is put back; on a failing disk it is dropped, and comes again with the next order.
    fn forget_history_slice(&mut self, mut forgetting: timers::Forgetting) {
        match self.database.forget_history(&mut forgetting) {
            Ok(Slice::Unfinished) => self.forget_history = Some(forgetting),
            Ok(Slice::Done(())) => {}
            Err(why) => self.fall_ill(&why),
        }
    }

    fn forget_results_slice(&mut self, before: WallMs) {
        match self.database.forget_results(before) {
            Ok(true) => self.forget_results = self.forget_results.max(Some(before)),
            Ok(false) => {}
            Err(why) => self.fall_ill(&why),
        }
    }

    fn checkpoint(&mut self) {
        if let Err(why) = self.database.checkpoint() {
            self.fall_ill(&why);
        }
    }

    fn fall_ill(&mut self, why: &str) {
        if std::mem::replace(&mut self.is_well, false) {
            log::error!("the store cannot be written: {why}");
        }
    }

    fn recover(&mut self) {
        if !std::mem::replace(&mut self.is_well, true) {
            log::warn!("the store can be written again");
        }
    }

    fn tell(&mut self, done: Done) {
        if self.done.send(done).is_err() {
            // Nobody is left to work for.
            self.is_closing = true;
        }
        (self.wake)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel, sync_channel};

    use super::*;
    use crate::domain::effects::Record;
    use crate::domain::history::Action;
    use crate::store::database::FORGET_ROWS_MAX;
    use crate::store::database::tests::{batch, open};
    use crate::store::timers::tests::{created, entry, timer};

    struct Bench {
        disk: Disk<fn()>,
        jobs: Sender<Job>,
        done: Receiver<Done>,
    }

    /// A disk whose turns are taken one at a time.
    fn bench(database: Database) -> Bench {
        let (jobs, taken) = channel();
        let (told, done) = sync_channel(100);
        Bench { disk: Disk::new(database, taken, told, || ()), jobs, done }
    }

    /// Timers gone long ago, `rows` entries each.
    fn fill(database: &mut Database, timers: u32, rows: u64) -> Vec<TimerId> {
        let ids: Vec<TimerId> = (0..timers).map(|number| Arc::from(format!("timer_{number}"))).collect();
        let mut records = Vec::new();
        for id in &ids {
            records.push(Record::History(entry(id, 1, 1, created())));
            records.extend((2..rows).map(|revision| Record::History(entry(id, revision, 1, Action::Started))));
            records.push(Record::History(entry(id, rows, 1, Action::Deleted)));
        }
        database.write(&batch(1, records)).unwrap();
        ids
    }

    fn count(disk: &Disk<fn()>) -> u32 {
        let sql = "SELECT count(*) FROM history";
        disk.database.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_batch_waits_for_one_slice_of_forgetting_at_most() {
        let (mut database, _) = Database::in_memory().unwrap();
        fill(&mut database, 1_000, 100);
        let mut bench = bench(database);
        bench.jobs.send(Job::Forget(Old::History(WallMs::from_ms(2)))).unwrap();
        for number in 2..10 {
            let before = count(&bench.disk);
            assert_eq!(bench.disk.turn(), Next::Work);
            assert_eq!(before - count(&bench.disk), FORGET_ROWS_MAX);
            bench.jobs.send(Job::Ask(number, Query::Replay([0; 32]))).unwrap();
            bench.jobs.send(Job::Write(batch(number, Vec::new()))).unwrap();
            assert_eq!(bench.disk.turn(), Next::Work);
            assert!(matches!(bench.done.try_recv(), Ok(Done::Written(batch, _)) if batch.number == number));
            assert_eq!(bench.disk.turn(), Next::Work);
            assert!(matches!(bench.done.try_recv(), Ok(Done::Answered(ticket, _)) if ticket == number));
        }
        let mut turns = 0;
        while bench.disk.turn() == Next::Work {
            turns += 1;
        }
        assert_eq!(count(&bench.disk), 0);
        assert!(turns >= 100_000 / FORGET_ROWS_MAX - 8, "{turns}");
    }

    #[test]
    fn a_long_page_is_read_in_slices_and_a_batch_goes_between() {
        let (mut database, _) = Database::in_memory().unwrap();
        let timer = fill(&mut database, 1, 1_200).remove(0);
        let mut bench = bench(database);
        let ask = |ticket, after, limit| Job::Ask(ticket, Query::History { timer: timer.clone(), after, limit });
        bench.jobs.send(ask(1, 100, 1_000)).unwrap();
        bench.jobs.send(ask(2, 1_195, 1_000)).unwrap();
        assert_eq!(bench.disk.turn(), Next::Work);
        bench.jobs.send(Job::Write(batch(2, Vec::new()))).unwrap();
        assert_eq!(bench.disk.turn(), Next::Work);
        assert!(matches!(bench.done.try_recv(), Ok(Done::Written(..))));
        while bench.disk.turn() == Next::Work {}
        // The short one need not wait for the long one.
        let Ok(Done::Answered(2, Ok(Answer::History(Some(rows))))) = bench.done.try_recv() else { panic!() };
        assert!(rows.iter().map(|row| row.revision).eq(1_196..=1_200));
        let Ok(Done::Answered(1, Ok(Answer::History(Some(rows))))) = bench.done.try_recv() else { panic!() };
        assert!(rows.iter().map(|row| row.revision).eq(101..=1_100));
    }

    #[test]
    fn a_page_beyond_the_end_is_empty_and_one_of_nobody_is_none() {
        let (mut database, _) = Database::in_memory().unwrap();
        let timer = fill(&mut database, 1, 500).remove(0);
        let mut bench = bench(database);
        let nobody: TimerId = Arc::from("nobody");
        let expected = [
            (&timer, 500, 10, Some(0)),
            (&timer, 0, 0, Some(0)),
            (&timer, 0, 500, Some(500)),
            (&nobody, 0, 10, None),
        ];
        for (ticket, (timer, after, limit, rows)) in (0..).zip(expected) {
            bench.jobs.send(Job::Ask(ticket, Query::History { timer: timer.clone(), after, limit })).unwrap();
            while bench.disk.turn() == Next::Work {}
            let Ok(Done::Answered(told, Ok(Answer::History(page)))) = bench.done.try_recv() else { panic!() };
            assert_eq!((told, page.map(|page| page.len())), (ticket, rows));
        }
    }

    fn doubt(batch: Batch) -> Doubt {
        Doubt { batch, why: "cut".to_owned(), is_told: false }
    }

    #[test]
    fn a_batch_in_doubt_is_answered_when_the_disk_tells_and_before_the_one_behind() {
        let place = tempfile::tempdir().unwrap();
        let (database, _) = open(&place);
        let mut bench = bench(database);
        let (here, away) = (place.path().join("timerd.db"), place.path().join("away"));
        std::fs::rename(&here, &away).unwrap();
        bench.disk.doubt = Some(doubt(batch(1, vec![Record::Timer(timer(1))])));
        bench.jobs.send(Job::Write(batch(2, Vec::new()))).unwrap();
        bench.jobs.send(Job::Ask(7, Query::Replay([0; 32]))).unwrap();
        assert_eq!(bench.disk.turn(), Next::Retry);
        assert!(matches!(bench.done.try_recv(), Ok(Done::Doubted(why)) if why == "cut"), "told at once");
        assert!(matches!(bench.done.try_recv(), Ok(Done::Answered(7, Err(_)))));
        assert_eq!(bench.disk.turn(), Next::Retry);
        assert!(bench.done.try_recv().is_err(), "no answer while there is doubt, and that is told once");
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(bench.disk.turn(), Next::Work);
        assert!(matches!(bench.done.try_recv(), Ok(Done::Failed(batch, why)) if batch.number == 1 && why == "cut"));
        assert_eq!(bench.disk.turn(), Next::Work);
        assert!(matches!(bench.done.try_recv(), Ok(Done::Written(batch, _)) if batch.number == 2));
        assert!(bench.disk.is_well);
    }

    #[test]
    fn closing_ends_even_a_disk_that_tells_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (database, _) = open(&place);
        let mut bench = bench(database);
        std::fs::remove_file(place.path().join("timerd.db")).unwrap();
        bench.disk.doubt = Some(doubt(batch(1, Vec::new())));
        bench.jobs.send(Job::Close).unwrap();
        let done = bench.done;
        bench.disk.run();
        assert!(matches!(done.try_recv(), Ok(Done::Doubted(_))));
        assert!(matches!(done.try_recv(), Ok(Done::Closed)));
    }
}
