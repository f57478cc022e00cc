//! Puts and reads per second of a real cluster over HTTP, closed loop: each client sends its next request when it has
//! the answer to the last one. Clients are spread over all nodes.
//!
//! `cargo run --release -p raft-benches --bin puts -- [clients,..] [seconds] [host:port,..]`
//! Without addresses it starts `raft-node demo` from beside this program.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use raft_benches::cluster::{Cluster, cpu_of};
use raft_benches::http::{Connection, get_request, put_request};

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 100_000;
const ROUNDS: usize = 3;

/// One kind of work.
#[derive(Clone, Copy, Debug)]
enum Work {
    Put,
    Get,
    LocalGet,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get linearizable",
            Self::LocalGet => "get local",
        }
    }

    fn request(self, host: &str, nth: u64) -> Vec<u8> {
        // Spreads neighbours over the keys.
        let key = format!("key-{:06}", nth.wrapping_mul(2_654_435_761) % KEYS);
        match self {
            Self::Put => put_request(host, &key, &[b'v'; VALUE_BYTES]),
            Self::Get => get_request(host, &format!("/v1/kv/{key}")),
            Self::LocalGet => get_request(host, &format!("/v1/kv/{key}?consistency=local")),
        }
    }
}

/// What one run measured.
struct Figures {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    errors: u64,
    server_cpu_per_op: Duration,
    client_cpu_per_op: Duration,
}

async fn client(work: Work, host: Rc<str>, nth: u64, end: Instant, histogram: &mut Histogram<u64>) -> io::Result<u64> {
    let mut connection = Connection::open(&host).await?;
    let mut errors = 0;
    let mut request = nth << 32;
    while Instant::now() < end {
        request += 1;
        let bytes = work.request(&host, request);
        let begin = Instant::now();
        let (status, _) = connection.call(&bytes).await?;
        // A key that nobody has put yet is an answer, too.
        if status == 200 || (status == 404 && !matches!(work, Work::Put)) {
            histogram.saturating_record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        } else {
            errors += 1;
        }
    }
    Ok(errors)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("valid bounds")
}

async fn measure(cluster: Option<&Cluster>, hosts: &[String], work: Work, clients: u64, seconds: u64) -> Figures {
    let local = tokio::task::LocalSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let begin = Instant::now();
    let cpu = || (cluster.map(Cluster::cpu).unwrap_or_default(), cpu_of(std::process::id()).unwrap_or_default());
    let before = cpu();
    let tasks: Vec<_> = (0..clients)
        .map(|nth| {
            let host: Rc<str> = hosts[usize::try_from(nth).unwrap_or(0) % hosts.len()].as_str().into();
            local.spawn_local(async move {
                let mut histogram = histogram();
                let errors = client(work, host, nth, end, &mut histogram).await;
                (histogram, errors)
            })
        })
        .collect();
    let (mut all, mut errors) = (histogram(), 0);
    local
        .run_until(async {
            for task in tasks {
                let Ok((histogram, result)) = task.await else {
                    errors += 1;
                    continue;
                };
                all.add(&histogram).expect("equal bounds");
                errors += result.unwrap_or(1);
            }
        })
        .await;
    let after = cpu();
    let done = all.len().max(1);
    let share = |spent: Duration| spent / u32::try_from(done).unwrap_or(u32::MAX);
    Figures {
        per_second: done as f64 / begin.elapsed().as_secs_f64(),
        p50: Duration::from_nanos(all.value_at_quantile(0.5)),
        p99: Duration::from_nanos(all.value_at_quantile(0.99)),
        errors,
        server_cpu_per_op: share(after.0.saturating_sub(before.0)),
        client_cpu_per_op: share(after.1.saturating_sub(before.1)),
    }
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let clients = args.next().unwrap_or_else(|| "1,64,256".into());
    let clients: Vec<u64> = clients.split(',').filter_map(|count| count.parse().ok()).collect();
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    let given: Option<Vec<String>> = args.next().map(|hosts| hosts.split(',').map(str::to_owned).collect());
    let cluster = if given.is_some() { None } else { Some(Cluster::start(3)?) };
    let hosts = given.or_else(|| cluster.as_ref().map(|cluster| cluster.clients.clone())).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    println!("{VALUE_BYTES}-byte values, {KEYS} keys, nodes {hosts:?}, {seconds} s a run, median of {ROUNDS} runs");
    println!(
        "{:<17} {:>7} {:>10} {:>10} {:>10} {:>7} {:>14} {:>14}",
        "work", "clients", "op/s", "p50", "p99", "errors", "server CPU/op", "client CPU/op"
    );
    for work in [Work::Put, Work::Get, Work::LocalGet] {
        for count in &clients {
            let mut rounds: Vec<Figures> = (0..ROUNDS)
                .map(|_| runtime.block_on(measure(cluster.as_ref(), &hosts, work, *count, seconds)))
                .collect();
            rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
            let errors: u64 = rounds.iter().map(|round| round.errors).sum();
            let median = &rounds[ROUNDS / 2];
            println!(
                "{:<17} {:>7} {:>10.0} {:>10.2?} {:>10.2?} {:>7} {:>14.1?} {:>14.1?}",
                work.name(),
                count,
                median.per_second,
                median.p50,
                median.p99,
                errors,
                median.server_cpu_per_op,
                median.client_cpu_per_op
            );
        }
    }
    if let Some(cluster) = &cluster {
        let resident: Vec<u64> = cluster.resident_bytes().iter().map(|bytes| bytes >> 20).collect();
        println!("resident memory of the nodes: {resident:?} MiB");
    }
    Ok(())
}
