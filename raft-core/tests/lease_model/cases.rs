//! The bounds of the searches, and the broken rules that must show within each.

use crate::bounds::{Bounds, Clocks, Configuration, Nodes, Order};
use crate::broken::Broken;

/// Three voters, two terms, one write: where most broken rules show.
const THREE: Bounds = Bounds {
    name: "three voters",
    nodes: 3,
    before: Configuration::voters(0b111),
    after: None,
    campaigners: Nodes::ALL,
    askers: Nodes::ALL,
    terms: 2,
    entries: 3,
    writes: 1,
    restarts: 0,
    duration: 2,
    clocks: Clocks::Worst,
    order: Order::CheckThenNote,
    partial_appends: true,
    rounds_below: 3,
    slow_appends: false,
    all_reads: false,
};

/// With a fourth node that alone asks for leases, and a second one that alone campaigns.
const FOUR: Bounds = Bounds {
    nodes: 4,
    campaigners: Nodes(0b0010),
    askers: Nodes(0b1000),
    partial_appends: false,
    rounds_below: 2,
    ..THREE
};

/// Three voters and a learner.
const WITH_LEARNER: Configuration = Configuration { voters: Nodes(0b0111), learners: Nodes(0b1000) };

/// With whole appends, and without leases of the last leader: what a change of members or a restart adds is large.
const SUCCESSION: Bounds = Bounds { partial_appends: false, rounds_below: 2, ..THREE };

/// A search that is made with all rules in force, and once for each rule that must show.
pub(crate) struct Case {
    pub(crate) bounds: Bounds,
    pub(crate) broken: &'static [Broken],
}

const fn case(bounds: Bounds, broken: &'static [Broken]) -> Case {
    Case { bounds, broken }
}

/// What every run searches, to the end.
pub(crate) const CASES: &[Case] = &[
    case(
        THREE,
        &[
            Broken::LeaderLeaseFromReceipt,
            Broken::LeaderReadsBeforeItsTermCommits,
            Broken::FollowerLeaseFromReceipt,
            Broken::UsedBeforeNamedIndex,
            Broken::OldLeaseKeptInNewTerm,
            Broken::NamedIndexKeptOverGap,
            Broken::CommitIgnoresHolders,
            Broken::DriftIgnored,
            Broken::DriftIgnoredByHolder,
            Broken::StaleInstantAtVoter,
            Broken::StaleInstantAtGiver,
            Broken::StaleInstantAtElection,
            Broken::CheckOlderThanRead,
            Broken::NoteOlderThanLease,
            Broken::NewLeaderDoesNotWait,
            Broken::CandidateNotCounted,
            Broken::OldLeaderNotCounted,
            Broken::ReportAfterTheTermClearedIt,
            Broken::CountedFromCampaignStart,
            Broken::AcknowledgementNotStamped,
            Broken::VoteTwice,
            Broken::ReadWithoutRound,
        ],
    ),
    case(Bounds { name: "a longer lease", duration: 4, rounds_below: 2, ..THREE }, &[Broken::DriftIgnoredByGiver]),
    case(
        Bounds {
            name: "two voters, a learner",
            before: Configuration { voters: Nodes(0b011), learners: Nodes(0b100) },
            ..THREE
        },
        &[Broken::WaitsOnlyForVoters],
    ),
    case(
        Bounds { name: "three voters, a learner, a longer lease", before: WITH_LEARNER, duration: 4, ..FOUR },
        &[Broken::GrantBeyondOwnLease],
    ),
    case(Bounds { name: "a learner comes", after: Some(WITH_LEARNER), ..FOUR }, &[Broken::GrantToUncommittedMember]),
    case(Bounds { name: "a fourth voter comes", after: Some(Configuration::voters(0b1111)), entries: 4, ..FOUR }, &[]),
    case(
        Bounds {
            name: "a fourth voter goes",
            before: Configuration::voters(0b1111),
            after: Some(Configuration::voters(0b0111)),
            entries: 4,
            ..FOUR
        },
        &[],
    ),
    case(
        Bounds {
            name: "a voter comes",
            before: Configuration::voters(0b011),
            after: Some(Configuration::voters(0b111)),
            entries: 4,
            restarts: 1,
            ..SUCCESSION
        },
        &[],
    ),
    case(
        Bounds {
            name: "a voter goes",
            after: Some(Configuration::voters(0b011)),
            entries: 4,
            restarts: 1,
            ..SUCCESSION
        },
        &[Broken::PreviousConfigurationNotCounted, Broken::CommitIgnoresRemovedHolder, Broken::RemovedMemberKeepsLease],
    ),
    case(
        Bounds { name: "restarts", restarts: 2, rounds_below: 2, ..THREE },
        &[Broken::RestartedVoterSaysLongAgo, Broken::GrantOfEarlierLife],
    ),
    case(
        Bounds { name: "an uncommitted end", writes: 3, campaigners: Nodes(0b010), askers: Nodes(0b001), ..THREE },
        &[Broken::VerifiedInAnotherTerm],
    ),
    case(
        Bounds {
            name: "four terms without leases",
            terms: 4,
            rounds_below: 0,
            campaigners: Nodes(0b011),
            askers: Nodes(0),
            ..THREE
        },
        &[Broken::CommitOfEarlierTermByCounting],
    ),
    case(Bounds { name: "three terms", terms: 3, entries: 4, rounds_below: 3, ..SUCCESSION }, &[]),
    case(
        Bounds { name: "note, then check", order: Order::NoteThenCheck, rounds_below: 3, ..SUCCESSION },
        &[Broken::LeaderKeepsIndexNotedFirst],
    ),
    case(Bounds { name: "all reads", all_reads: true, rounds_below: 2, ..THREE }, &[]),
    case(Bounds { name: "slow appends", slow_appends: true, rounds_below: 2, ..THREE }, &[]),
    case(Bounds { name: "any clocks", clocks: Clocks::Any, ..SUCCESSION }, &[]),
];

/// What a longer run searches besides, as far as it is allowed.
pub(crate) const LARGE: &[Bounds] = &[
    Bounds { name: "large: restarts", restarts: 2, ..THREE },
    Bounds { name: "large: a lease of two ticks", duration: 4, ..THREE },
    Bounds { name: "large: a lease of three ticks", duration: 6, rounds_below: 2, ..THREE },
    Bounds { name: "large: two writes", writes: 2, entries: 4, ..THREE },
    Bounds { name: "large: slow appends", writes: 2, slow_appends: true, ..THREE },
    Bounds { name: "large: three terms", terms: 3, entries: 4, rounds_below: 4, ..THREE },
    Bounds { name: "large: three terms, a restart", terms: 3, entries: 4, restarts: 1, rounds_below: 3, ..SUCCESSION },
    Bounds { name: "large: any clocks, a lease of two ticks", clocks: Clocks::Any, duration: 4, ..SUCCESSION },
    Bounds {
        name: "large: a voter goes",
        after: Some(Configuration::voters(0b011)),
        restarts: 1,
        writes: 2,
        entries: 5,
        ..THREE
    },
    Bounds {
        name: "large: a voter comes",
        before: Configuration::voters(0b011),
        after: Some(Configuration::voters(0b111)),
        restarts: 1,
        writes: 2,
        entries: 5,
        ..THREE
    },
    Bounds {
        name: "large: a fourth voter comes",
        nodes: 4,
        after: Some(Configuration::voters(0b1111)),
        entries: 4,
        ..SUCCESSION
    },
    Bounds {
        name: "large: a fourth voter goes",
        nodes: 4,
        before: Configuration::voters(0b1111),
        after: Some(Configuration::voters(0b0111)),
        entries: 4,
        ..SUCCESSION
    },
];

/// What walks at random draw from: much at once.
const WIDE: Bounds = Bounds {
    name: "walks",
    terms: 6,
    entries: 12,
    writes: 5,
    restarts: 1,
    duration: 4,
    clocks: Clocks::Any,
    rounds_below: 7,
    slow_appends: true,
    all_reads: true,
    ..THREE
};

pub(crate) const WALKS: &[Bounds] = &[
    WIDE,
    Bounds { duration: 8, clocks: Clocks::Worst, ..WIDE },
    Bounds { after: Some(Configuration::voters(0b011)), ..WIDE },
    Bounds { before: Configuration::voters(0b011), after: Some(Configuration::voters(0b111)), ..WIDE },
    Bounds { order: Order::NoteThenCheck, ..WIDE },
    Bounds { nodes: 4, before: WITH_LEARNER, ..WIDE },
    Bounds { nodes: 4, after: Some(WITH_LEARNER), clocks: Clocks::Worst, ..WIDE },
    Bounds { nodes: 4, after: Some(Configuration::voters(0b1111)), clocks: Clocks::Worst, ..WIDE },
    Bounds { nodes: 4, before: Configuration::voters(0b1111), after: Some(Configuration::voters(0b0111)), ..WIDE },
    Bounds { nodes: 4, before: Configuration::voters(0b1111), after: Some(WITH_LEARNER), duration: 2, ..WIDE },
];
