//! The suite that defines the port, over real UDP on loopback.
#![allow(clippy::unwrap_used)] // A test stops where it fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_core::ports::Transport;
use raft_core::testing::transport_suite::{self, Case, Disturbance, TransportLab};
use raft_core::testing::{Outcome, Report, UdpCounts, UdpFaults, UdpRelay, Work};
use raft_core::types::NodeName;
use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};

mod certificates;

use certificates::{Authority, own_ip};

const CLUSTER: &str = "suite";
/// Of transfers of snapshots: short, since a case waits for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

struct Lab {
    authority: Authority,
    addresses: BTreeMap<NodeName, SocketAddr>,
}

impl Lab {
    fn new() -> Self {
        Self { authority: Authority::new(), addresses: BTreeMap::new() }
    }

    fn socket_address(&mut self, name: &NodeName) -> SocketAddr {
        // Each node has an IP of its own, so one port serves all.
        *self.addresses.entry(name.clone()).or_insert_with(|| SocketAddr::new(own_ip(), 7082))
    }
}

#[async_trait::async_trait]
impl TransportLab for Lab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        let files = self.authority.node(CLUSTER, name.as_str());
        let mut config = QuicConfig::new(self.socket_address(name), CLUSTER, files);
        config.timing.snapshot_stall_timeout = STALL_TIMEOUT;
        Arc::new(QuicTransport::new(config).unwrap())
    }

    fn address(&mut self, name: &NodeName) -> String {
        self.socket_address(name).to_string()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn snapshot_stall_timeout(&mut self) -> Option<Duration> {
        Some(STALL_TIMEOUT)
    }
}

/// Runs cases one after the other, each in a network of its own. A case that its lab cannot run fails.
async fn run_all(cases: Vec<Case>, fresh: fn(u64) -> Box<dyn TransportLab>) -> Work {
    let mut sum = Work::default();
    for (case, seed) in cases.into_iter().zip(first_seed()..) {
        let name = case.rule.name;
        eprintln!("`{name}`, seed {seed}");
        match case.run(fresh(seed)).await {
            Outcome::Held(work) => {
                sum.operations += work.operations;
                sum.cuts += work.cuts;
                sum.faults += work.faults;
            }
            Outcome::NotRun { lacks } => panic!("`{name}` was not run: the lab lacks {lacks}"),
        }
    }
    sum
}

/// The seed of the first case's relay; each further case has the next one.
fn first_seed() -> u64 {
    std::env::var("RAFT_SUITE_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// How often the cases with faults run: each time with other seeds.
fn rounds() -> u64 {
    std::env::var("RAFT_SUITE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Rules that only a network with faults shows.
const WITH_FAULTS: [&str; 6] = [
    "a-cut-is-told-and-heals",
    "a-one-way-cut-is-told-and-heals",
    "bad-links-keep-order-and-bytes",
    "a-peer-restarts-behind-a-bad-link",
    "requests-on-bad-links-are-honest",
    "a-snapshot-crosses-bad-links",
];
/// No process can be stopped alone here, since all nodes are in this one; `raft-node` does it to real processes.
const NEEDS_PROCESSES: &str = "a-stalled-peer-does-not-block";

fn cases(with_faults: bool) -> Vec<Case> {
    let mut cases = transport_suite::cases();
    assert!(cases.len() >= 31, "the suite has {} cases", cases.len());
    cases.retain(|case| case.rule.name != NEEDS_PROCESSES);
    cases.retain(|case| WITH_FAULTS.contains(&case.rule.name) == with_faults);
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_a_runtime_with_threads() {
    run_all(cases(false), |_| Box::new(Lab::new())).await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_suite_holds_on_a_runtime_of_one_thread() {
    run_all(cases(false), |_| Box::new(Lab::new())).await;
}

/// A network with a relay between its nodes.
struct RelayLab {
    nodes: Lab,
    relay: UdpRelay,
    relayed: BTreeMap<NodeName, SocketAddr>,
}

impl RelayLab {
    fn new(seed: u64) -> Self {
        Self { nodes: Lab::new(), relay: UdpRelay::start(seed).unwrap(), relayed: BTreeMap::new() }
    }
}

#[async_trait::async_trait]
impl TransportLab for RelayLab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        self.address(name);
        self.nodes.make(name)
    }

    fn address(&mut self, name: &NodeName) -> String {
        let node = self.nodes.socket_address(name);
        let relay = &self.relay;
        let relayed = self.relayed.entry(name.clone());
        relayed.or_insert_with(|| relay.add(SocketAddr::new(own_ip(), 7082), node).unwrap()).to_string()
    }

    async fn pause(&self, time: Duration) {
        self.nodes.pause(time).await;
    }

    fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
        let (from, to) = (self.nodes.socket_address(from), self.nodes.socket_address(to));
        self.relay.cut(from, to);
        true
    }

    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        self.relay.set_all(UdpFaults {
            loss: disturbance.loss_percent * 10,
            duplicate: disturbance.duplicate_percent * 10,
            reorder: disturbance.reorder_percent * 10,
            reorder_by: Duration::from_millis(20),
            corrupt: disturbance.corrupt_percent * 10,
            replay: disturbance.replay_percent * 10,
            ..UdpFaults::default()
        });
        true
    }

    fn heal(&mut self) {
        self.relay.set_all(UdpFaults::default());
        self.relay.mend_all();
    }
}

impl Drop for RelayLab {
    fn drop(&mut self) {
        let mut total = DATAGRAMS.lock().unwrap();
        *total.get_or_insert_default() += self.relay.counts();
    }
}

/// Of all relays of this process.
static DATAGRAMS: Mutex<Option<UdpCounts>> = Mutex::new(None);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_links_that_are_cut_and_bad() {
    let cases = (0..rounds()).flat_map(|_| cases(true)).collect::<Vec<_>>();
    let count = cases.len() as u64;
    let work = run_all(cases, |seed| Box::new(RelayLab::new(seed))).await;
    let counts = DATAGRAMS.lock().unwrap().unwrap();
    let mut report = Report::new("suite-transport-quic");
    report.at_least("cases", count, 6).at_least("messages", work.operations, 2_000).at_least("cuts", work.cuts, 7);
    report.at_least("datagrams", counts.received, 2_000).at_least("datagrams-lost", counts.lost, 20);
    report.at_least("datagrams-doubled", counts.duplicated, 20).at_least("datagrams-reordered", counts.reordered, 20);
    report.at_least("datagrams-corrupted", counts.corrupted, 20).at_least("datagrams-replayed", counts.replayed, 20);
    report.at_least("datagrams-cut", counts.cut, 20);
    report.finish(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
}
