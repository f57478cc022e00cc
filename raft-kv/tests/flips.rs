//! Flipped bits in the files of a state: found, brought back from the log, or without any effect; never a wrong answer.
//!
//! The state has no write-ahead log; the Raft log is that. A database that comes back as a whole earlier state says so by
//! its applied entry, and the entries after it are applied again: that is *repaired* here.
//!
//! `RAFT_FLIPS` is how many bits are flipped, `RAFT_SEED` draws others. The report is `flips-state.txt`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
// Both databases are RocksDB's, and so are the files that are flipped.
#[path = "../../raft-log-rocks/tests/flips/image.rs"]
mod image;
#[path = "../../raft-log-rocks/tests/flips/table.rs"]
mod table;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{apply_all, entry, key, memory, noop};
use image::{Flip, Image, Outcome, judge_all, setting, within};
use raft_core::ports::StateMachine as _;
use raft_core::testing::{Random, Report, random_bytes};
use raft_core::types::Entry;
use raft_kv::{Change, Command, Digest, KvReader, KvStateMachine, Settings, Value};
use rocksdb::{DB, Options};
use tempfile::TempDir;

/// Bits that are flipped when nothing else is asked for.
const FLIPS: u64 = 1000;
/// How the flips are shared out, in thousandths. A kind of place that has fewer bits than its share gets all flipped.
const SHARES: &[(&str, u64)] = &[
    ("CURRENT", 128),
    ("IDENTITY", 10),
    ("LOG", 10),
    ("MANIFEST", 220),
    ("OPTIONS", 12),
    ("table: entries", 200),
    ("table: filter", 80),
    ("table: footer", 150),
    ("table: index", 60),
    ("table: metaindex", 60),
    ("table: properties", 70),
];
/// Far longer than two lives take; one that is still not over hangs.
const LIVES_MAX: Duration = Duration::from_secs(60);
/// Keys that are put, deleted and put again.
const KEYS: u64 = 90;
/// Entries in the state as it is at rest.
const ENTRIES: u64 = 600;
/// Entries that are applied after the damage.
const MORE: u64 = 40;

fn key_name(number: u64) -> String {
    format!("key-{number:03}")
}

fn command(index: u64, random: &mut Random) -> Command {
    let (name, length) = (key_name(random.below(KEYS)), 40 + random.below(400) as usize);
    let value = match random.below(4) {
        0 => Bytes::from(vec![b'x'; 300]),
        _ => random_bytes(random, length),
    };
    match random.below(8) {
        0 => Command::delete(name),
        1 => Command::batch(vec![Change::put(name, value), Change::put(key_name(random.below(KEYS)), "twice")]),
        // The names come again: some are retries.
        2 | 3 => Command::put(name, value).with_idempotency(key(&format!("request-{}", index / 20))),
        _ => Command::put(name, value),
    }
}

/// What every value of every key is after an entry, and how the whole state looks.
struct State {
    values: Vec<Option<Value>>,
    digest: Digest,
}

impl State {
    fn of(reader: &KvReader) -> Self {
        let values = (0..KEYS + 5).map(|number| reader.get(key_name(number).as_bytes()).unwrap().0).collect();
        Self { values, digest: reader.digest().unwrap().0 }
    }
}

/// The log, and the state after each of its entries.
struct Truth {
    entries: Vec<Entry>,
    answers: Vec<Bytes>,
    states: Vec<State>,
}

impl Truth {
    fn new() -> Self {
        let (mut kv, mut random) = (memory(), Random::new(7));
        let mut truth = Self { entries: Vec::new(), answers: Vec::new(), states: vec![State::of(&kv.kv_reader())] };
        for index in 1..=ENTRIES + MORE {
            let entry = match index % 50 {
                1 => noop(index),
                _ => entry(index, &command(index, &mut random)),
            };
            truth.answers.extend(apply_all(&mut kv, std::slice::from_ref(&entry)).unwrap());
            truth.entries.push(entry);
            truth.states.push(State::of(&kv.kv_reader()));
        }
        truth
    }

    fn between(&self, after: u64, to: u64) -> (&[Entry], &[Bytes]) {
        let range = after as usize..to as usize;
        (&self.entries[range.clone()], &self.answers[range])
    }
}

/// Every answer right, or an error; says which. `Err` is a wrong answer.
fn read_all(kv: &KvStateMachine, truth: &Truth) -> Result<Option<String>, String> {
    let (reader, applied) = (kv.kv_reader(), kv.applied().index.0);
    let Some(state) = truth.states.get(applied as usize) else {
        return Err(format!("applied {applied}, and the log ends before that"));
    };
    let mut refusal = None;
    for (number, expected) in state.values.iter().enumerate() {
        match reader.get(key_name(number as u64).as_bytes()) {
            Ok((found, _)) if found == *expected => {}
            Ok((found, at)) => return Err(format!("key {number} is {found:?} at {at} where {expected:?} belongs")),
            Err(error) => refusal = Some(error.to_string()),
        }
    }
    match reader.digest() {
        Ok((digest, _)) if digest == state.digest => {}
        Ok((digest, at)) => return Err(format!("the whole state is {digest:?} at {at}")),
        Err(error) => refusal = Some(error.to_string()),
    }
    match reader.overview() {
        Ok((overview, at)) if (overview.keys, at.index.0) == (state.digest.keys, applied) => {}
        Ok((overview, at)) => return Err(format!("{overview:?} at {at}")),
        Err(error) => refusal = Some(error.to_string()),
    }
    Ok(refusal)
}

fn named(directory: &Path, error: String) -> Result<Outcome, String> {
    let says_where = error.contains(&directory.display().to_string()) || error.contains(".sst");
    if says_where { Ok(Outcome::Detected) } else { Err(format!("an error that names no place: {error}")) }
}

/// One life on a damaged state: reads everything, applies what follows, reads everything again.
fn live(directory: &Path, truth: &Truth, to: u64) -> Result<Outcome, String> {
    let mut kv = match KvStateMachine::open(directory, Settings::default()) {
        Ok(kv) => kv,
        Err(error) => return named(directory, error.to_string()),
    };
    if let Some(refusal) = read_all(&kv, truth)? {
        return named(directory, refusal);
    }
    let found = kv.applied().index.0;
    let (entries, answers) = truth.between(found, to);
    for (entries, answers) in entries.chunks(7).zip(answers.chunks(7)) {
        match apply_all(&mut kv, entries) {
            Ok(given) if given == answers => {}
            Ok(_) => return Err(format!("other answers to the entries from {}", entries[0].id)),
            Err(error) => return named(directory, error.to_string()),
        }
    }
    if let Err(error) = kv.flush() {
        return named(directory, error.to_string());
    }
    match read_all(&kv, truth)? {
        Some(refusal) => named(directory, refusal),
        None if found < ENTRIES => Ok(Outcome::Repaired),
        None => Ok(Outcome::Harmless),
    }
}

/// Two lives: the second goes on from whatever the first left.
fn judge(directory: &Path, truth: &Truth) -> Result<Outcome, String> {
    let first = live(directory, truth, ENTRIES + MORE / 2)?;
    let second = live(directory, truth, ENTRIES + MORE)
        .map_err(|wrong| format!("after {first:?}, in the next life: {wrong}"))?;
    Ok(if second == Outcome::Detected { second } else { first })
}

/// A state with a history, at rest.
fn make(directory: &Path, truth: &Truth) -> Image {
    // In several lives and flushes, so that there are several tables of every column family.
    let mut from = 0;
    for to in [150, 280, 400, 480, 550, ENTRIES] {
        let mut kv = KvStateMachine::open(directory, Settings::default()).unwrap();
        apply_all(&mut kv, truth.between(from, (from + to) / 2).0).unwrap();
        kv.flush().unwrap();
        apply_all(&mut kv, truth.between((from + to) / 2, to).0).unwrap();
        kv.flush().unwrap();
        from = to;
    }
    Image::of(directory)
}

fn try_flip(image: &Image, truth: &Arc<Truth>, flip: &Flip) -> Result<Outcome, String> {
    let copy = TempDir::new().unwrap();
    image.copy(copy.path(), &[flip]);
    let (path, truth) = (copy.path().to_owned(), Arc::clone(truth));
    within(LIVES_MAX, move || judge(&path, &truth))
}

#[test]
fn a_flipped_bit_in_a_state_is_never_a_wrong_answer() {
    let started = Instant::now();
    let (seed, flips) = (setting("RAFT_SEED", 1), setting("RAFT_FLIPS", FLIPS));
    let (directory, truth) = (TempDir::new().unwrap(), Arc::new(Truth::new()));
    let image = make(directory.path(), &truth);
    let drawn = image.draw_all(&image.places("gen-1"), SHARES, flips, seed);
    let tally = judge_all(&image, &drawn, seed, |flip| try_flip(&image, &truth, flip));
    image.assert_untouched();
    let mut report = Report::new("flips-state");
    report.count("seed", seed).count("seconds", started.elapsed().as_secs());
    // More flips than that may find every bit of some places flipped already.
    report.at_least("flips", tally.total(), flips * 95 / 100);
    for (place, _) in SHARES {
        report.at_least(place, tally.of_place(place), 1);
    }
    for outcome in [Outcome::Detected, Outcome::Repaired, Outcome::Harmless] {
        report.count(outcome.name(), tally.of_outcome(outcome));
    }
    tally.note(&mut report);
    tally.assert_never_silent();
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn every_flipped_bit_in_the_kind_of_a_manifests_record_is_found() {
    let (directory, truth) = (TempDir::new().unwrap(), Arc::new(Truth::new()));
    let image = make(directory.path(), &truth);
    let mut tried = 0;
    for (file, range) in &image.places("gen-1")["MANIFEST"] {
        for at in image.records(*file, range.len()) {
            for bit in 0..8 {
                let flip = Flip { place: "MANIFEST", file: *file, bit: (at + 6) * 8 + bit };
                let outcome = try_flip(&image, &truth, &flip);
                assert!(matches!(outcome, Ok(Outcome::Detected)), "{}: {outcome:?}", image.explain(&flip));
                tried += 1;
            }
        }
    }
    assert!(tried >= 8 * 5, "{tried}");
}

#[test]
fn every_flipped_bit_of_the_format_is_refused_or_says_the_same() {
    let directory = TempDir::new().unwrap();
    drop(KvStateMachine::open(directory.path(), Settings::default()).unwrap());
    let path = directory.path().join("FORMAT");
    let whole = fs::read(&path).unwrap();
    let mut harmless = Vec::new();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        match KvStateMachine::open(directory.path(), Settings::default()) {
            Err(error) => assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}"),
            Ok(_) => harmless.push(bit / 8),
        }
    }
    assert!(
        harmless.iter().all(|byte| *byte == whole.len() - 1),
        "only the end of the line may be another: {harmless:?}"
    );
}

/// Leaves RocksDB's checksums out by writing through RocksDB: the harness must see the wrong answer.
#[test]
fn the_harness_sees_a_value_that_was_never_written() {
    let (directory, truth) = (TempDir::new().unwrap(), Arc::new(Truth::new()));
    let image = make(directory.path(), &truth);
    let present = truth.states[ENTRIES as usize].values.iter().position(Option::is_some).unwrap() as u64;
    let change = |change: &dyn Fn(&DB)| {
        let copy = TempDir::new().unwrap();
        image.copy(copy.path(), &[]);
        let families = ["default", "keys", "idempotency", "versions"];
        let db = DB::open_cf(&Options::default(), copy.path().join("gen-1"), families).unwrap();
        change(&db);
        drop(db);
        judge(copy.path(), &truth)
    };
    assert_eq!(change(&|_| {}), Ok(Outcome::Harmless));
    let wrong = change(&|db| {
        let (keys, name) = (db.cf_handle("keys").unwrap(), key_name(present));
        let mut record = db.get_cf(keys, &name).unwrap().unwrap();
        *record.last_mut().unwrap() ^= 1;
        db.put_cf(keys, name, record).unwrap();
    });
    assert!(wrong.unwrap_err().contains(&format!("key {present} is")));
    let wrong = change(&|db| db.delete_cf(db.cf_handle("idempotency").unwrap(), b"krequest-5").unwrap());
    assert!(wrong.unwrap_err().contains("the idempotency keys is not what the rows add up to"));
    let wrong = change(&|db| {
        let mut meta = db.get(b"meta").unwrap().unwrap();
        meta[8] -= 1;
        db.put(b"meta", meta).unwrap();
    });
    wrong.unwrap_err();
}
