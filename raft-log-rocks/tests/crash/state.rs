//! What a log should hold: a model of it in memory, and how random writes are drawn and told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use raft_core::membership::Configuration;
use raft_core::ports::{LogStore, LogWrite, ReadError};
use raft_core::snapshot::SnapshotMeta;
use raft_core::testing::{Random, random_bytes};
use raft_core::types::{Entry, EntryKind, GroupId, HardState, Index, LogId, NodeId, Payload, SnapshotId, Term};
use raft_log_rocks::RocksLog;

/// The groups that writes are drawn for.
pub(crate) const GROUPS: [GroupId; 2] = [GroupId::FIRST, GroupId(2)];

/// What a log holds, all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    groups: BTreeMap<GroupId, GroupState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GroupState {
    hard_state: HardState,
    commit: Index,
    base: LogId,
    snapshot: Option<SnapshotMeta>,
    /// From the index after `base` on.
    entries: Vec<Entry>,
}

impl GroupState {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The entry at `index`, or the one before the first.
    fn id_at(&self, index: Index) -> LogId {
        let at = index.since(self.base.index);
        at.checked_sub(1).map_or(self.base, |at| self.entries[at as usize].id)
    }

    fn begin_after(&mut self, base: LogId) {
        let held = self.base == base || self.entries.iter().any(|entry| entry.id == base);
        self.entries.retain(|entry| held && entry.id.index > base.index);
        self.base = base;
    }
}

impl State {
    /// As the port says: snapshot, truncate, append, then hard state and commit.
    pub(crate) fn apply(&mut self, write: &LogWrite) {
        let group = self.groups.entry(write.group).or_default();
        if let Some(snapshot) = &write.snapshot {
            group.begin_after(snapshot.last);
            group.commit = group.commit.max(snapshot.last.index);
            group.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            group.entries.retain(|entry| entry.id.index < from);
        }
        group.entries.extend(write.entries.iter().cloned());
        group.hard_state = write.hard_state.unwrap_or(group.hard_state);
        group.commit = group.commit.max(write.commit.unwrap_or_default());
    }

    /// Drops committed entries.
    pub(crate) fn compact(&mut self, group: GroupId, upto: Index) {
        let group = self.groups.entry(group).or_default();
        if upto > group.base.index {
            group.begin_after(group.id_at(upto));
        }
    }

    /// Everything that the store recovers and reads, compared with itself on the way.
    ///
    /// # Errors
    /// When the store fails, claims to have lost something, or contradicts itself.
    pub(crate) fn read(log: &mut RocksLog) -> Result<Self, String> {
        let mut groups = BTreeMap::new();
        for id in GROUPS {
            let recovered = log.recover(id).map_err(|error| format!("{id} is not recovered: {error}"))?;
            recovered.check()?;
            if let Some(lost) = recovered.lost {
                return Err(format!("{id} claims to have lost {lost}; it holds {}", recovered.last()));
            }
            let mut entries: Vec<Entry> = Vec::new();
            let (base, last) = (recovered.base, recovered.last());
            while (entries.len() as u64) < last.index.since(base.index) {
                let first = base.index.plus(entries.len() as u64 + 1);
                let read = log.reader().read(id, first, last.index, 64 << 10);
                entries.extend(read.map_err(|error| format!("{id} recovers up to {last} and is not read: {error}"))?);
            }
            match log.reader().read(id, base.index, last.index, 1) {
                Err(ReadError::Missing { .. }) => {}
                other => return Err(format!("{id} begins after {base}, and there it reads {other:?}")),
            }
            let (hard_state, commit, snapshot) = (recovered.hard_state, recovered.commit, recovered.snapshot);
            let group = GroupState { hard_state, commit, base, snapshot, entries };
            if group.last() != last {
                return Err(format!("{id} recovers up to {last} and reads up to {}", group.last()));
            }
            if group != GroupState::default() {
                groups.insert(id, group);
            }
        }
        Ok(Self { groups })
    }

    /// Tells states apart in a few letters.
    pub(crate) fn digest(&self) -> u32 {
        let mut digest = 0;
        for (id, group) in &self.groups {
            let vote = group.hard_state.vote.map_or(0, |vote| vote.0);
            let base = group.base;
            for number in [id.0, group.hard_state.term.0, vote, group.commit.0, base.index.0, base.term.0] {
                digest = crc32c::crc32c_append(digest, &number.to_be_bytes());
            }
            digest = crc32c::crc32c_append(digest, format!("{:?}", group.snapshot).as_bytes());
            for entry in &group.entries {
                let fields =
                    [entry.id.index.0, entry.id.term.0, entry.kind.code().into(), entry.payload.checksum().into()];
                for number in fields {
                    digest = crc32c::crc32c_append(digest, &u64::to_be_bytes(number));
                }
                digest = crc32c::crc32c_append(digest, entry.payload.bytes());
            }
        }
        digest
    }

    /// Terms, votes and ends, for messages.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (id, group) in &self.groups {
            let HardState { term, vote } = group.hard_state;
            let vote = vote.map_or(0, |vote| vote.0);
            let (base, commit, last) = (group.base, group.commit, group.last());
            let snapshot = group.snapshot.as_ref().map_or(LogId::ZERO, |snapshot| snapshot.last);
            write!(text, "[{id} term {term} vote {vote} snapshot {snapshot} base {base} commit {commit} last {last}]")
                .unwrap();
        }
        text
    }

    /// A batch of writes that the log's rules allow. Its payloads are told by `nonce`.
    pub(crate) fn draw(&self, random: &mut Random, nonce: u64) -> Vec<LogWrite> {
        let mut state = self.clone();
        let count = if random.below(4) == 0 { 1 + random.below(3) } else { 1 };
        (0..count)
            .map(|_| {
                let id = GROUPS[usize::from(random.below(4) == 0)];
                let write = state.groups.entry(id).or_default().draw(id, random, nonce);
                state.apply(&write);
                write
            })
            .collect()
    }

    /// A compaction that the log's rules allow, now and then.
    pub(crate) fn draw_compaction(&self, random: &mut Random) -> Option<(GroupId, Index)> {
        let id = GROUPS[usize::from(random.below(4) == 0)];
        let group = self.groups.get(&id).filter(|_| random.below(5) == 0)?;
        let droppable = group.commit.since(group.base.index);
        (droppable > 0).then(|| (id, group.base.index.plus(1 + random.below(droppable))))
    }
}

impl GroupState {
    /// The end of a snapshot: an entry of this log, or one of `term` in the place of, or behind, what is not committed.
    fn draw_snapshot(&self, random: &mut Random, term: Term) -> Option<LogId> {
        let held = random.below(2) == 0 && !self.entries.is_empty();
        match random.below(12) {
            0 if held => Some(self.id_at(self.base.index.plus(1 + random.below(self.entries.len() as u64)))),
            0 => Some(LogId::new(self.commit.plus(1 + random.below(30)), term)),
            _ => None,
        }
    }

    fn draw(&self, group: GroupId, random: &mut Random, nonce: u64) -> LogWrite {
        let mut write = LogWrite { group, ..LogWrite::default() };
        let held = self.hard_state;
        let mut term = held.term;
        if term == Term::ZERO || random.below(4) == 0 {
            let vote = held.vote.or_else(|| Some(NodeId(1 + random.below(3))));
            let raised = Term(term.0 + 1 + random.below(2));
            let vote_given = Some(NodeId(1 + random.below(3))).filter(|_| random.below(3) > 0);
            let same_term = term > Term::ZERO && held.vote.is_none() && random.below(2) == 0;
            let (new_term, vote) = if same_term { (term, vote) } else { (raised, vote_given) };
            term = new_term;
            write.hard_state = Some(HardState { term, vote });
        }
        if let Some(end) = self.draw_snapshot(random, term) {
            let mut state = State::default();
            state.groups.insert(group, self.clone());
            write.snapshot = Some(snapshot(end, nonce));
            state.apply(&write);
            return state.groups[&group].draw_suffix(write, term, random, nonce);
        }
        self.draw_suffix(write, term, random, nonce)
    }

    /// The rest of a write to a log that has become this one by its beginning.
    fn draw_suffix(&self, mut write: LogWrite, term: Term, random: &mut Random, nonce: u64) -> LogWrite {
        let mut end = self.last();
        if end.index > self.commit && random.below(7) == 0 {
            let from = Index(self.commit.0 + 1 + random.below(end.index.0 - self.commit.0));
            write.truncate_from = Some(from);
            end = self.id_at(from.prev());
        }
        let count = random.below(5);
        for index in (end.index.0 + 1..).take(count as usize) {
            let length = match random.below(20) {
                0..=7 => random.below(64),
                8..=15 => 64 + random.below(600),
                16..=18 => random.below(6_000),
                _ => random.below(24_000),
            };
            write.entries.push(entry(index, term, length, nonce));
        }
        let last = write.entries.last().map_or(end.index, |entry| entry.id.index);
        if !write.is_empty() && random.below(3) == 0 {
            write.commit = Some(Index(self.commit.0 + random.below(last.0.saturating_sub(self.commit.0) + 1)));
        }
        write
    }
}

fn entry(index: u64, term: Term, length: u64, nonce: u64) -> Entry {
    let (kind, length) = if length % 16 == 7 { (EntryKind::Noop, 0) } else { (EntryKind::Command, length) };
    let seed = nonce.wrapping_mul(0x1_0000_0001) ^ (index << 20) ^ term.0;
    let payload = Payload::new(random_bytes(&mut Random::new(seed), length as usize));
    Entry { id: LogId::new(Index(index), term), kind, payload }
}

fn snapshot(last: LogId, nonce: u64) -> SnapshotMeta {
    let configuration = Configuration::new((1..=nonce % 7).map(NodeId));
    SnapshotMeta { id: SnapshotId(u128::from(nonce) << 64 | u128::from(last.index.0)), last, configuration }
}

/// Writes in words, from which [`told`] makes them again.
pub(crate) fn tell(writes: &[LogWrite], nonce: u64) -> String {
    let mut text = format!("n{nonce}");
    for write in writes {
        write!(text, " g{}", write.group.0).unwrap();
        if let Some(HardState { term, vote }) = write.hard_state {
            write!(text, " h{},{}", term.0, vote.map_or(0, |vote| vote.0)).unwrap();
        }
        if let Some(commit) = write.commit {
            write!(text, " c{}", commit.0).unwrap();
        }
        if let Some(SnapshotMeta { last, .. }) = &write.snapshot {
            write!(text, " s{},{}", last.index.0, last.term.0).unwrap();
        }
        if let Some(from) = write.truncate_from {
            write!(text, " t{}", from.0).unwrap();
        }
        for Entry { id, kind, payload } in &write.entries {
            let length = if *kind == EntryKind::Noop { 7 } else { payload.bytes().len() as u64 };
            write!(text, " e{},{},{length}", id.index.0, id.term.0).unwrap();
        }
    }
    text
}

/// The writes behind the words.
pub(crate) fn told(text: &str) -> Vec<LogWrite> {
    let mut writes: Vec<LogWrite> = Vec::new();
    let mut nonce = 0;
    for word in text.split(' ') {
        let (letter, numbers) = word.split_at(1);
        let numbers: Vec<u64> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
        match letter {
            "n" => nonce = numbers[0],
            "g" => writes.push(LogWrite { group: GroupId(numbers[0]), ..LogWrite::default() }),
            _ => {
                let write = writes.last_mut().unwrap();
                match letter {
                    "h" => {
                        let vote = Some(NodeId(numbers[1])).filter(|vote| vote.0 > 0);
                        write.hard_state = Some(HardState { term: Term(numbers[0]), vote });
                    }
                    "c" => write.commit = Some(Index(numbers[0])),
                    "s" => {
                        write.snapshot = Some(snapshot(LogId::new(Index(numbers[0]), Term(numbers[1])), nonce));
                    }
                    "t" => write.truncate_from = Some(Index(numbers[0])),
                    "e" => write.entries.push(entry(numbers[0], Term(numbers[1]), numbers[2], nonce)),
                    other => panic!("nobody tells {other}"),
                }
            }
        }
    }
    writes
}
