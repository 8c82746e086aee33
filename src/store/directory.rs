//! The data directory.
//!
//! Owns the directory's creation, its permissions, the lock that keeps a second timerd out of it, and the names of
//! the files in it. It knows nothing of what the files hold.
//!
//! Invariants: what it creates only its user can read; what others created is left as it is, with a warning; the lock
//! is held until the process ends, whatever ends it; no file of the database is opened here while SQLite has it open,
//! since closing it would drop SQLite's locks (POSIX locks belong to the table of descriptors).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::store::OpenError;

const LOCK: &str = "timerd.lock";
const DATABASE: &str = "timerd.db";
const WAL: &str = "timerd.db-wal";

/// A data directory that is ours alone.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Closing it gives the directory up.
    _lock: File,
}

impl Directory {
    /// Takes the directory at `path`, creating it and an empty database file where missing.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        create(path).map_err(|source| io_error(path, source))?;
        // Absolute from here on: the store must not move when the process changes its directory, and SQLite must not
        // take a relative path that begins with `file:` for a URI.
        let path = fs::canonicalize(path).map_err(|source| io_error(path, source))?;
        warn_if_open_to_others(&path);
        // The lock comes before anything is touched.
        let lock = lock(&path)?;
        let directory = Directory { path, _lock: lock };
        let database = directory.database();
        // SQLite gives its -wal and -shm files the permissions of the database: created here, all three are private.
        private(&database).map_err(|source| io_error(&database, source))?;
        warn_if_open_to_others(&database);
        // The names just created must survive a power cut as surely as what is written under them.
        sync_directory(&directory.path).map_err(|source| io_error(&directory.path, source))?;
        Ok(directory)
    }

    /// The database file.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Brings what the next reader sees to what is on the disk: dirty pages are written, then every cached page is
    /// dropped. After a failed fsync the kernel holds pages that look clean and were never written; without this they
    /// would be read back as if they were durable. Never while the database is open.
    ///
    /// # Errors
    /// When a file cannot be opened or written back: then nothing that is read proves anything.
    pub(super) fn settle_files(&self) -> io::Result<()> {
        for name in [DATABASE, WAL] {
            let file = match File::open(self.path.join(name)) {
                Ok(file) => file,
                Err(error) if name == WAL && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // fsync first: posix_fadvise drops clean pages only.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }
}

/// Creates the directory and its missing ancestors, 0700 each, so that they survive a power cut.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    if missing.is_empty() && !path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for created in missing {
        let parent = created.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Opens a file for reading and writing, creating it 0600.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Takes the lock of the directory and leaves our process id in it for whoever comes second.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let mut file = private(&path).map_err(|source| io_error(&path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::Locked { directory: directory.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
    }
    // The lock is what counts. On a full disk the number of its holder cannot be told, and that must stop nobody.
    let pid = format!("{}\n", std::process::id());
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some file systems cannot sync a directory, and say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

fn warn_if_open_to_others(path: &Path) {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    if let Ok(mode) = mode
        && mode & 0o077 != 0
    {
        log::warn!("{} is open to other users (mode {mode:04o}): left as it is", path.display());
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_the_way_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("data");
        fs::write(&path, "x").unwrap();
        let error = Directory::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn missing_ancestors_are_created_and_private() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let directory = Directory::open(&path).unwrap();
        assert_eq!(fs::metadata(place.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        directory.settle_files().unwrap();
    }

    #[test]
    fn a_missing_database_settles_nothing() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path()).unwrap();
        fs::remove_file(directory.database()).unwrap();
        assert!(directory.settle_files().is_err());
    }
}
