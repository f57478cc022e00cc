//! Row 12: from the kill of the leader to the next write, and elections that nothing but load was a reason for.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use raft_benches::etcd::grpc::{Channel, Method};
use raft_benches::etcd::proto;
use raft_benches::http::{Connection, put_request};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::figures::Results;
use crate::job::{Job, Who};
use crate::report;
use crate::side::Side;

/// A write is tried at every node that lives each time this has passed, whatever became of the tries before: none of them
/// waits for another, and the answer is as fine as this.
const TRY_INTERVAL: Duration = Duration::from_millis(10);
/// When a failover is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two trials: everybody hears of the leader, and old timers run out.
const PAUSE: Duration = Duration::from_secs(2);

/// Trials of both sides in turn, with these flags of ours beside the defaults of the peer.
pub(crate) async fn failovers(
    results: &mut Results,
    etcd: &str,
    name: &str,
    flags: &[&str],
    trials: usize,
) -> io::Result<()> {
    results.values.remove(name);
    let mut sides = [Side::start(Who::Ours, etcd, 3, flags).await?, Side::start(Who::Etcd, etcd, 3, &[]).await?];
    for trial in 0..trials {
        for side in &mut sides {
            let seconds = failover(side).await?;
            report::note(&format!("{name} trial {} {:?}: {seconds:.3} s", trial + 1, side.who()));
            results.values.entry(name.to_owned()).or_default().of(side.who()).push(seconds);
        }
    }
    Ok(())
}

async fn failover(side: &mut Side) -> io::Result<f64> {
    let leader = side.settled().await?;
    tokio::time::sleep(PAUSE).await;
    let begin = Instant::now();
    side.kill(leader);
    let mut hosts = side.hosts();
    hosts.remove(leader);
    first_write(side.who(), &hosts).await?;
    let seconds = begin.elapsed().as_secs_f64();
    side.run(leader)?;
    side.settled().await?;
    Ok(seconds)
}

/// Waits for the first write that succeeds at any of these nodes.
pub(crate) async fn first_write(who: Who, hosts: &[String]) -> io::Result<()> {
    let local = LocalSet::new();
    let (succeeded, mut first) = mpsc::channel::<()>(1);
    let hosts: Rc<[String]> = hosts.into();
    let tries = async move {
        let begin = Instant::now();
        let mut tick = tokio::time::interval(TRY_INTERVAL);
        while begin.elapsed() < PATIENCE {
            tokio::select! {
                biased;
                _ = first.recv() => return Ok(()),
                _ = tick.tick() => {}
            }
            for host in hosts.iter() {
                let (host, succeeded) = (host.clone(), succeeded.clone());
                tokio::task::spawn_local(async move {
                    if write(who, &host).await.is_ok() {
                        // Only the first one is waited for.
                        let _ = succeeded.try_send(());
                    }
                });
            }
        }
        Err(io::Error::other(format!("no write succeeded in {PATIENCE:?}")))
    };
    // What is still under way ends with the set.
    local.run_until(tries).await
}

async fn write(who: Who, host: &str) -> io::Result<()> {
    match who {
        Who::Ours => {
            let mut connection = Connection::open(host).await?;
            match connection.call(&put_request(host, "failover", b"v")).await? {
                (200, _) => Ok(()),
                (status, _) => Err(io::Error::other(format!("status {status}"))),
            }
        }
        Who::Etcd => Channel::connect(host).await?.call(Method::Put, proto::put(b"failover", b"v")).await.map(|_| ()),
    }
}

/// How many terms pass during a load of 256 clients on default settings: each is an election that nobody needed.
pub(crate) async fn elections(results: &mut Results, etcd: &str, seconds: u64) -> io::Result<()> {
    let name = format!("elections/{seconds}");
    results.values.remove(&name);
    for who in [Who::Ours, Who::Etcd] {
        let side = Side::start(who, etcd, 3, &[]).await?;
        let before = side.term().await?;
        let job = Job { run_ms: seconds * 1000, ..Job::puts(who, &side.hosts(), 256) };
        let figures = side.measure(&job).await?;
        let terms = side.term().await? - before;
        report::note(&format!("{name} {who:?}: {terms} terms, {} errors", figures.errors));
        results.values.entry(name.clone()).or_default().of(who).push(terms as f64);
    }
    Ok(())
}
