//! RocksDB's files of a real log: several tables, a write-ahead log with a tail, a history of lives.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::membership::Configuration;
use raft_core::ports::{LogStore as _, LogWrite, ReadError};
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::{Random, Report, entry};
use raft_core::types::{Entry, EntryKind, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use rocksdb::DB;
use tempfile::TempDir;

use crate::common::{GROUP, append, key, raw, replace, set, vote, wal};
use crate::image::{Flip, Image, Outcome, copy_settled, judge_all, setting, within};

/// Bits that are flipped when nothing else is asked for.
const FLIPS: u64 = 2120;
/// How the flips are shared out, in thousandths. A kind of place that has fewer bits than its share gets all flipped.
const SHARES: &[(&str, u64)] = &[
    ("CURRENT", 64),
    ("IDENTITY", 10),
    ("LOG", 10),
    ("MANIFEST", 160),
    ("OPTIONS", 16),
    ("WAL", 220),
    ("WAL: last batch", 80),
    ("table: entries", 170),
    ("table: footer", 90),
    ("table: index", 60),
    ("table: metaindex", 40),
    ("table: properties", 70),
];
/// Far longer than two lives take; one that is still not over hangs.
const LIVES_MAX: Duration = Duration::from_secs(60);
/// Pairs of flips, one in the write-ahead log and one in the evidence.
const PAIRS: usize = 60;
/// Reads are cut into answers of this size, as a lane's are.
const READ_BYTES: u64 = 16 << 10;

/// What was acknowledged.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) hard_state: HardState,
    pub(crate) commit: Index,
    pub(crate) snapshot: Option<SnapshotMeta>,
    pub(crate) stretch: Stretch,
    /// The same after every write, so that a log that is declared to be behind can be told from one that never was.
    history: Arc<Vec<(Option<SnapshotMeta>, Stretch)>>,
}

/// A log's entries, from the index after `base` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) base: LogId,
    pub(crate) entries: Vec<Entry>,
}

impl Stretch {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Drops the entries up to `upto`, which is one of them.
    fn begin_after(&mut self, upto: u64) {
        let gone = (upto - self.base.index.0) as usize;
        self.base = self.entries[gone - 1].id;
        self.entries.drain(..gone);
    }

    fn starts_with(&self, other: &Self) -> bool {
        self.base == other.base && self.entries.starts_with(&other.entries)
    }
}

impl Truth {
    fn last(&self) -> LogId {
        self.stretch.last()
    }

    /// Writes to the log and takes it for acknowledged. A snapshot is one of an entry that is there.
    fn write(&mut self, log: &mut RocksLog, write: LogWrite) {
        log.write(std::slice::from_ref(&write)).unwrap();
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.unwrap_or(self.commit);
        if let Some(snapshot) = write.snapshot {
            self.stretch.begin_after(snapshot.last.index.0);
            self.snapshot = Some(snapshot);
        }
        if let Some(from) = write.truncate_from {
            self.stretch.entries.retain(|entry| entry.id.index < from);
        }
        self.stretch.entries.extend(write.entries);
        self.remember();
    }

    fn compact(&mut self, log: &mut RocksLog, upto: u64) {
        log.compact(GROUP, Index(upto)).unwrap();
        self.stretch.begin_after(upto);
        self.remember();
    }

    fn remember(&mut self) {
        Arc::make_mut(&mut self.history).push((self.snapshot.clone(), self.stretch.clone()));
    }

    /// What is wrong with a log that holds `found`. One that has declared a loss may be any that was, cut anywhere.
    fn contradicts(&self, snapshot: &Option<SnapshotMeta>, found: &Stretch, lost: bool) -> Option<String> {
        let was = |(held, state): &(Option<SnapshotMeta>, Stretch)| held == snapshot && state.starts_with(found);
        if (found == &self.stretch && snapshot == &self.snapshot) || (lost && self.history.iter().any(was)) {
            return None;
        }
        let pairs = found.entries.iter().zip(&self.stretch.entries);
        let odd = pairs.into_iter().find(|(found, entry)| found != entry);
        let odd =
            odd.map_or_else(|| format!("{} entries", found.entries.len()), |(found, _)| format!("entry {}", found.id));
        let base = found.base;
        Some(format!("it begins after {base} with {snapshot:?} and holds {odd}, other than was acknowledged"))
    }
}

/// What can be flipped, by the kind of place.
type Places = BTreeMap<&'static str, Vec<(usize, Range<usize>)>>;

/// What a look at a log found, unless it was silently wrong.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Refused(String),
    Lost(LogId),
    Repaired,
    Whole,
}

/// Opens, recovers and reads everything, and compares with the truth. An error says what is silently wrong.
fn look(directory: &Path, truth: &Truth, more: Option<&LogWrite>) -> Result<Seen, String> {
    let mut log = match RocksLog::open(directory, LogOptions::default()) {
        Ok(log) => log,
        Err(error) => return named(directory, error.to_string()),
    };
    // Nothing was written yet, so a sync is that of a repair.
    let repaired = log.completed_syncs().value() > 0;
    let recovered = match log.recover(GROUP) {
        Ok(recovered) => recovered,
        Err(error) => return named(directory, error.to_string()),
    };
    if recovered.hard_state != truth.hard_state {
        return Err(format!("{:?} where {:?} was acknowledged", recovered.hard_state, truth.hard_state));
    }
    recovered.check()?;
    let (last, lost) = (recovered.last(), recovered.lost);
    match lost {
        None if last != truth.last() => return Err(format!("it ends with {last}, nothing said of {}", truth.last())),
        Some(end) if end != truth.last() => return Err(format!("lost {end} where {} is gone", truth.last())),
        _ => {}
    }
    let hint_may_be_older = repaired || lost.is_some();
    if recovered.commit > truth.commit || (recovered.commit < truth.commit && !hint_may_be_older) {
        return Err(format!("commit index {} where {} was written", recovered.commit, truth.commit));
    }
    let found = match read_all(&log, recovered.base, last)? {
        Ok(entries) => Stretch { base: recovered.base, entries },
        Err(refusal) => return named(directory, refusal),
    };
    if let Some(wrong) = truth.contradicts(&recovered.snapshot, &found, lost.is_some()) {
        return Err(wrong);
    }
    if let Some(write) = more.filter(|_| lost.is_none())
        && let Err(error) = log.write(std::slice::from_ref(write))
    {
        return named(directory, error.to_string());
    }
    Ok(match lost {
        Some(end) => Seen::Lost(end),
        None if repaired => Seen::Repaired,
        None => Seen::Whole,
    })
}

/// Reads from after `base` up to `last` through a reader. The inner error named a damaged entry.
fn read_all(log: &RocksLog, base: LogId, last: LogId) -> Result<Result<Vec<Entry>, String>, String> {
    let (reader, mut found) = (log.reader(), Vec::new());
    let mut due = base.index.next();
    while due <= last.index {
        let entries = match reader.read(GROUP, due, last.index, READ_BYTES) {
            Ok(entries) => entries,
            Err(ReadError::Missing { index, .. }) => return Err(format!("entry {index} is missing from its reader")),
            Err(error) => return Ok(Err(error.to_string())),
        };
        due = due.plus(entries.len() as u64);
        found.extend(entries);
    }
    for beyond in [due, base.index] {
        match reader.read(GROUP, beyond, beyond, READ_BYTES) {
            Err(ReadError::Missing { .. }) => {}
            other => return Err(format!("the log holds what comes after {base} up to {last}, and reads {other:?}")),
        }
    }
    Ok(Ok(found))
}

/// An error has to say where.
fn named(directory: &Path, error: String) -> Result<Seen, String> {
    let says_where = error.contains(&directory.display().to_string())
        || ["entry ", "the state of ", "the groups' states", ".sst"].iter().any(|place| error.contains(place));
    if says_where { Ok(Seen::Refused(error)) } else { Err(format!("an error that names no place: {error}")) }
}

/// Two lives on a damaged log: what the first one saw must not be forgotten by the second. A log that looks whole also
/// takes one more entry.
pub(crate) fn judge(directory: &Path, truth: &Truth) -> Result<Outcome, String> {
    let last = truth.last();
    let more = LogWrite { hard_state: None, ..append(last.index.0 + 1, last.index.0 + 1, truth.hard_state.term.0) };
    let first = look(directory, truth, Some(&more))?;
    let mut after = truth.clone();
    if matches!(first, Seen::Repaired | Seen::Whole) {
        after.stretch.entries.extend(more.entries);
    }
    let second =
        look(directory, &after, None).map_err(|wrong| format!("after {first:?}, in the next life: {wrong}"))?;
    match (&first, &second) {
        (Seen::Lost(end), second) if *second != Seen::Lost(*end) => {
            Err(format!("lost {end}, and in the next life {second:?}"))
        }
        (Seen::Refused(_), _) => Ok(Outcome::Detected),
        (Seen::Lost(_), _) => Ok(Outcome::DeclaredLost),
        (_, Seen::Refused(_)) => Ok(Outcome::Detected),
        (_, Seen::Lost(end)) => Err(format!("{first:?}, and in the next life {end} is lost")),
        (Seen::Repaired, _) => Ok(Outcome::Repaired),
        (Seen::Whole, _) => Ok(Outcome::Harmless),
    }
}

/// A log with a history, as a kill leaves it. Its last batch is a vote alone.
pub(crate) fn make(directory: &Path) -> (Image, Truth, Places) {
    let working = TempDir::new().unwrap();
    let mut truth = Truth {
        hard_state: HardState::default(),
        commit: Index(0),
        snapshot: None,
        stretch: Stretch::default(),
        history: Arc::default(),
    };
    // Small buffers, so that there are several tables.
    let options = LogOptions { write_buffer_bytes: 64 << 10, ..LogOptions::default() };
    let mut log = RocksLog::open(working.path(), options.clone()).unwrap();
    truth.write(&mut log, set(vote(3, 2)));
    for first in (1..=480).step_by(8) {
        truth.write(&mut log, LogWrite { commit: Some(Index(first - 1)), ..append(first, first + 7, 3) });
        if first == 241 {
            truth.compact(&mut log, 100);
        }
    }
    drop(log);
    let mut log = RocksLog::open(working.path(), options).unwrap();
    truth.write(&mut log, LogWrite { hard_state: Some(vote(5, 1)), ..replace(475, 480, 5) });
    for first in (481..=560).step_by(4) {
        truth.write(&mut log, append(first, first + 3, 5));
        match first {
            505 => truth.compact(&mut log, 130),
            529 => truth.write(&mut log, installed(160, 3)),
            _ => {}
        }
    }
    drop(log);
    let mut log = RocksLog::open(working.path(), LogOptions::default()).unwrap();
    truth.write(&mut log, set(vote(7, 2)));
    let no_op = Entry { kind: EntryKind::Noop, payload: Payload::default(), ..entry(561, 7, 0) };
    let unknown = Entry { kind: EntryKind::Unknown(200), ..entry(562, 7, 300) };
    // Longer than a block of the write-ahead log, so that its record is in fragments.
    let long = entry(563, 7, 40_000);
    truth.write(&mut log, LogWrite { entries: vec![no_op, unknown, long], ..append(1, 0, 7) });
    for index in 564..=590 {
        truth.write(&mut log, LogWrite { commit: Some(Index(index - 1)), ..append(index, index, 7) });
    }
    truth.write(&mut log, LogWrite { hard_state: Some(vote(8, 1)), ..replace(590, 593, 8) });
    let before_last = fs::metadata(wal(working.path())).unwrap().len() as usize;
    truth.write(&mut log, set(vote(9, 3)));
    copy_settled(&working.path().join("db"), &directory.join("db"));
    fs::copy(working.path().join("EVIDENCE"), directory.join("EVIDENCE")).unwrap();
    drop(log);
    let image = Image::of(directory);
    let mut places = image.places("db");
    let newest = places.get_mut("WAL").unwrap().last_mut().unwrap();
    let last_batch = (newest.0, before_last..newest.1.end);
    newest.1.end = before_last;
    places.insert("WAL: last batch", vec![last_batch]);
    (image, truth, places)
}

/// A snapshot of an entry that the log holds.
fn installed(index: u64, term: u64) -> LogWrite {
    let snapshot = SnapshotMeta {
        id: SnapshotId(u128::from(index) << 99),
        last: LogId::new(Index(index), Term(term)),
        configuration: Configuration::new([1, 2, 3].map(NodeId)),
    };
    LogWrite { group: GROUP, snapshot: Some(snapshot), ..LogWrite::default() }
}

#[test]
fn a_flipped_bit_in_a_file_of_rocksdb_is_never_silent() {
    let started = Instant::now();
    let (seed, flips) = (setting("RAFT_SEED", 1), setting("RAFT_FLIPS", FLIPS));
    let directory = TempDir::new().unwrap();
    let (image, truth, places) = make(directory.path());
    let drawn = image.draw_all(&places, SHARES, flips, seed);
    let tally = judge_all(&image, &drawn, seed, |flip| try_flips(&image, &truth, &[flip]));
    image.assert_untouched();
    let mut report = Report::new("flips-log");
    report.count("seed", seed).count("seconds", started.elapsed().as_secs());
    // More flips than that may find every bit of some places flipped already.
    report.at_least("flips", tally.total(), flips * 95 / 100);
    for (place, _) in SHARES {
        report.at_least(place, tally.of_place(place), 1);
    }
    for outcome in Outcome::ALL {
        report.at_least(outcome.name(), tally.of_outcome(outcome), 1);
    }
    tally.note(&mut report);
    tally.assert_never_silent();
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Judges a copy with these bits flipped.
fn try_flips(image: &Image, truth: &Truth, flips: &[&Flip]) -> Result<Outcome, String> {
    let copy = TempDir::new().unwrap();
    image.copy(copy.path(), flips);
    let (path, truth) = (copy.path().to_owned(), truth.clone());
    within(LIVES_MAX, move || judge(&path, &truth))
}

/// RocksDB 11.8 reads a manifest for ever in which a record, after the first, has the kind of a recycled log's.
#[test]
fn every_flipped_bit_in_the_kind_of_a_manifests_record_is_found() {
    let directory = TempDir::new().unwrap();
    let (image, truth, places) = make(directory.path());
    let mut tried = 0;
    for (file, range) in &places["MANIFEST"] {
        for at in image.records(*file, range.len()) {
            for bit in 0..8 {
                let flip = Flip { place: "MANIFEST", file: *file, bit: (at + 6) * 8 + bit };
                let outcome = try_flips(&image, &truth, &[&flip]);
                assert!(matches!(outcome, Ok(Outcome::Detected)), "{}: {outcome:?}", image.explain(&flip));
                tried += 1;
            }
        }
    }
    assert!(tried >= 8 * 10, "{tried}");
}

/// The evidence holds its newest content twice, so that damage to it and to the log at once hides nothing either.
#[test]
fn a_flipped_bit_in_the_wal_and_one_in_the_evidence_are_not_silent() {
    let directory = TempDir::new().unwrap();
    let (image, truth, places) = make(directory.path());
    let (mut random, mut declared) = (Random::new(setting("RAFT_SEED", 1)), 0);
    let evidence = image.number("EVIDENCE");
    for number in 0..PAIRS {
        let place = if number % 2 == 0 { "WAL" } else { "WAL: last batch" };
        let one = image.draw(place, &places[place], 1, &mut random).remove(0);
        let other = image.draw_used(evidence, &mut random);
        let outcome = try_flips(&image, &truth, &[&one, &other]);
        let text = format!("{} and {}", image.explain(&one), image.explain(&other));
        match outcome {
            Ok(Outcome::DeclaredLost) => declared += 1,
            Ok(_) => {}
            Err(wrong) => panic!("{text}: {wrong}"),
        }
    }
    assert!(declared >= PAIRS / 3, "{declared} of {PAIRS}");
}

/// What the checks find is left out, and the harness must see what then is wrong: each case changes the database with
/// checksums that fit.
#[test]
fn the_harness_sees_a_log_that_says_something_else_with_checksums_that_fit() {
    let directory = TempDir::new().unwrap();
    let (image, truth, _) = make(directory.path());
    let last = truth.last().index.0;
    type Change = fn(&DB, u64);
    let cases: [(&str, &str, Change); 7] = [
        ("another payload", "holds entry 207@3", |db, _| {
            db.put_cf(db.cf_handle("entries").unwrap(), key(1, 207), entry_record(1, 207, 3, b"other")).unwrap();
        }),
        ("a later beginning", "begins after 161@3", |db, _| change_state(db, 59, |byte| byte + 1)),
        ("another snapshot", "other than was acknowledged", |db, _| change_state(db, 68, |byte| byte ^ 1)),
        ("another configuration", "other than was acknowledged", |db, _| change_configurations(db)),
        ("another vote", "was acknowledged", |db, _| change_state(db, 27, |byte| byte ^ 1)),
        ("an older term", "was acknowledged", |db, _| change_state(db, 19, |byte| byte - 1)),
        ("a shorter log", "nothing said of", |db, last| {
            db.delete_cf(db.cf_handle("entries").unwrap(), key(1, last)).unwrap();
            change_state(db, 43, |byte| byte - 1);
            change_state(db, 51, |byte| byte - 1);
        }),
    ];
    for (what, expected, change) in cases {
        let copy = TempDir::new().unwrap();
        image.copy(copy.path(), &[]);
        // Opened once by ourselves, so that the write-ahead log is over and evidence that agrees is written below.
        assert_eq!(judge(copy.path(), &truth), Ok(Outcome::Harmless));
        let mut truth = truth.clone();
        truth.stretch.entries.extend(append(last + 1, last + 1, truth.hard_state.term.0).entries);
        let db = raw(copy.path());
        change(&db, last + 1);
        drop(db);
        blind_evidence(copy.path());
        let wrong = judge(copy.path(), &truth).expect_err(what);
        assert!(wrong.contains(expected), "{what}: {wrong}");
    }
}

/// An entry's record, by hand from `docs/storage-format.md`.
fn entry_record(group: u64, index: u64, term: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![1, 2, 0, 0];
    record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    record.extend_from_slice(&term.to_be_bytes());
    record.extend_from_slice(&crate::crc32c(payload).to_be_bytes());
    let covered = [&key(group, index)[..], &record].concat();
    record.extend_from_slice(&crate::crc32c(&covered).to_be_bytes());
    record.extend_from_slice(payload);
    record
}

/// Changes a byte of the group's state and makes its checksum fit.
fn change_state(db: &DB, at: usize, change: fn(u8) -> u8) {
    change_record(db, 0, |record| record[at] = change(record[at]));
}

/// Changes the highest id ever given that the configuration of the installed snapshot has.
fn change_configurations(db: &DB) {
    change_record(db, 2, |record| {
        let at_base = u32::from_be_bytes(record[4..8].try_into().unwrap()) as usize;
        record[8 + at_base + 4 + 27] += 1;
    });
}

fn change_record(db: &DB, suffix: u8, change: impl Fn(&mut [u8])) {
    let (family, key) = (db.cf_handle("state").unwrap(), [&1_u64.to_be_bytes()[..], &[suffix]].concat());
    let mut record = db.get_cf(family, &key).unwrap().unwrap();
    change(&mut record);
    let covered = record.len() - 4;
    let checksum = crate::crc32c(&[&key[..], &record[..covered]].concat());
    record[covered..].copy_from_slice(&checksum.to_be_bytes());
    db.put_cf(family, &key, record).unwrap();
}

/// Puts evidence of nothing in the place of what there was, so that the database is believed.
fn blind_evidence(directory: &Path) {
    let blank = TempDir::new().unwrap();
    drop(RocksLog::open(blank.path(), LogOptions::default()).unwrap());
    fs::copy(blank.path().join("EVIDENCE"), directory.join("EVIDENCE")).unwrap();
}
