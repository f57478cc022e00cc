//! Who may say what: the rules that every [`Transport`](crate::ports::Transport) keeps at its door, as a value.
//!
//! A transport proves by certificates **which** node is at the other end. What that node may do follows from what
//! [`Transport::set_peers`](crate::ports::Transport::set_peers) said, and is the same whatever the network is; so it stands
//! here, for authors to use. Nothing in this crate calls it; `raft-net-quic`, which is older, has rules of its own that
//! say the same.
//!
//! ```
//! use raft_core::ports::{LocalIdentity, Peer, RemoteIdentity};
//! use raft_core::roster::{Roster, UNKNOWN_NAME};
//! use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};
//!
//! let (cluster, name) = (Some(ClusterId(9)), NodeName::new("n2"));
//! let here = NodeName::new("n1");
//! let local = LocalIdentity { name: here, incarnation: Incarnation(1), cluster, id: Some(NodeId(1)) };
//! let (id, incarnation) = (Some(NodeId(2)), Incarnation(2));
//! let peer = Peer { name: name.clone(), address: "n2:7082".into(), id, incarnation: Some(incarnation) };
//!
//! let mut roster = Roster::default();
//! roster.set(local, vec![peer]);
//! let remote = RemoteIdentity { name, incarnation, cluster, id };
//! let admission = roster.judge(&remote).unwrap();
//! assert_eq!(admission.member, id);
//!
//! let stranger = RemoteIdentity { name: NodeName::new("n3"), ..remote.clone() };
//! assert_eq!(roster.judge(&stranger).unwrap_err().reason, UNKNOWN_NAME);
//! ```
//!
//! Judge at the handshake, on both sides, and again whenever the roster has changed: a connection whose judgement is not
//! the same any more is closed. Before a message is handed on ask [`Roster::check`].

use std::collections::BTreeMap;

use crate::ports::{LocalIdentity, Peer, RemoteIdentity};
use crate::types::{NodeId, NodeName};

/// This node does not know yet who it is, or has stopped.
pub const NOT_READY: &str = "not_ready";
/// Both nodes belong to a cluster, and not to the same one.
pub const OTHER_CLUSTER: &str = "other_cluster";
/// A name that is not among the peers. The node that hears it may have been removed, and `raft-node` asks then.
pub const UNKNOWN_NAME: &str = "unknown_name";
/// A peer that shows another disk than it is known by.
pub const OTHER_INCARNATION: &str = "other_incarnation";
/// A peer that shows another id than it is known by.
pub const OTHER_ID: &str = "other_id";

/// Why a node may not speak.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs and metrics: one of the constants of this module.
    pub reason: &'static str,
    /// For people.
    pub text: String,
}

/// As what a node may speak. Equal judgements mean that nothing has changed between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its id, when both are members of one cluster and know each other: its messages and snapshots count. Otherwise it
    /// may only ask.
    pub member: Option<NodeId>,
    /// It is no peer, or has another disk: requests are all that it may send, in either direction.
    pub guest: bool,
    epoch: u64,
}

/// This node, its peers, and whether it has guests.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    local: Option<LocalIdentity>,
    /// Counts the changes of `local`: connections that were made as somebody else are made again.
    epoch: u64,
    peers: BTreeMap<NodeName, Peer>,
    guests: bool,
}

impl Roster {
    /// What [`Transport::set_peers`](crate::ports::Transport::set_peers) says. This node itself is left out of the peers.
    /// Says whether this node's own identity has changed: then all connections are made again.
    pub fn set(&mut self, local: LocalIdentity, peers: Vec<Peer>) -> bool {
        let others = peers.into_iter().filter(|peer| peer.name != local.name);
        self.peers = others.map(|peer| (peer.name.clone(), peer)).collect();
        let changes = self.local.as_ref() != Some(&local);
        self.epoch += u64::from(changes);
        self.local = Some(local);
        changes
    }

    /// What [`Transport::admit_guests`](crate::ports::Transport::admit_guests) says.
    pub fn admit_guests(&mut self, admit: bool) {
        self.guests = admit;
    }

    /// Lets nobody speak any more.
    pub fn clear(&mut self) {
        (self.local, self.epoch) = (None, self.epoch + 1);
        self.peers.clear();
    }

    /// This node, as it shows itself to others; nothing before the first [`Roster::set`].
    #[must_use]
    pub fn local(&self) -> Option<RemoteIdentity> {
        let LocalIdentity { name, incarnation, cluster, id } = self.local.clone()?;
        Some(RemoteIdentity { name, incarnation, cluster, id })
    }

    /// The peers, by name.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Judges a node whose certificate names it as it says.
    ///
    /// # Errors
    /// When it may not even ask.
    pub fn judge(&self, remote: &RemoteIdentity) -> Result<Admission, Refusal> {
        let refuse = |reason, text| Err(Refusal { reason, text });
        let Some(local) = &self.local else { return refuse(NOT_READY, "this node is not ready to talk".to_owned()) };
        let admission = Admission { member: None, guest: false, epoch: self.epoch };
        if local.cluster.zip(remote.cluster).is_some_and(|(here, there)| here != there) {
            let text = format!("{} belongs to another cluster than {}", remote.name, local.name);
            return refuse(OTHER_CLUSTER, text);
        }
        let (reason, text) = match self.peers.get(&remote.name) {
            None => (UNKNOWN_NAME, format!("{} has no peer {}", local.name, remote.name)),
            Some(peer) if peer.incarnation.is_some_and(|known| known != remote.incarnation) => {
                (OTHER_INCARNATION, format!("{} knows {} with another disk", local.name, remote.name))
            }
            Some(peer) if peer.id.zip(remote.id).is_some_and(|(known, shown)| known != shown) => {
                (OTHER_ID, format!("{} knows {} by another id", local.name, remote.name))
            }
            Some(peer) => {
                let same_cluster = local.id.is_some() && local.cluster.is_some() && local.cluster == remote.cluster;
                return Ok(Admission {
                    member: peer.id.filter(|id| same_cluster && remote.id == Some(*id)),
                    ..admission
                });
            }
        };
        if self.guests { Ok(Admission { guest: true, ..admission }) } else { refuse(reason, text) }
    }

    /// Whether what came on a connection that was judged so may be handed on: it is of the member that sent it, and for
    /// this node. For messages and for offers of snapshots.
    ///
    /// # Errors
    /// A short reason, to be counted. The connection may stay.
    pub fn check(&self, admission: Admission, from: NodeId, to: NodeId) -> Result<(), &'static str> {
        match admission.member {
            None => Err("not_a_member"),
            Some(member) if member != from => Err("wrong_sender"),
            Some(_) if self.local.as_ref().and_then(|local| local.id) != Some(to) => Err("wrong_recipient"),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, Incarnation};

    fn identity(number: u64, cluster: Option<u128>) -> RemoteIdentity {
        let name = NodeName::new(format!("n{number}"));
        let (cluster, id) = (cluster.map(ClusterId), cluster.map(|_| NodeId(number)));
        RemoteIdentity { name, incarnation: Incarnation(number.into()), cluster, id }
    }

    fn local(number: u64, cluster: Option<u128>) -> LocalIdentity {
        let RemoteIdentity { name, incarnation, cluster, id } = identity(number, cluster);
        LocalIdentity { name, incarnation, cluster, id }
    }

    fn peer(number: u64) -> Peer {
        let RemoteIdentity { name, incarnation, id, .. } = identity(number, Some(9));
        Peer { name, address: String::new(), id, incarnation: Some(incarnation) }
    }

    fn roster() -> Roster {
        let mut roster = Roster::default();
        roster.set(local(1, Some(9)), vec![peer(1), peer(2)]);
        roster
    }

    #[test]
    fn only_members_that_know_each_other_speak() {
        let member = |roster: &Roster, remote: &RemoteIdentity| roster.judge(remote).map(|judged| judged.member);
        let mut roster = roster();
        assert_eq!(member(&roster, &identity(2, Some(9))), Ok(Some(NodeId(2))));
        assert_eq!(member(&roster, &identity(2, None)), Ok(None), "a blank node asks");
        // A peer whose id is not known, and a node that has none itself.
        roster.set(local(1, Some(9)), vec![Peer { id: None, incarnation: None, ..peer(2) }]);
        assert_eq!(member(&roster, &identity(2, Some(9))), Ok(None));
        roster.set(local(1, None), vec![peer(2)]);
        assert_eq!(member(&roster, &identity(2, Some(9))), Ok(None));
    }

    #[test]
    fn strangers_are_refused_by_reason_and_some_are_guests() {
        let reason = |roster: &Roster, remote: &RemoteIdentity| roster.judge(remote).map_err(|refusal| refusal.reason);
        let mut roster = roster();
        let with_id = RemoteIdentity { id: Some(NodeId(7)), ..identity(2, Some(9)) };
        let wiped = RemoteIdentity { incarnation: Incarnation(7), ..identity(2, Some(9)) };
        let cases = [
            (identity(3, None), UNKNOWN_NAME),
            (identity(1, Some(9)), UNKNOWN_NAME),
            (wiped, OTHER_INCARNATION),
            (with_id, OTHER_ID),
        ];
        for (remote, wanted) in &cases {
            assert_eq!(reason(&roster, remote), Err(*wanted));
        }
        roster.admit_guests(true);
        for (remote, _) in &cases {
            let judged = roster.judge(remote).unwrap();
            assert!(judged.guest && judged.member.is_none(), "{remote:?}");
        }
        assert_eq!(reason(&roster, &identity(2, Some(8))), Err(OTHER_CLUSTER), "not even as a guest");
        roster.clear();
        assert_eq!(reason(&roster, &identity(2, Some(9))), Err(NOT_READY));
    }

    #[test]
    fn a_change_shows_in_the_judgement() {
        let mut roster = roster();
        let judged = roster.judge(&identity(2, Some(9)));
        assert!(!roster.set(local(1, Some(9)), vec![peer(2), peer(3)]));
        assert_eq!(roster.judge(&identity(2, Some(9))), judged, "another peer is nothing to this one");
        assert!(roster.set(LocalIdentity { incarnation: Incarnation(5), ..local(1, Some(9)) }, vec![peer(2)]));
        assert_ne!(roster.judge(&identity(2, Some(9))), judged);
    }

    #[test]
    fn a_message_is_of_its_sender_and_for_this_node() {
        let roster = roster();
        let judge = |remote| roster.judge(&remote).unwrap();
        let member = judge(identity(2, Some(9)));
        assert_eq!(roster.check(member, NodeId(2), NodeId(1)), Ok(()));
        assert_eq!(roster.check(member, NodeId(3), NodeId(1)), Err("wrong_sender"));
        assert_eq!(roster.check(member, NodeId(2), NodeId(3)), Err("wrong_recipient"));
        assert_eq!(roster.check(judge(identity(2, None)), NodeId(2), NodeId(1)), Err("not_a_member"));
    }
}
