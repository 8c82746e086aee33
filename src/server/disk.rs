//! The loop's end of the two channels to the disk thread.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Waker;
use rustix::thread::UnshareFlags;

use crate::domain::disk::{Done, Job};
use crate::limits::{DISK_ANSWERS_MAX, DISK_JOBS_MAX};
use crate::store::Store;

/// The disk thread, as the loop sees it.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread; `waker` wakes the loop when it has spoken. From here on the two threads have a table of
    /// descriptors each.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(store: Store, waker: Waker) -> io::Result<Self> {
        let (jobs, jobs_taken) = sync_channel(DISK_JOBS_MAX);
        let (done_given, done) = sync_channel(DISK_ANSWERS_MAX);
        let wake = move || {
            if let Err(error) = waker.wake() {
                log::error!("the loop cannot be woken: {error}");
            }
        };
        let thread = store.spawn(jobs_taken, done_given, wake)?;
        part_descriptors();
        Ok(Disk { jobs, done, thread: Some(thread) })
    }

    /// Gives the disk something to do. Never waits: the hub's bounds keep the channel from filling.
    pub(super) fn give(&self, job: Job) {
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => log::error!("the disk's jobs overflow at {job:?}"),
            Err(TrySendError::Disconnected(_)) => log::error!("the disk thread is gone"),
        }
    }

    /// What the disk has said, if it has.
    pub(super) fn take(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Lets the disk finish, for at most `patience`. Returns whether it has.
    pub(super) fn close(mut self, patience: Duration) -> bool {
        self.give(Job::Close);
        let until = std::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match self.done.recv_timeout(left) {
                Ok(Done::Closed) => break,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

/// Gives this thread a table of descriptors of its own. While two threads share one, the kernel counts a reference to
/// the socket up and down in each system call, in a cache line that nothing else of a send needs. The disk thread keeps
/// the table as it was, with the files of the database, and its locks on them, which belong to the table (fcntl(2)).
fn part_descriptors() {
    // SAFETY: a descriptor that one of the threads opens from here on means nothing to the other, and none is handed
    // over: the loop opens sockets, the disk thread files. The waker and the signals' pipe stand in both tables.
    #[expect(unsafe_code, reason = "a thread that keeps what it opens to itself breaks no promise, if that is true")]
    let parted = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) };
    if let Err(error) = parted {
        log::debug!("the threads share their descriptors: {error}");
    }
}
