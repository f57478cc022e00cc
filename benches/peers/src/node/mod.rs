//! Row 8: a whole node in memory, against openraft on the work of its own minimal benchmark: three nodes in one process,
//! two runtime threads for nodes and clients together, commands that carry nothing and do nothing, clients that each wait
//! for their answer, logs in memory, messages handed over by a call.

mod memory;
mod openraft;
mod ours;

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::rounds::{Anything, alternate, cpu};
use crate::rows::{Row, Side};

const CLIENTS: [usize; 3] = [1, 64, 1024];
const WORKERS: usize = 2;
const MUST: f64 = 1.0;
const GOAL: f64 = 2.0;
/// Of every run, before it counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a cluster may take to be ready, and a write to be answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// A leader that takes commands.
trait Leader: Clone + Send + Sync + 'static {
    /// Writes one command that carries nothing; returns once it is applied.
    fn write(&self) -> impl Future<Output = Result<(), Anything>> + Send;
}

/// Closed loops of so many clients.
async fn load(leader: impl Leader, clients: usize, time: Duration) -> Result<u64, Anything> {
    let end = Instant::now() + time;
    let mut callers = JoinSet::new();
    for _ in 0..clients {
        let leader = leader.clone();
        callers.spawn(async move {
            let mut written = 0;
            while Instant::now() < end {
                leader.write().await?;
                written += 1;
            }
            Ok::<u64, Anything>(written)
        });
    }
    let mut written = 0;
    while let Some(caller) = callers.join_next().await {
        written += caller??;
    }
    Ok(written)
}

fn measure(runtime: &Runtime, leader: &impl Leader, clients: usize, time: Duration) -> Result<Side, Anything> {
    runtime.block_on(load(leader.clone(), clients, WARM_UP))?;
    let (cpu_before, begin) = (cpu(), Instant::now());
    let written = runtime.block_on(load(leader.clone(), clients, time))?;
    Ok(Side::per_second(written, begin.elapsed(), cpu() - cpu_before))
}

fn runtime() -> Result<Runtime, Anything> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?)
}

pub(crate) fn compare(rounds: usize, time: Duration) -> Result<Vec<Row>, Anything> {
    let mut rows = Vec::new();
    for clients in CLIENTS {
        // Each side begins with a new cluster, and the other one is gone meanwhile: an idle cluster has heartbeats.
        let ours = || {
            let runtime = runtime()?;
            let cluster = runtime.block_on(ours::Cluster::start())?;
            let side = measure(&runtime, &cluster.leader, clients, time)?;
            runtime.block_on(cluster.stop())?;
            Ok(side)
        };
        let peer = || {
            let runtime = runtime()?;
            let cluster = runtime.block_on(openraft::Cluster::start())?;
            let side = measure(&runtime, &cluster.leader, clients, time)?;
            runtime.block_on(cluster.stop())?;
            Ok(side)
        };
        let (ours, peer) = alternate(rounds, ours, peer)?;
        rows.push(Row {
            number: 8,
            what: "node in memory".into(),
            case: format!("{clients} clients"),
            peer_name: "openraft".into(),
            unit: "puts/s".into(),
            must: Some(MUST),
            goal: Some(GOAL),
            lower_is_better: false,
            ours,
            peer,
        });
    }
    Ok(rows)
}
