//! Rows 13 and 15: what a cluster with many keys costs in memory, and how soon it takes writes after all of it was killed.

use std::io;
use std::time::{Duration, Instant};

use crate::failover::first_write;
use crate::figures::Results;
use crate::job::{Job, Who};
use crate::report;
use crate::side::Side;

/// How long a cluster is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(3);

/// The name of the seconds to the first write with so many keys.
pub(crate) fn restart_name(keys: u64) -> String {
    format!("restart/{keys}")
}

/// The name of the memory of a node with so many keys, in MiB.
pub(crate) fn memory_name(keys: u64) -> String {
    format!("memory/{keys}")
}

/// What nodes take when nothing was ever asked of them.
pub(crate) async fn at_rest(results: &mut Results, etcd: &str) -> io::Result<()> {
    results.values.remove(&memory_name(0));
    for who in [Who::Ours, Who::Etcd] {
        let side = Side::start(who, etcd, 3, &[]).await?;
        tokio::time::sleep(REST).await;
        memory(results, &side, &memory_name(0));
    }
    Ok(())
}

/// A figure for each node.
fn memory(results: &mut Results, side: &Side, name: &str) {
    let mib: Vec<f64> = side.resident_bytes().into_iter().map(|bytes| bytes as f64 / 1_048_576.0).collect();
    report::note(&format!("{name} {:?}: {mib:.0?} MiB", side.who()));
    *results.values.entry(name.to_owned()).or_default().of(side.who()) = mib;
}

/// Puts each of `keys` keys once, looks at the memory, then kills and starts all nodes as often as there are rounds.
pub(crate) async fn restarts(results: &mut Results, etcd: &str, who: Who, keys: u64, rounds: usize) -> io::Result<()> {
    let mut side = Side::start(who, etcd, 3, &[]).await?;
    let begin = Instant::now();
    let summary = Job::fill(who, &side.hosts(), keys, 256).run().await?;
    let took = begin.elapsed().as_secs_f64();
    report::note(&format!("{who:?}: {keys} keys put in {took:.0} s, {} errors", summary.errors));
    if summary.errors > 0 {
        return Err(io::Error::other(format!("{:?}", summary.errors_by_kind)));
    }
    tokio::time::sleep(REST).await;
    memory(results, &side, &memory_name(keys));
    let name = restart_name(keys);
    results.values.entry(name.clone()).or_default().of(who).clear();
    for round in 0..rounds {
        for nth in 0..3 {
            side.kill(nth);
        }
        let begin = Instant::now();
        for nth in 0..3 {
            side.run(nth)?;
        }
        first_write(who, &side.hosts()).await?;
        let seconds = begin.elapsed().as_secs_f64();
        report::note(&format!("{name} round {} {who:?}: {seconds:.3} s", round + 1));
        results.values.entry(name.clone()).or_default().of(who).push(seconds);
        side.settled().await?;
    }
    Ok(())
}
