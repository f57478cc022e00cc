//! The safety net under test: every mutant of the core (a rule broken on purpose) must be caught.
//!
//! The simulator looks for each one, seed by seed, until it breaks a property; then the same seeds must pass with all
//! rules in force. The golden scripts are asked for a second opinion: a rule whose mutant changes no script has no script
//! that shows it.
//!
//! `RAFT_MUTANT_SEEDS=5000` searches longer, `RAFT_MUTANT_SEED=1000000` elsewhere, `RAFT_MUTANT=VoteTwice,NoopLeftOut`
//! only for these. `RAFT_MUTANT_BLIND=1` looks at what callers of clusters with read leases see, and not at the leases.
#![cfg(feature = "testing")]
// A panic is how a test fails; and this one measures how long a search takes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::cell::Cell;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raft_core::testing::Report;
use raft_core::testing::mutants::{Group, Mutant};
use raft_core::testing::sim::{Plan, attempt};

mod support;

use support::{Script, directory, scripts};

/// Seeds that are tried for one mutant before it counts as not found.
const SEEDS_MAX: u64 = 1_500;
/// One for each core that CI has; the switch belongs to the thread.
const THREADS: usize = 2;

/// The search for one mutant.
struct Search {
    mutant: Mutant,
    /// What caught it; none when nothing did.
    property: Option<String>,
    seeds: u64,
    events: u64,
    took: Duration,
}

fn plan(seed: u64) -> Plan {
    let blind = from_environment("RAFT_MUTANT_BLIND").unwrap_or(0);
    if blind == 0 { Plan::draw(seed) } else { Plan { blind, ..Plan::with_leases(seed) } }
}

fn search(mutant: Mutant, seed_first: u64, seeds_max: u64) -> Search {
    let _broken = mutant.switch_on();
    let begin = Instant::now();
    let mut search = Search { mutant, property: None, seeds: 0, events: 0, took: Duration::ZERO };
    while search.seeds < seeds_max && search.property.is_none() {
        match attempt(&plan(seed_first + search.seeds)) {
            Ok(ran) => search.events += ran.tally.events,
            Err(failure) => {
                search.events += failure.tally.events;
                search.property = Some(first_line(failure.property()));
            }
        }
        search.seeds += 1;
    }
    search.took = begin.elapsed();
    search
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Calls `work` with every number below `count`, on all threads, without a word of the panics that it catches.
fn on_all_threads(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                SILENT.set(true);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

thread_local! {
    /// Panics of this thread are expected: they are how a property says that it is broken.
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

fn silence_expected_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !SILENT.get() {
            usual(panic);
        }
    }));
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn the_simulator_finds_every_mutant() {
    silence_expected_panics();
    let wanted: Option<String> = from_environment("RAFT_MUTANT");
    let seeds_max = from_environment("RAFT_MUTANT_SEEDS").unwrap_or(SEEDS_MAX);
    let seed_first = from_environment("RAFT_MUTANT_SEED").unwrap_or(0);
    let is_wanted =
        |mutant: &Mutant| wanted.as_ref().is_none_or(|names| names.split(',').any(|name| mutant.name() == name));
    let mutants: Vec<Mutant> = Mutant::ALL.iter().copied().filter(is_wanted).collect();
    assert!(!mutants.is_empty(), "no mutant is called {wanted:?}");

    let searches = Mutex::new(Vec::new());
    on_all_threads(mutants.len(), |number| {
        let search = search(mutants[number], seed_first, seeds_max);
        searches.lock().unwrap().push(search);
    });
    let mut searches = searches.into_inner().unwrap();
    searches.sort_by_key(|search| search.mutant);

    // What was found says nothing unless the same seeds pass when all rules hold.
    let used = searches.iter().filter(|search| search.property.is_some()).map(|search| search.seeds).max().unwrap_or(0);
    let (events, broken) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    on_all_threads(usize::try_from(used).unwrap(), |number| {
        let plan = plan(seed_first + number as u64);
        match attempt(&plan) {
            Ok(ran) => _ = events.fetch_add(ran.tally.events, Ordering::Relaxed),
            Err(failure) => broken.lock().unwrap().push(format!("RAFT_SIM_PLAN='{plan}': {}", failure.message)),
        }
    });
    let broken = broken.into_inner().unwrap();

    report(&searches, used, events.into_inner(), wanted.is_none());
    let missed: Vec<_> =
        searches.iter().filter(|search| search.property.is_none()).map(|search| search.mutant).collect();
    assert!(broken.is_empty(), "with all rules in force:\n{}", broken.join("\n"));
    assert!(missed.is_empty(), "not found within {seeds_max} seeds: {missed:?}");
}

fn report(searches: &[Search], control_seeds: u64, control_events: u64, whole: bool) {
    let mut report = Report::new("mutants");
    let found = |group| {
        let found = searches.iter().filter(|search| search.mutant.group() == group && search.property.is_some());
        found.count() as u64
    };
    let mut took: Vec<Duration> = searches.iter().map(|search| search.took).collect();
    took.sort_unstable();
    report
        .at_least("safety rules broken and found", found(Group::Safety), if whole { 50 } else { 0 })
        .at_least("liveness rules broken and found", found(Group::Liveness), if whole { 10 } else { 0 })
        .count("not found", searches.iter().filter(|search| search.property.is_none()).count() as u64)
        .count("seeds searched", searches.iter().map(|search| search.seeds).sum())
        .count("events searched", searches.iter().map(|search| search.events).sum())
        .count("seeds that pass with all rules in force", control_seeds)
        .count("events of these", control_events)
        .count("median milliseconds to find", u64::try_from(took[took.len() / 2].as_millis()).unwrap())
        .count("greatest milliseconds to find", u64::try_from(took[took.len() - 1].as_millis()).unwrap());
    report.note(format!("{:32} {:>5} {:>10} {:>8}  found by", "mutant", "seeds", "events", "ms"));
    for Search { mutant, property, seeds, events, took } in searches {
        let property = property.as_deref().unwrap_or("NOTHING");
        report.note(format!("{:32} {seeds:>5} {events:>10} {:>8}  {property}", mutant.name(), took.as_millis()));
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// The scripts have a state machine that knows no keys of idempotency, and say when time passes themselves.
const WITHOUT_A_SCRIPT: &[Mutant] = &[Mutant::RetryAppliedTwice, Mutant::StaleInstants, Mutant::QuestionOutlivesLeader];

#[test]
fn every_mutant_changes_a_script() {
    silence_expected_panics();
    let scripts: Vec<String> = scripts(&directory()).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let unchanged = Mutex::new(Vec::new());
    on_all_threads(Mutant::ALL.len(), |number| {
        let mutant = Mutant::ALL[number];
        let _broken = mutant.switch_on();
        let shows = |script: &String| match catch_unwind(|| goldenscript::generate(&mut Script::default(), script)) {
            Ok(Ok(seen)) => seen != *script,
            _ => true,
        };
        if !scripts.iter().any(shows) {
            unchanged.lock().unwrap().push(mutant);
        }
    });
    let unchanged = unchanged.into_inner().unwrap();
    assert_eq!(unchanged, WITHOUT_A_SCRIPT, "these rules can be broken and all scripts look the same");
}
