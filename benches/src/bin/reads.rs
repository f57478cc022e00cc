//! Reads through a follower, linearizable and under a read lease, side by side: time, CPU of the servers, CPU of the leader,
//! and bytes between the nodes, each per read; then reads under leases at one, two and three nodes.
//!
//! `cargo run --release -p raft-benches --bin reads -- [rounds] [seconds]`

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use raft_benches::cluster::cpu_of;
use raft_benches::http::{Connection, get_request, put_request};
use raft_benches::nodes::Nodes;

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 1000;
/// Clients per node where several nodes serve.
const CLIENTS: usize = 8;

/// What one run cost in all.
#[derive(Clone, Copy, Debug)]
struct Cost {
    reads: u64,
    p50: Duration,
    per_second: f64,
    /// CPU of each node, in the order of the nodes.
    cpu: [Duration; 3],
    /// Bytes that each node sent to the others.
    sent: [f64; 3],
}

impl Cost {
    fn cpu_per_read(&self) -> f64 {
        self.cpu.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.reads.max(1) as f64
    }
}

async fn client(host: &str, consistency: &str, nth: u64, end: Instant) -> io::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("valid bounds");
    let mut connection = Connection::open(host).await?;
    let mut number = nth << 32;
    while Instant::now() < end {
        number += 1;
        let key = number.wrapping_mul(2_654_435_761) % KEYS;
        let request = get_request(host, &format!("/v1/kv/key-{key:06}?consistency={consistency}"));
        let begin = Instant::now();
        let (status, body) = connection.call(&request).await?;
        if status != 200 {
            return Err(io::Error::other(format!("{host}: {status} {}", String::from_utf8_lossy(body))));
        }
        histogram.saturating_record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(histogram)
}

async fn spent(nodes: &Nodes) -> io::Result<([Duration; 3], [f64; 3])> {
    let (mut cpu, mut sent) = ([Duration::ZERO; 3], [0.0; 3]);
    for (at, node) in nodes.nodes.iter().enumerate() {
        cpu[at] = node.pid().and_then(cpu_of).unwrap_or_default();
        sent[at] = node.sum("raft_peer_sent_bytes_total").await?;
    }
    Ok((cpu, sent))
}

/// Reads at these nodes; without a consistency nobody reads, which is what the nodes cost by themselves.
async fn run(nodes: &Nodes, at: &[usize], clients: usize, consistency: Option<&str>, seconds: u64) -> io::Result<Cost> {
    let before = spent(nodes).await?;
    let (begin, end) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
    let mut all = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3).expect("valid bounds");
    match consistency {
        None => tokio::time::sleep_until(end.into()).await,
        Some(consistency) => {
            let local = tokio::task::LocalSet::new();
            let tasks: Vec<_> = (0..clients * at.len())
                .map(|nth| {
                    let host = nodes.nodes[at[nth % at.len()]].client.clone();
                    let consistency = consistency.to_owned();
                    local.spawn_local(async move { client(&host, &consistency, nth as u64, end).await })
                })
                .collect();
            local.await;
            for task in tasks {
                let histogram = task.await.map_err(io::Error::other)??;
                all.add(&histogram).map_err(io::Error::other)?;
            }
        }
    }
    let took = begin.elapsed().as_secs_f64();
    let after = spent(nodes).await?;
    let mut cost = Cost {
        reads: all.len(),
        p50: Duration::from_nanos(all.value_at_quantile(0.5)),
        per_second: all.len() as f64 / took,
        cpu: [Duration::ZERO; 3],
        sent: [0.0; 3],
    };
    for at in 0..3 {
        cost.cpu[at] = after.0[at].saturating_sub(before.0[at]);
        cost.sent[at] = after.1[at] - before.1[at];
    }
    Ok(cost)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn follower(nodes: &Nodes, rounds: usize, seconds: u64) -> io::Result<()> {
    let leader = nodes.leader().await?;
    let follower = (leader + 1) % 3;
    println!("one client, one follower; leader {}, follower {}", nodes.nodes[leader].name, nodes.nodes[follower].name);
    println!(
        "{:<6} {:<13} {:>8} {:>9} {:>12} {:>13} {:>13} {:>14}",
        "round", "mode", "reads/s", "p50 µs", "CPU/read µs", "leader µs", "leader B/read", "follower B/read"
    );
    let (mut p50s, mut cpus) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let idle = run(nodes, &[follower], 1, None, seconds).await?;
        let mut pair = Vec::new();
        for mode in ["linearizable", "lease"] {
            let cost = run(nodes, &[follower], 1, Some(mode), seconds).await?;
            let reads = cost.reads as f64;
            let net = |at: usize| (cost.sent[at] - idle.sent[at]) / reads;
            let leader_cpu = (cost.cpu[leader].as_secs_f64() - idle.cpu[leader].as_secs_f64()) * 1e6 / reads;
            println!(
                "{:<6} {:<13} {:>8.0} {:>9.0} {:>12.1} {:>13.1} {:>13.2} {:>14.2}",
                round,
                mode,
                cost.per_second,
                cost.p50.as_secs_f64() * 1e6,
                cost.cpu_per_read(),
                leader_cpu,
                net(leader),
                net(follower)
            );
            pair.push(cost);
        }
        p50s.push(pair[1].p50.as_secs_f64() / pair[0].p50.as_secs_f64());
        cpus.push(pair[1].cpu_per_read() / pair[0].cpu_per_read());
    }
    println!("lease / linearizable, medians: p50 {:.2}, server CPU per read {:.2}", median(p50s), median(cpus));
    println!("(leader µs and bytes are beyond what the same time costs without reads)");
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn serving(nodes: &Nodes, rounds: usize, seconds: u64) -> io::Result<()> {
    let leader = nodes.leader().await?;
    let order = [(leader + 1) % 3, (leader + 2) % 3, leader];
    println!("reads under leases at one, two and three nodes, {CLIENTS} clients each");
    println!("{:<6} {:>6} {:>10} {:>9} {:>12}", "round", "nodes", "reads/s", "p50 µs", "CPU/read µs");
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        for count in 1..=3 {
            let cost = run(nodes, &order[..count], CLIENTS, Some("lease"), seconds).await?;
            costs[count - 1].push(cost.cpu_per_read());
            let (p50, cpu) = (cost.p50.as_secs_f64() * 1e6, cost.cpu_per_read());
            println!("{round:<6} {count:>6} {:>10.0} {p50:>9.0} {cpu:>12.1}", cost.per_second);
        }
    }
    let [one, two, three] = costs.map(median);
    println!(
        "CPU per read, medians: {one:.1}, {two:.1}, {three:.1} µs; to one node: {:.2}, {:.2}",
        two / one,
        three / one
    );
    Ok(())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(3).max(1);
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let nodes = Nodes::start(3, &[]).await?;
        let host = nodes.nodes[nodes.leader().await?].client.clone();
        let mut connection = Connection::open(&host).await?;
        for key in 0..KEYS {
            connection.call(&put_request(&host, &format!("key-{key:06}"), &[b'v'; VALUE_BYTES])).await?;
        }
        follower(&nodes, rounds, seconds).await?;
        serving(&nodes, rounds, seconds).await
    })
}
