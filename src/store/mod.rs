//! The store: the only room with SQLite.
//!
//! Owns the data directory, its lock, the database in it and the one thread that may touch them. It takes
//! [`Batch`](crate::domain::effects::Batch)es and questions, and gives back what only the disk knows; the words are
//! those of [`crate::domain::disk`]. It must not know sockets, HTTP, JSON or the state machine of any noun: it keeps
//! facts and hands them back as they were.
//!
//! ```text
//! directory.rs   the data directory: made, guarded, locked; files brought to the truth of the disk
//! schema.rs      tables, migrations, settings of a connection, the row that says which batch was last
//! database.rs    one open database: a batch whole or not at all, doubt settled, slices, checkpoints
//! slice.rs       so much of a long piece of work as goes between two batches
//! stretch.rs     so many rows in the order in which they were written
//! countdown.rs   columns <-> a countdown
//! timers.rs      rows <-> timers and their history
//! assessments.rs rows <-> assessments and candidates
//! delivery.rs    rows <-> sessions and their answers; results
//! rooms.rs       rows <-> rooms and their people
//! events.rs      rows <-> events: numbered, searched, counted, deleted
//! replays.rs     rows <-> kept answers
//! thread.rs      the order of the disk thread's work
//! ```
//!
//! Invariants: what is answered `Written` survives a power cut; what is answered `Failed` is not in the file and
//! never will be; what is neither is not answered. A full or broken disk ends nothing but writing.

mod assessments;
mod countdown;
mod database;
mod delivery;
mod directory;
mod events;
mod replays;
mod rooms;
mod schema;
mod slice;
mod stretch;
mod thread;
mod timers;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;

use crate::domain::disk::{Done, Image, Job};
use database::Database;
use directory::Directory;

/// Why the store cannot be opened. Displayed as one line that tells an operator what to do.
#[derive(Debug)]
pub enum OpenError {
    /// Another process holds the data directory.
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Who, as far as the lock file tells.
        pid: Option<u32>,
    },
    /// The database was written by a later version of timerd.
    Newer {
        /// The database.
        file: PathBuf,
        /// The version of its schema.
        found: u32,
        /// The latest version that this program knows.
        known: u32,
    },
    /// There is a database, and it is somebody else's.
    Foreign {
        /// The database.
        file: PathBuf,
    },
    /// The database contradicts itself.
    Damaged {
        /// The database.
        file: PathBuf,
        /// What was found.
        why: String,
    },
    /// The operating system refuses.
    Io {
        /// The file or directory it is about.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite refuses.
    Sqlite {
        /// The database.
        file: PathBuf,
        /// Why.
        why: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked { directory, pid: Some(pid) } => {
                write!(f, "another timerd uses {} (pid {pid})", directory.display())
            }
            OpenError::Locked { directory, pid: None } => write!(f, "another timerd uses {}", directory.display()),
            OpenError::Newer { file, found, known } => {
                write!(f, "{} was written by a newer timerd (schema {found}, this one knows {known})", file.display())
            }
            OpenError::Foreign { file } => write!(f, "{} is not a database of timerd", file.display()),
            OpenError::Damaged { file, why } => {
                write!(f, "{} is damaged ({why}): restore a backup, or move it away to begin anew", file.display())
            }
            OpenError::Io { path, source } => write!(f, "{}: {source}", path.display()),
            OpenError::Sqlite { file, why } => write!(f, "{}: {why}", file.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An open store: migrated, locked, and as durable as it looks.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the store in `directory`, which is created (0700) when missing, and reads what start-up needs.
    ///
    /// `boot_id` is the kernel's name of this boot ([`crate::clock::boot_id`]): it tells whether the boot times in
    /// the file still mean anything. Everything in the image is durable: what an earlier process wrote and did not
    /// live to sync is synced here, before anybody can be shown it.
    ///
    /// # Errors
    /// When another process holds the directory, when the file is newer, foreign or damaged, when the operating
    /// system or SQLite refuses. The database is as it was then.
    pub fn open(directory: &Path, boot_id: &str) -> Result<(Store, Image), OpenError> {
        let directory = Directory::open(directory)?;
        let (database, image) = Database::open(directory, boot_id)?;
        Ok((Store { database }, image))
    }

    /// A store in memory, gone with the process: the same code, and commits cost no sync.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn ephemeral() -> Result<(Store, Image), OpenError> {
        let (database, image) = Database::in_memory()?;
        Ok((Store { database }, image))
    }

    /// Starts the disk thread, named `disk`, which does `jobs` and tells `done`, and calls `wake` after each message.
    ///
    /// It ends after [`Job::Close`], which it answers with [`Done::Closed`], or when either channel is closed by the
    /// other side. A full `done` makes it wait: nothing is lost, and the loop has been woken for what fills it.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn spawn(
        self,
        jobs: Receiver<Job>,
        done: SyncSender<Done>,
        wake: impl Fn() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let disk = thread::Disk::new(self.database, jobs, done, wake);
        std::thread::Builder::new().name("disk".to_owned()).spawn(move || disk.run())
    }
}
