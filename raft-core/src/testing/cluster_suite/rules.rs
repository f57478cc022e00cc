//! What must hold in a cluster, and what its author is told when it does not.

use std::panic::resume_unwind;

/// Something that must hold in every run, and what to do when it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// A short name, the same in every message.
    pub name: &'static str,
    /// What goes wrong for the users of a cluster where it does not hold.
    pub why: &'static str,
    /// Where an author looks first.
    pub fix: &'static str,
    /// Where it comes from: a section of the Raft paper or thesis, an id of `docs/rules.md`, or a port's documentation.
    pub source: &'static str,
}

/// A rule that was seen broken; travels as a panic to whoever called, without a word of the panic hook.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) rule: ClusterRule,
    pub(super) seen: String,
}

impl ClusterRule {
    pub(super) fn fail(&self, seen: impl Into<String>) -> ! {
        resume_unwind(Box::new(Broken { rule: *self, seen: seen.into() }))
    }

    pub(super) fn demand(&self, holds: bool, seen: impl FnOnce() -> String) {
        if !holds {
            self.fail(seen());
        }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $id:ident: $name:literal, $why:literal, $fix:literal, $source:literal;)*) => {
        $($(#[$doc])* pub(super) const $id: ClusterRule =
            ClusterRule { name: $name, why: $why, fix: $fix, source: $source };)*
        /// All of them: first those of a cluster, then those of its logs, then those of its state machines.
        pub(super) const ALL: &[ClusterRule] = &[$($id),*];
    };
}

rules! {
    ONE_LEADER: "one-leader-per-term",
        "two leaders of one term both have their writes acknowledged, and one half of them is lost",
        "make term and vote durable before `LogStore::write` returns, and give them back in `Recovered::hard_state`",
        "Raft Figure 3, Election Safety; §5.2 [F2-VOTE-ONCE] [F2-PERSIST]";
    SAME_ENTRY: "the-same-entry-at-the-same-index",
        "replicas that apply different entries at one index are no replicas of one another from then on",
        "make entries and truncations durable in their order, and let `LogReader::read` give what was written last",
        "Raft Figure 3, Log Matching and State Machine Safety; §5.3, §5.4.3 [F2-APPLY]";
    ACKNOWLEDGED_SURVIVES: "acknowledged-writes-are-never-lost",
        "a caller was told that its write is there, and it is gone or replaced by another one",
        "sync before `LogStore::write` returns `Ok`; after an error acknowledge nothing more",
        "Raft §5.4, Leader Completeness; §5.1, persistent state [F2-PERSIST]";
    REAL_TIME_ORDER: "acknowledged-writes-keep-their-order",
        "a write that began after another one was acknowledged comes before it: the cluster is not linearizable",
        "look for a log that goes back to an earlier end: nothing that was acknowledged may be overwritten",
        "Raft §8, linearizable semantics; thesis 6.3";
    FRESH_READS: "reads-see-what-was-acknowledged",
        "a linearizable read shows a state from before a write that its caller knows to be done",
        "let `StateReader` see an entry as soon as `StateMachine::apply` has returned, after a restore too",
        "StateReader::applied; thesis 6.4 [TH-READINDEX]";
    PROGRESS: "a-healed-cluster-goes-on",
        "everything works again, and the cluster takes no write or a replica never catches up",
        "look for a part that keeps an error after it was opened again, or for a log that cannot be read",
        "Raft §5.5 and §5.6: crashed members that restart catch up";
    REPLICAS_AGREE: "replicas-end-equal",
        "members that have applied the same entries hold different states",
        "apply must depend on nothing but the state and the entry: no clock, no random number, no node's name, no order \
         of a hash map",
        "Raft §2, replicated state machines; §5.4.3 [F2-APPLY]";
    NODE_STARTS: "a-node-starts-again",
        "a node that cannot start from its own disk is lost until somebody replaces it",
        "after a kill or a power cut `recover` and opening must take what they find; a log must not end before what its \
         state has applied, nor begin after it; one that is damaged though nothing damaged it kept what was truncated or \
         lost something in its middle",
        "LogStore::recover; StateMachine::applied; Raft §5.1";
    NOTHING_PANICS: "nothing-panics",
        "a panic ends the process; when its cause is on the disk, every start ends so",
        "when the panic is in a part, give an error there; when it is an assertion of raft-core, a part has told it two \
         things that contradict each other: look at what happened before",
        "docs/adr/0009-panic-policy.md";
    LOG_SURVIVES: "a-log-keeps-what-it-acknowledged",
        "a voter that forgets entries that it acknowledged lets the cluster lose what was committed with its help",
        "sync file and directory before `LogStore::write` returns `Ok`; never cut off more than was asked for, and no more \
         than a torn record at the end when opening",
        "LogStore::write; Raft §5.1, persistent state [F2-PERSIST]";
    VOTE_SURVIVES: "a-log-keeps-term-and-vote",
        "a voter that forgets its vote votes twice in a term, and two leaders are elected",
        "write and sync `LogWrite::hard_state` in the same batch as the rest, also when there are no entries",
        "LogWrite::hard_state; Raft Figure 2, persistent state [F2-PERSIST] [F2-VOTE-ONCE]";
    LOG_INVENTS_NOTHING: "a-log-holds-nothing-else",
        "an entry that was truncated, or that never was, is replicated and applied",
        "write truncations in the same order as entries, and check every record at opening; a torn one is no record",
        "LogStore: applied in order, each write atomically; Raft §5.3 [F2-APPEND-CONFLICT]";
    WRITES_ARE_WHOLE: "a-write-is-whole-or-not-at-all",
        "the log after a power cut is that of no moment: a part of a write, or a later one without an earlier one",
        "put each `LogWrite` with all its parts into one atomic record, and the writes of a slice behind each other",
        "LogStore: a slice of writes is applied in order, each write atomically";
    LOG_BEGINS_RIGHT: "a-log-begins-where-it-was-told",
        "entries that followers or the own state still need are gone, or come back under the wrong snapshot",
        "compact up to `upto` and no further; change beginning, snapshot and entries in one atomic step",
        "LogStore::compact; LogWrite::snapshot; Raft §7, Figure 13 [F13-COMPACT] [F13-RESET]";
    LOG_READS: "a-log-reads-what-was-written",
        "what is read is sent to followers and applied: another entry there splits the replicas",
        "let `LogReader::read` begin at the index asked for, go on without gaps, and see truncations",
        "LogReader::read";
    LOG_WORKS: "a-log-on-a-working-disk-takes-every-write",
        "the node stops for good, though nothing is wrong with its disk",
        "take everything that `LogWrite` allows: empty parts, truncation and entries in one write, a snapshot in the middle \
         of the log or beyond its end",
        "LogStore::write, LogStore::compact";
    NO_FALSE_LOSS: "no-loss-is-reported-where-nothing-was-lost",
        "the node stops voting until it has caught up; with two of them the cluster stands still",
        "make the evidence of what was acknowledged durable after the log and not before it",
        "Recovered::lost";
    SAME_ANSWERS: "answers-are-those-of-the-log",
        "callers get another answer from this replica than from any other one: an entry was lost, doubled or changed by \
         something else than the log",
        "apply must depend on nothing but the state and the entry; store the applied index in the same atomic step as the \
         effects",
        "StateMachine::apply; Raft §2 and §5.4.3, State Machine Safety [F2-APPLY]";
    SAME_STATE: "a-state-is-that-of-its-applied-index",
        "this replica differs from the others from now on, and nobody is told",
        "store the applied index in the same atomic step as the effects, and all effects of an entry in one step",
        "StateMachine::applied; Raft §5.3, lastApplied [F2-APPLY]";
    DURABLE_SURVIVES: "what-a-state-calls-durable-survives",
        "the log is compacted up to there; what the state forgets then no log holds any more",
        "let `durable` and `flush` name only what is synced, and sync what `restore` has put in place",
        "StateMachine::durable, StateMachine::flush; Raft §7 [F13-COMPACT]";
    APPLIED_MOVES: "every-entry-moves-applied-and-has-an-answer",
        "answers go to the wrong callers, or entries come again",
        "push one answer per entry, of whatever kind, and let `applied` name the last entry of the batch",
        "StateMachine::apply; Raft §8, the leader's no-op [TH-NOOP]";
    MACHINE_WORKS: "a-state-machine-on-a-working-disk-goes-on",
        "the node stops, and every other one at the same entry",
        "a command that fails by its own rules is an answer and no error; after opening again nothing of an earlier error may \
         be left",
        "StateMachine::apply, StateMachine::flush";
    QUERIES_AGREE: "queries-show-the-state-that-they-name",
        "a read shows a state that never was, or names the wrong one",
        "read everything of one answer at one applied index, and put that into `QueryAnswer::applied`",
        "StateReader::query: all of it at one applied index";
    SNAPSHOT_NAMES: "a-snapshot-is-what-it-says",
        "a follower that installs it misses entries or applies some twice",
        "take the image and its applied index in one step, as plain files that nobody changes afterwards",
        "Snapshotter::take; Raft §7";
    RESTORE_IS_WHOLE: "a-restored-state-is-the-one-of-its-snapshot",
        "a follower that was sent a snapshot differs from all others from then on",
        "put everything that apply looks at into the snapshot, and let `restore` drop all that was there before",
        "StateMachine::restore; Raft §7, Figure 13 [F13-RESET]";
}
