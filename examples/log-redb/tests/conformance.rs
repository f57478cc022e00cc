//! The store against the suite that defines the port, on a disk that loses power, fails, stalls and is full.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Instant;

use lab::{RedbLab, sound};
use raft_core::ports::LogWrite;
use raft_core::testing::{FaultyFile, PowerCut, Random, entry, log_store_suite};
use raft_core::types::{Entry, GroupId, HardState, Index, LogId, Term};

#[test]
fn the_store_passes_the_suite() {
    let began = Instant::now();
    let summary = log_store_suite::run(&mut RedbLab::new(sound));
    println!("{summary}\nin {:?}", began.elapsed());
    // It keeps no evidence beside its file, so it cannot know that an older copy of that was put back.
    let not_run: Vec<_> = summary.not_run().iter().map(|(rule, _)| *rule).collect();
    assert_eq!(not_run, ["an-older-copy-with-an-older-beginning-is-noticed", "an-older-copy-is-noticed"]);
    assert!(summary.work().cuts > 500 && summary.work().faults > 10, "{summary}");
}

fn append(entries: &[Entry]) -> LogWrite {
    let hard_state = Some(HardState { term: Term(1), vote: None });
    let commit = entries.last().map(|entry| entry.id.index);
    LogWrite { group: GroupId::FIRST, hard_state, commit, entries: entries.to_vec(), ..LogWrite::default() }
}

/// The logs of the suite are small, and this engine's file does not begin so: here it grows, and shrinks again, and the
/// power goes meanwhile.
#[test]
fn what_was_acknowledged_survives_while_the_file_grows_and_shrinks() {
    let (mut cuts, mut compactions) = (0, 0);
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut file = FaultyFile::new();
        let mut store = sound(file.clone());
        let mut log: Vec<Entry> = Vec::new();
        for round in 0..16 {
            let first = log.len() as u64 + 1;
            let next: Vec<Entry> = (first..first + 1 + random.below(4)).map(|at| entry(at, 1, 300_000)).collect();
            let cut = random.below(3) == 0;
            if cut {
                file.cut_power(PowerCut::InsideTheNextCall, &mut random);
            }
            let acknowledged = store.write(&[append(&next)]).is_ok();
            if acknowledged && round % 5 == 4 {
                compactions += u64::from(store.compact(GroupId::FIRST, Index(first)).is_ok());
            }
            if cut {
                drop(store);
                file = file.reopen();
                store = sound(file.clone());
                cuts += 1;
            }
            let last = store.recover(GroupId::FIRST).unwrap().last();
            let with_next = LogId::new(Index(first - 1 + next.len() as u64), Term(1));
            if last == with_next {
                log.extend(next);
            } else {
                assert!(!acknowledged, "seed {seed}, round {round}: {with_next} was acknowledged, the end is {last}");
                assert_eq!(last.index, Index(log.len() as u64), "seed {seed}, round {round}");
            }
        }
    }
    assert!(cuts > 30 && compactions > 10, "{cuts} cuts, {compactions} compactions");
}
