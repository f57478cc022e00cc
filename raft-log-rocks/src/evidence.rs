//! The log's own evidence of what it acknowledged, beside the database.
//!
//! After one flipped bit or a lost write, RocksDB's recovery brings back a shorter log without a word. So after every
//! synced batch the store also writes down, in a small file of its own, which batch that was and how the log and the
//! hard state stood then. At the next start a database that knows fewer batches than this file has lost some.
//!
//! The order is what makes it sound: the evidence is written **after** the batch is durable and **before** it is
//! acknowledged. So it never claims more than the disk had, whenever the process or the power goes, and a process that
//! is killed leaves it exact in the page cache. The file itself is synced about once a second, off the writer's way: a
//! loss of power makes the evidence up to that much older, never wrong.
//!
//! Three slots, so that one is always whole: one is written, one may be on its way to the disk, and the third was synced
//! before that and is left alone. Each slot holds its content twice, on two pages, so that damage to one of them does
//! not put an older slot in its place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use raft_core::ports::StoreError;
use raft_core::types::{GroupId, HardState, Index, LogId, Term};

use crate::health::Health;
use crate::record::{SEQUENCE_LIMIT, reachable, vote_code, vote_from_code};
use crate::small_file::{Fields, sync_directory};

/// How many groups one log store keeps evidence for; a write for one more is refused.
pub(crate) const GROUPS_MAX: usize = 64;
const FILE_NAME: &str = "EVIDENCE";
const MAGIC: [u8; 8] = *b"RAFTEVID";
const VERSION: u16 = 1;
const SLOTS: usize = 3;
/// How often a slot holds its content.
const COPIES: usize = 2;
/// A copy has a page of its own.
const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = COPIES * PAGE_BYTES;
/// What a disk writes whole or not at all; a slot of few groups fits in one.
const SECTOR_BYTES: usize = 512;
/// Magic, version, count of groups, covered length, number.
const SLOT_HEADER: usize = 24;
const WITNESS_BYTES: usize = 48;

/// How one group stood when its newest batch was durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// Of the batch; the database stores the same number in the batch.
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) last: LogId,
}

impl Witness {
    /// Why this cannot be of the log that stands like this and begins after `base`; `None` when it can. A batch has one
    /// outcome, terms never fall, a vote never changes within a term, and what was committed, as all up to the base was,
    /// is never truncated: what says otherwise was put here from somewhere else, and taking a vote from it could be to
    /// vote twice.
    pub(crate) fn contradicts(&self, held: &Self, base: LogId) -> Option<String> {
        let (earlier, later) = if self.sequence < held.sequence { (self, held) } else { (held, self) };
        let (before, after) = (earlier.hard_state, later.hard_state);
        let one_log = if earlier.sequence == later.sequence {
            earlier == later
        } else {
            before.term < after.term
                || (before.term == after.term && before.vote.is_none_or(|vote| after.vote == Some(vote)))
        };
        let reaches_base = self.last.index > base.index || self.last == base;
        let one_log = one_log && (reaches_base || self.sequence < held.sequence);
        let Self { sequence, hard_state, last } = held;
        (!one_log).then(|| {
            format!(
                "it tells of batch {} with {:?} and the end {}, the database of batch {sequence} with {hard_state:?}, \
                 the beginning {base} and the end {last}, and no log passes through both",
                self.sequence, self.hard_state, self.last
            )
        })
    }
}

struct Slots {
    witnesses: BTreeMap<GroupId, Witness>,
    /// Of the newest slot content; the highest valid one counts at open.
    number: u64,
    /// Where the next content goes.
    slot: usize,
    unsynced: bool,
    stopping: bool,
}

struct Shared {
    path: PathBuf,
    file: File,
    slots: Mutex<Slots>,
    wake: Condvar,
}

/// The evidence file and the thread that syncs it.
pub(crate) struct Evidence {
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
}

impl Evidence {
    /// Whether there is an evidence file in `directory`.
    pub(crate) fn exists(directory: &Path) -> bool {
        directory.join(FILE_NAME).exists()
    }

    /// Makes an evidence file that knows nothing yet. Durable on return.
    pub(crate) fn create(directory: &Path) -> Result<(), StoreError> {
        let temporary = directory.join("EVIDENCE.tmp");
        let make = || {
            let file = File::create(&temporary)?;
            for slot in 0..SLOTS {
                let mut pages = encode_twice(slot as u64 + 1, &BTreeMap::new());
                pages.resize(SLOT_BYTES, 0);
                file.write_all_at(&pages, (slot * SLOT_BYTES) as u64)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, directory.join(FILE_NAME))
        };
        make().map_err(|error| failed("creating", &directory.join(FILE_NAME), &error))?;
        Ok(sync_directory(directory)?)
    }

    /// Opens the evidence file and starts its syncing thread, which reports a failure to `health`.
    pub(crate) fn open(directory: &Path, interval: Duration, health: Arc<Health>) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let mut content = Vec::new();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .and_then(|file| {
                (&file).take((SLOTS * SLOT_BYTES) as u64 + 1).read_to_end(&mut content)?;
                // A process that was killed left its last words in the page cache.
                file.sync_data()?;
                Ok(file)
            })
            .map_err(|error| failed("reading", &path, &error))?;
        // An interval of nothing would keep the thread awake.
        let interval = interval.max(Duration::from_millis(1));
        let (slot, number, witnesses) = newest(&path, &content)?;
        // The slot before the newest one is the one that is sure to be synced: it is overwritten last.
        let slots = Slots { witnesses, number, slot: (slot + 1) % SLOTS, unsynced: false, stopping: false };
        let shared = Arc::new(Shared { path, file, slots: Mutex::new(slots), wake: Condvar::new() });
        let syncer = std::thread::Builder::new()
            .name("evidence".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.sync_at_intervals(interval, &health)
            })
            .map_err(|error| failed("starting the thread that syncs", &shared.path, &error))?;
        Ok(Self { shared, syncer: Some(syncer) })
    }

    /// What is known of each group.
    pub(crate) fn witnesses(&self) -> BTreeMap<GroupId, Witness> {
        self.shared.lock().witnesses.clone()
    }

    /// An error when what is known of `group` cannot be of a log that stands like this and begins after `base`.
    pub(crate) fn confirm(
        &self,
        group: GroupId,
        witness: &Witness,
        held: &Witness,
        base: LogId,
    ) -> Result<(), StoreError> {
        match witness.contradicts(held, base) {
            None => Ok(()),
            Some(reason) => {
                let place = self.shared.path.display().to_string();
                Err(StoreError::Damaged { place, reason: remedy(&format!("{group}: {reason}")) })
            }
        }
    }

    /// Whether there is room for all of `groups`, which are different ones.
    pub(crate) fn admits<'a>(&self, groups: impl IntoIterator<Item = &'a GroupId>) -> bool {
        let slots = self.shared.lock();
        let new = groups.into_iter().filter(|group| !slots.witnesses.contains_key(group)).count();
        slots.witnesses.len() + new <= GROUPS_MAX
    }

    /// Writes down how groups stand after a batch that is durable. Costs one write to the page cache.
    pub(crate) fn record(&self, changed: impl IntoIterator<Item = (GroupId, Witness)>) -> Result<(), StoreError> {
        let mut slots = self.shared.lock();
        slots.witnesses.extend(changed);
        assert!(slots.witnesses.len() <= GROUPS_MAX, "a group too many passed the checks");
        slots.number += 1;
        slots.unsynced = true;
        let content = encode_twice(slots.number, &slots.witnesses);
        self.shared
            .file
            .write_all_at(&content, (slots.slot * SLOT_BYTES) as u64)
            .map_err(|error| failed("writing", &self.shared.path, &error))
    }
}

impl Drop for Evidence {
    /// Syncs what is not synced yet.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_all();
        if let Some(syncer) = self.syncer.take() {
            // A panic of the thread was printed where it happened; there is nobody left to tell.
            let _ = syncer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held that would leave the slots half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_at_intervals(&self, interval: Duration, health: &Health) {
        loop {
            let guard = self.lock();
            let (mut slots, _) = self
                .wake
                .wait_timeout_while(guard, interval, |slots| !slots.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            let stopping = slots.stopping;
            if slots.unsynced {
                slots.unsynced = false;
                // From here on the writer goes to the slot after, so that this one and the one before stay as they are.
                slots.slot = (slots.slot + 1) % SLOTS;
                drop(slots);
                if let Err(error) = self.file.sync_data() {
                    health.fail(failed("syncing", &self.path, &error).to_string());
                    return;
                }
            }
            if stopping {
                return;
            }
        }
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { doing: format!("{doing} {}", path.display()), reason: error.to_string() }
}

/// The slot with the highest number, that number and what it says. Damaged copies are named in the node's log; when
/// none is left the store does not open.
fn newest(path: &Path, content: &[u8]) -> Result<(usize, u64, BTreeMap<GroupId, Witness>), StoreError> {
    let damaged = |reason: String| StoreError::Damaged { place: path.display().to_string(), reason: remedy(&reason) };
    if content.len() != SLOTS * SLOT_BYTES {
        return Err(damaged(format!("it has {} bytes where {} belong", content.len(), SLOTS * SLOT_BYTES)));
    }
    let mut best: Option<(usize, u64, BTreeMap<GroupId, Witness>)> = None;
    let mut reasons = Vec::new();
    for (page_number, page) in content.chunks_exact(PAGE_BYTES).enumerate() {
        let (slot, copy) = (page_number / COPIES, page_number % COPIES);
        match decode(page) {
            Ok((number, witnesses)) => {
                if best.as_ref().is_none_or(|(_, highest, _)| number > *highest) {
                    best = Some((slot, number, witnesses));
                }
            }
            Err(reason) => {
                tracing::error!(file = %path.display(), slot, copy, %reason, "a copy of the evidence is damaged");
                reasons.push(format!("slot {slot}, copy {copy}: {reason}"));
            }
        }
    }
    best.ok_or_else(|| damaged(reasons.join("; ")))
}

/// Refuses a directory whose log was in use and whose evidence is gone.
pub(crate) fn demand(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(FILE_NAME);
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing(directory)),
        Err(error) => Err(failed("looking for", &path, &error)),
    }
}

/// There is no evidence, and there ought to be.
pub(crate) fn missing(directory: &Path) -> StoreError {
    let place = directory.join(FILE_NAME).display().to_string();
    StoreError::Damaged { place, reason: remedy("it is missing") }
}

/// What to do about evidence that is gone, appended to why.
fn remedy(reason: &str) -> String {
    format!(
        "{reason}; without it this node cannot prove that its log still holds all that it acknowledged: put the file \
         back if there is a copy of this very moment, or move the data directory away and let this node join as a new \
         one"
    )
}

/// What is written to a slot: its content, on each of its pages.
fn encode_twice(number: u64, witnesses: &BTreeMap<GroupId, Witness>) -> Vec<u8> {
    let mut pages = encode(number, witnesses);
    let length = pages.len();
    pages.resize(PAGE_BYTES, 0);
    pages.extend_from_within(..length);
    pages
}

/// The content of a slot: as many sectors as it needs, the checksum at the end of the last.
fn encode(number: u64, witnesses: &BTreeMap<GroupId, Witness>) -> Vec<u8> {
    let length = (SLOT_HEADER + witnesses.len() * WITNESS_BYTES + 4).next_multiple_of(SECTOR_BYTES);
    let mut content = Vec::with_capacity(length);
    content.extend_from_slice(&MAGIC);
    content.extend_from_slice(&VERSION.to_be_bytes());
    content.extend_from_slice(&(witnesses.len() as u16).to_be_bytes());
    content.extend_from_slice(&(length as u32).to_be_bytes());
    content.extend_from_slice(&number.to_be_bytes());
    for (group, witness) in witnesses {
        let HardState { term, vote } = witness.hard_state;
        let LogId { index, term: last_term } = witness.last;
        for field in [group.0, witness.sequence, term.0, vote_code(vote), index.0, last_term.0] {
            content.extend_from_slice(&field.to_be_bytes());
        }
    }
    content.resize(length - 4, 0);
    content.extend_from_slice(&crc32c::crc32c(&content).to_be_bytes());
    content
}

/// A slot's number and what it says.
fn decode(page: &[u8]) -> Result<(u64, BTreeMap<GroupId, Witness>), String> {
    let mut fields = Fields::new(page);
    let (magic, version, count, length) = (fields.bytes(8)?, fields.u16()?, fields.u16()?, fields.u32()?);
    let (number, length) = (fields.u64()?, length as usize);
    if magic != MAGIC {
        return Err("it does not begin with its magic number".into());
    }
    if length < SLOT_HEADER + 4 || length > page.len() || page[length..].iter().any(|byte| *byte != 0) {
        return Err(format!("its length {length} does not fit"));
    }
    let (covered, checksum) = page[..length].split_at(length - 4);
    if crc32c::crc32c(covered).to_be_bytes() != checksum {
        return Err("its checksum does not fit".into());
    }
    if version != VERSION {
        return Err(format!("it has version {version}; this binary knows {VERSION}: run a newer one"));
    }
    let mut witnesses = BTreeMap::new();
    for _ in 0..count {
        let (group, sequence) = (GroupId(fields.u64()?), fields.u64()?);
        let hard_state = HardState { term: Term(fields.u64()?), vote: vote_from_code(fields.u64()?) };
        let last = LogId::new(Index(fields.u64()?), Term(fields.u64()?));
        if !reachable(sequence, &hard_state, last) || number >= SEQUENCE_LIMIT {
            return Err(format!("no log stands like this: {group}, batch {sequence}, {hard_state:?}, {last}"));
        }
        witnesses.insert(group, Witness { sequence, hard_state, last });
    }
    Ok((number, witnesses))
}

#[cfg(test)]
mod tests {
    // A test that cannot set itself up has to stop at once.
    #![allow(clippy::unwrap_used)]

    use raft_core::types::NodeId;

    use super::*;

    /// Longer than any test: only the sync at the end happens.
    const NEVER: Duration = Duration::from_secs(3600);

    fn witness(sequence: u64) -> Witness {
        Witness {
            sequence,
            hard_state: HardState { term: Term(3), vote: Some(NodeId(2)) },
            last: LogId::new(Index(sequence * 10), Term(3)),
        }
    }

    fn open(directory: &Path) -> Result<Evidence, StoreError> {
        Evidence::open(directory, NEVER, Arc::new(Health::default()))
    }

    /// A directory whose evidence was recorded three times, each time in another slot.
    fn three_lives() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        Evidence::create(directory.path()).unwrap();
        for sequence in 1..=3 {
            open(directory.path()).unwrap().record([(GroupId(1), witness(sequence))]).unwrap();
        }
        directory
    }

    #[test]
    fn the_newest_record_of_every_group_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        Evidence::create(directory.path()).unwrap();
        assert!(Evidence::exists(directory.path()));
        let evidence = open(directory.path()).unwrap();
        assert_eq!(evidence.witnesses(), BTreeMap::new());
        for group in 1..=GROUPS_MAX as u64 {
            assert!(evidence.admits(&[GroupId(group)]));
            evidence.record([(GroupId(group), witness(1)), (GroupId(1), witness(group))]).unwrap();
        }
        assert!(!evidence.admits(&[GroupId(999)]));
        drop(evidence);
        let found = open(directory.path()).unwrap().witnesses();
        assert_eq!(found.len(), GROUPS_MAX);
        assert_eq!(found[&GroupId(1)], witness(GROUPS_MAX as u64));
        assert_eq!(found[&GroupId(2)], witness(1));
    }

    #[test]
    fn each_life_writes_another_slot_and_the_newest_counts() {
        let directory = three_lives();
        assert_eq!(open(directory.path()).unwrap().witnesses()[&GroupId(1)], witness(3));
        let content = fs::read(directory.path().join(FILE_NAME)).unwrap();
        let mut sequences: Vec<_> =
            content.chunks_exact(PAGE_BYTES).map(|page| decode(page).unwrap().1[&GroupId(1)].sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found_and_the_newest_content_counts_all_the_same() {
        let directory = three_lives();
        let path = directory.path().join(FILE_NAME);
        let mut content = fs::read(&path).unwrap();
        let whole = newest(&path, &content).unwrap();
        for bit in 0..content.len() * 8 {
            content[bit / 8] ^= 1 << (bit % 8);
            let page = bit / 8 / PAGE_BYTES * PAGE_BYTES;
            assert!(decode(&content[page..page + PAGE_BYTES]).is_err(), "bit {bit}");
            // A page that is refused is refused whichever bit it is; looking at all pages each time takes long.
            if bit % 101 == 0 || bit % (PAGE_BYTES * 8) < 600 {
                assert_eq!(newest(&path, &content).unwrap(), whole, "bit {bit}");
            }
            content[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn evidence_of_another_log_is_told_from_older_and_newer_evidence_of_this_one() {
        let at = |sequence, term, vote: Option<u64>, last| Witness {
            sequence,
            hard_state: HardState { term: Term(term), vote: vote.map(NodeId) },
            last: LogId::new(Index(last), Term(1)),
        };
        let held = at(10, 5, Some(2), 7);
        for of_this_log in [
            held,
            at(9, 5, Some(2), 30),
            at(9, 5, None, 7),
            at(9, 4, Some(3), 7),
            at(11, 5, Some(2), 1),
            at(11, 6, Some(1), 7),
            at(11, 6, None, 7),
        ] {
            assert_eq!(of_this_log.contradicts(&held, LogId::ZERO), None, "{of_this_log:?}");
        }
        for of_another in [
            at(10, 5, Some(1), 7),
            at(10, 5, Some(2), 8),
            at(9, 5, Some(1), 7),
            at(9, 6, None, 7),
            at(11, 5, Some(1), 7),
            at(11, 5, None, 7),
            at(11, 4, Some(2), 7),
        ] {
            assert!(of_another.contradicts(&held, LogId::ZERO).is_some(), "{of_another:?}");
        }
    }

    #[test]
    fn newer_evidence_of_an_end_before_the_logs_base_is_of_another_log() {
        let hard_state = HardState { term: Term(5), vote: None };
        let at = |sequence, index, term| Witness { sequence, hard_state, last: LogId::new(Index(index), Term(term)) };
        let (held, base) = (at(10, 9, 4), LogId::new(Index(7), Term(3)));
        for of_this_log in [at(9, 2, 1), at(9, 7, 2), held, at(11, 7, 3), at(11, 8, 3), at(11, 8, 5), at(11, 30, 4)] {
            assert_eq!(of_this_log.contradicts(&held, base), None, "{of_this_log:?}");
        }
        for of_another in [at(11, 6, 3), at(11, 7, 2), at(11, 7, 4), at(11, 0, 0)] {
            assert!(of_another.contradicts(&held, base).is_some(), "{of_another:?}");
        }
    }

    #[test]
    fn numbers_that_no_log_reaches_are_refused() {
        let page = |number, witness| decode(&encode(number, &BTreeMap::from([(GroupId(1), witness)])));
        assert!(page(1, witness(1)).is_ok());
        assert!(page(u64::MAX, witness(1)).is_err());
        assert!(page(1, Witness { sequence: u64::MAX, ..witness(1) }).is_err());
        assert!(page(1, Witness { last: LogId::new(Index(u64::MAX), Term(3)), ..witness(1) }).is_err());
        let hard_state = HardState { term: Term(u64::MAX), vote: None };
        assert!(page(1, Witness { hard_state, ..witness(1) }).is_err());
    }

    #[test]
    fn one_damaged_slot_leaves_the_one_before_and_no_whole_slot_is_refused_with_the_remedy() {
        let directory = three_lives();
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let (newest_slot, ..) = newest(&path, &whole).unwrap();
        let mut damaged = whole.clone();
        damaged[newest_slot * SLOT_BYTES + 40] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(open(directory.path()).unwrap().witnesses()[&GroupId(1)], witness(3), "from the other copy");
        damaged[newest_slot * SLOT_BYTES + PAGE_BYTES + 40] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(open(directory.path()).unwrap().witnesses()[&GroupId(1)], witness(2));

        for page in 0..SLOTS * COPIES {
            damaged[page * PAGE_BYTES] = 0;
        }
        fs::write(&path, &damaged).unwrap();
        let error = open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("EVIDENCE") && error.contains("move the data directory away"), "{error}");
        fs::write(&path, &whole[..SLOT_BYTES]).unwrap();
        assert!(open(directory.path()).err().unwrap().to_string().contains("8192 bytes"));
    }

    #[test]
    fn the_writer_leaves_the_slot_that_was_synced_last() {
        let directory = tempfile::tempdir().unwrap();
        Evidence::create(directory.path()).unwrap();
        let evidence = Evidence::open(directory.path(), Duration::from_millis(1), Arc::default()).unwrap();
        let before = evidence.shared.lock().slot;
        evidence.record([(GroupId(1), witness(1))]).unwrap();
        // The thread syncs within the interval; bounded, so that a thread that died shows.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while evidence.shared.lock().unsynced {
            assert!(std::time::Instant::now() < deadline, "the evidence is never synced");
            std::thread::yield_now();
        }
        assert_ne!(evidence.shared.lock().slot, before);
    }
}
