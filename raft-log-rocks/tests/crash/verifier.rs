//! Opens images with the real store and compares what they hold with what was acknowledged.
//!
//! It runs in a process of its own, under the library, so that opening an image costs no syncs of the real disk.

use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use raft_core::ports::LogStore as _;
use raft_core::testing::Random;
use raft_log_rocks::{DataDir, RocksLog};

use super::history::History;
use super::repair;
use super::state::State;
use super::writer::{data_dir, founding_text, node, options, start_of};
use crate::preload::{Change, Disk, Event, Image, Record};

/// The directory of the stage to verify; see `stage.rs`.
pub(crate) const STAGE: &str = "RAFT_CRASH_STAGE";
/// How many images.
pub(crate) const IMAGES: &str = "RAFT_CRASH_STAGE_IMAGES";
/// Seed of their choices.
pub(crate) const CHOICES: &str = "RAFT_CRASH_STAGE_CHOICES";
/// Set to stop at the first violation.
pub(crate) const FIRST_ONLY: &str = "RAFT_CRASH_FIRST_ONLY";
/// Every so many images the log is also written to, closed and opened again.
const CONTINUED_EVERY: u64 = 8;
/// Of those that are wrong, so many of a stage are kept.
const WRONG_IMAGES_KEPT: usize = 4;

/// Verifies a stage, when this process is asked to. The last line of the file `verdict` says that it came to its end.
pub(crate) fn run() {
    let Some(stage) = std::env::var_os(STAGE).map(PathBuf::from) else {
        return;
    };
    let number = |name: &str| -> u64 { std::env::var(name).unwrap().parse().unwrap() };
    let record = Record::load(&stage.join("record"));
    let mut random = Random::new(number(CHOICES));
    let mut points: Vec<(usize, u64)> =
        (0..number(IMAGES)).map(|_| (draw_point(record.events(), &mut random), random.next_u64())).collect();
    let first_only = std::env::var_os(FIRST_ONLY).is_some();
    if !first_only {
        // One pass over the record. Who looks for the first violation takes them as they are drawn.
        points.sort_unstable();
    }
    let expected = fs::read_to_string(stage.join("expected")).ok();
    let mut verdict = String::new();
    let mut cursor = Cursor::new(&stage, &record);
    for (count, (point, choice)) in points.iter().enumerate() {
        cursor.go_to(*point);
        // Whoever reads a verdict that ends here knows which image ended the process.
        fs::write(stage.join("verdict"), format!("{verdict}violation at {point} choice {choice}: the process died\n"))
            .unwrap();
        let image = cursor.disk.image(&mut Random::new(*choice));
        if let Err(reason) = verify(&stage, &image, |root| match &expected {
            None => open_and_compare(root, &cursor.history, choice % CONTINUED_EVERY == 0),
            Some(expected) => open_and_judge(root, &cursor.history, expected),
        }) {
            if verdict.lines().count() < WRONG_IMAGES_KEPT {
                image.write_to(&stage.join(format!("wrong/at-{point}-choice-{choice}")));
            }
            writeln!(verdict, "violation at {point} choice {choice} ({}): {reason}", image.story).unwrap();
            if first_only {
                writeln!(verdict, "images {}", count + 1).unwrap();
                break;
            }
        }
    }
    if !first_only || verdict.is_empty() {
        writeln!(verdict, "images {}", points.len()).unwrap();
    }
    writeln!(verdict, "complete").unwrap();
    fs::write(stage.join("verdict"), verdict).unwrap();
}

/// A moment: half of them near a change of names, where the orders are.
fn draw_point(events: &[Event], random: &mut Random) -> usize {
    let anywhere = random.below(events.len() as u64 + 1) as usize;
    if random.below(2) == 0 {
        return anywhere;
    }
    let names = events.iter().enumerate().skip(anywhere).find(|(_, event)| event.change.is_of_names());
    names.map_or(anywhere, |(at, _)| (at + random.below(8) as usize).min(events.len()))
}

/// A moment of a record, with disk and history as they were.
pub(crate) struct Cursor<'a> {
    stage: &'a Path,
    record: &'a Record,
    at: usize,
    pub(crate) disk: Disk,
    pub(crate) history: History,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(stage: &'a Path, record: &'a Record) -> Self {
        let base = stage.join("base");
        let mut disk = if base.exists() { Disk::of_directory(&base) } else { Disk::empty() };
        disk.keep_order_below("data/log/db/");
        let mut history = History::new();
        // Marks of the stages before this one.
        if let Ok(marks) = fs::read_to_string(stage.join("history")) {
            marks.lines().for_each(|mark| history.mark(mark));
        }
        Self { stage, record, at: 0, disk, history }
    }

    pub(crate) fn go_to(&mut self, point: usize) {
        if point < self.at {
            *self = Self::new(self.stage, self.record);
        }
        for event in &self.record.events()[self.at..point] {
            if let Change::Mark(text) = &event.change {
                self.history.mark(text);
            }
            self.disk.apply(event);
        }
        self.at = point;
    }
}

/// Writes the image out and opens it by `check`.
fn verify(stage: &Path, image: &Image, check: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let root = stage.join("image");
    image.write_to(&root);
    let checked = catch_unwind(AssertUnwindSafe(|| check(&root)));
    fs::remove_dir_all(&root).unwrap();
    checked.unwrap_or_else(|_| Err("opening the image panics".into()))
}

fn open(root: &Path, history: &History) -> Result<(DataDir, RocksLog), String> {
    let path = data_dir(root);
    let directory = DataDir::open(&path, &node()).map_err(|error| format!("the directory does not open: {error}"))?;
    history.admits_start(&start_of(&directory))?;
    history.admits_founding(founding_text(directory.founding().as_ref()).as_ref())?;
    let log = directory.open_log(options()).map_err(|error| format!("the log does not open: {error}"))?;
    Ok((directory, log))
}

/// A log that has lost something says so, and the same every time.
fn open_and_judge(root: &Path, history: &History, expected: &str) -> Result<(), String> {
    let (_directory, mut log) = open(root, history)?;
    let found = repair::verdict(&mut log)?;
    if found == expected { Ok(()) } else { Err(format!("it says {found}, and said {expected} before")) }
}

fn open_and_compare(root: &Path, history: &History, continued: bool) -> Result<(), String> {
    let path = data_dir(root);
    let (directory, mut log) = open(root, history)?;
    let start = start_of(&directory);
    let mut state = State::read(&mut log)?;
    history.admits(&state)?;
    if !continued {
        return Ok(());
    }
    let mut random = Random::new(start.count);
    for nonce in 0..3 {
        let writes = state.draw(&mut random, nonce);
        log.write(&writes).map_err(|error| format!("the log takes no more writes: {error}"))?;
        writes.iter().for_each(|write| state.apply(write));
        if let Some((group, upto)) = state.draw_compaction(&mut random) {
            log.compact(group, upto).map_err(|error| format!("the log is not compacted: {error}"))?;
            state.compact(group, upto);
        }
    }
    drop((log, directory));
    let directory = DataDir::open(&path, &node()).map_err(|error| format!("not opened again: {error}"))?;
    let again = start_of(&directory);
    if (&again.incarnation, again.count) != (&start.incarnation, start.count + 1) {
        return Err(format!("{again:?} follows {start:?}"));
    }
    let mut log = directory.open_log(options()).map_err(|error| format!("the log does not open again: {error}"))?;
    let found = State::read(&mut log)?;
    if found != state {
        return Err(format!("written after recovery: {}, and found: {}", state.summary(), found.summary()));
    }
    Ok(())
}
