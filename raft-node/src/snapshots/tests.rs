//! The store, the staging and the installing, with files of a few bytes in chunks of eight.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::membership::Configuration;
use raft_core::ports::{ApplyError, SnapshotError, Snapshotter, StateMachine, StateReader};
use raft_core::snapshot::SnapshotMeta;
use raft_core::status::Status;
use raft_core::types::{ClusterId, Entry, Index, LogId, NodeId, SnapshotId, Term};
use tempfile::TempDir;

use super::kept::{FILES, Kept, MANIFEST};
use super::making::{Label, make};
use super::manifest::Manifest;
use super::staging::Staging;
use super::store::{INCOMING, SnapshotStore};
use super::taker::refuse_unsound;
use super::{Configurations, SnapshotConfig, Snapshots, installer};
use crate::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(60);

type Files = BTreeMap<String, Vec<u8>>;

fn some_files() -> Files {
    [("CURRENT", "MANIFEST-000005\n"), ("a.sst", "what is in the first table"), ("b.sst", "12345678"), ("empty", "")]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .collect()
}

fn id_at(index: u64) -> LogId {
    LogId::new(Index(index), Term(2))
}

/// Puts these files into a snapshot that ends with this entry.
struct Fixed(Files, LogId);

impl Snapshotter for Fixed {
    fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
        fs::create_dir(directory).unwrap();
        for (name, bytes) in &self.0 {
            fs::write(directory.join(name), bytes).unwrap();
        }
        Ok(self.1)
    }
}

fn opened(directory: &Path) -> SnapshotStore {
    let store = SnapshotStore::new(directory.to_owned());
    store.open(None).unwrap();
    store
}

fn take(store: &SnapshotStore, number: u128, index: u64, files: Files) -> Result<Arc<Kept>, SnapshotError> {
    let label = Label {
        id: SnapshotId(number),
        cluster: ClusterId(9),
        configuration: Arc::new(|_| Some(Configuration::new([NodeId(1), NodeId(2)]))),
        chunk_bytes: 8,
    };
    let id = label.id;
    let directory = make(store, &Fixed(files, id_at(index)), label, |_| {}, |_| Ok(()))?;
    store.admit(&directory, id)
}

/// A sender's store with one snapshot, and a receiver's without.
fn two() -> (TempDir, Arc<Kept>, TempDir) {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let kept = take(&opened(from.path()), 7, 100, some_files()).unwrap();
    (from, kept, to)
}

/// All chunks of a snapshot, as one range.
fn all_of(kept: &Kept) -> Vec<Range<u32>> {
    std::iter::once(0..kept.manifest.chunks()).collect()
}

fn stage(store: &SnapshotStore, kept: &Kept) -> Staging {
    let mut staging = Staging::begin(store, kept.manifest.clone(), &kept.encoded).unwrap();
    assert!(staging.look(PATIENCE).unwrap());
    staging
}

fn put_missing(staging: &mut Staging, kept: &Kept) {
    for number in staging.missing().into_iter().flatten() {
        staging.put(number, &kept.read(number).unwrap()).unwrap();
    }
}

fn files_of(directory: &Path) -> Files {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn names(store: &SnapshotStore) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(store.directory()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every bit of every file, with the path and what it was before.
fn each_flip(directory: &Path, mut look: impl FnMut(&Path, usize)) {
    for (name, bytes) in files_of(directory) {
        let path = directory.join(name);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            look(&path, bit);
            fs::write(&path, &bytes).unwrap();
        }
    }
}

#[test]
fn what_is_taken_is_kept_whole_and_found_again() {
    let directory = TempDir::new().unwrap();
    let store = opened(directory.path());
    let kept = take(&store, 7, 100, some_files()).unwrap();
    assert_eq!(kept.verify(|_| Ok(())), Ok(()));
    assert_eq!(files_of(&kept.files()), some_files());
    assert_eq!(kept.manifest.meta().last, id_at(100));
    assert_eq!(names(&store), [SnapshotId(7).to_string()]);

    let again = opened(directory.path());
    assert_eq!(again.newest().unwrap().manifest, kept.manifest);
    assert_eq!(again.find(SnapshotId(7)).unwrap().encoded, kept.encoded);
    assert!(again.find(SnapshotId(8)).is_none());
}

#[test]
fn the_newest_is_kept_and_those_that_are_held_or_needed() {
    let directory = TempDir::new().unwrap();
    let store = opened(directory.path());
    for (number, index) in [(1, 10), (2, 20), (3, 30)] {
        take(&store, number, index, some_files()).unwrap();
    }
    let held = store.find(SnapshotId(1)).unwrap();
    assert!(store.need(SnapshotId(2)));
    // One at a time; that one as often as anybody says so.
    assert!(!store.need(SnapshotId(3)));
    assert!(store.need(SnapshotId(2)));
    store.collect();
    assert_eq!(names(&store).len(), 3);
    drop(held);
    store.collect();
    assert_eq!(names(&store), [2, 3].map(|number| SnapshotId(number).to_string()));
    store.need_no_more(SnapshotId(3));
    assert!(store.needs_one());
    store.need_no_more(SnapshotId(2));
    store.collect();
    assert_eq!(names(&store), [SnapshotId(3).to_string()]);
    // One of an earlier entry that took the place of the state is the one to keep.
    take(&store, 4, 25, some_files()).unwrap();
    store.keep_only(SnapshotId(4));
    assert_eq!(names(&store), [SnapshotId(4).to_string()]);
    assert_eq!(store.newest().unwrap().manifest.id, SnapshotId(4));
}

#[test]
fn a_start_removes_what_a_crash_has_left_and_keeps_what_is_incoming() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    stage(&store, &kept);
    for name in ["taking-00000000000000000000000000000005", "garbage-00000000000000000000000000000006"] {
        fs::create_dir_all(to.path().join(name).join(FILES)).unwrap();
    }
    let incoming = format!("{INCOMING}{}", SnapshotId(7));
    assert_eq!(names(&opened(to.path())), [incoming]);
}

#[test]
fn a_state_machine_that_puts_other_things_than_files_into_it_is_refused() {
    struct Nested;
    impl Snapshotter for Nested {
        fn take(&self, directory: &Path) -> Result<LogId, SnapshotError> {
            fs::create_dir_all(directory.join("below")).unwrap();
            Ok(id_at(5))
        }
    }
    let directory = TempDir::new().unwrap();
    let store = opened(directory.path());
    let configuration = |_| Some(Configuration::default());
    let label = |id| Label { id, cluster: ClusterId(9), configuration: Arc::new(configuration), chunk_bytes: 8 };
    let refused = make(&store, &Nested, label(SnapshotId(1)), |_| {}, |_| Ok(()));
    assert!(matches!(refused, Err(SnapshotError::Refused(why)) if why.contains("below")));
    // Nothing is applied yet.
    let refused = make(&store, &Fixed(some_files(), LogId::default()), label(SnapshotId(2)), |_| {}, |_| Ok(()));
    assert!(matches!(refused, Err(SnapshotError::Refused(why)) if why.contains("no entry")));
}

/// The state may have applied what the log has lost: the members of that entry are in neither.
#[test]
fn a_state_that_may_be_ahead_of_its_log_is_not_handed_on() {
    let lost = Status { lost: Some(id_at(100)), ..Status::default() };
    assert!(matches!(refuse_unsound(&lost), Err(SnapshotError::Refused(why)) if why.contains("lost its end")));
    refuse_unsound(&Status::default()).unwrap();
}

/// While the files are read, members come and go, and the replica forgets who there was before.
#[test]
fn a_snapshot_has_the_members_of_its_last_entry_or_is_not_made() {
    let set = |index: u64| {
        let context = [(NodeId(2), Bytes::from(format!("as of {index}")))];
        Arc::new(Configuration::new([NodeId(1), NodeId(2)]).with_contexts(Index(index), &context).unwrap())
    };
    let directory = TempDir::new().unwrap();
    let store = opened(directory.path());
    let known = Arc::new(Configurations::default());
    known.note([set(50), set(101)].into_iter());
    let label = |id| {
        let known = known.clone();
        Label { id, cluster: ClusterId(9), configuration: Arc::new(move |index| known.at(index)), chunk_bytes: 8 }
    };
    let forgets = |_| {
        known.note([set(150), set(160)].into_iter());
        Ok(())
    };
    let made = make(&store, &Fixed(some_files(), id_at(100)), label(SnapshotId(1)), |_| {}, forgets).unwrap();
    let kept = store.admit(&made, SnapshotId(1)).unwrap();
    assert_eq!(kept.manifest.configuration, *set(50));
    let late = make(&store, &Fixed(some_files(), id_at(100)), label(SnapshotId(2)), |_| {}, |_| Ok(()));
    assert!(matches!(late, Err(SnapshotError::Abandoned(why)) if why.contains("entry 100")));
}

/// The first chunk of each file is found damaged by its name; a shorter or longer file too.
#[test]
fn every_flipped_bit_of_a_kept_snapshot_is_found_and_named() {
    let (_from, kept, _to) = two();
    each_flip(&kept.files(), |path, bit| {
        let fresh = Kept::open(kept.directory.clone()).unwrap();
        let error = fresh.verify(|_| Ok(())).unwrap_err();
        let SnapshotError::Damaged { place, .. } = &error else { panic!("{error}, bit {bit}") };
        assert_eq!(Path::new(place), path, "bit {bit}");
    });
    let first = kept.files().join("CURRENT");
    let whole = fs::read(&first).unwrap();
    for other in [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat()] {
        fs::write(&first, other).unwrap();
        let fresh = Kept::open(kept.directory.clone()).unwrap();
        assert!(matches!(fresh.verify(|_| Ok(())), Err(SnapshotError::Damaged { .. })));
    }
    fs::remove_file(&first).unwrap();
    let fresh = Kept::open(kept.directory.clone()).unwrap();
    assert!(matches!(fresh.read(0), Err(SnapshotError::Damaged { reason, .. }) if reason.contains("missing")));
}

#[test]
fn a_damaged_manifest_sets_its_snapshot_aside() {
    let directory = TempDir::new().unwrap();
    let place = take(&opened(directory.path()), 7, 100, some_files()).unwrap().directory.clone();
    let mut bytes = fs::read(place.join(MANIFEST)).unwrap();
    bytes[40] ^= 1;
    fs::write(place.join(MANIFEST), bytes).unwrap();
    let store = opened(directory.path());
    assert!(store.newest().is_none());
    assert_eq!(names(&store), [format!("damaged-{}", SnapshotId(7))]);
    // It is there to be looked at until the next one is damaged.
    let kept = take(&store, 8, 110, some_files()).unwrap();
    store.set_aside(&kept, &SnapshotError::Interrupted("found by the test".into()));
    assert_eq!(names(&store), [format!("damaged-{}", SnapshotId(8))]);
    assert!(store.newest().is_none());
}

#[test]
fn chunks_come_in_any_order_and_make_the_same_snapshot() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    let mut staging = stage(&store, &kept);
    let chunks = kept.manifest.chunks();
    assert_eq!(staging.missing(), all_of(&kept));
    for number in (0..chunks).rev() {
        assert!(matches!(staging.finish(&store), Err(SnapshotError::Refused(_))));
        staging.put(number, &kept.read(number).unwrap()).unwrap();
    }
    assert_eq!(staging.missing(), Vec::<Range<u32>>::new());
    assert_eq!(staging.present_bytes(), kept.manifest.bytes());
    let received = staging.finish(&store).unwrap();
    assert_eq!(files_of(&received.files()), some_files());
    assert_eq!(received.manifest, kept.manifest);
    assert_eq!(names(&store), [SnapshotId(7).to_string()]);
    assert_eq!(received.verify(|_| Ok(())), Ok(()));
}

#[test]
fn a_chunk_with_other_bytes_is_damaged_and_goes_nowhere() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    let mut staging = stage(&store, &kept);
    let good = kept.read(1).unwrap();
    for bit in 0..good.len() * 8 {
        let mut flipped = good.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(staging.put(1, &flipped), Err(SnapshotError::Damaged { .. })), "bit {bit}");
    }
    assert!(matches!(staging.put(1, &good[1..]), Err(SnapshotError::Damaged { .. })));
    assert!(matches!(staging.put(kept.manifest.chunks(), &good), Err(SnapshotError::Refused(_))));
    assert_eq!(staging.missing(), all_of(&kept));
}

/// A receiver that was killed after any number of chunks goes on with exactly those that are missing.
#[test]
fn staging_goes_on_after_a_restart_at_any_chunk() {
    let (_from, kept, to) = two();
    let chunks = kept.manifest.chunks();
    for held in 0..=chunks {
        let store = opened(to.path());
        let mut staging = stage(&store, &kept);
        for number in 0..held {
            // Every other one, so that there are gaps.
            staging.put((number * 2) % chunks, &kept.read((number * 2) % chunks).unwrap()).unwrap();
        }
        let missing = staging.missing();
        drop(staging);
        let store = opened(to.path());
        let mut staging = stage(&store, &kept);
        assert_eq!(staging.missing(), missing, "{held} chunks");
        put_missing(&mut staging, &kept);
        let received = staging.finish(&store).unwrap();
        assert_eq!(files_of(&received.files()), some_files());
        fs::remove_dir_all(&received.directory).unwrap();
    }
}

#[test]
fn a_look_that_is_cut_short_goes_on_where_it_was() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    put_missing(&mut stage(&store, &kept), &kept);
    let mut staging = Staging::begin(&store, kept.manifest.clone(), &kept.encoded).unwrap();
    let mut looks = 1;
    while !staging.look(Duration::ZERO).unwrap() {
        looks += 1;
    }
    assert_eq!(looks, kept.manifest.chunks());
    assert!(staging.missing().is_empty());
}

/// Found at the restart: exactly the damaged chunk is missing. Found at the end: nothing is kept, and it is missing.
#[test]
fn every_flipped_bit_of_a_staged_snapshot_is_found() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    let files = to.path().join(format!("{INCOMING}{}", SnapshotId(7))).join(FILES);
    put_missing(&mut stage(&store, &kept), &kept);
    let places = kept.manifest.places();
    each_flip(&files, |path, bit| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let at = (bit / 8) as u64;
        let damaged = places.iter().position(|place| {
            kept.manifest.files[place.file].name == name && (place.offset..place.offset + 8).contains(&at)
        });
        let damaged = damaged.unwrap() as u32;
        assert_eq!(stage(&store, &kept).missing(), vec![damaged..damaged + 1], "{path:?}, bit {bit}");
    });
    let mut staging = stage(&store, &kept);
    each_flip(&files, |path, bit| {
        let error = staging.finish(&store).unwrap_err();
        let SnapshotError::Damaged { place, .. } = &error else { panic!("{error}, {path:?}, bit {bit}") };
        assert_eq!(Path::new(place), path);
        assert_eq!(staging.missing().len(), 1);
        assert!(store.newest().is_none());
        put_missing(&mut staging, &kept);
    });
    staging.finish(&store).unwrap();
}

#[test]
fn another_offer_abandons_what_was_begun_and_strangers_among_the_files_are_removed() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    put_missing(&mut stage(&store, &kept), &kept);
    let sender = TempDir::new().unwrap();
    let other = take(&opened(sender.path()), 8, 120, some_files()).unwrap();
    let mut staging = stage(&store, &other);
    assert_eq!(names(&store), [format!("{INCOMING}{}", SnapshotId(8))]);
    put_missing(&mut staging, &other);
    let files = to.path().join(format!("{INCOMING}{}", SnapshotId(8))).join(FILES);
    fs::write(files.join("stranger"), "left by nobody knows whom").unwrap();
    fs::create_dir(files.join("below")).unwrap();
    assert_eq!(files_of(&staging.finish(&store).unwrap().files()), some_files());
}

/// The manifest on the disk is not the one that is offered: what is there is of another snapshot, whatever its name.
#[test]
fn staging_under_a_damaged_manifest_begins_anew() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    put_missing(&mut stage(&store, &kept), &kept);
    let manifest = to.path().join(format!("{INCOMING}{}", SnapshotId(7))).join(MANIFEST);
    fs::write(&manifest, Manifest { created_millis: 1, ..kept.manifest.clone() }.encode()).unwrap();
    assert_eq!(stage(&store, &kept).missing(), all_of(&kept));
}

#[test]
fn what_cannot_fit_on_the_disk_is_refused_with_the_figures() {
    let (_from, kept, to) = two();
    let store = opened(to.path());
    let mut huge = kept.manifest.clone();
    huge.files[1].length = 1 << 60;
    let refused = Staging::begin(&store, huge, &kept.encoded).unwrap_err();
    assert!(matches!(&refused, SnapshotError::Refused(why) if why.contains("free")), "{refused}");
    assert!(names(&store).is_empty());
}

/// Restores by reading all files; its state is what they hold.
#[derive(Default)]
struct Machine {
    applied: LogId,
    files: Files,
    restores: usize,
}

impl StateMachine for Machine {
    fn applied(&self) -> LogId {
        self.applied
    }

    fn apply(&mut self, _: &[Entry], _: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        unreachable!("nothing is applied here")
    }

    fn flush(&mut self) -> Result<Index, ApplyError> {
        Ok(self.applied.index)
    }

    fn durable(&mut self) -> Result<Index, ApplyError> {
        Ok(self.applied.index)
    }

    fn snapshotter(&self) -> Arc<dyn Snapshotter> {
        Arc::new(Fixed(self.files.clone(), self.applied))
    }

    fn restore(&mut self, directory: &Path, last: LogId) -> Result<(), ApplyError> {
        self.restores += 1;
        self.files = files_of(directory);
        self.applied = last;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        unreachable!("nothing is read here")
    }
}

fn start(directory: &Path, machine: &mut Machine, installed: Option<&SnapshotMeta>) -> Result<Snapshots, String> {
    let snapshots = Snapshots::new(directory.to_owned(), SnapshotConfig::default());
    installer::open(machine, installed, &snapshots, &Metrics::new())?;
    Ok(snapshots)
}

#[test]
fn a_start_installs_what_the_log_names_and_the_state_does_not_hold() {
    let directory = TempDir::new().unwrap();
    let kept = take(&opened(directory.path()), 7, 100, some_files()).unwrap();
    let meta = kept.manifest.meta();
    drop(kept);
    let mut machine = Machine::default();
    let snapshots = start(directory.path(), &mut machine, Some(&meta)).unwrap();
    assert_eq!((machine.applied, &machine.files, machine.restores), (meta.last, &some_files(), 1));
    assert!(!snapshots.store.needs_one());
    // Again, with the state in place: nothing to do, also when the snapshot is gone.
    fs::remove_dir_all(snapshots.store.place_of(meta.id)).unwrap();
    start(directory.path(), &mut machine, Some(&meta)).unwrap();
    assert_eq!(machine.restores, 1);
}

#[test]
fn a_start_without_the_snapshot_that_it_owes_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    let kept = take(&opened(directory.path()), 7, 100, some_files()).unwrap();
    let meta = kept.manifest.meta();
    drop(kept);
    let mut machine = Machine::default();
    let gone = SnapshotMeta { id: SnapshotId(8), ..meta.clone() };
    let why = start(directory.path(), &mut machine, Some(&gone)).unwrap_err();
    assert!(why.contains(&gone.id.to_string()) && why.contains("blank"), "{why}");
    let elsewhere = SnapshotMeta { last: id_at(101), ..meta };
    let why = start(directory.path(), &mut machine, Some(&elsewhere)).unwrap_err();
    assert!(why.contains("100@2") && why.contains("101@2"), "{why}");
    assert_eq!(machine.restores, 0);
}

#[test]
fn no_flipped_bit_of_a_kept_snapshot_is_ever_installed() {
    let directory = TempDir::new().unwrap();
    let files: Files = [("f".to_owned(), b"0123456789".to_vec())].into();
    let kept = take(&opened(directory.path()), 7, 100, files.clone()).unwrap();
    let (meta, place) = (kept.manifest.meta(), kept.directory.clone());
    drop(kept);
    for bit in 0..80 {
        let mut bytes = files["f"].clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(place.join(FILES).join("f"), &bytes).unwrap();
        let mut machine = Machine::default();
        let why = start(directory.path(), &mut machine, Some(&meta)).unwrap_err();
        assert!(why.contains("/f is damaged") && why.contains("blank"), "{why}");
        assert_eq!(machine.restores, 0, "bit {bit}");
        // It was set aside; the next flip is made to the same files under the same name.
        fs::rename(directory.path().join(format!("damaged-{}", meta.id)), &place).unwrap();
    }
    fs::write(place.join(FILES).join("f"), &files["f"]).unwrap();
    start(directory.path(), &mut Machine::default(), Some(&meta)).unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let good = SnapshotConfig::default();
    assert_eq!(good.check(), Ok(()));
    let wrong = [
        ("interval_entries", SnapshotConfig { interval_entries: 0, ..good.clone() }),
        ("interval_bytes", SnapshotConfig { interval_bytes: 0, ..good.clone() }),
        ("interval", SnapshotConfig { interval: Some(Duration::from_millis(10)), ..good.clone() }),
        ("max_bytes_per_second", SnapshotConfig { bytes_per_second_max: 1000, ..good.clone() }),
        ("concurrency", SnapshotConfig { concurrency: 0, ..good.clone() }),
        ("concurrency", SnapshotConfig { concurrency: 65, ..good }),
    ];
    for (field, config) in wrong {
        assert_eq!(config.check().unwrap_err().field, format!("snapshot.{field}"));
    }
}
