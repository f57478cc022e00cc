//! Random writes, compared with a model that is too simple to be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Bench, Case, configuration, configuration_in, hard_state, snapshot};
use crate::membership::Configuration;
use crate::ports::LogWrite;
use crate::runs::Span;
use crate::snapshot::SnapshotMeta;
use crate::testing::disk_fault::PowerCut;
use crate::testing::{Random, Rule, entry};
use crate::types::{Entry, GroupId, HardState, Index, LogId, Term, WriteId};

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
        fix: "compare with the contract of LogStore::write, field by field: snapshot, then truncation, then \
         entries, then hard state and commit",
        source: "LogStore as a whole; Raft Figure 2, persistent state [F2-PERSIST]",
    };
    Case { rule, test: against_model }
}

pub(super) fn case_with_power_cuts() -> Case {
    let rule = Rule {
        name: "equals-the-model-through-power-cuts",
        why: "whenever the power goes, a node comes back with all that it acknowledged and with nothing that never was",
        fix: "find the first difference: what is missing was acknowledged before its sync, what is too much was \
         written outside of the atomic batch",
        source: "LogStore as a whole; Raft Figure 2, persistent state [F2-PERSIST]",
    };
    Case { rule, test: through_power_cuts }
}

#[derive(Clone, Debug, Default)]
pub(super) struct ModelLog {
    pub(super) hard_state: HardState,
    pub(super) commit: u64,
    /// The entry before the first one.
    pub(super) base: LogId,
    pub(super) snapshot: Option<SnapshotMeta>,
    /// The newest at or before the base.
    pub(super) configuration: Option<Arc<Configuration>>,
    pub(super) entries: Vec<Entry>,
    /// Beginnings that were compacted since the last write, each with the base and the configuration before it, oldest
    /// first: after the next opening each of them may be there again, with those after it.
    pub(super) compacted: Vec<(LogId, Vec<Entry>, Option<Arc<Configuration>>)>,
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
        if random.below(4) == 0 {
            draw_compaction(bench, &mut model, &mut random);
        }
        let reopened = random.below(4) == 0;
        if reopened {
            bench.reopen();
        }
        for (group, log) in &mut model {
            if reopened {
                bench.settle(*group, log);
            }
            if reopened || random.below(3) == 0 {
                bench.demand_model(*group, log);
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
        let (group, log) = drawn_log(model, random);
        let id = WriteId(random.next_u64());
        LogWrite { id, group, ..log.draw(random) }
    };
    (0..count).map(draw).collect()
}

/// Compacts a log up to somewhere within what is committed, or asks for what is gone already.
fn draw_compaction(bench: &mut Bench<'_>, model: &mut Model, random: &mut Random) {
    let (group, log) = drawn_log(model, random);
    let upto = log.draw_beginning(random);
    bench.compact(group, upto);
    log.compact(upto);
}

fn drawn_log<'a>(model: &'a mut Model, random: &mut Random) -> (GroupId, &'a mut ModelLog) {
    let group = GroupId(1 + random.below(3));
    (group, model.get_mut(&group).expect("the model knows three groups"))
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
        if random.below(12) == 0 {
            draw_compaction(bench, &mut model, &mut random);
        }
        let before = model.clone();
        let slice = draw_slice(&mut model, &mut random);
        match random.below(24) {
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
            2 => {
                // The power goes right behind a compaction, or inside one.
                let inside = random.below(2) == 0;
                let when = if inside { PowerCut::InsideTheNextCall } else { PowerCut::Now };
                model = before;
                if !bench.can_cut_power(when) {
                    return;
                }
                if inside {
                    let (group, log) = drawn_log(&mut model, &mut random);
                    let upto = log.draw_beginning(&mut random);
                    let _ended_by_the_power_cut = bench.store().compact(group, Index(upto));
                    log.compact(upto);
                }
            }
            _ => {
                bench.write(&slice);
                continue;
            }
        }
        bench.reopen_after("a power cut");
        demand_models(bench, step, &mut model);
    }
    demand_models(bench, bench.lab.effort().steps, &mut model);
}

fn demand_models(bench: &mut Bench<'_>, step: u64, model: &mut Model) {
    for (group, log) in model {
        bench.settle(*group, log);
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
    for state in states.iter_mut().rev() {
        let kept = state.iter_mut().all(|(group, log)| {
            bench.settle(*group, log);
            bench.differs(*group, log).is_none()
        });
        if kept {
            return std::mem::take(state);
        }
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
    /// Takes the beginning that the log has after an opening, if it is one that it may have.
    pub(super) fn settle(&mut self, group: GroupId, model: &mut ModelLog) {
        let base = self.recover(group).base;
        while base != model.base {
            let Some((base, mut entries, configuration)) = model.compacted.pop() else { break };
            entries.append(&mut model.entries);
            (model.base, model.entries, model.configuration) = (base, entries, configuration);
        }
        model.compacted.clear();
    }

    /// What tells the group's log from this one, by recovery and by reading every entry.
    pub(super) fn differs(&mut self, group: GroupId, wanted: &ModelLog) -> Option<String> {
        let found = self.recover(group);
        let span = Span::of(wanted.base, &wanted.entries).expect("the suite wants a log that can be");
        if (found.hard_state, found.base, found.last()) != (wanted.hard_state, wanted.base, span.last()) {
            let (state, base, last) = (found.hard_state, found.base, found.last());
            return Some(format!(
                "found {state:?} and a log after {base} up to {last}, wanted {:?} and after {} up to {}",
                wanted.hard_state,
                wanted.base,
                span.last()
            ));
        }
        let others = found.commit.0 != wanted.commit || found.lost.is_some() || found.snapshot != wanted.snapshot;
        let others = others || found.configurations != wanted.configurations();
        if found.runs != span.runs || others {
            let (commit, snapshot) = (wanted.commit, &wanted.snapshot);
            return Some(format!("found {found:?}, wanted runs {:?}, commit index {commit}, {snapshot:?}", span.runs));
        }
        let read = self.read_all(group, found.base.index, found.last().index);
        let other = read.iter().zip(&wanted.entries).find(|(found, wanted)| found != wanted);
        other.map(|(found, wanted)| {
            format!("entry {} was read as {} with other bytes or in another place", wanted.id, found.id)
        })
    }
}

impl ModelLog {
    /// The end of the log.
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The configurations that a recovery has to find.
    pub(super) fn configurations(&self) -> Vec<Arc<Configuration>> {
        self.configuration.iter().cloned().chain(self.entries.iter().filter_map(configuration_in)).collect()
    }

    /// The newest configuration at or before `index`, by looking at everything.
    fn newest_configuration(&self, index: Index) -> Option<Arc<Configuration>> {
        self.configurations().into_iter().rfind(|configuration| configuration.index() <= index)
    }

    /// How many of the entries lie before `index`.
    fn count_before(&self, index: Index) -> usize {
        index.prev().since(self.base.index) as usize
    }

    /// Whether the log holds this entry, or begins right after it.
    fn holds(&self, id: LogId) -> bool {
        id == self.base || self.entries.iter().any(|entry| entry.id == id)
    }

    /// Changes the model by a write.
    pub(super) fn apply(&mut self, write: &LogWrite) {
        if let Some(snapshot) = &write.snapshot {
            let gone = if self.holds(snapshot.last) {
                snapshot.last.index.since(self.base.index) as usize
            } else {
                self.entries.len()
            };
            let configuration = Some(Arc::new(snapshot.configuration.clone())).filter(|it| !it.is_empty());
            self.configuration = configuration.or_else(|| self.newest_configuration(snapshot.last.index));
            self.entries.drain(..gone);
            self.base = snapshot.last;
            self.commit = self.commit.max(snapshot.last.index.0);
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = write.truncate_from {
            let count = self.count_before(from);
            self.entries.truncate(count);
        }
        self.entries.extend_from_slice(&write.entries);
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        self.commit = write.commit.map_or(self.commit, |commit| commit.0);
        if !write.is_empty() {
            self.compacted.clear();
        }
    }

    /// Drops the beginning up to `upto`, or nothing when it is gone already.
    pub(super) fn compact(&mut self, upto: u64) {
        let gone = Index(upto).since(self.base.index) as usize;
        if gone > 0 {
            let base = self.entries[gone - 1].id;
            let configuration = self.newest_configuration(base.index);
            let dropped = self.entries.drain(..gone).collect();
            let configuration = std::mem::replace(&mut self.configuration, configuration);
            self.compacted.push((std::mem::replace(&mut self.base, base), dropped, configuration));
        }
    }

    /// Draws a write that a correct core could ask for, and changes the model by it.
    fn draw(&mut self, random: &mut Random) -> LogWrite {
        let mut write = LogWrite::default();
        if random.below(3) == 0 {
            let term = self.hard_state.term.0 + random.below(3);
            let vote = if term > self.hard_state.term.0 { None } else { self.hard_state.vote.map(|vote| vote.0) };
            let vote = vote.or_else(|| (random.below(2) == 0).then(|| 1 + random.below(5)));
            self.change(&mut write, |write| write.hard_state = Some(hard_state(term, vote)));
        }
        if random.below(16) == 0 {
            self.draw_snapshot(&mut write, random);
        }
        let (committed, last) = (self.commit, self.last().index.0);
        let is_long = self.entries.len() as u64 > ENTRIES_MAX;
        if last > committed && (is_long || random.below(5) == 0) {
            let from = if is_long { committed + 1 } else { committed + 1 + random.below(last - committed) };
            self.change(&mut write, |write| write.truncate_from = Some(Index(from)));
        }
        if self.hard_state.term >= self.last().term && self.hard_state.term > Term::ZERO {
            let mut before = LogId { term: self.last().term.max(Term(1)), ..self.last() };
            for _ in 0..random.below(8) {
                let term = before.term.0 + random.below(self.hard_state.term.0 - before.term.0 + 1);
                let length = if random.below(50) == 0 { 100_000 } else { random.below(300) as usize };
                let index = before.index.0 + 1;
                let sets = random.below(12) == 0;
                write.entries.push(if sets { configuration(index, term, length) } else { entry(index, term, length) });
                before = LogId::new(before.index.next(), Term(term));
            }
            self.entries.extend_from_slice(&write.entries);
        }
        // A commit index alone causes no write of its own, so whether it is kept is the store's choice.
        if !write.is_empty() && random.below(3) == 0 {
            let bound = self.last().index.0.min(self.base.index.0 + COMMIT_MAX).max(self.commit);
            self.commit += random.below(bound - self.commit + 1);
            write.commit = Some(Index(self.commit));
        }
        if !write.is_empty() {
            self.compacted.clear();
        }
        write
    }

    /// Draws how far to compact: within what is committed, or a little less than is gone already.
    fn draw_beginning(&self, random: &mut Random) -> u64 {
        let least = self.base.index.0.saturating_sub(2);
        least + random.below(self.commit - least + 1)
    }

    /// Adds a snapshot that ends within the log, or with an entry that the log does not hold.
    fn draw_snapshot(&mut self, write: &mut LogWrite, random: &mut Random) {
        let index = self.base.index.0 + random.below(self.entries.len() as u64 + 6);
        let id_at = |index: u64| match index.checked_sub(self.base.index.0) {
            Some(0) => Some(self.base),
            Some(nth) => self.entries.get(nth as usize - 1).map(|entry| entry.id),
            None => None,
        };
        let committed = id_at(self.commit).map_or(self.base.term, |id| id.term).max(Term(1));
        let last = match id_at(index) {
            Some(id) if index <= self.commit || random.below(2) == 0 => id,
            _ if committed <= self.hard_state.term => {
                let term = committed.0 + random.below(self.hard_state.term.0 - committed.0 + 1);
                LogId::new(Index(index), Term(term))
            }
            _ => return,
        };
        if last.index > Index::ZERO {
            let snapshot = SnapshotMeta { last, ..snapshot(u128::from(random.next_u64()), 0, 0) };
            self.change(write, |write| write.snapshot = Some(snapshot.clone()));
        }
    }

    /// Adds one part to a write that has no entries yet, and changes the model by that part.
    fn change(&mut self, write: &mut LogWrite, part: impl Fn(&mut LogWrite)) {
        let mut alone = LogWrite::default();
        part(&mut alone);
        self.apply(&alone);
        part(write);
    }
}
