//! The same load on other parts: three nodes in one process, each on real files and real sockets of loopback, for each of
//! {RocksDB, redb} × {QUIC, TCP}. The state machine is the counters of the examples.
//!
//! `cargo run --release -p raft-benches --bin kit -- [rounds] [seconds]`
//!
//! Each round runs each cluster in turn, so that a machine that drifts drifts for all of them; the table has the median of
//! the rounds. Figures of a few parts side by side: what a node costs behind HTTP is in `puts`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use counter::Counter;
use hdrhistogram::Histogram;
use log_redb::{DataFile, RedbIdentity, RedbStore};
use net_tcp::{TcpTransport, Tls};
use raft_benches::cluster::data_dir;
use raft_core::ports::Transport;
use raft_core::types::NodeName;
use raft_log_rocks::{DataDir, LogOptions};
use raft_net_quic::{QuicConfig, QuicTransport, Start, TlsFiles};
use raft_node::handle::WriteOptions;
use raft_node::parts::{Founder, IdentityStore, LogFactory};
use raft_node::rocks::SharedDataDir;
use raft_node::small_state::InMemory;
use raft_node::{Node, NodeConfig, NodeHandle, Parts};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Callers that each wait for their answer before they ask again.
const CLIENTS: [usize; 2] = [1, 64];
/// How long a cluster may take to be ready, and a write to be answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of every run, before it counts.
const WARM_UP: Duration = Duration::from_millis(300);

type Anything = Box<dyn Error + Send + Sync>;

/// Which log and which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    redb: bool,
    tcp: bool,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self { redb: false, tcp: false },
        Self { redb: true, tcp: false },
        Self { redb: false, tcp: true },
        Self { redb: true, tcp: true },
    ];

    fn name(self) -> String {
        format!("{} + {}", if self.redb { "redb" } else { "RocksDB" }, if self.tcp { "TCP" } else { "QUIC" })
    }

    /// Its clusters listen on a network of loopback of their own.
    fn address(self, node: usize) -> SocketAddr {
        let network = 1 + u8::from(self.redb) + 2 * u8::from(self.tcp);
        let process = u8::try_from(std::process::id() % 250).unwrap_or_default();
        SocketAddr::from(([127, 90 + network, process, 1 + u8::try_from(node).unwrap_or_default()], 7082))
    }
}

/// Three nodes, each on a thread and a runtime of its own, as processes would have.
struct Cluster {
    nodes: Vec<(NodeHandle, std::thread::JoinHandle<()>)>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    fn start(kind: Kind) -> Result<Self, Anything> {
        let directory = tempfile::tempdir_in(data_dir())?;
        make_certificates(directory.path())?;
        let mut nodes = Vec::new();
        for node in 0..NAMES.len() {
            let (sender, receiver) = std::sync::mpsc::channel();
            let place = directory.path().to_owned();
            let thread = std::thread::spawn(move || run_node(kind, node, &place, &sender));
            nodes.push((receiver.recv()??, thread));
        }
        Ok(Self { nodes, _directory: directory })
    }

    async fn leader(&self) -> Result<NodeHandle, Anything> {
        for (node, _) in &self.nodes {
            node.wait_ready(PATIENCE).await?;
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some((node, _)) = self.nodes.iter().find(|(node, _)| node.leads()) {
                return Ok(node.clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err("no leader".into())
    }

    async fn stop(self) -> Result<(), Anything> {
        for (node, _) in &self.nodes {
            node.stop().await?;
        }
        for (_, thread) in self.nodes {
            thread.join().map_err(|_| "a node's thread panicked")?;
        }
        Ok(())
    }
}

/// Runs a node until it is stopped; says how it can be reached.
fn run_node(kind: Kind, node: usize, place: &Path, said: &std::sync::mpsc::Sender<Result<NodeHandle, Anything>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(said.send(Err(error.into()))),
    };
    runtime.block_on(async {
        let started = match parts(kind, node, place) {
            Ok(parts) => Node::start(parts).await.map_err(Anything::from),
            Err(error) => Err(error),
        };
        let handle = started.as_ref().ok().cloned();
        // Nobody listens any more when the benchmark has given up.
        let _ = said.send(started);
        if let Some(handle) = handle {
            let _ = handle.finished().await;
        }
    });
}

fn parts(kind: Kind, node: usize, place: &Path) -> Result<Parts, Anything> {
    let (name, listen) = (NodeName::new(NAMES[node]), kind.address(node));
    let directory = place.join(NAMES[node]);
    let founders = NAMES.iter().enumerate().map(|(nth, name)| {
        let address = kind.address(nth).to_string();
        Founder { name: NodeName::new(name), address }
    });
    let config = NodeConfig::new(listen.to_string(), founders.collect());
    let (ca, cert, key) = (place.join("ca.pem"), place.join(format!("{name}.pem")), place.join(format!("{name}.key")));

    let mut start = None;
    let (identity, log): (Box<dyn IdentityStore>, LogFactory) = if kind.redb {
        std::fs::create_dir(&directory)?;
        let file = DataFile::open(&directory.join("node.redb"))?;
        let identity = RedbIdentity::open(&file, name)?;
        if let [nonce, earlier @ ..] = identity.starts() {
            start = Some(Start { count: identity.start_count(), nonce: *nonce, earlier: earlier.to_vec() });
        }
        (Box::new(identity), Box::new(move || Ok(Box::new(RedbStore::new(&file)))))
    } else {
        let opened = DataDir::open(&directory, &name)?;
        let record = opened.start();
        start = Some(Start { count: record.count, nonce: record.nonce, earlier: record.earlier.clone() });
        let shared = SharedDataDir::new(opened);
        let log = shared.log(LogOptions::default());
        (Box::new(shared), log)
    };
    let transport: Arc<dyn Transport> = if kind.tcp {
        let tls = Tls::load("raft", &ca, &cert, &key)?;
        Arc::new(TcpTransport::new(net_tcp::Settings::new(listen.to_string(), tls)))
    } else {
        let transport = QuicTransport::new(QuicConfig::new(listen, "raft", TlsFiles { ca, cert, key }))?;
        if let Some(start) = start {
            transport.set_start(start);
        }
        Arc::new(transport)
    };
    let state = InMemory::<Counter>::factory(directory.join("counter"), Counter::default);
    Ok(Parts::new(identity, log, state, transport, &directory, config))
}

fn make_certificates(directory: &Path) -> Result<(), Anything> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    std::fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let authority = Issuer::new(params, key);
    for name in NAMES {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("raft://raft/{name}").as_str().try_into()?)];
        std::fs::write(directory.join(format!("{name}.pem")), params.signed_by(&key, &authority)?.pem())?;
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// What one run saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Closed loops of `clients` callers at the leader.
async fn run(leader: &NodeHandle, clients: usize, time: Duration) -> Result<Seen, Anything> {
    let (begin, options) = (Instant::now(), WriteOptions::within(PATIENCE));
    let mut callers = tokio::task::JoinSet::new();
    for client in 0..clients {
        let leader = leader.clone();
        callers.spawn(async move {
            let mut latency = Histogram::<u64>::new_with_bounds(1_000, 600_000_000_000, 3)?;
            while begin.elapsed() < WARM_UP + time {
                let asked = Instant::now();
                leader.write(format!("add counter{client} 1").into(), options).await?;
                // What began in the warm-up does not count.
                if asked.duration_since(begin) >= WARM_UP {
                    latency.saturating_record(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
            }
            Ok::<_, Anything>(latency)
        });
    }
    let mut all = Histogram::<u64>::new_with_bounds(1_000, 600_000_000_000, 3)?;
    while let Some(latency) = callers.join_next().await {
        all.add(latency??)?;
    }
    let ms = |quantile| all.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Seen { per_second: all.len() as f64 / time.as_secs_f64(), p50_ms: ms(0.5), p99_ms: ms(0.99) })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "what it is for")]
async fn main() -> Result<(), Anything> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let rounds = numbers.next().transpose()?.unwrap_or(5);
    let time = Duration::from_secs(numbers.next().transpose()?.unwrap_or(3));
    let clusters: Vec<Cluster> = Kind::ALL.into_iter().map(Cluster::start).collect::<Result<_, _>>()?;
    let mut seen: Vec<(Kind, usize, Seen)> = Vec::new();
    for round in 1..=rounds {
        for (kind, cluster) in Kind::ALL.into_iter().zip(&clusters) {
            let leader = cluster.leader().await?;
            for clients in CLIENTS {
                let run = run(&leader, clients, time).await?;
                eprintln!("round {round} of {rounds}: {} with {clients} clients: {run:.2?}", kind.name());
                seen.push((kind, clients, run));
            }
        }
    }
    println!("medians of {rounds} rounds of {} s\n", time.as_secs());
    println!("| clients | parts | puts/s | p50 ms | p99 ms | puts/s to RocksDB + QUIC |");
    println!("|---:|---|---:|---:|---:|---:|");
    for clients in CLIENTS {
        let of = |kind: Kind, look: fn(&Seen) -> f64| {
            median(seen.iter().filter(|run| (run.0, run.1) == (kind, clients)).map(|run| look(&run.2)))
        };
        let first = of(Kind::ALL[0], |seen| seen.per_second);
        for kind in Kind::ALL {
            let (rate, p50) = (of(kind, |seen| seen.per_second), of(kind, |seen| seen.p50_ms));
            let (name, p99) = (kind.name(), of(kind, |seen| seen.p99_ms));
            println!("| {clients} | {name} | {rate:.0} | {p50:.2} | {p99:.2} | {:.2} |", rate / first);
        }
    }
    for cluster in clusters {
        cluster.stop().await?;
    }
    Ok(())
}
