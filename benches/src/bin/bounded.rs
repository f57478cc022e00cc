//! What the disks hold while millions of puts go through, and how long a node needs to start again afterwards.
//!
//! `cargo run --release -p raft-benches --bin bounded -- [puts] [keys] [clients] [puts in a request]`
//!
//! The bound of the log is `log.bytes_max`, 1 GiB by default. A start is from the process's begin to the first answer of
//! `/startupz` that is good: the log is opened and what the state misses of it is applied.

use std::io;
use std::time::{Duration, Instant};

use raft_benches::load::{Puts, closed_loop};
use raft_benches::nodes::Nodes;

const VALUE_BYTES: usize = 240;
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);
const STARTS: usize = 5;

/// Most bytes that were seen in each directory of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Most {
    log: u64,
    state: u64,
    snapshots: u64,
}

async fn watch(nodes: &Nodes, most: &mut [Most]) {
    loop {
        for (node, most) in nodes.nodes.iter().zip(&mut *most) {
            most.log = most.log.max(node.disk("log"));
            most.state = most.state.max(node.disk("state"));
            most.snapshots = most.snapshots.max(node.disk("snapshots"));
        }
        tokio::time::sleep(SAMPLE_PAUSE).await;
    }
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn measure(count: u64, keys: u64, clients: usize, batch: u64) -> io::Result<()> {
    let mut nodes = Nodes::start(3, &[]).await?;
    let puts = Puts { prefix: "key-", keys, value_bytes: VALUE_BYTES, batch };
    let mut most = vec![Most::default(); nodes.nodes.len()];
    let hosts = nodes.clients();
    let seen = tokio::select! {
        seen = closed_loop(&hosts, puts, clients, 0..count / batch, None) => seen,
        () = watch(&nodes, &mut most) => unreachable!("it watches for ever"),
    };
    println!(
        "{} puts of {VALUE_BYTES} bytes over {keys} keys, {batch} in a request, by {clients} clients in {:.0} s: {:.0} a \
         second; {} requests failed {:?}",
        seen.latency.len() * batch,
        seen.time.as_secs_f64(),
        seen.rate() * batch as f64,
        seen.errors,
        seen.last_error
    );
    for (node, most) in nodes.nodes.iter().zip(&most) {
        let status = node.status().await?;
        println!(
            "{}: at most {} MiB of log (now {}), {} MiB of state, {} MiB in snapshots (shared with the state); entries {} to {}",
            node.name,
            most.log >> 20,
            node.disk("log") >> 20,
            most.state >> 20,
            most.snapshots >> 20,
            status["first_index"],
            status["last_index"]
        );
    }
    let mut starts = Vec::new();
    for nth in 0..STARTS {
        let node = &mut nodes.nodes[nth % 3];
        node.kill();
        let begin = Instant::now();
        node.run()?;
        while !node.is_started().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        starts.push(begin.elapsed().as_secs_f64());
    }
    println!("starts after kill -9, in seconds: {starts:.2?}");
    Ok(())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().ok());
    let mut number = |default: u64| args.next().flatten().unwrap_or(default);
    let (count, keys, clients, batch) = (number(10_000_000), number(1_000_000), number(256), number(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(count, keys, usize::try_from(clients).unwrap_or(256), batch.max(1)))
}
