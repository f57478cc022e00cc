//! Random writes, compared with a model that is too simple to be wrong.

use std::collections::BTreeMap;

use super::{Bench, Case, hard_state};
use crate::ports::LogWrite;
use crate::runs::Span;
use crate::testing::disk_fault::PowerCut;
use crate::testing::{Random, Rule, entry};
use crate::types::{Entry, GroupId, HardState, Index, LogId, WriteId};

const SEEDS: std::ops::Range<u64> = 0..4;
const SLICES: usize = 60;
/// A longer log drops all that is not committed, so that long runs are about writes and not about reading it.
const ENTRIES_MAX: u64 = 120;
/// What is committed stays, so the commit index of a model goes no further.
const COMMIT_MAX: u64 = 60;

pub(super) fn case() -> Case {
    let rule = Rule {
        name: "equals-the-model",
        why: "whatever the core writes, and however often the node restarts, the log is what was acknowledged",
        source: "LogStore as a whole; Raft Figure 2, persistent state [F2-PERSIST]",
    };
    Case { rule, test: against_model }
}

pub(super) fn case_with_power_cuts() -> Case {
    let rule = Rule {
        name: "equals-the-model-through-power-cuts",
        why: "whenever the power goes, a node comes back with all that it acknowledged and with nothing that never was",
        source: "LogStore as a whole; Raft Figure 2, persistent state [F2-PERSIST]",
    };
    Case { rule, test: through_power_cuts }
}

#[derive(Clone, Debug, Default)]
pub(super) struct ModelLog {
    pub(super) hard_state: HardState,
    pub(super) commit: u64,
    pub(super) entries: Vec<Entry>,
}

type Model = BTreeMap<GroupId, ModelLog>;

fn against_model(bench: &mut Bench<'_>) {
    each_seed(bench, SEEDS, one_seed);
}

fn each_seed(bench: &mut Bench<'_>, seeds: std::ops::Range<u64>, one_seed: fn(&mut Bench<'_>, u64)) {
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one_seed(bench, seed))) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("with seed {seed}: {text}");
        }
    }
}

fn one_seed(bench: &mut Bench<'_>, seed: u64) {
    bench.start_anew();
    let mut random = Random::new(seed);
    let mut model = empty_model();
    for _ in 0..SLICES {
        let slice = draw_slice(&mut model, &mut random);
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

fn empty_model() -> Model {
    (1..=3).map(|group| (GroupId(group), ModelLog::default())).collect()
}

/// Draws a slice that a correct core could ask for, and changes the model by it.
fn draw_slice(model: &mut Model, random: &mut Random) -> Vec<LogWrite> {
    let count = 1 + random.below(5);
    let draw = |_| {
        let group = GroupId(1 + random.below(3));
        let id = WriteId(random.next_u64());
        let log = model.get_mut(&group).expect("the model knows three groups");
        LogWrite { id, group, ..log.draw(random) }
    };
    (0..count).map(draw).collect()
}

fn through_power_cuts(bench: &mut Bench<'_>) {
    let seeds = bench.lab.effort().seeds;
    each_seed(bench, seeds, one_seed_through_power_cuts);
}

fn one_seed_through_power_cuts(bench: &mut Bench<'_>, seed: u64) {
    bench.start_anew();
    let mut random = Random::new(seed);
    let mut model = empty_model();
    for step in 0..bench.lab.effort().steps {
        let before = model.clone();
        let slice = draw_slice(&mut model, &mut random);
        match random.below(20) {
            0 => {
                bench.write(&slice);
                if !bench.can_cut_power(PowerCut::Now) {
                    return;
                }
            }
            1 => {
                if !bench.can_cut_power(PowerCut::InsideTheNextCall) {
                    return;
                }
                bench.work.operations += slice.len() as u64;
                let _ended_by_the_power_cut = bench.store().write(&slice);
                bench.reopen_after("a power cut inside a write");
                model = whichever(bench, step, before, &slice);
                continue;
            }
            _ => {
                bench.write(&slice);
                continue;
            }
        }
        bench.reopen_after("a power cut");
        demand_model(bench, step, &model);
    }
    demand_model(bench, bench.lab.effort().steps, &model);
}

fn demand_model(bench: &mut Bench<'_>, step: u64, model: &Model) {
    for (group, log) in model {
        let seen = bench.differs(*group, log);
        bench.rule.demand(seen.is_none(), || format!("step {step}: {group}: {}", seen.unwrap_or_default()));
    }
}

/// The model after as many writes of the slice as the store has kept; all groups must agree on how many.
fn whichever(bench: &mut Bench<'_>, step: u64, mut model: Model, slice: &[LogWrite]) -> Model {
    let mut states = vec![model.clone()];
    for write in slice {
        model.entry(write.group).or_default().apply(write);
        states.push(model.clone());
    }
    let kept = |state: &&Model| state.iter().all(|(group, log)| bench.differs(*group, log).is_none());
    if let Some(state) = states.iter().rev().find(kept) {
        return state.clone();
    }
    let seen: Vec<_> =
        states[0].iter().filter_map(|(group, log)| Some(format!("{group}: {}", bench.differs(*group, log)?))).collect();
    bench.rule.fail(&format!(
        "step {step}: after a power cut inside a slice of {} writes the logs are those of no moment; against the moment \
         before it: {seen:?}",
        slice.len()
    ))
}

impl Bench<'_> {
    /// What tells the group's log from this one, by recovery and by reading every entry.
    pub(super) fn differs(&mut self, group: GroupId, wanted: &ModelLog) -> Option<String> {
        let found = self.recover(group);
        let span = Span::of(LogId::ZERO, &wanted.entries).expect("the suite wants a log that can be");
        if (found.hard_state, found.last()) != (wanted.hard_state, span.last()) {
            let (state, last) = (found.hard_state, found.last());
            return Some(format!(
                "found {state:?} and a log up to {last}, wanted {:?} and {}",
                wanted.hard_state,
                span.last()
            ));
        }
        if found.runs != span.runs || found.commit.0 != wanted.commit || found.lost.is_some() {
            return Some(format!("found {found:?}, wanted runs {:?} and commit index {}", span.runs, wanted.commit));
        }
        let read = self.read_all(group, found.last().index);
        let other = read.iter().zip(&wanted.entries).find(|(found, wanted)| found != wanted);
        other.map(|(found, wanted)| {
            format!("entry {} was read as {} with other bytes or in another place", wanted.id, found.id)
        })
    }
}

impl ModelLog {
    /// Changes the model by a write.
    pub(super) fn apply(&mut self, write: &LogWrite) {
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from.0 as usize - 1);
        }
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.map_or(self.commit, |commit| commit.0);
    }

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
        let is_long = last > ENTRIES_MAX;
        if last > committed && (is_long || random.below(5) == 0) {
            let from = if is_long { committed + 1 } else { committed + 1 + random.below(last - committed) };
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
            let bound = (self.entries.len() as u64).min(COMMIT_MAX).max(self.commit);
            self.commit += random.below(bound - self.commit + 1);
            write.commit = Some(Index(self.commit));
        }
        write
    }
}
