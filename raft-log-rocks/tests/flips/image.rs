//! Directories at rest, copies of them with bits flipped, and what became of each.
//!
//! `raft-kv`'s tests take this file too: both databases are RocksDB's.

// A test that cannot set itself up has to stop at once; not every test binary uses everything here.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};

use raft_core::testing::{Random, Report};

use crate::table;

/// What became of damage. Anything else is *silent*: a wrong answer, less than was acknowledged without a word, an
/// older term or vote. There is no such outcome here; the judges return it as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Refused, by an error that names the file or the entry.
    Detected,
    /// Less than was acknowledged is there, and the store says so; what is there is right.
    DeclaredLost,
    /// The right value came back from somewhere else.
    Repaired,
    /// Everything is as it was acknowledged, and goes on.
    Harmless,
}

impl Outcome {
    pub(crate) const ALL: [Self; 4] = [Self::Detected, Self::DeclaredLost, Self::Repaired, Self::Harmless];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::DeclaredLost => "declared lost",
            Self::Repaired => "repaired",
            Self::Harmless => "harmless",
        }
    }
}

/// One bit of one file.
#[derive(Clone, Debug)]
pub(crate) struct Flip {
    pub(crate) place: &'static str,
    pub(crate) file: usize,
    pub(crate) bit: usize,
}

struct FileAtRest {
    /// Below the directory.
    name: PathBuf,
    content: Vec<u8>,
}

/// A directory's files, read once.
pub(crate) struct Image {
    root: PathBuf,
    directories: Vec<PathBuf>,
    files: Vec<FileAtRest>,
}

impl Image {
    /// Reads all files in `root`, which nobody changes meanwhile.
    pub(crate) fn of(root: &Path) -> Self {
        let mut image = Self { root: root.into(), directories: Vec::new(), files: Vec::new() };
        image.take(Path::new(""));
        image.files.sort_by(|a, b| a.name.cmp(&b.name));
        image
    }

    fn take(&mut self, below: &Path) {
        self.directories.push(below.into());
        for file in fs::read_dir(self.root.join(below)).unwrap() {
            let file = file.unwrap();
            let name = below.join(file.file_name());
            if file.file_type().unwrap().is_dir() {
                self.take(&name);
            } else {
                self.files.push(FileAtRest { content: fs::read(file.path()).unwrap(), name });
            }
        }
    }

    /// Writes the directory to `to`, which must be empty, with some bits flipped. Tables are never written again under
    /// their name, so they are linked; all other files are copied.
    pub(crate) fn copy(&self, to: &Path, flips: &[&Flip]) {
        for directory in &self.directories {
            fs::create_dir_all(to.join(directory)).unwrap();
        }
        for (number, file) in self.files.iter().enumerate() {
            let mut flips = flips.iter().filter(|flip| flip.file == number).peekable();
            if flips.peek().is_none() && is_table(&file.name) {
                fs::hard_link(self.root.join(&file.name), to.join(&file.name)).unwrap();
                continue;
            }
            let mut content = file.content.clone();
            for flip in flips {
                content[flip.bit / 8] ^= 1 << (flip.bit % 8);
            }
            fs::write(to.join(&file.name), content).unwrap();
        }
    }

    /// Fails when a copy wrote through a link.
    pub(crate) fn assert_untouched(&self) {
        for file in self.files.iter().filter(|file| is_table(&file.name)) {
            assert!(fs::read(self.root.join(&file.name)).unwrap() == file.content, "{} changed", file.name.display());
        }
    }

    /// All that can be flipped in the files below `directory`, by the kind of place.
    pub(crate) fn places(&self, directory: &str) -> BTreeMap<&'static str, Vec<(usize, Range<usize>)>> {
        let mut places: BTreeMap<&'static str, Vec<(usize, Range<usize>)>> = BTreeMap::new();
        for (number, file) in self.files.iter().enumerate() {
            if file.content.is_empty() || !file.name.starts_with(directory) {
                continue;
            }
            for (place, range) in places_of(&file.name, &file.content) {
                places.entry(place).or_default().push((number, range));
            }
        }
        places
    }

    /// Flips in all kinds of places, by their shares of `flips` in thousandths.
    pub(crate) fn draw_all(
        &self,
        places: &BTreeMap<&'static str, Vec<(usize, Range<usize>)>>,
        shares: &[(&str, u64)],
        flips: u64,
        seed: u64,
    ) -> Vec<Flip> {
        let (mut random, mut drawn) = (Random::new(seed), Vec::new());
        for (place, ranges) in places {
            let share = shares.iter().find(|(name, _)| name == place).unwrap_or_else(|| panic!("{place} has no share"));
            drawn.extend(self.draw(place, ranges, (flips * share.1).div_ceil(1000) as usize, &mut random));
        }
        drawn
    }

    /// Up to `count` flips in a kind of place: every bit of it when they are no more, else drawn.
    pub(crate) fn draw(
        &self,
        place: &'static str,
        ranges: &[(usize, Range<usize>)],
        count: usize,
        random: &mut Random,
    ) -> Vec<Flip> {
        let all: usize = ranges.iter().map(|(_, range)| range.len() * 8).sum();
        let nth = |number: usize| {
            let mut rest = number;
            for (file, range) in ranges {
                if rest < range.len() * 8 {
                    return Flip { place, file: *file, bit: range.start * 8 + rest };
                }
                rest -= range.len() * 8;
            }
            panic!("{place} has no bit {number}");
        };
        if all <= count {
            return (0..all).map(nth).collect();
        }
        (0..count).map(|_| nth(random.below(all as u64) as usize)).collect()
    }

    /// The number of the file of this name.
    pub(crate) fn number(&self, name: &str) -> usize {
        self.files.iter().position(|file| file.name == Path::new(name)).unwrap()
    }

    /// A flip in a byte of a file that is not zero.
    pub(crate) fn draw_used(&self, file: usize, random: &mut Random) -> Flip {
        let used: Vec<usize> =
            self.files[file].content.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        let at = used[random.below(used.len() as u64) as usize];
        Flip { place: "small file", file, bit: at * 8 + random.below(8) as usize }
    }

    /// Where the records of a manifest begin: checksum (4), length (2, little-endian), kind (1), content. Ours are short
    /// enough to lie in one block.
    pub(crate) fn records(&self, file: usize, length: usize) -> Vec<usize> {
        let (mut at, mut starts) = (0, Vec::new());
        while at < length {
            starts.push(at);
            let header = &self.files[file].content[at..at + 7];
            at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
        }
        assert!(at == length && length < 32 << 10, "the records end at {at} of {length}");
        starts
    }

    /// Says which bit a flip is, for people.
    pub(crate) fn explain(&self, flip: &Flip) -> String {
        let file = &self.files[flip.file];
        let (byte, bit) = (flip.bit / 8, flip.bit % 8);
        format!("{} of {} ({} bytes), byte {byte}, bit {bit}", flip.place, file.name.display(), file.content.len())
    }
}

/// Copies the database in `from` while RocksDB has it open. Its compactions may run, so a copy counts when nothing has
/// changed meanwhile and every table is whole.
pub(crate) fn copy_settled(from: &Path, to: &Path) {
    const TRIES_MAX: usize = 10_000;
    for _ in 0..TRIES_MAX {
        let _ = fs::remove_dir_all(to);
        if let Ok(true) = copy_once(from, to) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{} never settles", from.display());
}

fn copy_once(from: &Path, to: &Path) -> io::Result<bool> {
    let before = listing(from)?;
    fs::create_dir_all(to)?;
    for (name, ..) in &before {
        let content = fs::read(from.join(name))?;
        if is_table(name) && !table::is_whole(&content) {
            return Ok(false);
        }
        fs::write(to.join(name), content)?;
    }
    Ok(listing(from)? == before)
}

fn listing(directory: &Path) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(directory)? {
        let file = file?;
        found.push((file.file_name().into(), file.metadata()?.len(), file.metadata()?.modified()?));
    }
    found.sort();
    Ok(found)
}

/// Judges all flips, several at a time: they wait for the disk most of the time.
pub(crate) fn judge_all(
    image: &Image,
    flips: &[Flip],
    seed: u64,
    judge: impl Fn(&Flip) -> Result<Outcome, String> + Sync,
) -> Tally {
    const AT_A_TIME: usize = 4;
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(flip) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = judge(flip);
                    let mut tally = tally.lock().unwrap();
                    match outcome {
                        Ok(outcome) => tally.add(flip.place, outcome),
                        Err(wrong) => tally.add_silent(format!("{}: {wrong} (seed {seed})", image.explain(flip))),
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

/// Judges on a thread of its own: a life that never ends is a finding too, and so is a panic.
pub(crate) fn within(
    limit: Duration,
    judge: impl FnOnce() -> Result<Outcome, String> + Send + 'static,
) -> Result<Outcome, String> {
    let (verdict, judged) = mpsc::channel();
    std::thread::spawn(move || verdict.send(judge()));
    match judged.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("not over after {limit:?}")),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("a panic".into()),
    }
}

fn is_table(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "sst")
}

/// Kinds of places in a file of RocksDB, by its name.
fn places_of(name: &Path, content: &[u8]) -> Vec<(&'static str, Range<usize>)> {
    if is_table(name) {
        return table::places(content);
    }
    let whole = 0..content.len();
    let plain = name.file_name().unwrap().to_string_lossy().into_owned();
    let place = match plain.split(['-', '.']).next().unwrap() {
        "MANIFEST" => "MANIFEST",
        "CURRENT" => "CURRENT",
        "OPTIONS" => "OPTIONS",
        "IDENTITY" => "IDENTITY",
        "LOG" => "LOG",
        _ if plain.ends_with(".log") => "WAL",
        _ => panic!("{} is a file of a kind that these tests do not know", name.display()),
    };
    vec![(place, whole)]
}

/// How many flips there were in each kind of place, and what became of them.
#[derive(Default)]
pub(crate) struct Tally {
    counts: BTreeMap<&'static str, BTreeMap<Outcome, u64>>,
    silent: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, place: &'static str, outcome: Outcome) {
        *self.counts.entry(place).or_default().entry(outcome).or_default() += 1;
    }

    /// Keeps a violation; the run goes on, so that one shows whether there are more.
    pub(crate) fn add_silent(&mut self, text: String) {
        self.silent.push(text);
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.values().flat_map(BTreeMap::values).sum()
    }

    pub(crate) fn of_place(&self, place: &str) -> u64 {
        self.counts.get(place).map_or(0, |outcomes| outcomes.values().sum())
    }

    pub(crate) fn of_outcome(&self, outcome: Outcome) -> u64 {
        self.counts.values().filter_map(|outcomes| outcomes.get(&outcome)).sum()
    }

    /// One line per kind of place into the report.
    pub(crate) fn note(&self, report: &mut Report) {
        self.to_string().lines().for_each(|line| {
            report.note(line);
        });
    }

    /// Fails with what was silent, if anything was.
    pub(crate) fn assert_never_silent(&self) {
        let (count, first) = (self.silent.len(), self.silent.iter().take(20).cloned().collect::<Vec<_>>());
        assert!(self.silent.is_empty(), "{count} times silently wrong, the first:\n{}", first.join("\n"));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:26}", "where")?;
        for outcome in Outcome::ALL {
            write!(f, "{:>15}", outcome.name())?;
        }
        writeln!(f)?;
        for (place, outcomes) in &self.counts {
            write!(f, "{place:26}")?;
            for outcome in Outcome::ALL {
                write!(f, "{:>15}", outcomes.get(&outcome).copied().unwrap_or(0))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A number from the environment, or what is usual.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => usual,
    }
}
