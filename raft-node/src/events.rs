//! What happened to this node lately, as one tells it to a person: `GET /v1/events`.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::marks::unix_milliseconds;

/// Events that are kept; the oldest go first. A node that has been restarted begins anew.
pub const EVENTS_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Who leads.
    Leader,
    /// Who belongs to the cluster.
    Members,
    /// Snapshots taken, sent, received and installed.
    Snapshot,
    /// Something is broken.
    Fault,
    /// This node's own life.
    Node,
}

impl EventKind {
    /// Its name, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Members => "members",
            Self::Snapshot => "snapshot",
            Self::Fault => "fault",
            Self::Node => "node",
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Counts this node's events since it was started, from 1.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch by this node's clock.
    pub at_ms: u64,
    /// What it is about.
    pub kind: EventKind,
    /// What happened.
    pub text: String,
}

/// The newest [`EVENTS_MAX`] of them.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    told: u64,
    newest: VecDeque<NodeEvent>,
}

impl Events {
    pub(crate) fn tell(&self, kind: EventKind, text: impl Into<String>) {
        let mut kept = self.0.lock();
        kept.told += 1;
        if kept.newest.len() == EVENTS_MAX {
            kept.newest.pop_front();
        }
        let event = NodeEvent { number: kept.told, at_ms: unix_milliseconds(), kind, text: text.into() };
        kept.newest.push_back(event);
    }

    /// The newest, at most `limit`, the oldest of them first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<NodeEvent> {
        let kept = self.0.lock();
        kept.newest.iter().skip(kept.newest.len().saturating_sub(limit)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_order() {
        let events = Events::default();
        for nth in 1..=EVENTS_MAX + 3 {
            events.tell(EventKind::Node, format!("{nth}"));
        }
        assert_eq!(events.newest(usize::MAX).len(), EVENTS_MAX);
        let newest: Vec<_> = events.newest(2).into_iter().map(|event| (event.number, event.text)).collect();
        let last = EVENTS_MAX as u64 + 3;
        assert_eq!(newest, [(last - 1, (last - 1).to_string()), (last, last.to_string())]);
        assert!(events.newest(0).is_empty());
    }
}
