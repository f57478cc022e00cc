//! Simulated clusters by the thousand: every seed is another mix of faults. `RAFT_SIM_SEEDS` says how many, `RAFT_SIM_SEED`
//! where to begin, `RAFT_SIM_EVENTS` how long each run's faults last, and `RAFT_SIM_PLAN` replays one line that a failure
//! printed.
#![cfg(feature = "testing")]
// A panic is how a test fails; and the speed is measured.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use raft_core::testing::Report;
use raft_core::testing::sim::{Failure, Goal, Goals, Plan, Ran, attempt, shrink};

/// Plans that once broke a property, each with what it was. Found by seeds, made small by `shrink`.
const REGRESSIONS: &[(&str, &str)] = &[
    (
        "seed=11 nodes=3 clients=4 keys=1 events=682 think=598 patience=96275 unkeyed=500 latency=51 \
         latency_spread=10341 replay=18 sync=590 sync_spread=64 apply=125 fill=395 flush=4 fault_every=71503 down=3312 \
         aim_at_leader=619 cut_pair=4 isolate=4 heal=11 freeze=2 stall=3",
        "an answer to a heartbeat of an old term confirmed a round of the answerer's term",
    ),
    (
        "seed=6 nodes=2 clients=1 keys=1 events=1250 think=1297 patience=307267 latency=40 latency_spread=513 in_order=1 \
         sync=201 sync_spread=2911 apply=9861 fill=135 flush=4 fault_every=122074 down=125247 aim_at_leader=382 heal=6 \
         stall=4",
        "a follower that gave its leader up kept its question out, and wanted a tick at once, for ever",
    ),
    (
        "seed=19 nodes=2 clients=5 keys=1 events=367 think=1308 patience=1600000 latency=98 latency_spread=28 sync=1356 \
         sync_spread=4447 apply=1475 fill=38 flush=4 fault_every=239699 down=24256 aim_at_leader=530 heal=7 chunks=1 \
         chunk_time=2357 change=27",
        "a commit was held against the joint configuration that the same step appended after it (the check was wrong)",
    ),
    (
        "seed=37 nodes=3 clients=3 keys=1 events=10000 think=849 patience=1600000 latency=55 latency_spread=3657 \
         in_order=1 sync=1485 sync_spread=104 apply=4041 fill=1183 flush=37 fault_every=12603 down=3558 \
         aim_at_leader=342 heal=2 chunks=1 chunk_time=49 change=21",
        "a removed node let readers wait for a leader of which it will never hear",
    ),
    (
        "seed=30 nodes=5 clients=2 keys=1 events=20000 think=4576 patience=1600000 latency=405 latency_spread=103 \
         loss=69 in_order=1 sync=320 sync_spread=445 apply=2039 fill=195 flush=17 fault_every=290356 down=32547 \
         aim_at_leader=397 crash_all=3 heal=11 unreachable=1 step_back=1 tight=1 cache=600 chunks=1 chunk_time=1912 \
         rebuild=1 change=32 catch_up=7",
        "all whom a removed node asks had left before they heard of its removal (the check was wrong: ADR 18)",
    ),
    (
        "seed=50 nodes=3 clients=7 keys=1 events=1150 think=3653 patience=1600000 latency=2302 latency_spread=154 \
         loss=137 sync=581 sync_spread=830 apply=390 fill=28994 flush=8 fault_every=26131 down=2586 aim_at_leader=906 \
         isolate=4 heal=10 freeze=6 unreachable=1 drift=200 tight=1 chunks=1 chunk_time=19",
        "the answer of a follower in a later term hid those of the leader's own (the check was wrong)",
    ),
    (
        "seed=106 nodes=7 clients=1 keys=1 events=5000 think=6428 patience=246974 unkeyed=500 latency=313 \
         latency_spread=1789 replay=47 in_order=1 sync=2605 sync_spread=1 apply=158 fill=7655 flush=1 fault_every=77146 \
         down=1113 aim_at_leader=700 crash=2 cut_one_way=5 heal=7 stall=6 chunks=1 chunk_time=61 change=32 drain=3 \
         priorities=1",
        "the only caller spent its time at nodes that had left (the check was wrong)",
    ),
    (
        "seed=1433 nodes=3 clients=3 keys=1 events=40000 think=37344 patience=163159 latency=66 latency_spread=102 \
         replay=34 sync=934 sync_spread=93 apply=8655 fill=297 flush=4 fault_every=232436 down=162896 aim_at_leader=524 \
         crash=1 crash_between=6 crash_all=4 cut_one_way=2 split=4 heal=10 freeze=6 stall=2 sync_error=6 unreachable=1 \
         drift=200 step_back=1 tight=1 retain=77 chunks=16 chunk_time=19523 chunk_loss=2 chunk_damage=190 change=15 \
         catch_up=112",
        "a node went on asking to lead when what it fetched had taken its vote away",
    ),
    (
        "seed=4789 nodes=3 clients=5 keys=2 events=40000 think=1510 patience=744398 latency=67 latency_spread=9234 \
         duplicate=150 replay=26 in_order=1 sync=247 sync_spread=1567 apply=1437 fill=367 flush=60 fault_every=640000 \
         down=56718 aim_at_leader=774 cut_pair=1 split=5 heal=12 stall=5 sync_error=5 unreachable=1 fill_error=134 \
         cache=600 chunks=2 chunk_time=60 chunk_damage=24 change=12 catch_up=255 handover=1",
        "the only node that reached a majority was a learner (the check was wrong)",
    ),
    (
        "seed=7661 nodes=3 clients=7 keys=3 events=40000 think=12564 patience=112867 latency=3457 latency_spread=848 \
         loss=128 replay=58 sync=109 sync_spread=4501 apply=73 fill=2444 flush=1 fault_every=241429 down=50570 \
         aim_at_leader=408 crash=1 isolate=2 heal=8 freeze=1 stall=6 tight=1 retain=5 chunks=1 chunk_time=1934 \
         chunk_loss=44 chunk_damage=38 change=4 priorities=1",
        "a leader forgot one that had left in the step of an old answer of it (the check was wrong)",
    ),
    (
        "seed=641 nodes=3 clients=2 keys=3 events=40000 think=4541 patience=1108941 latency=67 latency_spread=1168 \
         duplicate=154 sync=1778 sync_spread=193 hear=237 apply=322 fill=8255 flush=7 fault_every=640000 down=9986 \
         aim_at_leader=534 crash_all=1 cut_one_way=2 isolate=2 heal=9 stall=3 sync_error=3 unreachable=3 tight=1 \
         cache=600 retain=16 chunks=16 chunk_time=23 chunk_loss=51 chunk_damage=157 rebuild=2 handover=4 drain=2",
        "a leader that must not serve kept the leadership, since all that could serve were drained",
    ),
    (
        "seed=5984 nodes=7 clients=8 keys=2 events=40000 think=59968 patience=66868 latency=619 latency_spread=1471 \
         duplicate=11 replay=30 in_order=1 sync=134 sync_spread=5944 apply=484 fill=22 flush=24 fault_every=621751 \
         down=30997 aim_at_leader=216 crash_between=6 crash_all=4 cut_pair=3 isolate=5 heal=8 freeze=2 stall=3 \
         unreachable=3 drift=200 tight=1 cache=600 retain=8 chunks=2 chunk_time=242 chunk_damage=35 handover=1 drain=4",
        "the only node that reached a majority was drained, and handed over at once to one that could never win",
    ),
    (
        "seed=5721 nodes=3 clients=9 keys=1 events=11375 think=8752 patience=155288 unkeyed=500 latency=73 \
         latency_spread=2478 loss=103 replay=2 in_order=1 sync=496 sync_spread=281 apply=3295 fill=56450 flush=11 \
         fault_every=27018 down=302541 aim_at_leader=866 crash=6 isolate=4 heal=3 stall=2 unreachable=5 chunks=1 \
         chunk_time=705 change=19 catch_up=7 handover=5 drain=3 lease=50 lease_drift=87 holders=2 lease_reads=490 \
         lease_change=8",
        "a new leader measured its lease by settings that it did not know replaced by shorter ones",
    ),
];

/// What all runs did together.
#[derive(Default)]
struct Total {
    runs: u64,
    events: u64,
    seconds: u64,
    messages: u64,
    syncs: u64,
    applied: u64,
    faults: u64,
    crashes: u64,
    elections: u64,
    writes: u64,
    reads: u64,
    lease_reads: (u64, u64),
    leases: u64,
    with_leases: u64,
    checked: u64,
    partial: (u64, u64),
    went_on: Vec<u64>,
    goals: Goals,
}

impl Total {
    fn add(&mut self, plan: &Plan, ran: &Ran) {
        let tally = &ran.tally;
        self.with_leases += u64::from(plan.lease != 0);
        self.leases += tally.leases;
        self.lease_reads.0 += tally.lease_reads.0;
        self.lease_reads.1 += tally.lease_reads.1;
        self.runs += 1;
        self.events += tally.events;
        self.seconds += tally.time / 1_000_000_000;
        self.messages += tally.messages;
        self.syncs += tally.syncs;
        self.applied += tally.applied;
        self.faults += tally.faults;
        self.crashes += tally.crashes;
        self.elections += tally.elections;
        self.writes += tally.writes;
        self.reads += tally.reads;
        self.checked += tally.checked;
        self.partial.0 += tally.partial_majorities.0;
        self.partial.1 += tally.partial_majorities.1;
        if tally.majority_went_on_after > 0 {
            self.went_on.push(tally.majority_went_on_after / 1_000_000);
        }
        self.goals.add(&ran.goals);
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: set a number")),
        Err(_) => default,
    }
}

/// Says how to repeat a failure, and what is left of it when it is made small.
fn explain(plan: &Plan, failure: &Failure) -> String {
    eprintln!(
        "{}\n  after {} events of\n  RAFT_SIM_PLAN='{plan}'\n  making it small ...",
        failure.message, failure.tally.events
    );
    let small = shrink(plan);
    let of_small = attempt(&small).err().map(|failure| failure.message).unwrap_or_default();
    format!(
        "{}\n  after {} events of\n  RAFT_SIM_PLAN='{plan}'\n  made small:\n  RAFT_SIM_PLAN='{small}'\n  {of_small}",
        failure.message, failure.tally.events
    )
}

/// Runs all plans on all cores.
fn run_all(plans: &(impl Fn(u64) -> Plan + Sync), count: u64) -> (Total, Vec<(Plan, Failure)>) {
    let (next, total, failures) = (AtomicU64::new(0), Mutex::new(Total::default()), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count || failures.lock().unwrap().len() >= 5 {
                        return;
                    }
                    let plan = plans(nth);
                    match attempt(&plan) {
                        Ok(ran) => total.lock().unwrap().add(&plan, &ran),
                        Err(failure) => failures.lock().unwrap().push((plan, *failure)),
                    }
                }
            });
        }
    });
    (total.into_inner().unwrap(), failures.into_inner().unwrap())
}

#[test]
fn simulated_clusters_break_nothing() {
    if let Ok(line) = std::env::var("RAFT_SIM_PLAN") {
        let plan: Plan = line.parse().unwrap();
        let ran = raft_core::testing::sim::run(&plan);
        println!("{:?}", ran.tally);
        return;
    }
    let (count, begin) = (number("RAFT_SIM_SEEDS", 10_000), number("RAFT_SIM_SEED", 0));
    let events = number("RAFT_SIM_EVENTS", 0);
    let drawn = |nth| {
        let plan = Plan::draw(begin + nth);
        if events == 0 { plan } else { Plan { events, ..plan } }
    };
    // What is expected to be caught is reported below, once and whole.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let (total, failures) = run_all(&drawn, count);
    let spent = started.elapsed();
    let others =
        failures.iter().skip(1).map(|(plan, failure)| format!("{}\n  RAFT_SIM_PLAN='{plan}'", failure.property()));
    let said: Vec<String> =
        failures.iter().take(1).map(|(plan, failure)| explain(plan, failure)).chain(others).collect();
    drop(std::panic::take_hook());
    assert!(failures.is_empty(), "{} runs failed:\n{}", failures.len(), said.join("\n"));
    report(total, count, spent.as_secs_f64());
}

fn report(mut total: Total, count: u64, seconds: f64) {
    let mut report = Report::new("simulator");
    report
        .at_least("runs", total.runs, count)
        .at_least("events", total.events, 38_500 * count)
        .at_least("messages delivered", total.messages, 5_000 * count)
        .at_least("syncs", total.syncs, 1_000 * count)
        .at_least("entries applied", total.applied, 1_000 * count)
        .at_least("changes of faults", total.faults, 20 * count)
        .at_least("crashes", total.crashes, 10 * count)
        .at_least("elections won", total.elections, 5 * count)
        .at_least("writes acknowledged", total.writes, 200 * count)
        .at_least("reads served", total.reads, 100 * count)
        .at_least("operations in checked histories", total.checked, 300 * count)
        .at_least("runs with read leases", total.with_leases, count * 2 / 5)
        .at_least("leases that followers took", total.leases, 50 * count)
        .at_least("reads served under a leader's lease", total.lease_reads.0, 20 * count)
        .at_least("reads served under a follower's lease", total.lease_reads.1, 5 * count)
        .count("simulated seconds", total.seconds)
        .count("partial majorities", total.partial.0)
        .count("partial majorities that went on within 4 s", total.partial.1);
    total.went_on.sort_unstable();
    let went_on = &total.went_on;
    if !went_on.is_empty() {
        report.count("connected majorities", went_on.len() as u64);
        report.count("  commit again after ms, median", went_on[went_on.len() / 2]);
        report.count("  commit again after ms, 99 of 100", went_on[went_on.len() * 99 / 100]);
        report.count("  commit again after ms, slowest", went_on[went_on.len() - 1]);
    }
    report.note(format!("{:.0} events per second on {} cores", total.events as f64 / seconds, cores()));
    for goal in Goal::ALL {
        // The rarest is reached once in 800 runs.
        let least = u64::from(count >= 10_000);
        report.at_least(&format!("goal {goal:?}"), total.goals.count(*goal), least);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Leases rest on clocks: where these do not keep within the bound, there must be something to see, and not only for
/// who looks at the leases themselves.
#[test]
fn clocks_beyond_the_bound_are_seen() {
    std::panic::set_hook(Box::new(|_| {}));
    let broken = |blind: u64, seeds: std::ops::Range<u64>| {
        let plan = |seed| Plan { beyond: 800, blind, ..Plan::with_leases(seed) };
        seeds.filter_map(|seed| attempt(&plan(seed)).err().map(|failure| failure.property().to_owned())).next()
    };
    let (looked, callers) = (broken(0, 0..20), broken(1, 0..300));
    drop(std::panic::take_hook());
    println!("looked at leases: {looked:?}; by callers: {callers:?}");
    assert!(looked.is_some(), "no lease breaks a rule with clocks that drift too much");
    let stale = ["linearizable", "reads see what was acknowledged"];
    assert!(callers.is_some_and(|property| stale.contains(&property.as_str())), "no stale read with such clocks");
}

#[test]
fn what_was_found_once_stays_mended() {
    for (line, what) in REGRESSIONS {
        let plan: Plan = line.parse().unwrap();
        if let Err(failure) = attempt(&plan) {
            panic!("{what}\n  is back: {}\n  RAFT_SIM_PLAN='{plan}'", failure.message);
        }
    }
}

#[test]
fn a_plan_repeats_exactly() {
    for seed in 0..20 {
        let plan = Plan { events: 5_000, ..Plan::draw(seed) };
        let (first, second) = (attempt(&plan).unwrap(), attempt(&plan).unwrap());
        assert_eq!(format!("{first:?}"), format!("{second:?}"), "{plan}");
    }
}
