//! What nodes ask each other over [`Transport::request`](raft_core::ports::Transport::request), and its bytes.
//!
//! The transport carries these as opaque bytes; the format (protobuf, see `docs/node-requests.md`) is this crate's. An unknown
//! request is answered with a named failure, so that a newer node learns that it talks to an older one.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use raft_core::membership::Standing;
use raft_core::replica::Outcome;
use raft_core::status::Role;
use raft_core::types::{ClusterId, Index, LogId, NodeName, Term};

use crate::founding::{BlankNode, FounderAnswer, FoundingRecord, RecordError, WireMember, random_number};
use crate::handle::{Doubt, Refusal};
use crate::handovers::{HandOverError, LeaderMoved};
use crate::members::admit::{JoinAnswer, JoinRequest};
use crate::members::standing::StandingAnswer;
use crate::members::wire::{WireAdmission, WireAsk, WireEnd, WireJoin, WireMoved, WirePending, WireStanding};
use crate::members::{MembersAsk, MembersDone, MembersError, MembersOptions};
use crate::snapshots::wire::WireSnapshot;
use crate::status::{ClusterStatus, Departure, Member, MemberStatus, MembershipStatus};

/// A question of one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeRequest {
    /// "Do you have a cluster?" Anybody may ask.
    Founding,
    /// "Propose this for my client." Never passed on again. The command is not stamped yet.
    Write {
        /// The command.
        command: Bytes,
        /// How long the answer is waited for.
        timeout: Duration,
    },
    /// "Propose all of these", in this order: writes that came at the same time.
    Writes(Vec<PassedWrite>),
    /// "What became of this entry?"
    Outcome(LogId),
    /// "Make a mark." Never passed on again.
    Mark {
        /// How long the answer is waited for.
        timeout: Duration,
    },
    /// "What did your state answer to this mark?"
    MarkDigest(Index),
    /// "Send me a snapshot, and one that holds this entry at least", asked of the leader.
    SendSnapshot {
        /// The entry.
        at_least: Index,
    },
    /// "Hand the leadership over to this member, or to the best", asked of the leader. Never passed on again.
    HandOver {
        /// To whom.
        to: Option<NodeName>,
    },
    /// "How are you?"
    Report,
    /// "How is the cluster?", asked of the leader.
    Cluster {
        /// How long the answer is waited for.
        timeout: Duration,
    },
    /// "Have this change of the members done", asked of the leader. Never passed on again.
    Members {
        /// What.
        ask: MembersAsk,
        /// How.
        options: MembersOptions,
    },
    /// "Admit me", or from a member: "admit that one". Who proves by its certificate and its handshake that it is the node
    /// in question may ask.
    Join(JoinRequest),
    /// "Am I one of you?" Whoever has been a member may ask.
    Standing,
    /// "I am here from now on", said to the leader.
    Moved {
        /// Where peers reach it.
        peer_address: String,
        /// Where clients reach it.
        api_address: String,
    },
}

/// One of [`NodeRequest::Writes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassedWrite {
    /// The command, not stamped yet.
    pub(crate) command: Bytes,
    /// How long the answer is waited for.
    pub(crate) timeout: Duration,
}

/// The answer to a [`NodeRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeAnswer {
    /// Not served, without any effect; why.
    Failure(String),
    /// To [`NodeRequest::Founding`].
    Founding(FounderAnswer),
    /// To [`NodeRequest::Write`] and [`NodeRequest::Mark`].
    Write(ForwardedWrite),
    /// To [`NodeRequest::Writes`]: what became of each, in their order.
    Writes(Vec<ForwardedWrite>),
    /// To [`NodeRequest::Outcome`].
    Outcome(Outcome),
    /// To [`NodeRequest::Report`].
    Report(Report),
    /// To [`NodeRequest::Cluster`].
    Cluster(ClusterStatus),
    /// To [`NodeRequest::MarkDigest`]; `None` when it is not known, or not yet.
    MarkDigest(Option<Bytes>),
    /// To [`NodeRequest::HandOver`].
    HandedOver(Result<LeaderMoved, HandOverError>),
    /// To [`NodeRequest::SendSnapshot`]: it is being done; to [`NodeRequest::Moved`]: it is known.
    Done,
    /// To [`NodeRequest::Members`].
    Members(Result<MembersDone, MembersError>),
    /// To [`NodeRequest::Join`].
    Join(JoinAnswer),
    /// To [`NodeRequest::Standing`].
    Standing(StandingAnswer),
}

/// What became of a write that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForwardedWrite {
    /// Applied.
    Applied { id: LogId, answer: Bytes },
    /// Surely not.
    NotApplied(Refusal),
    /// Not known.
    Unknown { why: Doubt, token: Option<LogId> },
}

/// A node by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) process_id: u32,
    pub(crate) phase: String,
    pub(crate) role: Role,
    pub(crate) applied_index: Index,
    pub(crate) storage_sync: bool,
    /// At which mark its state was found to differ from the majority's.
    pub(crate) fenced: Option<Index>,
    pub(crate) rebuilding: bool,
    pub(crate) read_lease: bool,
    pub(crate) departure: Departure,
}

/// Why bytes from a peer are no request or answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("not known to this version")]
    Unknown,
    #[error("founding record: {0}")]
    Record(#[from] RecordError),
}

impl From<prost::DecodeError> for WireError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

mod ends;
mod wire;

use ends::{decode_ended, encode_ended, wire_write};

impl NodeRequest {
    pub(crate) fn encode(&self) -> Bytes {
        let ask = match self {
            Self::Founding => wire::Ask::Founding(wire::Empty {}),
            Self::Write { command, timeout } => {
                wire::Ask::Write(wire::Write { command: command.clone(), timeout_millis: millis(*timeout) })
            }
            Self::Writes(writes) => wire::Ask::Writes(wire::Writes { writes: writes.iter().map(wire_write).collect() }),
            Self::Outcome(token) => wire::Ask::Outcome(position(*token)),
            Self::Report => wire::Ask::Report(wire::Empty {}),
            Self::Cluster { timeout } => wire::Ask::ClusterWithinMillis(millis(*timeout)),
            Self::Mark { timeout } => wire::Ask::MarkWithinMillis(millis(*timeout)),
            Self::MarkDigest(mark) => wire::Ask::MarkDigest(mark.0),
            Self::SendSnapshot { at_least } => wire::Ask::SnapshotOf(at_least.0),
            Self::Members { ask, options } => wire::Ask::Members(WireAsk::of(ask, *options)),
            Self::Join(join) => wire::Ask::Join(WireJoin::of(join)),
            Self::Standing => wire::Ask::Standing(wire::Empty {}),
            Self::Moved { peer_address, api_address } => {
                wire::Ask::Moved(WireMoved { peer_address: peer_address.clone(), api_address: api_address.clone() })
            }
            Self::HandOver { to } => {
                wire::Ask::HandOver(wire::HandOver { to: to.as_ref().map(|name| name.as_str().to_owned()) })
            }
        };
        wire::Request { ask: Some(ask) }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        Ok(match wire::Request::decode(bytes)?.ask.ok_or(WireError::Unknown)? {
            wire::Ask::Founding(_) => Self::Founding,
            wire::Ask::Write(write) => {
                Self::Write { command: write.command, timeout: Duration::from_millis(write.timeout_millis) }
            }
            wire::Ask::Writes(wire::Writes { writes }) => {
                let passed = |wire::Write { command, timeout_millis }| PassedWrite {
                    command,
                    timeout: Duration::from_millis(timeout_millis),
                };
                Self::Writes(writes.into_iter().map(passed).collect())
            }
            wire::Ask::Outcome(token) => Self::Outcome(log_id(token)),
            wire::Ask::Report(_) => Self::Report,
            wire::Ask::ClusterWithinMillis(within) => Self::Cluster { timeout: Duration::from_millis(within) },
            wire::Ask::MarkWithinMillis(within) => Self::Mark { timeout: Duration::from_millis(within) },
            wire::Ask::MarkDigest(mark) => Self::MarkDigest(Index(mark)),
            wire::Ask::SnapshotOf(at_least) => Self::SendSnapshot { at_least: Index(at_least) },
            wire::Ask::Members(asked) => {
                let (ask, options) = asked.ask()?;
                Self::Members { ask, options }
            }
            wire::Ask::Join(join) => Self::Join(join.join()?),
            wire::Ask::Standing(_) => Self::Standing,
            wire::Ask::Moved(WireMoved { peer_address, api_address }) => Self::Moved { peer_address, api_address },
            wire::Ask::HandOver(wish) => Self::HandOver { to: wish.to.map(NodeName::new) },
        })
    }
}

impl NodeAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let told = match self {
            Self::Failure(why) => wire::Told::Failure(why.clone()),
            Self::Founding(answer) => encode_founder(answer),
            Self::Write(ended) => encode_ended(ended),
            Self::Writes(all) => {
                let answer = |ended| wire::Answer { told: Some(encode_ended(ended)) };
                wire::Told::Writes(wire::Answers { answers: all.iter().map(answer).collect() })
            }
            Self::Outcome(outcome) => wire::Told::Outcome(match outcome {
                Outcome::Applied => 1,
                Outcome::NotApplied => 2,
                Outcome::NotKnownYet => 3,
            }),
            Self::Report(report) => wire::Told::Report(wire::Report {
                version: report.version.clone(),
                process_id: report.process_id,
                phase: report.phase.clone(),
                role: role_code(report.role),
                applied_index: report.applied_index.0,
                unsynced: !report.storage_sync,
                fenced: report.fenced.map(|mark| mark.0),
                rebuilding: report.rebuilding,
                read_lease: report.read_lease,
                departure: departure_code(report.departure),
            }),
            Self::Cluster(status) => wire::Told::Cluster(encode_cluster(status)),
            Self::MarkDigest(digest) => wire::Told::MarkDigest(wire::MarkDigest { digest: digest.clone() }),
            Self::HandedOver(ended) => encode_handed_over(ended),
            Self::Done => wire::Told::Done(wire::Empty {}),
            Self::Members(end) => wire::Told::Members(WireEnd::of(end)),
            Self::Join(answer) => wire::Told::Admission(WireAdmission::of(answer)),
            Self::Standing(answer) => wire::Told::Standing(WireStanding::of(answer)),
        };
        wire::Answer { told: Some(told) }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        Ok(match wire::Answer::decode(bytes)?.told.ok_or(WireError::Unknown)? {
            wire::Told::Failure(why) => Self::Failure(why),
            wire::Told::Blank(blank) => Self::Founding(FounderAnswer::Blank(decode_blank(blank)?)),
            wire::Told::Record(record) => Self::Founding(FounderAnswer::Founded(FoundingRecord::decode(&record)?)),
            told @ (wire::Told::Applied(_) | wire::Told::NotApplied(_) | wire::Told::Unknown(_)) => {
                Self::Write(decode_ended(told)?)
            }
            wire::Told::Writes(wire::Answers { answers }) => {
                let ended = |answer: wire::Answer| decode_ended(answer.told.ok_or(WireError::Unknown)?);
                Self::Writes(answers.into_iter().map(ended).collect::<Result<_, _>>()?)
            }
            wire::Told::Outcome(code) => Self::Outcome(match code {
                1 => Outcome::Applied,
                2 => Outcome::NotApplied,
                _ => Outcome::NotKnownYet,
            }),
            wire::Told::Report(report) => Self::Report(Report {
                version: report.version,
                process_id: report.process_id,
                phase: report.phase,
                role: role(report.role)?,
                applied_index: Index(report.applied_index),
                storage_sync: !report.unsynced,
                fenced: report.fenced.map(Index),
                rebuilding: report.rebuilding,
                read_lease: report.read_lease,
                departure: departure(report.departure),
            }),
            wire::Told::Cluster(status) => Self::Cluster(decode_cluster(status)?),
            wire::Told::MarkDigest(answer) => Self::MarkDigest(answer.digest),
            wire::Told::HandedOver(moved) => Self::HandedOver(Ok(LeaderMoved {
                from: NodeName::new(moved.from),
                to: NodeName::new(moved.to),
                term: Term(moved.term),
            })),
            wire::Told::NotHandedOver(not) => Self::HandedOver(Err(decode_not_handed_over(not)?)),
            wire::Told::Done(_) => Self::Done,
            wire::Told::Members(end) => Self::Members(end.end()?),
            wire::Told::Admission(admission) => Self::Join(admission.answer()?),
            wire::Told::Standing(standing) => Self::Standing(standing.answer()?),
        })
    }
}

fn departure_code(departure: Departure) -> u32 {
    match departure {
        Departure::Stays => 0,
        Departure::Drained => 1,
        Departure::Cleared => 2,
    }
}

/// A number of a later version says at least that it is about to stop.
fn departure(code: u32) -> Departure {
    match code {
        0 => Departure::Stays,
        1 => Departure::Drained,
        _ => Departure::Cleared,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn position(id: LogId) -> wire::Position {
    wire::Position { index: id.index.0, term: id.term.0 }
}

fn log_id(position: wire::Position) -> LogId {
    LogId::new(Index(position.index), Term(position.term))
}

fn role_code(role: Role) -> u32 {
    match role {
        Role::Follower => 1,
        Role::PreCandidate => 2,
        Role::Candidate => 3,
        Role::Leader => 4,
    }
}

fn role(code: u32) -> Result<Role, WireError> {
    Ok(match code {
        1 => Role::Follower,
        2 => Role::PreCandidate,
        3 => Role::Candidate,
        4 => Role::Leader,
        other => return Err(WireError::Malformed(format!("role {other}"))),
    })
}

fn encode_founder(answer: &FounderAnswer) -> wire::Told {
    match answer {
        FounderAnswer::Silent(why) | FounderAnswer::Unusable(why) => wire::Told::Failure(why.clone()),
        FounderAnswer::Founded(record) => wire::Told::Record(record.encode()),
        FounderAnswer::Blank(node) => wire::Told::Blank(wire::Blank {
            node: Some(WireMember::of(&Member {
                id: raft_core::types::NodeId(0),
                name: node.name.clone(),
                incarnation: node.incarnation,
                peer_address: node.peer_address.clone(),
                api_address: node.api_address.clone(),
            })),
            list: node.list.iter().map(|name| name.as_str().to_owned()).collect(),
        }),
    }
}

fn decode_blank(blank: wire::Blank) -> Result<BlankNode, WireError> {
    let Member { name, incarnation, peer_address, api_address, .. } =
        blank.node.ok_or_else(|| WireError::Malformed("no node".into()))?.member()?;
    let list = blank.list.iter().map(NodeName::new).collect();
    Ok(BlankNode { name, incarnation, peer_address, api_address, list })
}

fn encode_handed_over(ended: &Result<LeaderMoved, HandOverError>) -> wire::Told {
    let (why, text) = match ended {
        Ok(LeaderMoved { from, to, term }) => {
            let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
            return wire::Told::HandedOver(wire::HandedOver { from, to, term: term.0 });
        }
        Err(HandOverError::NotLeader) => (1, ""),
        Err(HandOverError::NoLeader(text)) => (2, text.as_str()),
        Err(HandOverError::Refused(text)) => (3, text.as_str()),
        Err(HandOverError::Failed(text)) => (4, text.as_str()),
        Err(HandOverError::NoAnswer(text)) => (5, text.as_str()),
        Err(HandOverError::Stopping) => (6, ""),
    };
    wire::Told::NotHandedOver(wire::NotHandedOver { why, text: text.to_owned() })
}

fn decode_not_handed_over(not: wire::NotHandedOver) -> Result<HandOverError, WireError> {
    let text = not.text;
    Ok(match not.why {
        1 => HandOverError::NotLeader,
        2 => HandOverError::NoLeader(text),
        3 => HandOverError::Refused(text),
        4 => HandOverError::Failed(text),
        5 => HandOverError::NoAnswer(text),
        6 => HandOverError::Stopping,
        other => return Err(WireError::Malformed(format!("reason {other} of a handover"))),
    })
}

fn encode_cluster(status: &ClusterStatus) -> wire::Cluster {
    wire::Cluster {
        answered_by: status.answered_by.as_str().to_owned(),
        not_leader_view: status.not_leader_view.clone(),
        cluster: status.cluster.map(|cluster| cluster.0.to_be_bytes().to_vec()),
        healthy: status.healthy,
        reasons: status.reasons.clone(),
        failure_tolerance: status.failure_tolerance,
        leader: status.leader.as_ref().map(|name| name.as_str().to_owned()),
        term: status.term.0,
        commit_index: status.commit_index.0,
        last: position(status.last),
        members: status.members.iter().map(encode_member).collect(),
        membership: Some(wire::Membership {
            index: status.membership.index.0,
            committed: status.membership.committed,
            phase: status.membership.phase.clone(),
            change: status.membership.change.0,
            leads_to: status.membership.leads_to.clone(),
            pending: status.membership.pending.iter().map(WirePending::of).collect(),
        }),
    }
}

fn encode_member(status: &MemberStatus) -> wire::MemberStatus {
    wire::MemberStatus {
        member: WireMember::of(&status.member),
        voter: status.voter,
        role: status.role.map(role_code),
        match_index: status.match_index.map(|index| index.0),
        applied_index: status.applied_index.map(|index| index.0),
        lag_entries: status.lag_entries,
        last_contact_micros: status.last_contact.map(|ago| u64::try_from(ago.as_micros()).unwrap_or(u64::MAX)),
        version: status.version.clone(),
        process_id: status.process_id,
        phase: status.phase.clone(),
        unreachable: status.unreachable.clone(),
        storage_sync: status.storage_sync,
        snapshot: status.snapshot.as_ref().map(WireSnapshot::of),
        fenced: status.fenced.map(|mark| mark.0),
        rebuilding: status.rebuilding,
        read_lease: status.read_lease,
        departure: departure_code(status.departure),
        standing: standing_code(status.standing),
        next: standing_code(status.next),
        promotes: status.promotes,
        caught_up_millis: status.caught_up_for.map(millis),
    }
}

fn standing_code(standing: Standing) -> u32 {
    match standing {
        Standing::Outside => 1,
        Standing::Learner => 2,
        Standing::Voter => 3,
    }
}

/// A version without learners has voters only, and says nothing here.
fn standing(code: u32, voter: bool) -> Result<Standing, WireError> {
    Ok(match code {
        0 if voter => Standing::Voter,
        0 | 1 => Standing::Outside,
        2 => Standing::Learner,
        3 => Standing::Voter,
        other => return Err(WireError::Malformed(format!("standing {other}"))),
    })
}

fn decode_membership(membership: wire::Membership) -> MembershipStatus {
    MembershipStatus {
        index: Index(membership.index),
        committed: membership.committed,
        phase: membership.phase,
        change: Index(membership.change),
        leads_to: membership.leads_to,
        pending: membership.pending.into_iter().map(WirePending::pending).collect(),
    }
}

fn decode_cluster(status: wire::Cluster) -> Result<ClusterStatus, WireError> {
    let cluster = status.cluster.map(|bytes| random_number(&bytes, "cluster")).transpose()?.map(ClusterId);
    Ok(ClusterStatus {
        answered_by: NodeName::new(status.answered_by),
        not_leader_view: status.not_leader_view,
        cluster,
        healthy: status.healthy,
        reasons: status.reasons,
        failure_tolerance: status.failure_tolerance,
        leader: status.leader.map(NodeName::new),
        term: Term(status.term),
        commit_index: Index(status.commit_index),
        last: log_id(status.last),
        members: status.members.into_iter().map(decode_member).collect::<Result<_, _>>()?,
        membership: status.membership.map(decode_membership).unwrap_or_default(),
    })
}

fn decode_member(status: wire::MemberStatus) -> Result<MemberStatus, WireError> {
    Ok(MemberStatus {
        member: status.member.member()?,
        voter: status.voter,
        role: status.role.map(role).transpose()?,
        match_index: status.match_index.map(Index),
        applied_index: status.applied_index.map(Index),
        lag_entries: status.lag_entries,
        last_contact: status.last_contact_micros.map(Duration::from_micros),
        version: status.version,
        process_id: status.process_id,
        phase: status.phase,
        unreachable: status.unreachable,
        storage_sync: status.storage_sync,
        snapshot: status.snapshot.map(|snapshot| snapshot.snapshot()),
        fenced: status.fenced.map(Index),
        rebuilding: status.rebuilding,
        read_lease: status.read_lease,
        departure: departure(status.departure),
        standing: standing(status.standing, status.voter)?,
        next: standing(status.next, status.voter)?,
        promotes: status.promotes,
        caught_up_for: status.caught_up_millis.map(Duration::from_millis),
    })
}

#[cfg(test)]
mod tests;
