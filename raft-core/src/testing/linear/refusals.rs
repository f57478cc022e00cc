//! Refused compare-and-sets that need no search: taken out, they cost nothing and hide nothing.
//!
//! A refusal tells that the register held another value than `e`. Let everything that ever leaves `e`, and was called
//! before the refusal returned, have returned at `t` (at the beginning, where nothing does). Some operation that was
//! called after `t`, and returned no later than the refusal, saw or left a value other than `e`. From its place on until
//! the refusal returns, nothing can bring `e` back. So in any order of the others the refusal has a place: at the end of
//! its time, after that operation. With values that are written once, this is nearly every refusal.

use super::plan::{Planned, Step};

/// When something that leaves a value was called, and the latest return of those so far; `None`: one of them never.
struct Source {
    value: Option<u64>,
    called: u64,
    over: Option<u64>,
}

/// An operation that surely found or left its value, and of all that were called later too: the earliest return, its
/// value, and the earliest return of one with another value.
struct Proof {
    called: u64,
    first: (u64, Option<u64>),
    other: u64,
}

/// Takes out the refusals that have a place in any order of the rest.
pub(super) fn take_out(steps: &mut Vec<Planned>) {
    if !steps.iter().any(|planned| matches!(planned.step, Step::Refuse(_))) {
        return;
    }
    let (sources, proofs) = (sources(steps), proofs(steps));
    steps.retain(|planned| match (planned.step, planned.returned) {
        (Step::Refuse(expected), Some(returned)) => !is_sure(&sources, &proofs, expected, returned),
        _ => true,
    });
}

fn sources(steps: &[Planned]) -> Vec<Source> {
    let leaves = |planned: &Planned| {
        let mut step = planned.step;
        let value = step.leaves().copied()?;
        Some(Source { value, called: planned.called, over: planned.returned })
    };
    let mut sources: Vec<Source> = steps.iter().filter_map(leaves).collect();
    sources.sort_unstable_by_key(|source| (source.value, source.called));
    for at in 1..sources.len() {
        if sources[at - 1].value == sources[at].value {
            let both = sources[at - 1].over.zip(sources[at].over);
            sources[at].over = both.map(|(before, this)| before.max(this));
        }
    }
    sources
}

fn proofs(steps: &[Planned]) -> Vec<Proof> {
    let shows = |planned: &Planned| {
        let (Step::See(value) | Step::Write(value) | Step::Swap(_, value)) = planned.step else { return None };
        let first = (planned.returned?, value);
        Some(Proof { called: planned.called, first, other: u64::MAX })
    };
    let mut proofs: Vec<Proof> = steps.iter().filter_map(shows).collect();
    proofs.sort_unstable_by_key(|proof| proof.called);
    for at in (0..proofs.len().saturating_sub(1)).rev() {
        let later = &proofs[at + 1];
        let (one, two, other) = (proofs[at].first, later.first, later.other);
        let proof = &mut proofs[at];
        if one.1 == two.1 {
            (proof.first, proof.other) = (one.min(two), other);
        } else if one.0 <= two.0 {
            proof.other = two.0;
        } else {
            (proof.first, proof.other) = (two, one.0.min(other));
        }
    }
    proofs
}

fn is_sure(sources: &[Source], proofs: &[Proof], expected: Option<u64>, returned: u64) -> bool {
    let until = sources.partition_point(|source| (source.value, source.called) <= (expected, returned));
    let source = sources[..until].last().filter(|source| source.value == expected);
    let from = match source.map(|source| source.over) {
        None => 0,
        Some(Some(over)) => proofs.partition_point(|proof| proof.called <= over),
        Some(None) => return false,
    };
    proofs.get(from).is_some_and(|proof| {
        let earliest = if proof.first.1 == expected { proof.other } else { proof.first.0 };
        earliest <= returned
    })
}
