//! Random writes, compared with a model that is too simple to be wrong.

use std::collections::BTreeMap;

use super::{Bench, Case, hard_state};
use crate::ports::LogWrite;
use crate::testing::{Random, Rule, entry};
use crate::types::{Entry, GroupId, HardState, Index, WriteId};

const SEEDS: std::ops::Range<u64> = 0..4;
const SLICES: usize = 60;

pub(super) fn case() -> Case {
    let rule = Rule {
        name: "equals-the-model",
        why: "whatever the core writes, and however often the node restarts, the log is what was acknowledged",
        source: "LogStore as a whole; Raft Figure 2, persistent state [F2-PERSIST]",
    };
    Case { rule, test: against_model }
}

#[derive(Clone, Default)]
struct ModelLog {
    hard_state: HardState,
    commit: u64,
    entries: Vec<Entry>,
}

fn against_model(bench: &mut Bench<'_>) {
    for seed in SEEDS {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one_seed(bench, seed))) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("with seed {seed}: {text}");
        }
    }
}

fn one_seed(bench: &mut Bench<'_>, seed: u64) {
    bench.start_anew();
    let mut random = Random::new(seed);
    let mut model: BTreeMap<GroupId, ModelLog> = (1..=3).map(|group| (GroupId(group), ModelLog::default())).collect();
    let mut next_id = 0;
    for _ in 0..SLICES {
        let slice: Vec<_> = (0..=random.below(5))
            .map(|_| {
                let group = GroupId(1 + random.below(3));
                next_id += 1;
                let log = model.get_mut(&group).expect("the model knows three groups");
                LogWrite { id: WriteId(next_id), group, ..log.draw(&mut random) }
            })
            .collect();
        bench.write(&slice);
        let reopened = random.below(4) == 0;
        if reopened {
            bench.reopen();
        }
        for (group, log) in &model {
            if reopened || random.below(3) == 0 {
                bench.demand_log(*group, log.hard_state, log.commit, &log.entries);
            }
        }
    }
}

impl ModelLog {
    /// Draws a write that a correct core could ask for, and changes the model by it.
    fn draw(&mut self, random: &mut Random) -> LogWrite {
        let mut write = LogWrite::default();
        if random.below(3) == 0 {
            let term = self.hard_state.term.0 + random.below(3);
            let vote = if term > self.hard_state.term.0 { None } else { self.hard_state.vote.map(|vote| vote.0) };
            self.hard_state = hard_state(term, vote.or_else(|| (random.below(2) == 0).then(|| 1 + random.below(5))));
            write.hard_state = Some(self.hard_state);
        }
        let (committed, last) = (self.commit, self.entries.len() as u64);
        if last > committed && random.below(5) == 0 {
            let from = committed + 1 + random.below(last - committed);
            self.entries.truncate(from as usize - 1);
            write.truncate_from = Some(Index(from));
        }
        let term_before = self.entries.last().map_or(1, |entry| entry.id.term.0);
        if self.hard_state.term.0 >= term_before {
            for _ in 0..random.below(8) {
                let term_before = self.entries.last().map_or(1, |entry| entry.id.term.0);
                let term = term_before + random.below(self.hard_state.term.0 - term_before + 1);
                let length = if random.below(50) == 0 { 100_000 } else { random.below(300) as usize };
                let entry = entry(self.entries.len() as u64 + 1, term, length);
                write.entries.push(entry.clone());
                self.entries.push(entry);
            }
        }
        // A commit index alone causes no write of its own, so whether it is kept is the store's choice.
        if !write.is_empty() && random.below(3) == 0 {
            self.commit += random.below(self.entries.len() as u64 - self.commit + 1);
            write.commit = Some(Index(self.commit));
        }
        write
    }
}
