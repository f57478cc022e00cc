//! The rules of the leases broken one at a time: the model must find what goes wrong.

/// What one model does instead of a rule. The numbers are those of the rules in docs/lease-model.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    // Rule 1: the leader's lease.
    /// The leader counts its lease from when it has the acknowledgements, not from when it sent the round.
    LeaderLeaseFromReceipt,
    /// The leader reads under its lease before an entry of its own term is committed.
    LeaderReadsBeforeItsTermCommits,

    // Rule 2: a follower's lease.
    /// The follower counts its lease from when it has the grant, not from when it asked.
    FollowerLeaseFromReceipt,
    /// A grant is of the full duration, whatever is left of the leader's own lease.
    GrantBeyondOwnLease,
    /// Whoever is a member of the leader's latest configuration gets a lease, although it may never be committed.
    GrantToUncommittedMember,
    /// The lease is used before the log is verified up to the index that the grant names.
    UsedBeforeNamedIndex,
    /// What was verified against an earlier leader counts for the index that this leader names.
    VerifiedInAnotherTerm,
    /// A node keeps its lease when it acknowledges a leader of a higher term.
    OldLeaseKeptInNewTerm,
    /// The index that an earlier lease named counts for the next one, although there was a gap between them.
    NamedIndexKeptOverGap,
    /// A node whose log holds a configuration without it keeps its lease.
    RemovedMemberKeepsLease,
    /// A grant that answers a request from before a restart is taken for the answer to the latest request.
    GrantOfEarlierLife,

    // The commit rule.
    /// A quorum is enough, as in Raft.
    CommitIgnoresHolders,
    /// The table of holders is filtered by the latest configuration.
    CommitIgnoresRemovedHolder,

    // Clocks.
    /// A promise is used and honoured for its length, without either margin.
    DriftIgnored,
    /// A promise is used for its length.
    DriftIgnoredByHolder,
    /// A promise is honoured for its length.
    DriftIgnoredByGiver,
    /// The stamp of an acknowledgement, and the report, are of an instant that was read before an earlier pause.
    StaleInstantAtVoter,
    /// The end of a grant is counted from an instant that was read before an earlier pause.
    StaleInstantAtGiver,
    /// The wait of a new leader is counted from an instant that was read before an earlier pause.
    StaleInstantAtElection,

    // Rule 3: reading.
    /// The lease is checked before the read has begun.
    CheckOlderThanRead,
    /// The index is noted before the lease is checked, and the index that the lease names is not regarded.
    NoteOlderThanLease,
    /// A leader that noted its index before it checked its lease does not look at its commit index again.
    LeaderKeepsIndexNotedFirst,

    // Rule 4: a new leader.
    /// It commits as soon as a quorum has its first entry.
    NewLeaderDoesNotWait,
    /// It waits until its voters have acknowledged, and forgets the learners.
    WaitsOnlyForVoters,
    /// It waits for the members of its own configuration, though that may never have been in force for its predecessor.
    PreviousConfigurationNotCounted,
    /// The candidate does not report when it acknowledged a leader itself.
    CandidateNotCounted,
    /// A leader does not acknowledge itself.
    OldLeaderNotCounted,
    /// A node that has restarted reports that it never acknowledged a leader.
    RestartedVoterSaysLongAgo,
    /// The report is taken after the new term has cleared what it is taken from.
    ReportAfterTheTermClearedIt,
    /// The wait counts from when the candidate began to campaign, not from when it has the vote.
    CountedFromCampaignStart,
    /// An acknowledgement is not stamped.
    AcknowledgementNotStamped,

    // Raft itself, so that the other checks are seen to see.
    /// A node votes twice in a term.
    VoteTwice,
    /// A leader commits an entry of an earlier term by counting who has it.
    CommitOfEarlierTermByCounting,
    /// A leader answers a linearizable read without a round.
    ReadWithoutRound,
}

impl Broken {
    /// All of them, in the order above.
    pub(crate) const ALL: &[Self] = &[
        Self::LeaderLeaseFromReceipt,
        Self::LeaderReadsBeforeItsTermCommits,
        Self::FollowerLeaseFromReceipt,
        Self::GrantBeyondOwnLease,
        Self::GrantToUncommittedMember,
        Self::UsedBeforeNamedIndex,
        Self::VerifiedInAnotherTerm,
        Self::OldLeaseKeptInNewTerm,
        Self::NamedIndexKeptOverGap,
        Self::RemovedMemberKeepsLease,
        Self::GrantOfEarlierLife,
        Self::CommitIgnoresHolders,
        Self::CommitIgnoresRemovedHolder,
        Self::DriftIgnored,
        Self::DriftIgnoredByHolder,
        Self::DriftIgnoredByGiver,
        Self::StaleInstantAtVoter,
        Self::StaleInstantAtGiver,
        Self::StaleInstantAtElection,
        Self::CheckOlderThanRead,
        Self::NoteOlderThanLease,
        Self::LeaderKeepsIndexNotedFirst,
        Self::NewLeaderDoesNotWait,
        Self::WaitsOnlyForVoters,
        Self::PreviousConfigurationNotCounted,
        Self::CandidateNotCounted,
        Self::OldLeaderNotCounted,
        Self::RestartedVoterSaysLongAgo,
        Self::ReportAfterTheTermClearedIt,
        Self::CountedFromCampaignStart,
        Self::AcknowledgementNotStamped,
        Self::VoteTwice,
        Self::CommitOfEarlierTermByCounting,
        Self::ReadWithoutRound,
    ];
}
