//! What read leases do while nodes stop and leaders die: how much of the time some follower holds one, how long a stopped
//! holder delays commits, and how long new leaders wait for the leases of those before.
//!
//! `cargo run --release -p raft-benches --bin leases -- floor [seconds]`
//! `cargo run --release -p raft-benches --bin leases -- failover [kills]`

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use raft_benches::http::{Connection, get_request, put_request};
use raft_benches::nodes::Nodes;
use serde_json::Value;
use tokio::task::LocalSet;

/// How often each node is asked for its lease.
const SAMPLED_EVERY: Duration = Duration::from_millis(10);
/// Pause between two puts.
const PUT_EVERY: Duration = Duration::from_millis(5);

/// Puts, one after the other, until `end` says so; gives when each was sent and how long it took.
async fn puts(hosts: Vec<String>, end: Rc<RefCell<bool>>) -> Vec<(Instant, Duration)> {
    let (mut seen, mut at, mut number) = (Vec::new(), 0, 0_u64);
    let mut connection = None;
    while !*end.borrow() {
        let begin = Instant::now();
        number += 1;
        // Asked again until it is done: what counts is how long the cluster takes nothing.
        loop {
            let host = &hosts[at % hosts.len()];
            if connection.is_none() {
                connection = Connection::open(host).await.ok();
            }
            let request = put_request(host, &format!("key-{:03}", number % 100), b"v");
            let answered = match &mut connection {
                Some(open) => {
                    let answer = tokio::time::timeout(Duration::from_secs(2), open.call(&request)).await;
                    matches!(answer, Ok(Ok((200, _))))
                }
                None => false,
            };
            if answered {
                break;
            }
            (connection, at) = (None, at + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.push((begin, begin.elapsed()));
        tokio::time::sleep(PUT_EVERY).await;
    }
    seen
}

/// A stretch of time in which a follower surely had a usable lease.
type Stretch = (Instant, Instant);

/// Asks one node again and again for its lease while it follows.
async fn watch(client: String, end: Rc<RefCell<bool>>) -> (Vec<Stretch>, Vec<(Instant, Value)>) {
    let (mut stretches, mut views) = (Vec::new(), Vec::new());
    let request = get_request(&client, "/v1/node");
    let mut connection = None;
    while !*end.borrow() {
        if connection.is_none() {
            connection = Connection::open(&client).await.ok();
        }
        let Some(open) = &mut connection else { continue };
        let asked = Instant::now();
        let status = match tokio::time::timeout(Duration::from_secs(1), open.call(&request)).await {
            Ok(Ok((200, body))) => serde_json::from_slice::<Value>(body).ok(),
            _ => None,
        };
        let answered = Instant::now();
        match status {
            Some(status) => {
                let lease = &status["read_lease"];
                let left = lease["ends_in_ms"].as_u64().filter(|_| lease["valid"] == true);
                // It was so at some time between question and answer.
                if let (Some(left), true) = (left, status["role"] == "follower") {
                    stretches.push((answered, asked + Duration::from_millis(left)));
                }
                views.push((answered, status));
            }
            None => connection = None,
        }
        tokio::time::sleep(SAMPLED_EVERY).await;
    }
    (stretches, views)
}

/// The times between `from` and `to` that no stretch covers.
fn gaps(mut stretches: Vec<Stretch>, from: Instant, to: Instant) -> Vec<Stretch> {
    stretches.sort();
    let (mut covered, mut gaps) = (from, Vec::new());
    for (begin, end) in stretches {
        if begin > covered && covered < to {
            gaps.push((covered, begin.min(to)));
        }
        covered = covered.max(end);
    }
    if covered < to {
        gaps.push((covered, to));
    }
    gaps
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a node said last before this time, as far as it explains a gap.
fn explain(views: &[(Instant, Value)], at: Instant) -> String {
    let Some((when, status)) = views.iter().rfind(|(when, _)| *when <= at) else { return "nothing yet".into() };
    let lease = &status["read_lease"];
    format!(
        "{} {:.0} ms before: {} term {} leader contact {} ms, lease valid {} ends in {}, holders {}, holds back {}",
        status["name"].as_str().unwrap_or("?"),
        ms(at - *when),
        status["role"].as_str().unwrap_or("?"),
        status["term"],
        status["leader_contact_ms"],
        lease["valid"],
        lease["ends_in_ms"],
        lease["holders"].as_array().map_or(0, Vec::len),
        lease["holds_back"]
    )
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn floor(seconds: u64) -> io::Result<()> {
    let nodes = Nodes::start(3, &["--read-lease-min-holders", "1"]).await?;
    let leader = nodes.leader().await?;
    // The first ones are given out a moment after the first leader set the settings.
    nodes.nodes[leader]
        .until("two holders", |it| it["read_lease"]["holders"].as_array().map_or(0, Vec::len) == 2)
        .await?;
    let end = Rc::new(RefCell::new(false));
    let local = LocalSet::new();
    let watches: Vec<_> =
        nodes.nodes.iter().map(|node| local.spawn_local(watch(node.client.clone(), end.clone()))).collect();
    let writer = local.spawn_local(puts(vec![nodes.nodes[leader].client.clone()], end.clone()));
    let (begin, stopped, finish) = local
        .run_until(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let begin = Instant::now();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let finish = Instant::now();
            // Then one holder stops for two seconds.
            let stopped = Instant::now();
            nodes.nodes[(leader + 1) % 3].signal(rustix::process::Signal::STOP);
            tokio::time::sleep(Duration::from_secs(2)).await;
            nodes.nodes[(leader + 1) % 3].signal(rustix::process::Signal::CONT);
            tokio::time::sleep(Duration::from_secs(1)).await;
            *end.borrow_mut() = true;
            (begin, stopped, finish)
        })
        .await;
    local.await;
    let (mut stretches, mut views) = (Vec::new(), Vec::new());
    for watch in watches {
        let (more, seen) = watch.await.map_err(io::Error::other)?;
        stretches.extend(more);
        views.push(seen);
    }
    let gaps = gaps(stretches.clone(), begin, finish);
    let missing: Duration = gaps.iter().map(|(from, to)| *to - *from).sum();
    println!(
        "{seconds} s, min_holders 1, a put every {} ms: some follower held a valid lease {:.3} % of the time, {} gaps",
        PUT_EVERY.as_millis(),
        100.0 * (1.0 - missing.as_secs_f64() / (finish - begin).as_secs_f64()),
        gaps.len()
    );
    for (from, to) in &gaps {
        println!("gap of {:.1} ms at {:.3} s:", ms(*to - *from), (*from - begin).as_secs_f64());
        views.iter().for_each(|views| println!("    {}", explain(views, *to)));
    }
    let seen = writer.await.map_err(io::Error::other)?;
    let (before, during): (Vec<_>, Vec<_>) = seen.iter().partition(|(sent, _)| *sent < stopped);
    let mut latencies: Vec<f64> = before.iter().map(|(_, took)| ms(*took)).collect();
    latencies.sort_by(f64::total_cmp);
    let long: Vec<String> =
        during.iter().map(|(_, took)| ms(*took)).filter(|took| *took > 50.0).map(|took| format!("{took:.0}")).collect();
    println!(
        "puts before: {} with p50 {:.1} ms, p99 {:.1} ms; one of two holders stopped: {} puts, those over 50 ms: [{}] ms",
        before.len(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        during.len(),
        long.join(", ")
    );
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a report is what this program is for")]
async fn failover(kills: usize) -> io::Result<()> {
    for (holders, what) in [("0", "leases on, nobody holds one"), ("1", "followers hold leases (min_holders 1)")] {
        let mut nodes = Nodes::start(3, &["--read-lease-min-holders", holders]).await?;
        let (mut added, mut outages) = (Vec::new(), Vec::new());
        for _ in 0..kills / 2 {
            let leader = nodes.leader().await?;
            let mut before = Vec::new();
            for node in &nodes.nodes {
                before.push(node.status().await?["read_lease"]["held_back_ms"].as_f64().unwrap_or_default());
            }
            let end = Rc::new(RefCell::new(false));
            let local = LocalSet::new();
            let hosts = nodes.nodes.iter().enumerate().filter(|(at, _)| *at != leader);
            let writer = local.spawn_local(puts(hosts.map(|(_, node)| node.client.clone()).collect(), end.clone()));
            let killed = local
                .run_until(async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    let killed = Instant::now();
                    nodes.nodes[leader].kill();
                    tokio::time::sleep(Duration::from_millis(1200)).await;
                    *end.borrow_mut() = true;
                    killed
                })
                .await;
            local.await;
            let seen = writer.await.map_err(io::Error::other)?;
            let outage = seen.iter().filter(|(sent, took)| *sent + *took > killed).map(|(_, took)| *took).max();
            outages.push(ms(outage.unwrap_or_default()));
            let next = nodes.leader().await?;
            let after = nodes.nodes[next].status().await?["read_lease"]["held_back_ms"].as_f64().unwrap_or_default();
            added.push(after - before[next]);
            nodes.nodes[leader].run()?;
            let goal = nodes.nodes[next].status().await?["commit_index"].as_u64().unwrap_or_default();
            nodes.nodes[leader].until("caught up", |it| it["applied_index"].as_u64() >= Some(goal)).await?;
        }
        added.sort_by(f64::total_cmp);
        outages.sort_by(f64::total_cmp);
        let at = |values: &[f64], quantile: f64| values[((values.len() - 1) as f64 * quantile).round() as usize];
        println!(
            "{what}, {} kills: added delay before the first commit: none in {}, p50 {:.2} ms, p90 {:.1}, p99 {:.1}, most \
             {:.1}; without a put: p50 {:.0} ms, most {:.0}",
            added.len(),
            added.iter().filter(|delay| **delay == 0.0).count(),
            at(&added, 0.5),
            at(&added, 0.9),
            at(&added, 0.99),
            at(&added, 1.0),
            at(&outages, 0.5),
            at(&outages, 1.0)
        );
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (what, number) = (args.next().unwrap_or_default(), args.next().and_then(|number| number.parse().ok()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match what.as_str() {
        "floor" => runtime.block_on(floor(number.unwrap_or(60))),
        "failover" => runtime.block_on(failover(number.unwrap_or(100) as usize)),
        _ => Err(io::Error::other("say floor [seconds] or failover [kills]")),
    }
}
