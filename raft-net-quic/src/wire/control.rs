//! Control parts of Raft messages and requests. Fields are only ever added, under new tags; a reader skips those that
//! it does not know. Tags that `docs/wire.md` reserves stay unused here.

/// [`raft_core::message::Message::PreVote`], `Vote` and `TimeoutNow`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ask {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) last_index: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) last_term: u64,
    /// In a `Vote`: the leader wants it.
    #[prost(bool, tag = "6")]
    pub(crate) handover: bool,
    /// In a `TimeoutNow`: though its receiver be drained.
    #[prost(bool, tag = "7")]
    pub(crate) drained_too: bool,
}

/// `PreVoteResponse` and `VoteResponse`. `ahead_index` is zero where the log is no reason to refuse.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AskAnswer {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(bool, tag = "4")]
    pub(crate) granted: bool,
    /// In a `VoteResponse`: nanoseconds since the voter last acknowledged a leader, at least; zero means just now.
    #[prost(uint64, tag = "5")]
    pub(crate) silence: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) ahead_index: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) ahead_term: u64,
}

/// `Append`, and `Suffix`, which has no `commit` and says where its sender's log ends. The entries follow `prev` without a
/// gap; list `i` of each kind belongs to entry `prev_index + 1 + i`, and its payload is the next `lengths[i]` bytes of the
/// body.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Append {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) prev_index: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) prev_term: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) commit: u64,
    #[prost(uint64, repeated, tag = "7")]
    pub(crate) terms: Vec<u64>,
    #[prost(bytes = "bytes", tag = "8")]
    pub(crate) kinds: bytes::Bytes,
    #[prost(uint32, repeated, tag = "9")]
    pub(crate) lengths: Vec<u32>,
    #[prost(fixed32, repeated, tag = "10")]
    pub(crate) checksums: Vec<u32>,
    #[prost(uint64, tag = "11")]
    pub(crate) last_index: u64,
    #[prost(uint64, tag = "12")]
    pub(crate) last_term: u64,
}

/// `AppendAccepted`. Tags 5 and 6 are reserved.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AppendAccepted {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) matched: u64,
}

/// `AppendRejected`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AppendRejected {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) prev: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) hint_index: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) hint_term: u64,
}

/// `FetchSuffix`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FetchSuffix {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) prev_index: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) prev_term: u64,
}

/// `SuffixRefused`. The beginning of a log (`0@0`) is a hint too, so whether there is one is said apart.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SuffixRefused {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) prev: u64,
    #[prost(bool, tag = "5")]
    pub(crate) has_hint: bool,
    #[prost(uint64, tag = "6")]
    pub(crate) hint_index: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) hint_term: u64,
}

/// `Heartbeat`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Heartbeat {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) commit: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) round: u64,
    #[prost(bool, tag = "6")]
    pub(crate) wants_holder: bool,
}

/// `HeartbeatResponse`. Tags 7 and 8 are reserved.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeartbeatResponse {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) round: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) verified: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) matched: u64,
    /// 0: not said, which means the default priority; 1: unfit; 2 to 102: the priority and 2; 103: drained.
    #[prost(uint32, tag = "9")]
    pub(crate) standing: u32,
}

/// `ReadIndex`, and `ReadIndexResponse`, whose `index` is zero in the question.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReadIndex {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) index: u64,
}

/// `LeaseRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaseRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
}

/// `LeaseGrant`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaseGrant {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
    /// Nanoseconds.
    #[prost(uint64, tag = "5")]
    pub(crate) usable: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) index: u64,
}

/// `Removed`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Removed {
    #[prost(uint64, tag = "1")]
    pub(crate) from: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) to: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) configuration: u64,
}

/// Goes before the body of a request: how long the asker waits.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(uint64, tag = "1")]
    pub(crate) timeout_ms: u64,
}

/// Goes before the body of an answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {}

/// The request was not given to the node; it has no effect.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NotRun {
    #[prost(string, tag = "1")]
    pub(crate) reason: String,
}
