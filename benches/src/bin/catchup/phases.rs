//! What a catch-up consists of, and which of it puts wait for.

use std::time::Duration;

use raft_benches::cluster::cpu_of;
use raft_benches::load::Put;
use raft_benches::nodes::Nodes;
use serde_json::Value;

/// A part of a catch-up, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The follower starts, and the leader hears of what it misses.
    Starting,
    /// The leader makes a snapshot: a checkpoint, and its checksums.
    Taking,
    /// Chunks travel.
    Sending,
    /// All chunks are there: they are read once more.
    Verifying,
    /// The snapshot takes the place of the log and the state.
    Installing,
    /// The log since the snapshot is applied.
    Replaying,
    /// The follower has caught up; its database may have work left.
    After,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Taking => "taking",
            Self::Sending => "sending",
            Self::Verifying => "verifying",
            Self::Installing => "installing",
            Self::Replaying => "replaying",
            Self::After => "after",
        }
    }

    /// By what the two say of themselves; `before` is what they said last.
    fn of(before: Self, leader: Option<&Value>, follower: Option<&Value>, caught_up: bool) -> Self {
        let snapshots =
            |status: Option<&Value>, name: &str| status.map_or(Value::Null, |all| all["snapshots"][name].clone());
        let receiving = snapshots(follower, "receiving");
        let seen = if snapshots(follower, "installing") == true {
            Self::Installing
        } else if receiving.is_object() {
            if receiving["done_bytes"] == receiving["total_bytes"] { Self::Verifying } else { Self::Sending }
        } else if snapshots(leader, "taking").is_object() {
            Self::Taking
        } else if before > Self::Taking {
            if caught_up { Self::After } else { Self::Replaying }
        } else if caught_up {
            Self::After
        } else {
            before
        };
        // Word of the two is of two moments; and a follower that has caught up takes none back.
        seen.max(before)
    }
}

/// What all nodes and the disk have spent at a moment.
#[derive(Clone, Debug, Default)]
struct Spent {
    cpu: Duration,
    /// Of each node: syncs of the log, and their time in seconds.
    syncs: Vec<(f64, f64)>,
}

impl Spent {
    async fn now(nodes: &Nodes) -> Self {
        let mut spent = Self::default();
        for node in &nodes.nodes {
            spent.cpu += node.pid().and_then(cpu_of).unwrap_or_default();
            let count = node.metric("raft_log_sync_duration_seconds_count").await.unwrap_or(0.0);
            spent.syncs.push((count, node.metric("raft_log_sync_duration_seconds_sum").await.unwrap_or(0.0)));
        }
        spent
    }

    /// Milliseconds of a sync on each node since `before`, in the mean.
    fn sync_ms(&self, before: &Self) -> Vec<f64> {
        let each = self.syncs.iter().zip(&before.syncs);
        each.map(|(now, then)| (now.1 - then.1) / (now.0 - then.0).max(1.0) * 1e3).collect()
    }
}

/// When each phase began.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    begun: Vec<(Phase, Duration, Spent)>,
}

impl Phases {
    /// Looks which one it is now, so long after the begin.
    pub(crate) async fn look(&mut self, nodes: &Nodes, [leader, follower]: [usize; 2], at: Duration, caught_up: bool) {
        let (leader, follower) = (nodes.nodes[leader].status().await.ok(), nodes.nodes[follower].status().await.ok());
        let before = self.begun.last().map_or(Phase::Starting, |(phase, ..)| *phase);
        let now = Phase::of(before, leader.as_ref(), follower.as_ref(), caught_up);
        if self.begun.is_empty() || now != before {
            self.begun.push((now, at, Spent::now(nodes).await));
        }
    }

    /// One line for each, with the puts that were due in it.
    #[allow(clippy::print_stdout, reason = "a report is what this program is for")]
    pub(crate) async fn report(&mut self, nodes: &Nodes, puts: &[Put], end: Duration) {
        self.begun.push((Phase::After, end, Spent::now(nodes).await));
        for pair in self.begun.windows(2) {
            let [(phase, from, before), (_, to, after)] = pair else { continue };
            let mut latencies: Vec<Duration> =
                puts.iter().filter(|put| (*from..*to).contains(&put.due)).map(|put| put.latency).collect();
            latencies.sort();
            let ms = |share: f64| {
                let at = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
                latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
            };
            println!(
                "    {:<10} from {:>6.1} s {:>7} puts: p50 {:>6.2} p99 {:>7.2} max {:>7.1} ms; CPU {:>4.0} %; syncs of each node {:.2?} ms",
                phase.name(),
                from.as_secs_f64(),
                latencies.len(),
                ms(0.5),
                ms(0.99),
                ms(1.0),
                (after.cpu.saturating_sub(before.cpu)).as_secs_f64()
                    / (to.saturating_sub(*from)).as_secs_f64().max(0.01)
                    * 100.0,
                after.sync_ms(before),
            );
        }
    }
}
