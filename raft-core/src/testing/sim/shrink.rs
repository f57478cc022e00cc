//! Makes the plan of a failure small, so that what is left is what matters.

use crate::testing::sim::{Plan, attempt};

/// Tries at most.
const TRIES_MAX: usize = 400;

/// A change that makes a plan smaller; it says whether it changed anything.
type Change = fn(&mut Plan) -> bool;

fn zero(field: &mut u64) -> bool {
    std::mem::take(field) != 0
}

fn fewer(field: &mut u64, least: u64) -> bool {
    let smaller = (*field / 2).max(least);
    let changed = smaller < *field;
    *field = smaller;
    changed
}

fn less(field: &mut u64, least: u64) -> bool {
    let changed = *field > least;
    *field -= u64::from(changed);
    changed
}

const CHANGES: &[Change] = &[
    |plan| zero(&mut plan.crash),
    |plan| zero(&mut plan.crash_between),
    |plan| zero(&mut plan.crash_all),
    |plan| zero(&mut plan.cut_one_way),
    |plan| zero(&mut plan.cut_pair),
    |plan| zero(&mut plan.isolate),
    |plan| zero(&mut plan.split),
    |plan| zero(&mut plan.freeze),
    |plan| zero(&mut plan.stall),
    |plan| zero(&mut plan.sync_error),
    |plan| zero(&mut plan.lose_disk),
    |plan| zero(&mut plan.unreachable),
    |plan| zero(&mut plan.fill_error),
    |plan| zero(&mut plan.loss),
    |plan| zero(&mut plan.duplicate),
    |plan| zero(&mut plan.replay),
    |plan| zero(&mut plan.drift),
    |plan| zero(&mut plan.unkeyed),
    |plan| zero(&mut plan.hear),
    |plan| zero(&mut plan.lockstep),
    |plan| zero(&mut plan.tight),
    |plan| zero(&mut plan.step_back),
    |plan| zero(&mut plan.cache),
    |plan| zero(&mut plan.rebuild),
    |plan| zero(&mut plan.change),
    |plan| zero(&mut plan.catch_up),
    |plan| zero(&mut plan.chunk_loss),
    |plan| zero(&mut plan.chunk_damage),
    |plan| zero(&mut plan.retain),
    |plan| zero(&mut plan.lease),
    |plan| zero(&mut plan.lease_change),
    |plan| zero(&mut plan.holders),
    |plan| zero(&mut plan.handover),
    |plan| zero(&mut plan.drain),
    |plan| zero(&mut plan.priorities),
    |plan| std::mem::replace(&mut plan.chunks, 1) > 1,
    |plan| std::mem::replace(&mut plan.in_order, 1) == 0,
    |plan| less(&mut plan.nodes, 1),
    |plan| fewer(&mut plan.clients, 1),
    |plan| less(&mut plan.clients, 1),
    |plan| fewer(&mut plan.keys, 1),
    |plan| fewer(&mut plan.events, 50),
    |plan| fewer(&mut plan.latency_spread, 1),
    |plan| fewer(&mut plan.sync_spread, 1),
];

/// Looks for a smaller plan that breaks the same property, and returns the smallest found. The random decisions of a
/// smaller plan are others, so a few seeds are tried for each.
#[must_use]
pub fn shrink(plan: &Plan) -> Plan {
    let Err(failure) = attempt(plan) else { return plan.clone() };
    let property = failure.property().to_owned();
    let mut best = plan.clone();
    best.events = best.events.min(failure.tally.events + 1);
    if still(&best, &property).is_none() {
        best.events = plan.events;
    }
    let mut tries = 0;
    loop {
        let before = best.clone();
        for change in CHANGES {
            let mut smaller = best.clone();
            if !change(&mut smaller) {
                continue;
            }
            for seed in 0..4 {
                tries += 1;
                let candidate = Plan { seed: best.seed.wrapping_add(seed), ..smaller.clone() };
                if let Some(events) = still(&candidate, &property) {
                    best = Plan { events: candidate.events.min(events + 1), ..candidate };
                    break;
                }
            }
            if tries > TRIES_MAX {
                return best;
            }
        }
        if best == before {
            return best;
        }
    }
}

/// The event at which the plan breaks the property, if it does.
fn still(plan: &Plan, property: &str) -> Option<u64> {
    let failure = attempt(plan).err()?;
    (failure.property() == property).then_some(failure.tally.events)
}
