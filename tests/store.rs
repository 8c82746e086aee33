//! The store from outside: what it promises to a loop that talks to its thread, on a real file system, with
//! processes that are killed and files that may not grow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use timerd::clock::{Mono, Now, WallMs};
use timerd::domain::countdown::{Countdown, Deadline};
use timerd::domain::disk::{Answer, Done, Image, Job, Query};
use timerd::domain::effects::{Batch, Record};
use timerd::domain::history::{Action, Entry};
use timerd::domain::replays::{First, Replay, Stub};
use timerd::domain::timers::{State, Timer, TimerId};
use timerd::store::{OpenError, Store};

/// Set for a test that runs as a process of its own: the data directory.
const CHILD: &str = "TIMERD_STORE_TEST_CHILD";

/// A disk thread as the loop sees it.
struct Disk {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    woken: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Disk {
    fn spawn(store: Store) -> Self {
        let (jobs, taken) = sync_channel(100);
        let (told, done) = sync_channel(100);
        let (bell, woken) = mpsc::channel();
        let thread = store.spawn(taken, told, move || _ = bell.send(())).unwrap();
        Disk { jobs, done, woken, thread }
    }

    fn ask(&self, job: Job) -> Done {
        self.jobs.send(job).unwrap();
        self.woken.recv_timeout(Duration::from_secs(20)).unwrap();
        self.done.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// Whether the batch was written.
    fn write(&self, batch: Batch) -> bool {
        let number = batch.number;
        match self.ask(Job::Write(batch)) {
            Done::Written(batch, _) if batch.number == number => true,
            Done::Failed(batch, why) if batch.number == number && !why.is_empty() => false,
            other => panic!("{other:?}"),
        }
    }

    fn close(self) {
        assert!(matches!(self.ask(Job::Close), Done::Closed));
        self.thread.join().unwrap();
    }
}

fn open(directory: &Path) -> (Disk, Image) {
    let (store, image) = open_when_free(directory, "boot 1").unwrap();
    (Disk::spawn(store), image)
}

/// Opens a store that this process has closed. Another test may have started a child meanwhile, which holds all that
/// was open here, and with it the lock, until it becomes another program.
fn open_when_free(directory: &Path, boot_id: &str) -> Result<(Store, Image), OpenError> {
    let begun = Instant::now();
    loop {
        match Store::open(directory, boot_id) {
            Err(OpenError::Locked { .. }) if begun.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

fn timer(serial: u32, revision: u64) -> Timer {
    let ends = Deadline { mono: Mono::from_ns(revision), wall: WallMs::from_ms(1_800_000_000_000) };
    Timer {
        id: Arc::from(format!("timer_{serial}")),
        serial,
        name: Arc::from("Exam"),
        thresholds: Arc::from([60]),
        state: State::Running,
        countdown: Countdown::Running { ends },
        duration_s: 60,
        start_at: None,
        created_at: WallMs::from_ms(1),
        started_at: Some(WallMs::from_ms(2)),
        completed_at: None,
        revision,
    }
}

fn entry(timer: &TimerId, revision: u64) -> Entry {
    let (at, actor) = (WallMs::from_ms(3), Arc::from("anonymous"));
    let action = match revision {
        1 => Action::Created { name: Arc::from("Exam"), duration_s: 60 },
        _ => Action::Started,
    };
    Entry { timer: timer.clone(), revision, at, action, actor, remaining_ms: 4 }
}

fn replay(key: u8, bytes: usize) -> Replay {
    let stub = Stub { key: [key; 32], body: [0; 32], at: WallMs::from_ms(5) };
    let first = First::Words { status: 200, headers: Vec::new(), body: vec![key; bytes].into() };
    Replay { stub, first }
}

/// A batch that is easily checked to be whole: one timer, an entry of its revision and an answer of `bytes`.
fn batch(number: u64, bytes: usize) -> Batch {
    let timer = timer(1, number);
    let alive = Now { mono: Mono::from_ns(number), wall: WallMs::from_ms(6) };
    let follows = vec![Record::History(entry(&timer.id, number))];
    let answer = replay(u8::try_from(number % 200).unwrap(), bytes);
    Batch { number, alive, follows, commands: vec![Record::Timer(timer), Record::Replay(answer)] }
}

fn revisions(disk: &Disk) -> Vec<u64> {
    let mut revisions = Vec::new();
    loop {
        let after = revisions.last().copied().unwrap_or(0);
        let query = Query::History { timer: Arc::from("timer_1"), after, limit: 1_000 };
        let Done::Answered(9, Ok(Answer::History(rows))) = disk.ask(Job::Ask(9, query)) else { panic!() };
        let rows = rows.unwrap_or_default();
        if rows.is_empty() {
            return revisions;
        }
        revisions.extend(rows.iter().map(|row| row.revision));
    }
}

/// Runs the test `name` of this file as a process of its own, which finds `directory` in its environment.
fn child(name: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn directory_of_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_thread_writes_answers_and_leaves_one_file() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("timerd-data");
    let (disk, image) = open(&data);
    assert_eq!(image, Image { names: image.names, ..Image::default() });
    assert_eq!(mode(&data), 0o700);
    for number in 1..=3 {
        assert!(disk.write(batch(number, 10)));
    }
    for name in ["timerd.db", "timerd.db-wal", "timerd.db-shm", "timerd.lock"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    assert_eq!(revisions(&disk), [1, 2, 3]);
    let answer = disk.ask(Job::Ask(7, Query::Replay([2; 32])));
    assert!(matches!(answer, Done::Answered(7, Ok(Answer::Replay(Some(found)))) if found == replay(2, 10)));
    let nobody = Query::History { timer: Arc::from("timer_2"), after: 0, limit: 1 };
    assert!(matches!(disk.ask(Job::Ask(8, nobody)), Done::Answered(8, Ok(Answer::History(None)))));
    disk.close();
    let mut files: Vec<_> = fs::read_dir(&data).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["timerd.db", "timerd.lock"]);

    let (store, image) = open_when_free(&data, "boot 1").unwrap();
    assert_eq!((image.batch, image.same_boot, image.serial), (3, true, 1));
    assert_eq!(image.alive, Some(batch(3, 0).alive));
    assert_eq!(image.timers, [timer(1, 3)]);
    assert_eq!(image.replays, [1, 2, 3].map(|key| replay(key, 0).stub));
    drop(store);
    let (_, rebooted) = open_when_free(&data, "boot 2").unwrap();
    assert_eq!(rebooted, Image { same_boot: false, ..image });
}

#[test]
fn the_thread_ends_when_the_loop_has_gone() {
    let (store, _) = Store::ephemeral().unwrap();
    let Disk { jobs, done, woken, thread } = Disk::spawn(store);
    jobs.send(Job::Write(batch(1, 1))).unwrap();
    drop(jobs);
    thread.join().unwrap();
    assert!(matches!(done.recv(), Ok(Done::Written(..))));
    assert!(matches!(done.recv(), Ok(Done::Closed)));
    assert_eq!(woken.iter().count(), 2);
}

#[test]
fn what_is_wrong_with_a_directory_is_said_in_one_line() {
    let place = tempfile::tempdir().unwrap();
    let refused = || Store::open(place.path(), "boot 1").unwrap_err();
    let file = place.path().canonicalize().unwrap().join("timerd.db");

    let (store, _) = Store::open(place.path(), "boot 1").unwrap();
    let pid = std::process::id();
    let here = place.path().canonicalize().unwrap();
    assert_eq!(refused().to_string(), format!("another timerd uses {} (pid {pid})", here.display()));
    drop(store);
    let refused = || open_when_free(place.path(), "boot 1").unwrap_err();

    rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 77").unwrap();
    let newer = refused();
    assert!(matches!(newer, OpenError::Newer { found: 77, .. }));
    assert!(newer.to_string().ends_with("timerd.db was written by a newer timerd (schema 77, this one knows 6)"));

    fs::write(&file, vec![7; 10_000]).unwrap();
    assert_eq!(refused().to_string(), format!("{} is not a database of timerd", file.display()));
    assert_eq!(fs::read(&file).unwrap(), vec![7; 10_000], "it is left as it was");

    fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let theirs = fs::read(&file).unwrap();
    assert!(matches!(refused(), OpenError::Foreign { .. }));
    assert_eq!(fs::read(&file).unwrap(), theirs, "it is left as it was");

    fs::remove_file(&file).unwrap();
    let (disk, _) = open(place.path());
    assert!(disk.write(batch(1, 1)));
    disk.close();
    let spoil = "UPDATE timers SET state = 'confused'";
    rusqlite::Connection::open(&file).unwrap().execute_batch(spoil).unwrap();
    let damaged = refused().to_string();
    assert!(damaged.contains("is damaged") && damaged.contains("state of a timer"), "{damaged}");
}

#[test]
fn permissions_of_others_are_left_alone() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let (disk, _) = open(place.path());
    disk.close();
    assert_eq!(mode(place.path()), 0o750);
    assert_eq!(mode(&place.path().join("timerd.db")), 0o600);
}

/// Not a test by itself: writes batches, and tells on its standard output which ones were acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(directory) = directory_of_child() else { return };
    let (disk, image) = open(&directory);
    let mut out = std::io::stdout();
    for number in image.batch + 1.. {
        assert!(disk.write(batch(number, 1_000)));
        writeln!(out, "\nwritten {number}").unwrap();
    }
}

#[test]
fn acknowledged_batches_survive_kill_9_and_none_is_half_there() {
    let place = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut child = child("child_that_writes_until_it_is_killed", place.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged = 0;
        let mut left = 1 + round * 7;
        for number in lines.filter_map(|line| line.strip_prefix("written ").and_then(|it| it.parse::<u64>().ok())) {
            acknowledged = number;
            left -= 1;
            if left == 0 {
                let locked = Store::open(place.path(), "boot 1").unwrap_err();
                assert!(matches!(locked, OpenError::Locked { pid: Some(pid), .. } if pid == child.id()));
                // SIGKILL. What it still had to say is read: it was acknowledged as well.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged > 0);
        let (disk, image) = open(place.path());
        assert!(image.batch >= acknowledged, "{} of {acknowledged}", image.batch);
        assert_eq!(image.timers, [timer(1, image.batch)]);
        assert_eq!(revisions(&disk), (1..=image.batch).collect::<Vec<_>>());
        assert_eq!(image.replays.last().unwrap().key, [u8::try_from(image.batch % 200).unwrap(); 32]);
        disk.close();
    }
}

/// Files of this process may not grow beyond `bytes`: writes end with EFBIG there, as they do with ENOSPC on a full
/// disk. Works for every user.
fn limit_files(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

/// Not a test by itself: what it does to its own process would hit the other tests.
#[test]
fn child_whose_files_may_not_grow() {
    let Some(directory) = directory_of_child() else { return };
    // The signal that comes with the error would end the process.
    signal_hook::flag::register(25, Arc::new(AtomicBool::new(false))).unwrap();
    let (disk, _) = open(&directory);
    for number in 1..=5 {
        assert!(disk.write(batch(number, 100_000)));
    }
    let bytes = |name: &str| fs::metadata(directory.join(name)).unwrap().len();

    // The WAL has no room for the next batch: COMMIT fails, the disk tells that nothing came of it.
    limit_files(Some(bytes("timerd.db-wal") + 10_000));
    assert!(!disk.write(batch(6, 100_000)));
    // Now the checkpoint has made room, but not for this one.
    assert!(!disk.write(batch(7, 900_000)));
    assert!(disk.write(batch(8, 100)));
    assert_eq!(revisions(&disk), [1, 2, 3, 4, 5, 8]);

    // Neither the WAL nor the database may grow. That batch 10 is not there is certain all the same.
    assert!(disk.write(batch(9, 200_000)));
    limit_files(Some(100_000));
    assert!(!disk.write(batch(10, 200_000)));
    // Nothing is acknowledged while the WAL cannot be proven, however small.
    assert!(!disk.write(batch(11, 1)));
    assert!(!disk.write(batch(12, 1)));
    assert_eq!(revisions(&disk), [1, 2, 3, 4, 5, 8, 9], "reading goes on");
    limit_files(None);
    assert!(disk.write(batch(13, 300_000)));
    assert_eq!(revisions(&disk), [1, 2, 3, 4, 5, 8, 9, 13]);
    writeln!(std::io::stdout(), "\nall was as it should be").unwrap();
    disk.close();
}

#[test]
fn a_full_disk_fails_batches_whole_and_loses_none_that_was_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let child = child("child_whose_files_may_not_grow", place.path()).wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && out.contains("all was as it should be"), "{out}");
    let (disk, image) = open(place.path());
    assert_eq!((image.batch, image.timers), (13, vec![timer(1, 13)]));
    assert_eq!(revisions(&disk), [1, 2, 3, 4, 5, 8, 9, 13]);
    let keys: Vec<u8> = image.replays.iter().map(|stub| stub.key[0]).collect();
    assert_eq!(keys, [1, 2, 3, 4, 5, 8, 9, 13]);
    disk.close();
}

#[test]
fn a_torn_tail_of_the_wal_costs_nothing_that_was_acknowledged() {
    let place = tempfile::tempdir().unwrap();
    let (disk, _) = open(place.path());
    for number in 1..=3 {
        assert!(disk.write(batch(number, 5_000)));
    }
    // As a power cut leaves it: the files as they were synced, and the beginning of a frame behind.
    let copy = tempfile::tempdir().unwrap();
    for name in ["timerd.db", "timerd.db-wal"] {
        fs::copy(place.path().join(name), copy.path().join(name)).unwrap();
    }
    let mut wal = File::options().append(true).open(copy.path().join("timerd.db-wal")).unwrap();
    wal.write_all(&[0x5a; 1_500]).unwrap();
    let (copied, image) = open(copy.path());
    assert_eq!((image.batch, revisions(&copied)), (3, vec![1, 2, 3]));
    copied.close();
    disk.close();
}
