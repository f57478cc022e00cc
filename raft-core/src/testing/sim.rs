//! A simulator of whole clusters: the real core and the real ordering glue, with simulated disks, network, clocks and
//! callers, on one thread, from one seed.
//!
//! One run is a [`Plan`]: how many nodes, which faults, how often. [`Plan::draw`] draws one from a seed; every seed has
//! its own mix, since runs with few kinds of faults reach what runs with all of them hide. [`run`] carries it out:
//!
//! 1. **Faults.** Members come and go: whoever leads is asked for others. Processes die between any two effects, start, stand still; disks stall, fail and forget; links lose,
//!    delay, repeat, reorder, replay and cut; clocks run at different rates. Callers read and write all the time.
//! 2. **Standing faults.** Nothing else breaks and no link changes; what is broken stays broken, but for who was about to
//!    start. If a majority of working nodes reach each other, writes must go on.
//! 3. **Healing.** Everything works again; all callers get their answers, all nodes come to the same state.
//! 4. **The last checks.** Every acknowledged write is there, every word about an outcome is true, and the history of all
//!    callers is linearizable ([`linear`](crate::testing::linear)).
//!
//! After **every** event the properties of `ghost` and `checks` are compared with a history that no node can see:
//! election safety, by quorums of the configuration in force, leader append-only, log matching, leader completeness,
//! state machine safety (Raft Figure 3); one vote per node and term over all its lives; no message before the write
//! that backs it; what is committed is durable on a quorum; terms, commit and applied never fall; one answer per try;
//! now and then the bounds on memory; and of read leases (`leases`): whoever may read has all that anybody committed,
//! and leaders wait for all that may run. A violation panics, with the property's name in brackets; [`attempt`] turns
//! that into a [`Failure`], and [`shrink`] makes its plan small.
//!
//! Rare situations are counted by name ([`Goal`]): a simulator that never gets there proves nothing about them.
//!
//! ```
//! use raft_core::testing::sim::{Plan, attempt};
//!
//! let plan = Plan { events: 2_000, ..Plan::draw(7) };
//! let ran = attempt(&plan).unwrap();
//! assert!(ran.tally.events >= 2_000);
//! // The same plan is the same run, event by event.
//! assert_eq!(attempt(&plan).unwrap().tally.time, ran.tally.time);
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};

mod checks;
mod clients;
mod deliveries;
mod disk;
mod faults;
mod ghost;
mod goals;
mod handovers;
mod leases;
mod machine;
mod members;
mod network;
mod node;
mod phases;
mod plan;
mod shrink;
mod snapshots;
mod storage;
mod workload;
mod world;

pub use goals::{Goal, Goals};
pub use plan::{Plan, PlanError};
pub use shrink::shrink;
pub use world::Tally;

use world::World;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// In numbers.
    pub tally: Tally,
    /// By the situations that it reached.
    pub goals: Goals,
}

/// A run that broke a property.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it said, with the property's name in brackets first (an assertion of the core itself has none).
    pub message: String,
    /// What it had done until then.
    pub tally: Tally,
}

impl Failure {
    /// The name of the property, or the first words of the core's own assertion.
    #[must_use]
    pub fn property(&self) -> &str {
        // What `assert_eq` says before it.
        let said = self.message.strip_prefix("assertion `left == right` failed: ").unwrap_or(&self.message);
        match said.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) => name,
            None => said.split([':', '{', '@', '\n']).next().unwrap_or_default(),
        }
    }
}

/// Carries out a plan.
///
/// # Panics
/// When a property is broken: that is what it is for.
#[must_use]
pub fn run(plan: &Plan) -> Ran {
    let mut world = World::new(plan);
    world.run();
    Ran { tally: world.tally(), goals: world.goals }
}

/// Carries out a plan, and catches the panic of a broken property. The panic hook still prints it, if one is set that
/// does.
///
/// # Errors
/// What was broken.
pub fn attempt(plan: &Plan) -> Result<Ran, Box<Failure>> {
    let mut world = World::new(plan);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => Ok(Ran { tally: world.tally(), goals: world.goals }),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let message = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            let message = message.unwrap_or_else(|| "a panic without words".to_owned());
            Err(Box::new(Failure { message, tally: world.tally() }))
        }
    }
}
