//! The messages as protobuf has them; `docs/node-requests.md` gives their numbers.

use bytes::Bytes;

use crate::founding::WireMember;
use crate::members::wire::{WireAdmission, WireAsk, WireEnd, WireJoin, WireMoved, WirePending, WireStanding};
use crate::snapshots::wire::WireSnapshot;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 18")]
    pub(super) ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Ask {
    #[prost(message, tag = "1")]
    Founding(Empty),
    #[prost(message, tag = "2")]
    Write(Write),
    #[prost(message, tag = "3")]
    Outcome(Position),
    #[prost(message, tag = "4")]
    Report(Empty),
    #[prost(uint64, tag = "5")]
    ClusterWithinMillis(u64),
    #[prost(uint64, tag = "6")]
    MarkWithinMillis(u64),
    #[prost(uint64, tag = "7")]
    MarkDigest(u64),
    #[prost(uint64, tag = "8")]
    SnapshotOf(u64),
    #[prost(message, tag = "10")]
    Members(WireAsk),
    #[prost(message, tag = "11")]
    Join(WireJoin),
    #[prost(message, tag = "12")]
    Standing(Empty),
    #[prost(message, tag = "13")]
    Moved(WireMoved),
    #[prost(message, tag = "16")]
    HandOver(HandOver),
    #[prost(message, tag = "18")]
    Writes(Writes),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Writes {
    #[prost(message, repeated, tag = "1")]
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HandOver {
    #[prost(string, optional, tag = "1")]
    pub(super) to: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Write {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) command: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) timeout_millis: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Position {
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
    #[prost(uint64, tag = "2")]
    pub(super) term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Answer {
    #[prost(oneof = "Told", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18")]
    pub(super) told: Option<Told>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Told {
    #[prost(string, tag = "1")]
    Failure(String),
    #[prost(message, tag = "2")]
    Blank(Blank),
    #[prost(bytes = "bytes", tag = "3")]
    Record(Bytes),
    #[prost(message, tag = "4")]
    Applied(Applied),
    #[prost(message, tag = "5")]
    NotApplied(NotApplied),
    #[prost(message, tag = "6")]
    Unknown(Unknown),
    #[prost(uint32, tag = "7")]
    Outcome(u32),
    #[prost(message, tag = "8")]
    Report(Report),
    #[prost(message, tag = "9")]
    Cluster(Cluster),
    #[prost(message, tag = "10")]
    MarkDigest(MarkDigest),
    #[prost(message, tag = "11")]
    Done(Empty),
    #[prost(message, tag = "13")]
    Members(WireEnd),
    #[prost(message, tag = "14")]
    Admission(WireAdmission),
    #[prost(message, tag = "15")]
    Standing(WireStanding),
    #[prost(message, tag = "16")]
    HandedOver(HandedOver),
    #[prost(message, tag = "17")]
    NotHandedOver(NotHandedOver),
    #[prost(message, tag = "18")]
    Writes(Answers),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Answers {
    #[prost(message, repeated, tag = "1")]
    pub(super) answers: Vec<Answer>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HandedOver {
    #[prost(string, tag = "1")]
    pub(super) from: String,
    #[prost(string, tag = "2")]
    pub(super) to: String,
    #[prost(uint64, tag = "3")]
    pub(super) term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NotHandedOver {
    #[prost(uint32, tag = "1")]
    pub(super) why: u32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MarkDigest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) digest: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Blank {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<WireMember>,
    #[prost(string, repeated, tag = "2")]
    pub(super) list: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Applied {
    #[prost(message, required, tag = "1")]
    pub(super) id: Position,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) answer: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NotApplied {
    #[prost(uint32, tag = "1")]
    pub(super) why: u32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
    #[prost(uint64, tag = "3")]
    pub(super) bytes: u64,
    #[prost(uint64, tag = "4")]
    pub(super) limit: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Unknown {
    #[prost(uint32, tag = "1")]
    pub(super) why: u32,
    #[prost(string, tag = "2")]
    pub(super) text: String,
    #[prost(message, optional, tag = "3")]
    pub(super) token: Option<Position>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Report {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(uint32, tag = "2")]
    pub(super) process_id: u32,
    #[prost(string, tag = "3")]
    pub(super) phase: String,
    #[prost(uint32, tag = "4")]
    pub(super) role: u32,
    #[prost(uint64, tag = "5")]
    pub(super) applied_index: u64,
    #[prost(bool, tag = "6")]
    pub(super) unsynced: bool,
    #[prost(uint64, optional, tag = "7")]
    pub(super) fenced: Option<u64>,
    #[prost(bool, tag = "8")]
    pub(super) rebuilding: bool,
    #[prost(bool, tag = "9")]
    pub(super) read_lease: bool,
    /// 0 it stays, 1 it is drained, 2 it may stop.
    #[prost(uint32, tag = "10")]
    pub(super) departure: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Cluster {
    #[prost(string, tag = "1")]
    pub(super) answered_by: String,
    #[prost(string, optional, tag = "2")]
    pub(super) not_leader_view: Option<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) cluster: Option<Vec<u8>>,
    #[prost(bool, tag = "4")]
    pub(super) healthy: bool,
    #[prost(string, repeated, tag = "5")]
    pub(super) reasons: Vec<String>,
    #[prost(uint32, tag = "6")]
    pub(super) failure_tolerance: u32,
    #[prost(string, optional, tag = "7")]
    pub(super) leader: Option<String>,
    #[prost(uint64, tag = "8")]
    pub(super) term: u64,
    #[prost(uint64, tag = "9")]
    pub(super) commit_index: u64,
    #[prost(message, required, tag = "10")]
    pub(super) last: Position,
    #[prost(message, repeated, tag = "11")]
    pub(super) members: Vec<MemberStatus>,
    #[prost(message, optional, tag = "12")]
    pub(super) membership: Option<Membership>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Membership {
    #[prost(uint64, tag = "1")]
    pub(super) index: u64,
    #[prost(bool, tag = "2")]
    pub(super) committed: bool,
    #[prost(string, tag = "3")]
    pub(super) phase: String,
    #[prost(uint64, tag = "4")]
    pub(super) change: u64,
    #[prost(string, tag = "5")]
    pub(super) leads_to: String,
    #[prost(message, repeated, tag = "6")]
    pub(super) pending: Vec<WirePending>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MemberStatus {
    #[prost(message, required, tag = "1")]
    pub(super) member: WireMember,
    #[prost(bool, tag = "2")]
    pub(super) voter: bool,
    #[prost(uint32, optional, tag = "3")]
    pub(super) role: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) match_index: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) applied_index: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) lag_entries: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) last_contact_micros: Option<u64>,
    #[prost(string, optional, tag = "8")]
    pub(super) version: Option<String>,
    #[prost(uint32, optional, tag = "9")]
    pub(super) process_id: Option<u32>,
    #[prost(string, optional, tag = "10")]
    pub(super) phase: Option<String>,
    #[prost(string, optional, tag = "11")]
    pub(super) unreachable: Option<String>,
    #[prost(bool, optional, tag = "12")]
    pub(super) storage_sync: Option<bool>,
    #[prost(message, optional, tag = "13")]
    pub(super) snapshot: Option<WireSnapshot>,
    #[prost(uint64, optional, tag = "14")]
    pub(super) fenced: Option<u64>,
    #[prost(bool, tag = "15")]
    pub(super) rebuilding: bool,
    /// 1 none, 2 learner, 3 voter.
    #[prost(uint32, tag = "16")]
    pub(super) standing: u32,
    #[prost(uint32, tag = "17")]
    pub(super) next: u32,
    #[prost(bool, tag = "18")]
    pub(super) promotes: bool,
    #[prost(uint64, optional, tag = "19")]
    pub(super) caught_up_millis: Option<u64>,
    #[prost(bool, optional, tag = "20")]
    pub(super) read_lease: Option<bool>,
    /// As in a report.
    #[prost(uint32, tag = "21")]
    pub(super) departure: u32,
}
