//! The bytes of questions about the members; `docs/node-requests.md` gives their numbers.

use std::time::Duration;

use bytes::Bytes;
use raft_core::types::{Index, NodeId, NodeName};

use super::admit::{JoinAnswer, JoinRequest};
use super::ask::{LeaseWishes, MembersAsk, MembersDone, MembersError, MembersOptions, MembersProblem};
use super::known::PendingMember;
use super::standing::StandingAnswer;
use crate::founding::WireMember;
use crate::requests::WireError;
use crate::status::Member;

/// A change that is passed on to the leader.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireAsk {
    #[prost(uint64, tag = "1")]
    timeout_millis: u64,
    #[prost(bool, tag = "2")]
    less_tolerance: bool,
    #[prost(bool, tag = "3")]
    force: bool,
    #[prost(oneof = "WireChange", tags = "4, 5, 6, 7, 8, 9, 10, 11")]
    change: Option<WireChange>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum WireChange {
    #[prost(message, tag = "4")]
    Add(WireAdd),
    #[prost(message, tag = "5")]
    Set(WireSet),
    #[prost(string, tag = "6")]
    Promote(String),
    #[prost(string, tag = "7")]
    Demote(String),
    #[prost(string, tag = "8")]
    Remove(String),
    #[prost(message, tag = "9")]
    Replace(WireReplace),
    #[prost(bool, tag = "10")]
    Cancel(bool),
    #[prost(message, tag = "11")]
    Leases(WireLeases),
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireLeases {
    #[prost(uint64, optional, tag = "1")]
    duration_nanos: Option<u64>,
    #[prost(uint32, optional, tag = "2")]
    drift_permille: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    min_holders: Option<u32>,
}

impl WireLeases {
    fn of(wishes: LeaseWishes) -> Self {
        let LeaseWishes { duration, drift_permille, min_holders } = wishes;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            duration_nanos: duration.map(nanos),
            drift_permille: drift_permille.map(u32::from),
            min_holders: min_holders.map(u32::from),
        }
    }

    /// What is too much to be read is refused by its check.
    fn wishes(self) -> LeaseWishes {
        let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        LeaseWishes {
            duration: self.duration_nanos.map(Duration::from_nanos),
            drift_permille: self.drift_permille.map(small),
            min_holders: self.min_holders.map(small),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAdd {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    peer_address: String,
    #[prost(string, tag = "3")]
    api_address: String,
    #[prost(bool, tag = "4")]
    voter: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSet {
    #[prost(string, repeated, tag = "1")]
    voters: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    learners: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReplace {
    #[prost(string, tag = "1")]
    old: String,
    #[prost(string, tag = "2")]
    new: String,
}

/// What became of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireEnd {
    /// 0 when it is done, else the place of the reason in [`MembersProblem::ALL`], counted from 1.
    #[prost(uint32, tag = "1")]
    problem: u32,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(bool, tag = "3")]
    changed: bool,
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(bool, tag = "5")]
    pending: bool,
    #[prost(string, tag = "6")]
    served_by: String,
}

/// A node's wish to be admitted.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireJoin {
    /// Its id is 0.
    #[prost(message, optional, tag = "1")]
    node: Option<WireMember>,
    #[prost(bool, tag = "2")]
    voter: bool,
}

/// The answer to it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireAdmission {
    /// Set when it is admitted.
    #[prost(uint64, optional, tag = "1")]
    id: Option<u64>,
    #[prost(bytes = "bytes", tag = "2")]
    record: Bytes,
    #[prost(message, repeated, tag = "3")]
    members: Vec<WireMember>,
    /// Why it is not, else.
    #[prost(string, tag = "4")]
    reason: String,
}

/// Whether the asking node is a member.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireStanding {
    /// The entry of the committed configuration that leaves it out.
    #[prost(uint64, optional, tag = "1")]
    removed: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<WireMember>,
    /// Who says so.
    #[prost(uint64, tag = "3")]
    by: u64,
}

/// Where a member is from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireMoved {
    #[prost(string, tag = "1")]
    pub(crate) peer_address: String,
    #[prost(string, tag = "2")]
    pub(crate) api_address: String,
}

/// A node that is waited for, in the view of the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WirePending {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    peer_address: String,
    #[prost(string, tag = "3")]
    api_address: String,
    #[prost(bool, tag = "4")]
    voter: bool,
    #[prost(bool, tag = "5")]
    wanted: bool,
    #[prost(uint64, optional, tag = "6")]
    heard_ago_millis: Option<u64>,
    #[prost(string, optional, tag = "7")]
    reason: Option<String>,
}

fn texts(names: &[NodeName]) -> Vec<String> {
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

fn names(texts: Vec<String>) -> Vec<NodeName> {
    texts.into_iter().map(NodeName::new).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn members(wire: Vec<WireMember>) -> Result<Vec<Member>, WireError> {
    Ok(wire.into_iter().map(WireMember::member).collect::<Result<_, _>>()?)
}

impl WireAsk {
    pub(crate) fn of(ask: &MembersAsk, options: MembersOptions) -> Self {
        let text = |name: &NodeName| name.as_str().to_owned();
        let change = match ask {
            MembersAsk::Add { name, peer_address, api_address, voter } => WireChange::Add(WireAdd {
                name: text(name),
                peer_address: peer_address.clone(),
                api_address: api_address.clone(),
                voter: *voter,
            }),
            MembersAsk::Set { voters, learners } => {
                WireChange::Set(WireSet { voters: texts(voters), learners: texts(learners) })
            }
            MembersAsk::Promote(name) => WireChange::Promote(text(name)),
            MembersAsk::Demote(name) => WireChange::Demote(text(name)),
            MembersAsk::Remove(name) => WireChange::Remove(text(name)),
            MembersAsk::Replace { old, new } => WireChange::Replace(WireReplace { old: text(old), new: text(new) }),
            MembersAsk::Cancel => WireChange::Cancel(true),
            MembersAsk::Leases(wishes) => WireChange::Leases(WireLeases::of(*wishes)),
        };
        let MembersOptions { timeout, less_tolerance, force } = options;
        Self { timeout_millis: millis(timeout), less_tolerance, force, change: Some(change) }
    }

    pub(crate) fn ask(self) -> Result<(MembersAsk, MembersOptions), WireError> {
        let Self { timeout_millis, less_tolerance, force, change } = self;
        let ask = match change.ok_or(WireError::Unknown)? {
            WireChange::Add(WireAdd { name, peer_address, api_address, voter }) => {
                MembersAsk::Add { name: NodeName::new(name), peer_address, api_address, voter }
            }
            WireChange::Set(WireSet { voters, learners }) => {
                MembersAsk::Set { voters: names(voters), learners: names(learners) }
            }
            WireChange::Promote(name) => MembersAsk::Promote(NodeName::new(name)),
            WireChange::Demote(name) => MembersAsk::Demote(NodeName::new(name)),
            WireChange::Remove(name) => MembersAsk::Remove(NodeName::new(name)),
            WireChange::Replace(WireReplace { old, new }) => {
                MembersAsk::Replace { old: NodeName::new(old), new: NodeName::new(new) }
            }
            WireChange::Cancel(_) => MembersAsk::Cancel,
            WireChange::Leases(wishes) => MembersAsk::Leases(wishes.wishes()),
        };
        Ok((ask, MembersOptions { timeout: Duration::from_millis(timeout_millis), less_tolerance, force }))
    }
}

impl WireEnd {
    pub(crate) fn of(end: &Result<MembersDone, MembersError>) -> Self {
        match end {
            Ok(MembersDone { changed, index, pending, served_by }) => Self {
                problem: 0,
                text: String::new(),
                changed: *changed,
                index: index.0,
                pending: *pending,
                served_by: served_by.as_str().to_owned(),
            },
            Err(MembersError { problem, text }) => {
                let place = MembersProblem::ALL.iter().position(|known| known == problem).map_or(0, |place| place + 1);
                Self { problem: place as u32, text: text.clone(), ..Self::default() }
            }
        }
    }

    pub(crate) fn end(self) -> Result<Result<MembersDone, MembersError>, WireError> {
        let Self { problem, text, changed, index, pending, served_by } = self;
        if problem == 0 {
            let served_by = NodeName::new(served_by);
            return Ok(Ok(MembersDone { changed, index: Index(index), pending, served_by }));
        }
        // A reason of a newer version is a refusal all the same.
        let known = MembersProblem::ALL.get(problem as usize - 1).copied().unwrap_or(MembersProblem::Refused);
        Ok(Err(MembersError::new(known, text)))
    }
}

impl WireJoin {
    pub(crate) fn of(join: &JoinRequest) -> Self {
        let JoinRequest { name, incarnation, peer_address, api_address, voter } = join.clone();
        let node = Member { id: NodeId(0), name, incarnation, peer_address, api_address };
        Self { node: Some(WireMember::of(&node)), voter }
    }

    pub(crate) fn join(self) -> Result<JoinRequest, WireError> {
        let node = self.node.ok_or_else(|| WireError::Malformed("no node".into()))?;
        let Member { name, incarnation, peer_address, api_address, .. } = node.member()?;
        Ok(JoinRequest { name, incarnation, peer_address, api_address, voter: self.voter })
    }
}

impl WireAdmission {
    pub(crate) fn of(answer: &JoinAnswer) -> Self {
        match answer {
            JoinAnswer::Admitted { id, record, members } => Self {
                id: Some(id.0),
                record: record.clone(),
                members: members.iter().map(WireMember::of).collect(),
                reason: String::new(),
            },
            JoinAnswer::NotYet(reason) => Self { reason: reason.clone(), ..Self::default() },
        }
    }

    pub(crate) fn answer(self) -> Result<JoinAnswer, WireError> {
        Ok(match self.id {
            Some(id) => JoinAnswer::Admitted { id: NodeId(id), record: self.record, members: members(self.members)? },
            None => JoinAnswer::NotYet(self.reason),
        })
    }
}

impl WireStanding {
    pub(crate) fn of(answer: &StandingAnswer) -> Self {
        match answer {
            StandingAnswer::Removed { configuration, by } => {
                Self { removed: Some(configuration.0), members: Vec::new(), by: by.0 }
            }
            StandingAnswer::NotRemoved { members } => {
                Self { removed: None, members: members.iter().map(WireMember::of).collect(), by: 0 }
            }
        }
    }

    pub(crate) fn answer(self) -> Result<StandingAnswer, WireError> {
        Ok(match self.removed {
            Some(configuration) => StandingAnswer::Removed { configuration: Index(configuration), by: NodeId(self.by) },
            None => StandingAnswer::NotRemoved { members: members(self.members)? },
        })
    }
}

impl WirePending {
    pub(crate) fn of(pending: &PendingMember) -> Self {
        Self {
            name: pending.name.as_str().to_owned(),
            peer_address: pending.peer_address.clone(),
            api_address: pending.api_address.clone(),
            voter: pending.voter,
            wanted: pending.wanted,
            heard_ago_millis: pending.heard_ago.map(millis),
            reason: pending.reason.clone(),
        }
    }

    pub(crate) fn pending(self) -> PendingMember {
        PendingMember {
            name: NodeName::new(self.name),
            peer_address: self.peer_address,
            api_address: self.api_address,
            voter: self.voter,
            wanted: self.wanted,
            heard_ago: self.heard_ago_millis.map(Duration::from_millis),
            reason: self.reason,
        }
    }
}

/// For tests: one of every kind.
#[cfg(test)]
pub(crate) mod examples {
    use super::*;

    fn name(name: &str) -> NodeName {
        NodeName::new(name)
    }

    pub(crate) fn asks() -> Vec<(MembersAsk, MembersOptions)> {
        let options = MembersOptions { timeout: Duration::from_millis(1500), less_tolerance: true, force: false };
        let asks = vec![
            MembersAsk::Add {
                name: name("n4"),
                peer_address: "h4:1".into(),
                api_address: "http://h4:2".into(),
                voter: true,
            },
            MembersAsk::Set { voters: vec![name("n1"), name("n2")], learners: vec![name("n3")] },
            MembersAsk::Promote(name("n1")),
            MembersAsk::Demote(name("n1")),
            MembersAsk::Remove(name("n1")),
            MembersAsk::Replace { old: name("n1"), new: name("n2") },
            MembersAsk::Cancel,
        ];
        asks.into_iter().map(|ask| (ask, options)).collect()
    }

    pub(crate) fn ends() -> Vec<Result<MembersDone, MembersError>> {
        let done = MembersDone { changed: true, index: Index(9), pending: true, served_by: name("n1") };
        let failed = MembersProblem::ALL.map(|problem| Err(MembersError::new(problem, "why")));
        [Ok(done)].into_iter().chain(failed).collect()
    }

    pub(crate) fn join() -> JoinRequest {
        JoinRequest {
            name: name("n4"),
            incarnation: raft_core::types::Incarnation(7),
            peer_address: "h4:1".into(),
            api_address: String::new(),
            voter: true,
        }
    }
}
