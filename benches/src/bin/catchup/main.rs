//! What a follower that gets a snapshot costs the others: puts at a fixed rate while it catches up, and while it does
//! not have to.
//!
//! `cargo run --release -p raft-benches --bin catchup -- [MiB to write while it is away] [pairs] [byte rate]`
//!
//! First the peak: 64 clients in a closed loop. Then pairs of runs at 30 % of that, open loop. In both runs of a pair
//! the same is written beforehand and a follower is killed and started again; in one of them it is away meanwhile, so
//! that the log is compacted past it. The first run of a pair alternates. Below each run stands what its phases cost.

mod phases;

use std::io;
use std::time::{Duration, Instant};

use raft_benches::load::{Puts, Seen, closed_loop, open_loop};
use raft_benches::nodes::{Node, Nodes};

use phases::Phases;

/// The load that is measured.
const LOAD: Puts = Puts { prefix: "load-", keys: 100_000, value_bytes: 256, batch: 1 };
const FILL_VALUE_BYTES: usize = 64 << 10;
const PEAK_CLIENTS: usize = 64;
const PEAK_TIME: Duration = Duration::from_secs(10);
const SHARE_OF_PEAK: f64 = 0.3;
const FILL_CLIENTS: usize = 8;
/// The load runs so long, and so much longer for what was written: both runs of a pair alike, for a longer one sees
/// more of whatever comes now and then, and fills more of the memory tables.
const RUN_TIME: Duration = Duration::from_secs(45);
const RUN_BYTES_PER_SECOND: u64 = 32 << 20;
/// How long the disks are left alone after the writing.
const REST: Duration = Duration::from_secs(10);
const SAMPLE_PAUSE: Duration = Duration::from_millis(100);

/// One run.
struct Run {
    seen: Seen,
    /// Most resident bytes of the leader and of the follower while the load ran, and of those that are no file's.
    memory: [(u64, u64); 2],
    sent_bytes: f64,
    caught_up_after: Duration,
    terms: u64,
    phases: Phases,
}

async fn term(node: &Node) -> io::Result<u64> {
    Ok(node.status().await?["term"].as_u64().unwrap_or(0))
}

/// Kills a follower, writes, and measures the load while the follower comes back.
async fn run(nodes: &mut Nodes, rate: f64, fill: Puts, round: u64, away: bool) -> io::Result<Run> {
    let follower = (nodes.leader().await? + 1) % nodes.nodes.len();
    let held = nodes.nodes[follower].status().await?["last_index"].as_u64().unwrap_or(0);
    if away {
        nodes.nodes[follower].kill();
    }
    let numbers = round * fill.keys..(round + 1) * fill.keys;
    let filled = closed_loop(&nodes.clients(), fill, FILL_CLIENTS, numbers, None).await;
    // A few may fall into a change of the leader, which so much at once can bring about on a small machine.
    if filled.errors > fill.keys / 100 {
        return Err(io::Error::other(format!("{} puts failed before the run: {:?}", filled.errors, filled.last_error)));
    }
    if away {
        let leader = nodes.leader().await?;
        let compacted = |status: &serde_json::Value| status["first_index"].as_u64().is_some_and(|first| first > held);
        nodes.nodes[leader].until("the log to be compacted", compacted).await?;
    } else {
        let leader = nodes.leader().await?;
        while !is_caught_up(&nodes.nodes[leader], &nodes.nodes[follower]).await {
            tokio::time::sleep(SAMPLE_PAUSE).await;
        }
    }
    nodes.nodes[follower].kill();
    let run_time = RUN_TIME + Duration::from_secs(fill.keys * FILL_VALUE_BYTES as u64 / RUN_BYTES_PER_SECOND);
    tokio::time::sleep(REST).await;
    let leader = nodes.leader().await?;
    let before = (term(&nodes.nodes[leader]).await?, sent(&nodes.nodes[leader]).await?);
    nodes.nodes[follower].run()?;
    let begin = Instant::now();
    let (mut memory, mut caught_up, mut phases) = ([(0, 0); 2], None, Phases::default());
    let others: Vec<String> = nodes
        .nodes
        .iter()
        .enumerate()
        .filter(|(nth, _)| *nth != follower)
        .map(|(_, node)| node.client.clone())
        .collect();
    let watching = async {
        while caught_up.is_none() || begin.elapsed() < run_time {
            tokio::time::sleep(SAMPLE_PAUSE).await;
            for (most, nth) in memory.iter_mut().zip([leader, follower]) {
                let (resident, own) = nodes.nodes[nth].memory();
                *most = (most.0.max(resident), most.1.max(own));
            }
            if caught_up.is_none() && is_caught_up(&nodes.nodes[leader], &nodes.nodes[follower]).await {
                caught_up = Some(begin.elapsed());
            }
            phases.look(nodes, [leader, follower], begin.elapsed(), caught_up.is_some()).await;
        }
    };
    let seen = open_loop(&others, LOAD, rate, watching).await;
    let leader = &nodes.nodes[leader];
    Ok(Run {
        seen,
        memory,
        sent_bytes: sent(leader).await? - before.1,
        caught_up_after: caught_up.unwrap_or_default(),
        terms: term(leader).await? - before.0,
        phases,
    })
}

async fn sent(node: &Node) -> io::Result<f64> {
    node.metric("raft_snapshot_send_bytes_total").await
}

async fn is_caught_up(leader: &Node, follower: &Node) -> bool {
    let applied = async |node: &Node| node.status().await.ok().and_then(|status| status["applied_index"].as_u64());
    let (Some(leader), Some(follower)) = (applied(leader).await, applied(follower).await) else { return false };
    follower + 1000 >= leader
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn measure(megabytes: u64, pairs: u64, byte_rate: &str) -> io::Result<()> {
    let keys = (megabytes << 20) / FILL_VALUE_BYTES as u64;
    let fill = Puts { prefix: "fill-", keys, value_bytes: FILL_VALUE_BYTES, batch: 1 };
    // Older versions of the values would make the state larger with every run.
    let flags = ["--versions-window", "0", "--snapshot-max-bytes-per-second", byte_rate];
    let mut nodes = Nodes::start(3, &flags).await?;
    let peak = closed_loop(&nodes.clients(), LOAD, PEAK_CLIENTS, 0..u64::MAX, Some(PEAK_TIME)).await.rate();
    let rate = peak * SHARE_OF_PEAK;
    println!(
        "peak of {PEAK_CLIENTS} clients {peak:.0} puts/s; the load is {rate:.0} puts/s of {} bytes",
        LOAD.value_bytes
    );
    println!("{megabytes} MiB written before each run; snapshots at {byte_rate} a second");
    println!(
        "{:<9} {:>8} {:>8} {:>8} {:>7} {:>9} {:>11} {:>13} {:>15} {:>6}",
        "follower",
        "p50 ms",
        "p99 ms",
        "max ms",
        "errors",
        "sent MiB",
        "caught up s",
        "leader MiB",
        "follower MiB",
        "terms"
    );
    let (mut ratios, mut more, mut round) = (Vec::new(), [Vec::new(), Vec::new()], 0);
    for pair in 0..pairs {
        let mut runs = [None, None];
        for away in [pair % 2 == 1, pair % 2 == 0] {
            let mut run = run(&mut nodes, rate, fill, round, away).await?;
            round += 1;
            let mib = |bytes: u64| bytes >> 20;
            let memory = run.memory.map(|(resident, own)| format!("{} ({})", mib(resident), mib(own)));
            println!(
                "{:<9} {:>8.2} {:>8.2} {:>8.1} {:>7} {:>9.0} {:>11.1} {:>13} {:>15} {:>6}",
                if away { "away" } else { "restarted" },
                run.seen.ms(0.5),
                run.seen.ms(0.99),
                run.seen.ms(1.0),
                run.seen.errors,
                run.sent_bytes / f64::from(1 << 20),
                run.caught_up_after.as_secs_f64(),
                memory[0],
                memory[1],
                run.terms
            );
            run.phases.report(&nodes, &run.seen.puts, run.seen.time).await;
            runs[usize::from(away)] = Some(run);
        }
        if let [Some(without), Some(with)] = &runs {
            ratios.push(with.seen.ms(0.99) / without.seen.ms(0.99));
            for (end, more) in more.iter_mut().enumerate() {
                more.push((with.memory[end].1 as f64 - without.memory[end].1 as f64) / f64::from(1 << 20));
            }
        }
    }
    println!("p99 with a transfer / without, each pair: {ratios:.2?}; median {:.2}", median(ratios.clone()));
    let [leader, follower] = more.map(median);
    println!(
        "more resident memory with it, without pages of files, median: leader {leader:.0} MiB, follower {follower:.0} MiB"
    );
    Ok(())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (megabytes, pairs) = (number(2048), number(3));
    let byte_rate = args.next().unwrap_or_else(|| "32MiB".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(megabytes, pairs, &byte_rate))
}
