//! Snapshots: taken by the author's `Snapshotter`, sent in pieces, put down as files at the other end.

use std::fs;
use std::path::{Path, PathBuf};

use super::node::Kept;
use super::rules::SNAPSHOT_NAMES;
use super::world::{What, World};
use crate::snapshot::{SnapshotMeta, Transfer};
use crate::status::Role;
use crate::types::{Index, LogId, NodeId, SnapshotId, Term};

/// Pieces that a snapshot is sent in.
const PIECES: usize = 6;
/// Snapshots that a node keeps, beside those that it needs.
const KEPT_MAX: usize = 2;

/// What a snapshot consisted of when it was taken.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) meta: SnapshotMeta,
    files: Files,
}

type Files = Vec<(String, Vec<u8>)>;

/// A snapshot on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    from: NodeId,
    to: NodeId,
    term: Term,
    life: u32,
    id: SnapshotId,
}

/// Reads the files of a snapshot; says what is none.
fn read_files(directory: &Path) -> Result<Files, String> {
    let said = |error: std::io::Error| format!("{} cannot be read: {error}", directory.display());
    let mut files = Vec::new();
    for file in fs::read_dir(directory).map_err(said)? {
        let file = file.map_err(said)?;
        if !file.file_type().map_err(said)?.is_file() {
            return Err(format!("it holds {:?}, which is no plain file", file.file_name()));
        }
        files.push((file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).map_err(said)?));
    }
    files.sort();
    Ok(files)
}

fn write_files(directory: &Path, files: &Files) -> std::io::Result<()> {
    fs::create_dir(directory)?;
    files.iter().try_for_each(|(name, bytes)| fs::write(directory.join(name), bytes))
}

impl World<'_> {
    /// The replica asks for a snapshot to be sent: one that is kept, if the log still goes on from it, or a new one.
    pub(super) fn send_snapshot(&mut self, from: NodeId, to: NodeId, term: Term) {
        self.sendings.retain(|_, sending| (sending.from, sending.to) != (from, to));
        let node = &self.nodes[&from];
        let life = node.life;
        let Some(process) = &node.process else { return };
        let base = process.replica.raft().log_base().index;
        let kept = node.snapshots.iter().rev().map(|kept| &kept.meta).find(|meta| meta.last.index >= base);
        let Some(meta) = kept.cloned().or_else(|| self.take_snapshot(from)) else {
            return self.after(1_000, What::Transfer { node: from, life, to, transfer: Transfer::Failed });
        };
        self.tell(format!("{from} sends the snapshot of {} to {to}", meta.last));
        self.after(1, What::Transfer { node: from, life, to, transfer: Transfer::Began(meta.last) });
        self.next_sending += 1;
        self.sendings.insert(self.next_sending, Sending { from, to, term, life, id: meta.id });
        let wait = self.about(self.plan.latency);
        self.after(wait, What::Piece { sending: self.next_sending });
    }

    /// A place for the files of a snapshot of this node.
    fn place(&mut self, id: NodeId) -> PathBuf {
        self.node(id).machine_lab.scratch()
    }

    /// A snapshot of what is applied.
    pub(super) fn take_snapshot(&mut self, id: NodeId) -> Option<SnapshotMeta> {
        let directory = self.place(id);
        let node = &self.nodes[&id];
        let process = node.process.as_ref()?;
        let applied = process.machine.applied();
        if applied == LogId::ZERO {
            return None;
        }
        let last = match process.snapshotter.take(&directory) {
            Ok(last) => last,
            Err(error) => {
                // What is left there is garbage.
                let _ = fs::remove_dir_all(&directory);
                let excused = node.machine_fault.is_some();
                SNAPSHOT_NAMES.demand(excused, || format!("{id}, whose disk works, takes no snapshot: {error}"));
                return None;
            }
        };
        SNAPSHOT_NAMES.demand(last == applied, || {
            format!("{id} takes a snapshot and says that it holds {last}; it has applied {applied}")
        });
        let files = read_files(&directory).unwrap_or_else(|said| {
            SNAPSHOT_NAMES.fail(format!("the snapshot of {id}, with {last}, is not made of plain files: {said}"))
        });
        let configuration = process.replica.raft().configuration_at(last.index).as_ref().clone();
        let meta = SnapshotMeta { id: SnapshotId(self.images.len() as u128 + 1), last, configuration };
        self.images.insert(meta.id, Image { meta: meta.clone(), files });
        self.node(id).snapshots.push(Kept { meta: meta.clone(), directory });
        self.tally.snapshots += 1;
        self.forget_old(id);
        Some(meta)
    }

    /// Removes what nobody needs: not what is being sent, nor what the log may name.
    fn forget_old(&mut self, id: NodeId) {
        let sent: Vec<SnapshotId> = self.sendings.values().filter(|it| it.from == id).map(|it| it.id).collect();
        let node = self.node(id);
        let surplus = node.snapshots.len().saturating_sub(KEPT_MAX);
        let applied = node.process.as_ref().map_or(LogId::ZERO, |process| process.machine.applied());
        let mut seen = 0;
        node.snapshots.retain(|kept| {
            seen += 1;
            let goes = seen <= surplus && !sent.contains(&kept.meta.id) && kept.meta.last.index <= applied.index;
            if goes {
                let _ = fs::remove_dir_all(&kept.directory);
            }
            !goes
        });
    }

    /// What else is kept is of the state that this one has replaced.
    pub(super) fn keep_only(&mut self, id: NodeId, snapshot: SnapshotId) {
        let process = self.nodes[&id].process.as_ref();
        let applied = process.map_or(Index::ZERO, |process| process.machine.applied().index);
        self.sendings.retain(|_, sending| sending.from != id || sending.id == snapshot);
        self.node(id).snapshots.retain(|kept| {
            // The next one may be here already, whoever took it.
            let stays = kept.meta.id == snapshot || kept.meta.last.index > applied;
            if !stays {
                let _ = fs::remove_dir_all(&kept.directory);
            }
            stays
        });
    }

    /// The next piece arrives, or the connection is seen to be broken.
    pub(super) fn piece(&mut self, number: u64) {
        let Some(sending) = self.sendings.get(&number).copied() else { return };
        let Sending { from, to, term, life, id } = sending;
        let leads = self.lives(from, life)
            && self.nodes[&from].process.as_ref().is_some_and(|process| {
                process.replica.raft().role() == Role::Leader && process.replica.raft().term() == term
            });
        if !leads {
            self.sendings.remove(&number);
            return;
        }
        let wait = self.about(self.plan.latency);
        if self.nodes[&to].frozen_until > self.now {
            return self.after(wait + 1_000, What::Piece { sending: number });
        }
        let cut = self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        let lost = self.healed_at.is_none() && self.random.below(1_000) < 20 + self.plan.loss;
        let receives = self.nodes[&to].process.as_ref().is_some_and(|process| !process.failed);
        if cut || lost || !receives {
            return self.end_sending(number, Transfer::Failed);
        }
        let node = self.node(to);
        let here = node.staging.filter(|(staged, _)| *staged == id).map_or(0, |(_, pieces)| pieces);
        node.staging = Some((id, here + 1));
        if node.snapshots.iter().any(|kept| kept.meta.id == id) || here + 1 >= PIECES {
            node.staging = None;
            return self.arrived(number, sending);
        }
        self.after(wait, What::Piece { sending: number });
    }

    /// All pieces are there: their files are put down, and the node is told.
    fn arrived(&mut self, number: u64, sending: Sending) {
        let Sending { from, to, term, id, .. } = sending;
        let meta = self.images[&id].meta.clone();
        if !self.nodes[&to].snapshots.iter().any(|kept| kept.meta.id == id) {
            let files = self.files_now(from, id);
            let directory = self.place(to);
            let written = write_files(&directory, &files);
            written.unwrap_or_else(|error| panic!("the lab's place {} takes no files: {error}", directory.display()));
            self.node(to).snapshots.push(Kept { meta: meta.clone(), directory });
        }
        let (life, wait) = (self.nodes[&to].life, self.about(1_000));
        self.after(wait, What::SnapshotHere { node: to, life, from, term, id });
        self.end_sending(number, Transfer::Arrived(meta.last));
    }

    /// What lies in the sender's directory now, which has to be what was taken.
    fn files_now(&self, from: NodeId, id: SnapshotId) -> Files {
        let kept = self.nodes[&from].snapshots.iter().find(|kept| kept.meta.id == id);
        let directory = &kept.expect("what is being sent is kept").directory;
        let image = &self.images[&id];
        let files = read_files(directory).unwrap_or_else(|said| {
            SNAPSHOT_NAMES.fail(format!("the files of the snapshot {} of {from} have gone: {said}", image.meta.last))
        });
        SNAPSHOT_NAMES.demand(files == image.files, || {
            format!("the files of the snapshot {} of {from} were changed after it was taken", image.meta.last)
        });
        files
    }

    fn end_sending(&mut self, number: u64, transfer: Transfer) {
        let Some(Sending { from, to, life, .. }) = self.sendings.remove(&number) else { return };
        self.tally.transfers_broken += u64::from(transfer == Transfer::Failed);
        let wait = self.about(self.plan.latency);
        self.after(wait, What::Transfer { node: from, life, to, transfer });
    }
}
