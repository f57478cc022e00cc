//! The bounds of the searches, and within which of them each broken rule shows.

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
    rounds_in_last_term: true,
    slow_appends: false,
    all_reads: false,
};

/// With a fourth node that alone asks for leases, and a second one that alone campaigns.
const FOUR: Bounds = Bounds {
    nodes: 4,
    campaigners: Nodes(0b0010),
    askers: Nodes(0b1000),
    partial_appends: false,
    rounds_in_last_term: false,
    ..THREE
};

/// Three voters and a learner.
const WITH_LEARNER: Configuration = Configuration { voters: Nodes(0b0111), learners: Nodes(0b1000) };

pub(crate) fn bounds_for(broken: Broken) -> Bounds {
    use Broken as B;
    match broken {
        B::GrantBeyondOwnLease => Bounds { before: WITH_LEARNER, duration: 4, ..FOUR },
        B::DriftIgnoredByGiver => Bounds { duration: 4, ..THREE },
        B::WaitsOnlyForVoters => {
            Bounds { before: Configuration { voters: Nodes(0b011), learners: Nodes(0b100) }, ..THREE }
        }
        B::GrantToUncommittedMember => {
            Bounds { after: Some(WITH_LEARNER), ..FOUR }
        }
        B::CommitIgnoresRemovedHolder => Bounds { after: Some(Configuration::voters(0b011)), terms: 1, ..THREE },
        B::PreviousConfigurationNotCounted => Bounds { after: Some(Configuration::voters(0b011)), entries: 4, ..THREE },
        B::RestartedVoterSaysLongAgo => Bounds { restarts: 1, ..THREE },
        B::GrantOfEarlierLife => Bounds { restarts: 1, terms: 1, ..THREE },
        B::VerifiedInAnotherTerm => Bounds { writes: 3, ..THREE },
        B::CommitOfEarlierTermByCounting => Bounds { terms: 4, entries: 3, campaigners: Nodes(0b011), askers: Nodes(0), ..THREE },
        _ => THREE,
    }
}
