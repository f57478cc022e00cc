//! Messages on their way: nothing arrives unless the script says so.

use std::collections::BTreeSet;

use super::ScriptError;
use super::arguments::{Arguments, number};
use crate::message::PeerMessage;
use crate::types::NodeId;

/// The network between the nodes of a script.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) waiting: Vec<PeerMessage>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// Which messages a command is about; what is not said does not matter.
#[derive(Debug, Default)]
pub(super) struct Filter {
    to: Vec<NodeId>,
    from: Option<NodeId>,
    kind: Option<String>,
    pub(super) count: Option<u64>,
    pub(super) latest: bool,
}

impl Filter {
    /// `[to ...] [from=1] [kind=Append] [count=1] [latest]`.
    pub(super) fn parse(arguments: &mut Arguments) -> Result<Self, ScriptError> {
        let latest = arguments.flag("latest");
        let from = arguments.node_key("from")?;
        let kind = arguments.key("kind");
        let count = arguments.key("count").map(|text| number(&text)).transpose()?;
        Ok(Self { to: arguments.nodes()?, from, kind, count, latest })
    }

    fn matches(&self, message: &PeerMessage) -> bool {
        let envelope = &message.envelope;
        (self.to.is_empty() || self.to.contains(&envelope.to))
            && self.from.is_none_or(|from| from == envelope.from)
            && self.kind.as_ref().is_none_or(|kind| kind == envelope.message.name())
    }
}

impl Network {
    /// Whether nothing passes between two nodes.
    pub(super) fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, message: PeerMessage) {
        if !self.is_cut(message.envelope.from, message.envelope.to) {
            self.waiting.push(message);
        }
    }

    /// Cuts the link between two nodes.
    pub(super) fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Mends all links.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Takes the first (or latest) message that the filter means.
    pub(super) fn take(&mut self, filter: &Filter) -> Option<PeerMessage> {
        let mut found = (0..self.waiting.len()).filter(|at| filter.matches(&self.waiting[*at]));
        let at = if filter.latest { found.next_back() } else { found.next() }?;
        Some(self.waiting.remove(at))
    }

    /// Takes all messages that the filter means, as many as it wants.
    pub(super) fn take_all(&mut self, filter: &Filter) -> Vec<PeerMessage> {
        let mut taken = Vec::new();
        while filter.count.is_none_or(|count| (taken.len() as u64) < count) {
            let Some(message) = self.take(filter) else { break };
            taken.push(message);
        }
        taken
    }

    /// Puts a copy of each message that the filter means behind all others.
    pub(super) fn duplicate(&mut self, filter: &Filter) -> usize {
        let copies: Vec<_> = self.waiting.iter().filter(|message| filter.matches(message)).cloned().collect();
        let wanted = filter.count.map_or(copies.len(), |count| copies.len().min(count as usize));
        self.waiting.extend(copies.into_iter().take(wanted));
        wanted
    }
}
