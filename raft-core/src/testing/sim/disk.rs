//! A node's disk: what is durable, and what waits for its sync.

use std::collections::VecDeque;

use crate::membership::KeptConfigurations;
use crate::ports::{LogReader, LogWrite, ReadError, Recovered};
use crate::replica::Persist;
use crate::runs::{Span, TermRun};
use crate::snapshot::SnapshotMeta;
use crate::testing::sim::machine::mix;
use crate::testing::sim::snapshots::Library;
use crate::types::{Entry, GroupId, HardState, Index, LogId, SnapshotId, Term, WriteId};

/// An entry in short: the checks compare these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) term: u64,
    pub(super) checksum: u32,
    /// Of this entry and all before it: equal marks mean equal logs up to here.
    pub(super) chain: u64,
}

impl Mark {
    /// The mark of `entry` behind `before`.
    pub(super) fn after(before: Option<&Self>, entry: &Entry) -> Self {
        let chain = before.map_or(0, |mark| mark.chain);
        let (term, checksum) = (entry.id.term.0, entry.payload.checksum());
        Self { term, checksum, chain: mix(chain, (term << 32) ^ u64::from(checksum)) }
    }
}

/// What a log holds, in a form that is cheap to compare.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(pub(super) Vec<Mark>);

impl Marks {
    pub(super) fn last(&self) -> Index {
        Index(self.0.len() as u64)
    }

    /// The mark at `index`, which counts from 1.
    pub(super) fn at(&self, index: Index) -> Option<&Mark> {
        position(index.prev()).and_then(|at| if index == Index::ZERO { None } else { self.0.get(at) })
    }

    pub(super) fn write_parts(&mut self, truncate_from: Option<Index>, entries: &[Entry]) {
        if let Some(from) = truncate_from {
            self.0.truncate(position(from.prev()).unwrap_or(usize::MAX));
        }
        for entry in entries {
            assert_eq!(entry.id.index, self.last().next(), "[contiguous log] a write that leaves a gap");
            let mark = Mark::after(self.0.last(), entry);
            self.0.push(mark);
        }
    }

    pub(super) fn write(&mut self, write: &LogWrite) {
        self.write_parts(write.truncate_from, &write.entries);
    }
}

fn position(index: Index) -> Option<usize> {
    usize::try_from(index.0).ok()
}

/// What is on the platter.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) hard_state: HardState,
    pub(super) commit: Index,
    /// The entry before the first one that is here.
    pub(super) base: LogId,
    /// What was installed last.
    pub(super) snapshot: Option<SnapshotMeta>,
    pub(super) entries: Vec<Entry>,
    pub(super) configurations: KeptConfigurations,
    /// Of the whole log, what was compacted included.
    pub(super) marks: Marks,
}

impl Image {
    fn write(&mut self, write: LogWrite, library: &Library) {
        if let Some(meta) = &write.snapshot {
            self.install(meta, library);
        }
        if let Some(from) = write.truncate_from {
            self.entries.truncate(self.position(from));
            self.configurations.truncate(from);
        }
        let span = Span::of(self.last(), &write.entries).unwrap_or_else(|error| panic!("[contiguous log] {error}"));
        self.configurations.append(span.configurations);
        self.marks.write(&write);
        self.entries.extend(write.entries);
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(commit) = write.commit {
            self.commit = self.commit.max(commit);
        }
    }

    /// Where in `entries` the entry at `index` stands.
    fn position(&self, index: Index) -> usize {
        position(Index(index.prev().since(self.base.index))).unwrap_or(usize::MAX)
    }

    fn install(&mut self, meta: &SnapshotMeta, library: &Library) {
        let last = meta.last;
        let keeps = self.marks.at(last.index).is_some_and(|mark| mark.term == last.term.0);
        self.configurations.install(&meta.configuration, last.index, keeps);
        if keeps {
            self.compact(last.index);
        } else {
            self.entries.clear();
            self.base = last;
            self.marks = library.get(meta.id).marks.clone();
        }
        self.commit = self.commit.max(last.index);
        self.snapshot = Some(meta.clone());
    }

    /// Drops the beginning.
    pub(super) fn compact(&mut self, upto: Index) {
        if upto <= self.base.index {
            return;
        }
        let term = self.marks.at(upto).expect("[contiguous log] what is compacted is there").term;
        self.entries.drain(..self.position(upto.next()));
        self.configurations.compact(upto);
        self.base = LogId::new(upto, Term(term));
        self.commit = self.commit.max(upto);
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// What a store says when it is opened.
    pub(super) fn recovered(&self, lost: Option<LogId>) -> Recovered {
        let mut runs: Vec<TermRun> = Vec::new();
        let mut batches = Vec::new();
        for chunk in self.entries.chunks(4) {
            let last = chunk[chunk.len() - 1].id.index;
            batches.push((last, chunk.iter().map(Entry::size).sum()));
        }
        for entry in &self.entries {
            let (term, last) = (entry.id.term, entry.id.index);
            match runs.last_mut() {
                Some(run) if run.term == term => run.last = last,
                _ => runs.push(TermRun { term, last }),
            }
        }
        let commit = self.commit.min(self.marks.last());
        let (base, snapshot) = (self.base, self.snapshot.clone());
        let configurations = self.configurations.all().to_vec();
        Recovered { hard_state: self.hard_state, commit, base, snapshot, runs, batches, configurations, lost }
    }
}

impl LogReader for Image {
    fn read(&self, group: GroupId, first: Index, last: Index, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        if first <= self.base.index {
            return Err(ReadError::Missing { group, index: first });
        }
        let begin = self.position(first);
        let end = self.position(last.next()).min(self.entries.len());
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.get(begin..end.max(begin)).unwrap_or_default() {
            bytes += entry.size();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        if found.is_empty() { Err(ReadError::Missing { group, index: first }) } else { Ok(found) }
    }
}

/// How the next sync goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncFault {
    /// It takes this long.
    Stall(u64),
    /// It fails, and what was to be saved is dropped.
    Fail,
}

/// A disk with its queue.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) durable: Image,
    /// Asked for and not durable, in order; the first `syncing` of them are under way.
    pub(super) queue: VecDeque<Persist>,
    pub(super) syncing: usize,
    pub(super) fault: Option<SyncFault>,
    /// The snapshots that are whole here, in the order of their coming.
    pub(super) snapshots: Vec<SnapshotId>,
    /// One that is not: how many of its chunks are.
    pub(super) staging: Option<(SnapshotId, u64)>,
    /// What its evidence knows to be missing.
    pub(super) lost: Option<LogId>,
    /// The log as it was when it was lost.
    pub(super) forgotten: Marks,
    /// What it held some time ago.
    pub(super) long_ago: Option<Image>,
    /// The next crash takes it back there.
    pub(super) forgets: bool,
}

impl Disk {
    /// The sync is complete: its writes are durable. Returns them for their messages, and the name of the last.
    pub(super) fn complete(&mut self, library: &Library) -> (Vec<Persist>, Option<WriteId>) {
        let done: Vec<Persist> = self.queue.drain(..self.syncing).collect();
        self.syncing = 0;
        let last = done.last().map(|persist| persist.write.id);
        let mut done_with_messages = Vec::new();
        for Persist { write, release } in done {
            self.durable.write(write, library);
            if !release.is_empty() {
                done_with_messages.push(Persist { write: LogWrite::default(), release });
            }
        }
        self.look_for_lost();
        (done_with_messages, last)
    }

    /// The power goes, or the sync fails: the first `kept` unfinished writes made it to the disk, each as a whole; the
    /// others are gone. What they would have released is never said.
    pub(super) fn crash(&mut self, kept: usize, library: &Library) {
        for persist in self.queue.drain(..kept) {
            self.durable.write(persist.write, library);
        }
        self.queue.clear();
        self.syncing = 0;
        self.fault = None;
        self.look_for_lost();
    }

    /// The evidence is content once the log is at least as up to date as what was lost.
    fn look_for_lost(&mut self) {
        let last = self.durable.last();
        self.lost = self.lost.filter(|lost| !last.at_least_as_up_to_date_as(*lost));
    }

    /// The disk is back at what it held long ago; term, vote and how far it had been are in its evidence. Returns
    /// whether anything is missing now.
    pub(super) fn forget(&mut self) -> bool {
        let held = self.durable.last();
        let marks = self.durable.marks.clone();
        let hard_state = self.durable.hard_state;
        self.durable = Image { hard_state, ..self.long_ago.take().unwrap_or_default() };
        let lost = self.durable.marks.0.last() != marks.0.last();
        if lost {
            self.lost = Some(held);
            self.forgotten = marks;
        }
        lost
    }
}
