//! Networks that are cut in part: five nodes, every shape that their network can have, and a client that goes on
//! writing. Where some node reaches a majority, writes must go on within four election timeouts, and stay possible.
#![cfg(feature = "testing")]
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use raft_core::random::Random;
use raft_core::testing::Report;

mod cluster;
mod shape;

use cluster::{Cluster, TIMEOUT};
use shape::{NODES, Shape};

/// Within this time after the cut, and within it again and again, a write must be acknowledged.
const GOES_ON_WITHIN: Duration = TIMEOUT.saturating_mul(4);
/// How long a cut is watched.
const WATCHED: Duration = TIMEOUT.saturating_mul(10);

/// How a case went on after its last cut.
struct Went {
    case: String,
    shape: Shape,
    first: Option<Duration>,
    gap: Duration,
    /// Elections that were won after the first write went through: nobody has a reason to depose that leader.
    restless: bool,
}

impl Went {
    fn lives(&self) -> bool {
        self.gap <= GOES_ON_WITHIN
    }
}

fn watch(cluster: &mut Cluster, shape: Shape, case: String) -> Went {
    let case = format!("{case} ends {}", cluster.ends().iter().map(|end| format!(" {end}")).collect::<String>());
    cluster.cut(shape);
    cluster.run(GOES_ON_WITHIN);
    let settled = cluster.elections();
    cluster.run(WATCHED - GOES_ON_WITHIN);
    let restless = cluster.first_write().is_some_and(|first| first <= GOES_ON_WITHIN) && cluster.elections() != settled;
    Went { case, shape, first: cluster.first_write(), gap: cluster.longest_gap(), restless }
}

/// Runs `case` for every number below `count`, on all cores.
fn run_all(count: usize, case: impl Fn(usize) -> Went + Sync) -> Vec<Went> {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let went = case(number);
                    all.lock().unwrap().push((number, went));
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, went)| went).collect()
}

/// All must be live; when more are run than usual, votes that chance splits may make one of 5,000 late.
fn judge(stage: &str, all: &[Went]) {
    let possible: Vec<&Went> = all.iter().filter(|went| went.shape.has_majority()).collect();
    let count = |wanted: &dyn Fn(&Went) -> bool| possible.iter().filter(|went| wanted(went)).count() as u64;
    let (cases, live) = (possible.len() as u64, count(&|went| went.lives()));
    let mut report = Report::new(stage);
    report
        .count("cases", all.len() as u64)
        .count("in which some node reaches a majority", cases)
        .at_least("  and writes go on within 4 T, and stay possible", live, cases - cases / 5_000)
        .count("  a majority whose members all reach each other", count(&|went| went.shape.has_full_majority()))
        .count("    and writes go on", count(&|went| went.shape.has_full_majority() && went.lives()))
        .count("  connected", count(&|went| went.shape.is_connected()))
        .count("    and writes go on", count(&|went| went.shape.is_connected() && went.lives()))
        .count("  and no write at all", count(&|went| went.first.is_none()))
        .count("  and elections though writes went on", count(&|went| went.restless));
    let mut first: Vec<u64> = possible.iter().filter_map(|went| went.first).map(|t| t.as_millis() as u64).collect();
    first.sort_unstable();
    if let Some(slowest) = first.last() {
        report
            .count("first write after ms, median", first[first.len() / 2])
            .count("first write after ms, 99 of 100", first[first.len() * 99 / 100])
            .count("first write after ms, slowest", *slowest);
    }
    for went in possible.iter().filter(|went| !went.lives()).take(12) {
        report.note(format!("{:?} {}: first {:?}, gap {:?}", went.shape, went.case, went.first, went.gap));
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let impossible = all.iter().filter(|went| !went.shape.has_majority());
    for went in &possible {
        assert!(!went.restless, "{:?} {}: an election though a leader led", went.shape, went.case);
    }
    for went in impossible {
        assert!(went.first.is_none(), "{:?}: a write was acknowledged without a majority", went.shape);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: set a number")))
}

/// All 1,024 graphs of five nodes, each with its name; node 1 leads. In 998 of them some node has two links at least.
#[test]
fn every_shape() {
    let seeds = number("RAFT_SHAPES_SEEDS", 1);
    let shapes: Vec<Shape> = Shape::all().collect();
    assert_eq!(shapes.iter().filter(|shape| shape.has_majority()).count(), 998);
    let all = run_all(shapes.len() * usize::try_from(seeds).unwrap(), |nth| {
        let (shape, seed) = (shapes[nth % shapes.len()], nth / shapes.len());
        watch(&mut Cluster::led_by_first(seed as u64), shape, format!("seed {seed}"))
    });
    judge("shapes", &all);
}

/// How far a follower has come when the cut comes: 0 lacks what is committed, 1 has that, 2 has more than that.
type Lags = [u32; NODES - 1];

/// All lags of four followers with which the leader can have committed something that not all have.
fn lags() -> Vec<Lags> {
    let all = (0..81u32).map(|number| [number % 3, number / 3 % 3, number / 9 % 3, number / 27]);
    all.filter(|lags| lags.iter().filter(|lag| **lag > 0).count() >= 2).collect()
}

/// Every shape with every lag, but for the names of the followers: those of one class differ in their timers only.
fn shapes_and_lags() -> Vec<(Shape, Lags)> {
    let mut names = Vec::new();
    for number in 0..256usize {
        let order = [number % 4, number / 4 % 4, number / 16 % 4, number / 64];
        if (0..4).all(|follower| order.contains(&follower)) {
            names.push([0, order[0] + 1, order[1] + 1, order[2] + 1, order[3] + 1]);
        }
    }
    let mut classes = Vec::new();
    for shape in Shape::all() {
        for lags in lags() {
            let least = names.iter().all(|names| {
                let mut renamed = lags;
                for follower in 0..NODES - 1 {
                    renamed[names[follower + 1] - 1] = lags[follower];
                }
                (shape.number(), lags) <= (shape.renamed(names).number(), renamed)
            });
            if least {
                classes.push((shape, lags));
            }
        }
    }
    classes
}

#[test]
fn every_shape_with_followers_that_lag() {
    let cases = shapes_and_lags();
    let seeds = number("RAFT_SHAPES_SEEDS", 1);
    let all = run_all(cases.len() * usize::try_from(seeds).unwrap(), |nth| {
        let ((shape, lags), seed) = (cases[nth % cases.len()], nth / cases.len());
        let mut cluster = Cluster::led_by_first(seed as u64);
        let below = |least: u32| (1..NODES).filter(|node| lags[node - 1] < least).map(|node| 1 << node).sum();
        cluster.write_past(below(1), 8);
        cluster.write_past(below(2), 8);
        watch(&mut cluster, shape, format!("seed {seed} lags {lags:?}"))
    });
    judge("shapes-lags", &all);
}

/// One cut after the other: logs part, terms part, and some shape comes last.
#[test]
fn shape_after_shape() {
    let chains = number("RAFT_SHAPES_CHAINS", 1_000);
    let all = run_all(usize::try_from(chains).unwrap(), |nth| {
        let mut random = Random::new(nth as u64);
        let mut cluster = Cluster::led_by_first(nth as u64);
        for _ in 0..=random.below(5) {
            cluster.cut(Shape::numbered(random.below(1_024)));
            cluster.run(TIMEOUT.mul_f64(0.1) * u32::try_from(random.below(60)).unwrap());
        }
        let shape = std::iter::repeat_with(|| Shape::numbered(random.below(1_024))).find(|shape| shape.has_majority());
        watch(&mut cluster, shape.unwrap(), format!("chain {nth}"))
    });
    judge("shapes-chains", &all);
}
