//! Snapshots in a script: taken, sent, arriving and failing on command.

use super::arguments::Arguments;
use super::{Harness, ScriptError};
use crate::replica::{Input, Proposal};
use crate::snapshot::{SnapshotMeta, Transfer};
use crate::types::{Entry, Index, NodeId, Payload, SnapshotId, Term};

/// A snapshot with the state that it stands for.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) meta: SnapshotMeta,
    pub(super) state: Vec<Entry>,
}

/// One that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    from: NodeId,
    term: Term,
    kept: Kept,
}

impl Harness {
    /// `snapshot`, `arrive`, `break`, `want`, `fence`, `rebuild`, `mark`.
    pub(super) fn snapshots(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "snapshot" => {
                let (from, to) = (arguments.node()?, arguments.node()?);
                self.send_snapshot(from, to)?;
            }
            "arrive" => {
                let (to, untold) = (arguments.node()?, arguments.flag("untold"));
                self.arrive(to, untold)?;
            }
            "break" => {
                let to = arguments.node()?;
                let sending = self.sending.remove(&to).ok_or_else(|| format!("no snapshot is on its way to {to}"))?;
                self.show(format!("the snapshot {} for {to} is given up", sending.kept.meta.last));
                self.step(sending.from, Input::Transfer { to, transfer: Transfer::Failed })?;
            }
            "want" => {
                let (leader, to) = (arguments.node()?, arguments.node()?);
                self.step(leader, Input::SnapshotWanted { to })?;
            }
            "fence" => {
                let (id, over) = (arguments.node()?, arguments.flag("over"));
                self.step(id, Input::Fenced(!over))?;
            }
            "rebuild" => {
                let id = arguments.node()?;
                self.step(id, Input::Rebuild)?;
            }
            "mark" => {
                let id = arguments.node()?;
                let (payload, deadline) = (Payload::default(), self.now + std::time::Duration::from_secs(60));
                let waiter = self.caller();
                self.step(id, Input::Mark(Proposal { payload, deadline, waiter }))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The node that was asked for a snapshot takes one of what it has applied, and begins to send it.
    fn send_snapshot(&mut self, from: NodeId, to: NodeId) -> Result<(), ScriptError> {
        let term = self.node(from)?.wanted.remove(&to).ok_or_else(|| format!("{from} was not asked for one"))?;
        let node = self.node(from)?;
        let last = node.state.last().ok_or("nothing is applied yet")?.id;
        node.flushed = node.state.len();
        let state = node.state.clone();
        let configuration = self.running(from)?.raft().configuration_at(last.index).as_ref().clone();
        self.taken += 1;
        let meta = SnapshotMeta { id: SnapshotId(self.taken), last, configuration };
        self.show(format!("{from} sends {to} the snapshot {last}"));
        self.sending.insert(to, Sending { from, term, kept: Kept { meta, state } });
        self.step(from, Input::Transfer { to, transfer: Transfer::Began(last) })
    }

    /// The snapshot is whole and durable there.
    fn arrive(&mut self, to: NodeId, untold: bool) -> Result<(), ScriptError> {
        let Sending { from, term, kept } =
            self.sending.get(&to).cloned().ok_or_else(|| format!("no snapshot is on its way to {to}"))?;
        let meta = kept.meta.clone();
        self.running(to)?;
        self.node(to)?.kept = Some(kept);
        self.show(format!("{to} has the snapshot {}", meta.last));
        let last = meta.last;
        self.step(to, Input::SnapshotReceived { from, term, meta })?;
        if untold {
            return Ok(());
        }
        self.sending.remove(&to);
        if self.node(from)?.replica.is_some() {
            self.step(from, Input::Transfer { to, transfer: Transfer::Arrived(last) })?;
        }
        Ok(())
    }

    /// The state of the snapshot takes the place of what is applied.
    pub(super) fn restore(&mut self, id: NodeId, meta: &SnapshotMeta) -> Result<(), ScriptError> {
        self.node(id)?.restore(meta)?;
        self.show(format!("{id} state is that of {} now", meta.last));
        self.step(id, Input::Restored(meta.last))
    }

    pub(super) fn compact(&mut self, id: NodeId, upto: Index) -> Result<(), ScriptError> {
        self.show(format!("{id} compact to {upto}"));
        self.node(id)?.compact(upto)
    }

    pub(super) fn wanted(&mut self, id: NodeId, to: NodeId, term: Term) -> Result<(), ScriptError> {
        self.show(format!("{id} wants a snapshot for {to}"));
        self.sending.remove(&to);
        self.node(id)?.wanted.insert(to, term);
        Ok(())
    }
}

/// Whether a log keeps what follows the snapshot's last entry: when it holds that.
pub(super) fn keeps_suffix(log: &[Entry], meta: &SnapshotMeta) -> bool {
    log.iter().any(|entry| entry.id == meta.last)
}
