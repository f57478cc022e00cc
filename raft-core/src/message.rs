//! What peers say to each other. The bytes are `raft-net-quic`'s business; see `docs/wire.md`.

use std::time::Duration;

use crate::handover::Standing;
use crate::runs::Span;
use crate::types::{Entry, GroupId, Index, LogId, NodeId, Term};

/// A message with its addresses and its term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who sends it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// The sender's term; for [`Message::PreVote`] and a granted [`Message::PreVoteResponse`] the term that the asker
    /// would campaign in; for the answers to [`Message::FetchSuffix`] the asker's term.
    pub term: Term,
    /// What it says.
    pub message: Message,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me?", asked before the term is raised, so that a node that was cut off cannot depose a
    /// leader that works. Promises nothing and changes no state. Thesis 9.6.
    PreVote {
        /// The last entry of the asker's log.
        last: LogId,
    },
    /// Answer to [`Message::PreVote`]. A refusal carries the refuser's own term, so that a node that lags in terms
    /// learns of it.
    PreVoteResponse {
        /// Whether it would.
        granted: bool,
        /// In a refusal, where the refuser's log ends, if that is the reason: it is more up to date than the asker's,
        /// and no leader was heard for an election timeout. The asker may fetch what it lacks.
        ahead: Option<LogId>,
    },
    /// "What follows `prev` in your log?", asked by a node that would be elected but for its log, of one that refused it
    /// ([`Message::PreVoteResponse`]). Neither question nor answer changes any term. ADR 16.
    FetchSuffix {
        /// The last entry of the asker's log that may be in the other's.
        prev: LogId,
    },
    /// Answer to [`Message::FetchSuffix`], in the asker's term: entries of a log that is more up to date, from the one
    /// after `entries.prev` on, as many as an append may hold. They travel beside it, as an append's do. They are no
    /// leader's word: nothing is verified or committed by them.
    Suffix {
        /// The entries, by name; at least one.
        entries: Span,
        /// Where the sender's log ends.
        last: LogId,
    },
    /// Answer to [`Message::FetchSuffix`], in the asker's term: these entries do not follow `prev` here.
    SuffixRefused {
        /// The `prev.index` that was asked for.
        prev: Index,
        /// The newest entry of this log that could be in the asker's: ask from there or before. None when nothing is to
        /// be had: a leader was heard, the log is not ahead any more, or what is needed was compacted.
        hint: Option<LogId>,
    },
    /// RequestVote: "vote for me in this term". Raft §5.2.
    Vote {
        /// The last entry of the candidate's log.
        last: LogId,
        /// The leader wants it: voters answer though they hear from that leader. Thesis 3.10, 4.2.3.
        handover: bool,
    },
    /// Answer to [`Message::Vote`]; a grant leaves only after it is durable.
    VoteResponse {
        /// Whether the vote was given.
        granted: bool,
        /// How long ago the voter last acknowledged any leader in any term, at least, when it was asked; zero means just
        /// now. Leases of that leader may run that much shorter from the vote's arrival on. \[RL-STAMP\]
        silence: Duration,
    },
    /// AppendEntries with its consistency check (`entries.prev`). The entries themselves travel beside it, in
    /// [`PeerMessage::entries`]. Without entries it is a probe. Raft §5.3.
    Append {
        /// The entries, by name.
        entries: Span,
        /// The leader's commit index.
        commit: Index,
    },
    /// The follower's log equals the leader's up to `matched`, durably.
    AppendAccepted {
        /// The last index that is known equal and durable.
        matched: Index,
    },
    /// The follower's log does not hold the entry before the first one.
    AppendRejected {
        /// The `prev.index` that was asked for: tells an old rejection from a current one.
        prev: Index,
        /// The newest entry of the follower's log that could still match: its index is at most `prev` and its term at
        /// most the term asked for. The leader skips at least one whole term per rejection (Raft §5.3, last
        /// paragraphs).
        hint: LogId,
    },
    /// "I lead", with the commit index and the number of a round. An answer to it confirms leadership at the time the
    /// round was sent.
    Heartbeat {
        /// The leader's commit index, at most what this follower is known to match.
        commit: Index,
        /// The round; rises within a term.
        round: u64,
        /// The leader wants this follower to hold a read lease, and to ask for it.
        wants_holder: bool,
    },
    /// Answer to [`Message::Heartbeat`].
    HeartbeatResponse {
        /// The round that is answered; 0 answers a leader of an older term, to teach it this one, and confirms nothing.
        round: u64,
        /// The last index of the follower's log that it has verified against this leader in this term, durable or
        /// not. A leader that sent more, and sees this stand still, sends it again.
        verified: Index,
        /// As much of it as is durable: the same promise as [`Message::AppendAccepted`], in case that one was lost.
        matched: Index,
        /// Whether the follower may be handed the leadership, and how much it is wanted as leader.
        standing: Standing,
    },
    /// The leader wants its follower to lead: "campaign at once". Thesis 3.10.
    TimeoutNow {
        /// The last entry of the leader's log, which is that of the follower's.
        last: LogId,
        /// The leader must not serve: the follower shall obey though it be drained.
        drained_too: bool,
    },
    /// A follower asks for an index at which it may serve linearizable reads. Thesis 6.4.
    ReadIndex {
        /// Names the asker's batch; unique over all its process lives, so that an old answer never serves a new read.
        number: u64,
    },
    /// A follower asks for a read lease. ADR 20.
    LeaseRequest {
        /// Names the request; unique over all the asker's process lives, and higher than all before.
        number: u64,
    },
    /// The leader lends a part of its own lease. It commits nothing that the follower does not have until the lease has
    /// surely run out.
    LeaseGrant {
        /// The request that is answered.
        number: u64,
        /// How long the follower may use it, by its own clock, **from the sending of the request on**.
        usable: Duration,
        /// The leader's last index: the follower may use the lease once it has verified its log up to here, in this term.
        index: Index,
    },
    /// "You are no member any more": the answer to whatever a node says that only a member would. The configuration of
    /// entry `configuration` is committed and leaves it out. Ids are never given again, so this stays true; it is
    /// believed whatever its term. Thesis 4.2.3
    Removed {
        /// The entry.
        configuration: Index,
    },
    /// Answer to [`Message::ReadIndex`], after the leader has confirmed that it still leads.
    ReadIndexResponse {
        /// The batch that is answered.
        number: u64,
        /// Reads of the batch may be served once this is applied.
        index: Index,
    },
}

impl Message {
    /// The entries that travel beside it, by name, if it is of a kind that has some.
    #[must_use]
    pub fn entries(&self) -> Option<&Span> {
        match self {
            Self::Append { entries, .. } | Self::Suffix { entries, .. } => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn entries_mut(&mut self) -> Option<&mut Span> {
        match self {
            Self::Append { entries, .. } | Self::Suffix { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// A short name for logs, metrics and scripts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PreVote { .. } => "PreVote",
            Self::PreVoteResponse { .. } => "PreVoteResponse",
            Self::FetchSuffix { .. } => "FetchSuffix",
            Self::Suffix { .. } => "Suffix",
            Self::SuffixRefused { .. } => "SuffixRefused",
            Self::Vote { .. } => "Vote",
            Self::VoteResponse { .. } => "VoteResponse",
            Self::Append { .. } => "Append",
            Self::AppendAccepted { .. } => "AppendAccepted",
            Self::AppendRejected { .. } => "AppendRejected",
            Self::Heartbeat { .. } => "Heartbeat",
            Self::HeartbeatResponse { .. } => "HeartbeatResponse",
            Self::TimeoutNow { .. } => "TimeoutNow",
            Self::ReadIndex { .. } => "ReadIndex",
            Self::ReadIndexResponse { .. } => "ReadIndexResponse",
            Self::LeaseRequest { .. } => "LeaseRequest",
            Self::LeaseGrant { .. } => "LeaseGrant",
            Self::Removed { .. } => "Removed",
        }
    }
}

/// What a [`Transport`](crate::ports::Transport) carries: an envelope and, for an append or a suffix, the entries that it
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// Which Raft group it belongs to.
    pub group: GroupId,
    /// The message.
    pub envelope: Envelope,
    /// The entries of a [`Message::Append`] or [`Message::Suffix`]: exactly those that its span names. Empty otherwise.
    pub entries: Vec<Entry>,
}
