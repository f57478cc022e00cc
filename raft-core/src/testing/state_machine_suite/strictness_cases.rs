//! What must not be applied, and what is answered though it is no command.

use bytes::Bytes;

use super::{Bench, Case, case};
use crate::ports::ApplyError;
use crate::testing::Random;
use crate::testing::random::random_bytes;
use crate::types::{Entry, EntryKind, Index, LogId, Payload, Term};

/// Byte strings that are no commands, each tried on two fresh state machines.
const GARBAGE: usize = 12;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "gaps-and-repeats-are-refused",
            "an entry that is skipped or applied twice makes this replica differ from the others",
            "compare each entry's index with applied().index + 1 and return ApplyError::OutOfOrder before anything \
             changes",
            "Raft §5.4.3, State Machine Safety; ApplyError::OutOfOrder [F2-APPLY]",
            order,
        ),
        case(
            "damaged-entries-are-not-applied",
            "one flipped bit applied on one replica makes it differ from the others for ever",
            "call entry.payload.verify() before applying and return ApplyError::Damaged",
            "ApplyError::Damaged [TH-LOG-CHECKSUM]",
            damaged,
        ),
        case(
            "unknown-kinds-stop",
            "a newer member knows what this entry does; who skips it differs from then on",
            "return ApplyError::UnknownKind for EntryKind::Unknown and for versions of commands that this code does \
             not know",
            "ApplyError::UnknownKind",
            unknown_kind,
        ),
        case(
            "bad-commands-end-the-same-way-everywhere",
            "bytes that are no command reach every replica: a panic would stop the whole cluster, a difference \
             split it",
            "parse every command with errors as answers; no unwrap, no index out of range, no text that differs \
             between nodes",
            "a deterministic failure is an answer; Raft §5.4.3 [F2-APPLY]",
            garbage,
        ),
    ]
}

/// Applies one entry that must be refused on top of `log`, and demands that it has left no trace.
fn demand_refusal(bench: &mut Bench<'_>, log: &[Entry], bad: Entry, what: &str, fits: fn(&ApplyError) -> bool) {
    let mut machine = bench.lab.fresh();
    bench.apply(&mut *machine, log);
    let (applied, state) = (machine.applied(), bench.fingerprint(&*machine));
    match machine.apply(&[bad], &mut Vec::new()) {
        Ok(()) => bench.rule.fail(&format!("{what} was applied on top of {applied}")),
        Err(error) => bench.rule.demand(fits(&error), || format!("{what} ended in another error: {error:?}")),
    }
    bench.rule.demand_eq(&machine.applied(), &applied, || format!("applied entry after {what} was refused"));
    let found = bench.fingerprint(&*machine);
    bench.rule.demand_eq(&found, &state, || format!("state after {what} was refused"));
}

fn order(bench: &mut Bench<'_>) {
    let log = bench.log(70);
    let fits: fn(&ApplyError) -> bool = |error| matches!(error, ApplyError::OutOfOrder { .. });
    demand_refusal(bench, &log[..10], log[11].clone(), "an entry after a gap (12 on top of 10)", fits);
    demand_refusal(bench, &log[..10], log[9].clone(), "a repeated entry (10 on top of 10)", fits);
    demand_refusal(bench, &log[..10], log[0].clone(), "the first entry on top of 10", fits);
    demand_refusal(bench, &[], log[1].clone(), "the second entry on top of nothing", fits);
}

fn damaged(bench: &mut Bench<'_>) {
    let log = bench.log(80);
    let at = (10..).find(|at| !log[*at].payload.bytes().is_empty()).expect("most entries are commands");
    let payload = &log[at].payload;
    let mut bytes = payload.bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    let flipped = Payload::with_checksum(Bytes::from(bytes), payload.checksum());
    let bad = Entry { payload: flipped, ..log[at].clone() };
    let fits: fn(&ApplyError) -> bool = |error| matches!(error, ApplyError::Damaged { .. });
    demand_refusal(bench, &log[..at], bad, "an entry with a flipped bit", fits);
}

fn unknown_kind(bench: &mut Bench<'_>) {
    let log = bench.log(90);
    let id = LogId::new(Index(11), log[9].id.term);
    let payload = Payload::new(Bytes::from_static(b"of a later version"));
    let bad = Entry { id, kind: EntryKind::Unknown(250), payload };
    let fits: fn(&ApplyError) -> bool = |error| matches!(error, ApplyError::UnknownKind { .. });
    demand_refusal(bench, &log[..10], bad, "an entry of kind 250", fits);
}

fn garbage(bench: &mut Bench<'_>) {
    let mut random = Random::new(100);
    for round in 0..GARBAGE {
        let mut bytes = match round % 3 {
            0 => Bytes::new(),
            1 => random_bytes(&mut random, 1 + round),
            // A valid command that was cut short.
            _ => bench.lab.command(&mut random),
        };
        if round % 3 == 2 {
            let length = random.below(bytes.len() as u64) as usize;
            bytes.truncate(length);
        }
        let bad = Entry { id: LogId::new(Index(1), Term(1)), kind: EntryKind::Command, payload: Payload::new(bytes) };
        let (first, second) = (outcome(bench, &bad), outcome(bench, &bad));
        bench.rule.demand_eq(&second, &first, || format!("outcome of {:?} on a second machine", bad.payload.bytes()));
    }
}

/// The answer and the state, or the error as text.
fn outcome(bench: &mut Bench<'_>, bad: &Entry) -> Result<(Vec<Bytes>, Bytes), String> {
    let mut machine = bench.lab.fresh();
    let mut answers = Vec::new();
    machine.apply(std::slice::from_ref(bad), &mut answers).map_err(|error| error.to_string())?;
    Ok((answers, bench.fingerprint(&*machine)))
}
