//! What runs are meant to reach: rare situations, by name. A simulator that never gets there proves nothing about them.

/// Declares the goals with what each means.
macro_rules! goals {
    ($($(#[doc = $meaning:literal])+ $goal:ident,)*) => {
        /// A situation that runs must reach now and then.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Goal {
            $($(#[doc = $meaning])+ $goal,)*
        }

        impl Goal {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$goal,)*];

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$goal => concat!($($meaning),+).trim_ascii(),)*
                }
            }
        }
    };
}

goals! {
    /// A node was elected.
    LeaderElected,
    /// A cluster of one elected itself.
    SingleVoterElected,
    /// Two nodes campaigned in one term.
    TwoCandidatesInOneTerm,
    /// A candidate gave up and asked again in a later term.
    CandidateTriedAgain,
    /// A candidate heard the leader of its term.
    CandidateYielded,
    /// A grant arrived after its term was over.
    GrantArrivedLate,
    /// A PreVote arrived whose term was no news.
    StalePreVoteDelivered,
    /// A PreVote was refused.
    PreVoteRefused,
    /// A refusal said that the log was the reason, and where the refuser's ends.
    RefusedForItsLog,
    /// A node took entries of a log that was ahead of its own.
    SuffixFetched,
    /// They took the place of others.
    SuffixReplacedTail,
    /// A node was elected with entries that it had fetched.
    ElectedAfterSuffix,
    /// It was asked for entries behind the place where the logs part.
    SuffixHinted,
    /// Nothing was to be had where entries were asked for.
    SuffixNotToBeHad,
    /// Entries came that nobody waited for.
    SuffixCameLate,
    /// A log that was ahead held something else where an entry is known committed here.
    AheadAgainstCommitted,
    /// With the faults still on, a majority that a single node reaches went on to commit.
    PartialMajorityWentOn,
    /// A request for a vote of an old term arrived.
    StaleVoteDelivered,
    /// A vote was refused.
    VoteRefused,
    /// A vote was refused by a node that had given it before it was restarted.
    VoteRememberedAcrossRestart,
    /// A vote was given again to the node that had it.
    VoteGrantedAgain,
    /// A node died with its vote on disk and the grant unsent.
    DiedBetweenVoteAndGrant,
    /// A candidate died before its own vote was durable.
    CandidateDied,
    /// Leaders of two terms stood at the same time.
    TwoLeadersAtOnce,
    /// A leader learned of a later term.
    LeaderDeposedByLaterTerm,
    /// A leader stepped down since it heard from no quorum.
    CheckQuorumStepDown,
    /// A leader stepped down since its disk stalled.
    DiskStallStepDown,
    /// A leader died.
    LeaderDied,
    /// A node that had led was elected again.
    FormerLeaderElected,
    /// All nodes were down at once.
    AllDown,
    /// An append was rejected.
    AppendRejected,
    /// A log was repaired by at least three rejections in a row.
    LongRepair,
    /// A suffix was truncated.
    SuffixTruncated,
    /// A suffix was truncated that a process before a restart had written.
    SuffixTruncatedAfterRestart,
    /// A durable suffix was truncated.
    DurableSuffixTruncated,
    /// A suffix was truncated before its write was durable.
    UnsyncedSuffixTruncated,
    /// Logs of two nodes held different entries at one index, both durable.
    LogsDiverged,
    /// An append arrived whose entries were all there already.
    AppendRepeated,
    /// An append arrived that ended before the log.
    ShortAppendDelivered,
    /// An append held entries of more than one term.
    AppendOfSeveralTerms,
    /// Entries for a follower were read from disk.
    FilledFromDisk,
    /// A read for a follower found the log changed.
    FillWasStale,
    /// A read for a follower failed.
    FillFailed,
    /// Figure 8 (c): a quorum holds an entry of an earlier term that is not committed.
    Figure8c,
    /// Entries of an earlier term were committed by one of the leader's own.
    EarlierTermCommitted,
    /// An entry of a leader that was deposed was committed by its successor.
    DeposedLeadersEntryCommitted,
    /// A caller was told that another leader's entry stands at the index of its own.
    Overwritten,
    /// A follower held less than it had acknowledged, and was repaired.
    ForgetfulFollowerRepaired,
    /// An acknowledgement of an earlier term reached a leader.
    StaleAcknowledgementDelivered,
    /// A rejection of an earlier term or position reached a leader.
    StaleRejectionDelivered,
    /// A write came back as durable after its entries had been truncated.
    LateWriteOfTruncatedEntries,
    /// A leader committed what its own disk did not hold yet.
    CommittedBeforeOwnDisk,
    /// A follower learned of a commit from a heartbeat.
    CommitLearnedFromHeartbeat,
    /// A follower learned of a commit from an append.
    CommitLearnedFromAppend,
    /// At least three writes shared a sync.
    GroupCommit,
    /// A crash lost writes that were not synced.
    UnsyncedLost,
    /// A crash kept a part of what was not synced.
    UnsyncedPartlyKept,
    /// A process died between two effects of one step.
    DiedBetweenEffects,
    /// A sync failed.
    SyncFailed,
    /// A leader's sync failed.
    LeadersSyncFailed,
    /// A sync took longer than an election.
    SyncStalled,
    /// A disk forgot what it had acknowledged.
    DiskForgot,
    /// A node that had lost entries was whole again and may vote.
    ForgetfulNodeWhole,
    /// A state machine came back behind its log.
    StateBehindLog,
    /// A state machine came back ahead of a log that lost its end.
    StateAheadOfLog,
    /// A node knew from its own disk that entries were committed.
    CommitRemembered,
    /// A write was acknowledged.
    WriteAcknowledged,
    /// A write went through a node that was not the leader, and was sent there again.
    WriteWasSentElsewhere,
    /// The outcome of a write was unknown when its deadline came.
    WriteUnknown,
    /// A write of unknown outcome was applied.
    UnknownWriteApplied,
    /// A write of unknown outcome was not applied.
    UnknownWriteNotApplied,
    /// A repeated write was answered from its session.
    RepeatedWriteAnswered,
    /// A write of a session came after a later one of it.
    LateWriteOfSession,
    /// A write was rejected since a bound was reached.
    Overloaded,
    /// A command's deadline came before it could be appended, or a read's before it was confirmed.
    DeadlineCame,
    /// A leader served a read.
    LeaderRead,
    /// A follower served a read.
    FollowerRead,
    /// A read waited for the state machine.
    ReadWaitedForApply,
    /// A read outlived the leader that it was asked of.
    ReadOutlivedLeader,
    /// An answer to an earlier question arrived.
    StaleReadIndexResponse,
    /// A message was lost.
    MessageLost,
    /// A message arrived twice.
    MessageRepeated,
    /// A message overtook another.
    MessageOvertook,
    /// A message from long ago arrived again.
    OldMessageReplayed,
    /// A message arrived whose sender's process had died since.
    MessageFromFormerLife,
    /// A message met a cut link.
    MessageCut,
    /// A link was cut in one direction only.
    OneWayCut,
    /// A leader was alone on its side of a cut.
    LeaderIsolated,
    /// A leader stood still.
    LeaderFroze,
    /// A leader woke in a term that was over.
    LeaderWokeDeposed,
    /// The clocks of two nodes differed by a tenth in rate.
    ClocksApart,
    /// With the faults still on, a connected majority went on to commit.
    MajorityWentOn,
    /// The faults left no node that reaches a majority.
    NoMajority,
    /// A node reached a majority whose members did not all reach each other.
    PartialMajority,
    /// A log dropped its beginning.
    LogCompacted,
    /// A log dropped its beginning, and a crash would bring it back.
    CompactionLost,
    /// A snapshot was taken.
    SnapshotTaken,
    /// A snapshot that was there was sent.
    SnapshotReused,
    /// The state of a snapshot took the place of a follower's.
    SnapshotInstalled,
    /// A snapshot kept the entries that followed its last one.
    SnapshotKeptSuffix,
    /// A snapshot dropped a log that was longer and held something else.
    SnapshotReplacedLog,
    /// A snapshot reached beyond the log's end.
    SnapshotExtendedLog,
    /// A snapshot arrived that held no news.
    SnapshotNotNeeded,
    /// A snapshot arrived after its term was over.
    SnapshotOfOldTerm,
    /// A log that lost its end got a snapshot that its state had passed.
    StateAheadOfSnapshot,
    /// The sending of a snapshot broke.
    TransferBroke,
    /// It went on where it was, after a restart of the receiver.
    TransferResumed,
    /// A chunk arrived damaged.
    ChunkDamaged,
    /// A process died between the log's new beginning and the state's.
    RestoreDoneAgain,
    /// A process died while a snapshot was on its way into it.
    DiedDuringInstall,
    /// In a cluster that was healed already, a process died with a whole snapshot that it had not looked at.
    DiedWithSnapshot,
    /// A state was replaced on request.
    StateRebuilt,
    /// A leader's state was found to differ.
    LeaderFenced,
    /// New voters were to catch up first.
    LearnersCatchUp,
    /// A joint configuration was appended.
    JointAppended,
    /// One was committed.
    JointCommitted,
    /// A joint configuration had no voter in both of its sets.
    AllVotersReplaced,
    /// A joint configuration was left towards the voters to be.
    JointLeftTowardsNew,
    /// One was left towards the voters before.
    JointLeftTowardsOld,
    /// A voter became a learner.
    VoterDemoted,
    /// A configuration was truncated.
    ConfigurationTruncated,
    /// A change came to its end under another leader than the one that began it.
    ChangeEndedByAnother,
    /// A node was elected by two majorities.
    ElectedWhileJoint,
    /// A node was elected that its own newest configuration leaves out.
    ElectedAsStranger,
    /// A node learned from its own log that it was removed.
    RemovalSeenInLog,
    /// A node was told that it was removed.
    RemovalTold,
    /// A change was done.
    ChangeDone,
    /// A change was refused since another was under way.
    ChangeRefusedByAnother,
    /// A change was refused since it would have done harm.
    ChangeRefusedByPreflight,
    /// A change came before the leader had committed anything of its own term.
    ChangeTooEarly,
    /// A change was cancelled.
    ChangeCancelled,
    /// A caller did not hear what became of its change.
    ChangeUnknown,
    /// A configuration came with a snapshot.
    ConfigurationFromSnapshot,
    /// A leadership was handed over.
    HandedOver,
    /// A handover was given up, and the leader led on.
    HandoverGivenUp,
    /// Somebody asked for a handover that was under way.
    HandoverJoined,
    /// Somebody asked for another handover than that which was under way.
    HandoverBusy,
    /// Another node than the named one was elected.
    HandoverWentElsewhere,
    /// A proposal was refused since the leadership was being handed over.
    ProposalInHandover,
    /// A TimeoutNow of an old term arrived.
    StaleTimeoutNowDelivered,
    /// A leader handed over to a node of higher priority.
    PriorityHandedOver,
    /// A leader whose disk stalled handed over.
    StallHandedOver,
    /// A node was elected that leads only in order to hand over.
    CaretakerElected,
    /// A leader that must not serve handed over to a drained node.
    DrainedTookOver,
    /// A drained leader handed over.
    DrainHandedOver,
    /// A follower got a read lease.
    LeaseHeld,
    /// It was renewed before it ran out.
    LeaseRenewed,
    /// It ran out.
    LeaseRanOut,
    /// A learner got one, or a renewal.
    LearnerHeldLease,
    /// A member was left out that held one.
    HolderRemoved,
    /// A request for one was refused.
    LeaseRefused,
    /// A leader served a read under its lease.
    LeaseReadByLeader,
    /// A follower did.
    LeaseReadByFollower,
    /// A read that might be served under a lease was served by a round.
    LeaseReadFellBack,
    /// A holder lacked what a quorum had, and it was not committed.
    CommitHeldBack,
    /// It was committed once the lease was over.
    CommitReleasedByTime,
    /// A new leader waited until leases of those before it were over.
    NewLeaderWaited,
    /// A new leader waited until all members had spoken.
    NewLeaderHeardAll,
    /// A new leader found that no lease can run any more.
    NewLeaderNeedNotWait,
    /// The clocks of a node went on at another rate.
    ClockSlewed,
    /// A node saw one of its clocks jump against the other.
    ClocksJumped,
    /// Leases became shorter, and the wait for them did not.
    LongerLeasesOutlived,
    /// It did, later.
    LongerLeasesForgotten,
    /// For two seconds without faults, some follower held a lease at every instant.
    LeasesRolled,
    /// A replica had what a caller's token names.
    TokenReached,
    /// It was behind, or had compacted it.
    TokenAhead,
    /// Everything was healed and agreed.
    Converged,
}

/// How often each goal was reached.
#[derive(Clone, Debug)]
pub struct Goals {
    counts: Vec<u64>,
}

impl Default for Goals {
    fn default() -> Self {
        Self { counts: vec![0; Goal::ALL.len()] }
    }
}

impl Goals {
    pub(super) fn reach(&mut self, goal: Goal) {
        self.counts[goal as usize] += 1;
    }

    /// Notes the goal if `reached`.
    pub(super) fn reach_if(&mut self, reached: bool, goal: Goal) {
        self.counts[goal as usize] += u64::from(reached);
    }

    /// How often `goal` was reached.
    #[must_use]
    pub fn count(&self, goal: Goal) -> u64 {
        self.counts[goal as usize]
    }

    /// Adds what another run reached.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The goals that were never reached.
    pub fn missed(&self) -> impl Iterator<Item = Goal> + '_ {
        Goal::ALL.iter().copied().filter(|goal| self.count(*goal) == 0)
    }
}
