//! What peers say to each other. The bytes are `raft-net-quic`'s business; see `docs/wire.md`.

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
    /// would campaign in.
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
    },
    /// RequestVote: "vote for me in this term". Raft §5.2.
    Vote {
        /// The last entry of the candidate's log.
        last: LogId,
    },
    /// Answer to [`Message::Vote`]; a grant leaves only after it is durable.
    VoteResponse {
        /// Whether the vote was given.
        granted: bool,
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
    },
    /// A follower asks for an index at which it may serve linearizable reads. Thesis 6.4.
    ReadIndex {
        /// Names the asker's batch; unique over all its process lives, so that an old answer never serves a new read.
        number: u64,
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
    /// A short name for logs, metrics and scripts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PreVote { .. } => "PreVote",
            Self::PreVoteResponse { .. } => "PreVoteResponse",
            Self::Vote { .. } => "Vote",
            Self::VoteResponse { .. } => "VoteResponse",
            Self::Append { .. } => "Append",
            Self::AppendAccepted { .. } => "AppendAccepted",
            Self::AppendRejected { .. } => "AppendRejected",
            Self::Heartbeat { .. } => "Heartbeat",
            Self::HeartbeatResponse { .. } => "HeartbeatResponse",
            Self::ReadIndex { .. } => "ReadIndex",
            Self::ReadIndexResponse { .. } => "ReadIndexResponse",
            Self::Removed { .. } => "Removed",
        }
    }
}

/// What a [`Transport`](crate::ports::Transport) carries: an envelope and, for an append, the entries that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// Which Raft group it belongs to.
    pub group: GroupId,
    /// The message.
    pub envelope: Envelope,
    /// The entries of a [`Message::Append`]: exactly those that its span names. Empty otherwise.
    pub entries: Vec<Entry>,
}
