//! Rules that tests break on purpose, one at a time, to see that the safety net catches it.
//!
//! Where the code keeps a rule it asks [`broken`]. Without the feature `testing` that is the constant `false`: nothing
//! of a mutant is compiled in. With it, one thread-local number says which rule does not hold on this thread; tests
//! switch it by [`testing::mutants`](crate::testing::mutants).

#[cfg(feature = "testing")]
use std::cell::Cell;

/// What must catch a mutant.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Something wrong is promised, acknowledged, applied or read.
    Safety,
    /// Nothing wrong is said, but the cluster stands still, or serves less than it could.
    Liveness,
}

macro_rules! mutants {
    ($($group:ident, $source:literal { $($(#[doc = $doc:literal])+ $name:ident,)+ })+) => {
        /// A rule that can be broken: what the code does instead, and what goes wrong.
        #[derive(Clone, Copy)]
        #[cfg_attr(feature = "testing", derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash))]
        #[cfg_attr(not(feature = "testing"), allow(dead_code, unreachable_pub, reason = "only tests break rules"))]
        #[repr(u8)]
        pub enum Mutant {
            $($($(#[doc = $doc])+ $name,)+)+
        }

        #[cfg(feature = "testing")]
        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)+)+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($(Self::$name => stringify!($name),)+)+ }
            }

            /// What the code does instead, and what goes wrong.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $($(Self::$name => concat!($($doc),+).trim_ascii(),)+)+ }
            }

            /// Where the rule is written.
            #[must_use]
            pub fn source(self) -> &'static str {
                match self { $($(Self::$name)|+ => $source,)+ }
            }

            /// What must catch it.
            #[must_use]
            pub fn group(self) -> Group {
                match self { $($(Self::$name)|+ => Group::$group,)+ }
            }
        }
    };
}

mutants! {
    Safety, "paper §5.2, thesis 9.6: elections" {
        /// A vote is given to whoever asks, however often in one term: two leaders in a term.
        VoteTwice,
        /// A request for a vote of an older term is granted in that term: a second vote where one was given before.
        OldVoteRequestGranted,
        /// A vote of an older term counts for the present campaign: a leader without a majority.
        OldVoteCounts,
        /// The same voter's answer counts as often as it arrives: a leader without a majority.
        SameVoterCountsAgain,
        /// "I would vote for you" counts as a vote, and is said to more than one: two leaders in a term.
        PreVoteCountsAsVote,
        /// Half of the voters make a quorum, rounded down: two quorums without a common member.
        QuorumTooSmall,
        /// A leader enters a later term that it hears of, and goes on leading: a term with a leader nobody elected.
        HigherTermKeepsLeader,
        /// Appends and heartbeats of an older term are obeyed: a deposed leader overwrites its successor's entries.
        OldLeaderObeyed,
    }
    Safety, "paper §5.4.1: up-to-date logs" {
        /// A longer log of an older last term gets the vote: the leader lacks what is committed.
        VoteIgnoresLastTerm,
        /// A shorter log of the same last term gets the vote: the leader lacks what is committed.
        VoteIgnoresLastIndex,
    }
    Safety, "paper Fig. 2 \"Persistent state\": promises rest on the disk" {
        /// RequestVote leaves before the candidate's own vote is durable: after a crash it votes for another.
        VoteRequestBeforeWrite,
        /// A vote leaves before it is durable: after a crash the voter votes again in that term.
        VoteBeforeWrite,
        /// The candidate's own vote counts before it is durable.
        OwnVoteBeforeWrite,
        /// A restarted node does not remember its vote: it votes again in that term.
        VoteForgottenAtRestart,
        /// A restarted node goes back to the term of its last entry: it votes again in later terms.
        TermForgottenAtRestart,
        /// A later term that was adopted is never written: a crash brings the older term back.
        TermNotWritten,
        /// A truncation is not written: the disk keeps what the log dropped.
        TruncationNotWritten,
        /// An append is acknowledged before it is durable: an acknowledged entry is gone after a crash.
        AcknowledgedBeforeWrite,
        /// The answer to a heartbeat acknowledges what is verified as if it were durable.
        HeartbeatAcknowledgesUndurable,
        /// A leader counts its own entries before they are durable: thesis 10.2.1 allows sending, not counting.
        OwnEntriesBeforeWrite,
        /// The late completion of a write counts for entries that replaced the written ones (the append ABA race).
        LateWriteCountsForOthers,
        /// The completion of one write counts for all that were asked for.
        OneWriteCountsForAll,
        /// A write that failed is taken for durable: the pages it was to save are gone (fsyncgate).
        FailedWriteCounts,
    }
    Safety, "paper §5.3: log matching" {
        /// An append is taken though the entry before it has another term: logs differ before a common entry.
        PrevTermIgnored,
        /// An append cuts the log behind its last entry: a late, shorter one drops what was acknowledged.
        MatchingTruncated,
        /// Entries that conflict with the leader's stay and are acknowledged as the leader's.
        ConflictKept,
        /// The acknowledgement names the log's end, not the message's: what follows may be another leader's.
        AcknowledgedBeyondMessage,
        /// What was verified against one leader is believed of the next one.
        VerifiedOutlivesLeader,
        /// A new leader drops what it does not know to be committed from its own log.
        LeaderDropsUncommitted,
    }
    Safety, "ADR 16: the suffix of a log that is ahead" {
        /// The longer log counts as ahead, whatever its last term: what this node helped to commit gives way to it.
        LongerLogIsAhead,
        /// Entries are taken whenever they come, whoever was asked what: also from below what a leader was promised.
        StaleSuffixTaken,
        /// Whoever is asked for a suffix does not look whether it holds the entry before it.
        SuffixPrevUnchecked,
        /// What was fetched counts as equal to the next leader's log.
        SuffixCountsAsVerified,
        /// What was fetched counts as committed.
        SuffixCommitted,
    }
    Safety, "paper §5.3, §5.4.2: commitment" {
        /// Entries of older terms are committed by counting (Figure 8): they can be overwritten afterwards.
        OldTermCommittedByCounting,
        /// A leader begins without an entry of its own term: what came before is not committed until someone writes.
        NoopLeftOut,
        /// A follower commits up to its own end, not the message's: what follows may be another leader's.
        CommitPastMessage,
        /// A heartbeat's commit index is used as it is, by leader and follower: it may name another leader's entries.
        HeartbeatCommitUnbounded,
        /// The leader's own disk counts twice.
        LeaderCountsTwice,
        /// What was sent counts as held.
        SentCountsAsHeld,
        /// What a follower verified, but has not made durable, counts as held.
        VerifiedCountsAsHeld,
        /// The hint of a rejection ("we could agree here") counts as agreement.
        HintCountsAsHeld,
        /// An acknowledgement of an older term counts: the follower's log may have changed since.
        OldAcknowledgementCounts,
    }
    Safety, "paper Fig. 2 \"All servers\": applying" {
        /// Entries are applied before they are committed.
        AppliedBeforeCommit,
        /// Entries are applied before they are durable here: after a crash the state is ahead of the log.
        AppliedBeforeWrite,
        /// After a restart, what was committed and not applied is skipped.
        ReplaySkips,
        /// After a restart, the last applied entry is applied again.
        ReplayRepeats,
    }
    Safety, "thesis 6.4: linearizable reads" {
        /// The leader serves reads without asking whether it still leads.
        ReadWithoutRound,
        /// A read rides on a round that was sent before it came: the leader may be deposed since.
        ReadOnEarlierRound,
        /// The answer to a heartbeat of an older term names its round: it confirms a round of the answerer's term.
        OldRoundEchoed,
        /// An answer to any round confirms the newest one.
        AnswerConfirmsAnyRound,
        /// A new leader serves reads before an entry of its term is committed: its commit index may lag behind.
        ReadBeforeOwnCommit,
        /// A read that joins others is served at the index of the first of them.
        ReadAtIndexOfFirst,
        /// A read is served before its index is applied.
        ReadBeforeApplied,
        /// A follower serves reads at its own commit index, without asking the leader.
        FollowerReadsUnasked,
        /// The answer to an older question serves reads that came after it was asked.
        OldAnswerServesNewRead,
        /// The numbers of questions begin anew with every process life: an answer to the last one serves this one.
        ReadNumbersRepeat,
    }
    Safety, "design 2.6: what callers are told" {
        /// "Overwritten" is told when another entry stands at the index, committed or not (Figure 8: it may fall again).
        RejectedByUncommitted,
        /// At the deadline, "never applied" is told of an entry that was appended.
        RejectedAtDeadline,
        /// The outcome of an entry is told before anything at its index is committed.
        OutcomeBeforeCommit,
        /// The state machine executes a command that came twice under one key a second time.
        RetryAppliedTwice,
    }
    Safety, "design 5: disks that lost what they acknowledged" {
        /// A node whose disk lost acknowledged entries votes all the same: a leader that lacks what is committed.
        LostLogVotes,
        /// A lost end counts as refilled by its index alone, whatever the terms.
        LostLogRefilledByIndex,
        /// What a follower acknowledged counts on after its disk has lost it.
        LostEntriesCountOn,
    }
    Safety, "paper §7, Figure 13: snapshots" {
        /// The log is cut behind what is applied, durable in the state or not: after a crash the rest is nowhere.
        CompactsUndurable,
        /// A snapshot is acknowledged before the log that begins with it is durable.
        SnapshotAcknowledgedBeforeWrite,
        /// A snapshot's state is put in place before the log begins with it: a crash leaves a state ahead of its log.
        RestoredBeforeWrite,
        /// A snapshot drops the whole log, though it holds the snapshot's last entry: what follows is acknowledged.
        SnapshotDropsSuffix,
        /// A snapshot that holds less than what is applied is installed: the state goes back in time.
        OldSnapshotInstalled,
        /// A snapshot of an older term's leader is acknowledged to it as if it led now.
        OldTermSnapshotBelieved,
        /// The log is dropped under an applier that still has to read from it.
        InstalledUnderApplier,
        /// Entries are applied to the old state while a snapshot is on its way into it.
        AppliedDuringInstall,
    }
    Safety, "paper §6, thesis 4: changes of the members" {
        /// C_new is appended before C_old,new is committed: the old majority may still decide without the new one.
        NewBeforeJointCommitted,
        /// A joint configuration decides by a majority of the voters to be alone.
        JointByNewMajority,
        /// A joint configuration decides by a majority of the voters before alone.
        JointByOldMajority,
        /// Learners count towards quorums.
        LearnersCounted,
        /// A learner campaigns.
        LearnerCampaigns,
        /// A configuration acts once it is committed, not from its append on.
        ConfigurationOnCommit,
        /// A configuration acts on when its entry is truncated.
        ConfigurationNotRolledBack,
        /// A leader that a configuration leaves out counts itself for its commit.
        RemovedLeaderCounts,
        /// A leader that a committed configuration leaves out goes on leading.
        RemovedLeaderStays,
        /// A change begins before an entry of the leader's own term is committed (Ongaro 2015).
        ChangeWithoutOwnEntry,
        /// A change begins while an earlier configuration is not committed.
        ChangeOverUncommitted,
    }
    Safety, "reads.md: read leases" {
        /// Clocks are taken to run alike: neither margin is kept.
        DriftIgnored,
        /// Shorter leases count in waits at once, while longer ones may run.
        ShorterLeaseAtOnce,
        /// The wait for longer leases is forgotten as soon as shorter ones are committed.
        LongerLeaseForgotten,
        /// A leader's lease counts from the answers, not from the sending of the round.
        LeaderLeaseFromReceipt,
        /// A follower's lease counts from the grant, not from the sending of the request.
        FollowerLeaseFromReceipt,
        /// A grant may run beyond the usable end of the leader's own lease.
        GrantBeyondOwnLease,
        /// A lease is given to a member of a configuration that may be taken back: the next leader does not know of it.
        GrantToUncommittedMember,
        /// A lease is used before the log holds what was committed before it was given.
        LeaseBeforeNamedIndex,
        /// A follower reads under its lease at what it knows committed, not at the end of its log.
        LeaseReadAtCommit,
        /// A follower reads under its lease at what the leader had when it gave it: a note older than the read.
        LeaseReadAtNamedIndex,
        /// A lease is used after its end, as by one who looked at the clock before the read came.
        LeaseUsedAfterEnd,
        /// A leader reads under its lease at what it has applied.
        LeaderReadsAtApplied,
        /// A leader commits what a holder does not have.
        CommitIgnoresHolders,
        /// A leader does not wait for a holder that was removed.
        CommitIgnoresRemovedHolder,
        /// A removed member goes on using its lease after it acknowledged its removal.
        LeaseOutlivesMembership,
        /// A new leader commits at once, whatever leases those before it gave.
        NewLeaderDoesNotWait,
        /// A new leader waits for the words of voters only, not of learners.
        NewLeaderWaitsForVotersOnly,
        /// A new leader does not wait for the members of the configuration before its own.
        PreviousMembersNotAsked,
        /// What the candidate itself acknowledged does not count.
        CandidateWordNotCounted,
        /// An old leader does not count as one that acknowledged itself.
        OldLeaderWordNotCounted,
        /// A voter that was started anew says that it has not acknowledged anybody for long.
        RestartedVoterSaysLongAgo,
        /// The new term clears what a voter would report.
        StampClearedByTerm,
        /// What voters report counts from the beginning of the campaign.
        SilenceFromCampaign,
        /// Voters do not note whom they acknowledge.
        AcknowledgementNotStamped,
        /// A follower's lease outlives its leader and the term.
        LeaseOutlivesTerm,
        /// A grant that answers a request of an earlier process life counts from the newest request.
        GrantOfEarlierLife,
        /// The clocks are read once for all events that wait, and the process is stopped after that.
        StaleInstants,
    }
    Liveness, "reads.md: read leases" {
        /// A follower asks for another lease once the one that it has is over: nobody holds one meanwhile.
        LeaseRenewedLate,
        /// Commits that a lease held back are not looked at again when it is over.
        HeldBackForGood,
    }
    Liveness, "paper §6, thesis 4.2: members that come and go" {
        /// Voters to be count before they have caught up: nothing is committed until they have.
        PromotedUnprepared,
        /// A node that its own log calls a learner refuses its vote, though the asker's log calls it a voter.
        LearnerRefusesVote,
        /// A removed node is not told so: it asks for votes for ever.
        RemovalNotTold,
    }
    Liveness, "paper §7: followers that need what was compacted" {
        /// A snapshot whose sending failed is not sent again.
        FailedTransferForgotten,
        /// A snapshot that arrived and was lost before it was installed is not sent again.
        ArrivedSnapshotForgotten,
    }
    Liveness, "paper §5.2, thesis 4.2.3, 6.2, 9.6: a leader whenever a majority can talk" {
        /// A leader that hears from no quorum goes on leading: it can send, cannot hear, and keeps others from leading.
        QuorumUnchecked,
        /// A leader whose disk has stopped goes on leading.
        StalledDiskLeads,
        /// A follower whose disk has stopped answers heartbeats: its leader hears a quorum and commits nothing.
        StalledDiskAnswers,
        /// A leader sends no heartbeats: it is deposed whenever nothing is written.
        HeartbeatsLeftOut,
        /// A candidate that is neither elected nor refused waits for ever.
        CandidateNeverRetries,
        /// Every election timeout is the same: the same nodes split the votes again and again.
        TimeoutsAreEqual,
        /// A refused PreVote says nothing of its term: a node behind in terms and ahead in its log blocks the others.
        RefusalTeachesNothing,
        /// Nobody fetches what it lacks: where only a node whose log is behind reaches a majority, nobody leads.
        SuffixNeverFetched,
        /// A PreVote raises the term of those it asks: whoever comes back from a cut deposes the leader.
        PreVoteRaisesTerm,
        /// Nodes that hear from a leader vote it out: whoever cannot reach it deposes it for all.
        LiveLeaderDeposed,
    }
    Safety, "thesis 3.10: leadership transfer" {
        /// The target is told to campaign before it has the leader's whole log.
        TimeoutNowBeforeMatch,
        /// Proposals are taken while the target campaigns: its log is not the leader's any more.
        ProposalsDuringHandover,
        /// A leader's wish of an older term, or of a log that has grown since, is obeyed.
        OldTimeoutNowObeyed,
        /// A node that must not lead campaigns because its leader wants it to.
        UnfitObeysTimeoutNow,
        /// A leader whose state differs takes proposals and serves reads.
        CaretakerServes,
        /// Who asked for a handover is never told what became of it.
        HandoverUnanswered,
    }
    Liveness, "thesis 3.10, 4.2.3: leadership moves, and comes to rest" {
        /// A handover is never given up: with a dead target, no proposal is taken any more.
        HandoverNeverEnds,
        /// Voters that hear from their leader do not answer whom it wants elected.
        HandoverVoteStopped,
        /// The leadership stays with a node of low priority.
        PriorityIgnored,
        /// Nodes that should not lead do not even when nobody else can.
        NoLastResort,
        /// A leader that must not serve keeps the leadership where all members that could serve are drained.
        DrainedNeverLead,
    }
    Liveness, "thesis 10.2.1, 6.4: what is lost is asked for again" {
        /// An append that was lost is not sent again.
        LostAppendForgotten,
        /// Acknowledged appends never leave the window: once full, it stays full.
        WindowNeverFreed,
        /// What was applied never leaves the applier's window: once full, it stays full.
        ApplyWindowNeverFreed,
        /// A follower that gives its leader up keeps its question as one that is out: it wants a tick at once, for ever.
        QuestionOutlivesLeader,
        /// A question for a read index is asked once: when it is lost, no read of this follower is ever served.
        ReadQuestionNotRepeated,
    }
}

#[cfg(feature = "testing")]
thread_local! {
    static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether this rule is broken on this thread.
#[cfg(feature = "testing")]
#[inline]
pub(crate) fn broken(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

/// Rules hold.
#[cfg(not(feature = "testing"))]
#[inline]
pub(crate) const fn broken(_: Mutant) -> bool {
    false
}

/// What the rule asks for, unless it is broken.
#[inline]
pub(crate) fn unless<T>(mutant: Mutant, right: T, wrong: T) -> T {
    if broken(mutant) { wrong } else { right }
}

/// Says which rule is broken on this thread.
#[cfg(feature = "testing")]
pub(crate) fn break_only(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}
