//! A cluster that is measured: ours or the peer's, as processes with their accounts.

use std::io;
use std::time::Duration;

use raft_benches::cluster::cpu_of;
use raft_benches::etcd::EtcdCluster;
use raft_benches::nodes::Nodes;

use crate::figures::Figures;
use crate::job::{Job, Who};

/// A running cluster.
pub(crate) enum Side {
    Ours(Nodes),
    Etcd(EtcdCluster),
}

/// What the processes of a cluster have spent so far.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cpu: Duration,
    written_bytes: u64,
}

impl Side {
    /// Starts `count` nodes with default settings but for these flags.
    pub(crate) async fn start(who: Who, etcd: &str, count: usize, flags: &[&str]) -> io::Result<Self> {
        match who {
            Who::Ours => Nodes::start(count, flags).await.map(Self::Ours),
            Who::Etcd => EtcdCluster::start(etcd, count, flags).await.map(Self::Etcd),
        }
    }

    pub(crate) fn who(&self) -> Who {
        match self {
            Self::Ours(_) => Who::Ours,
            Self::Etcd(_) => Who::Etcd,
        }
    }

    pub(crate) fn hosts(&self) -> Vec<String> {
        match self {
            Self::Ours(nodes) => nodes.nodes.iter().map(|node| node.client.clone()).collect(),
            Self::Etcd(cluster) => cluster.clients(),
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Ours(nodes) => nodes.nodes.iter().filter_map(|node| node.pid()).collect(),
            Self::Etcd(cluster) => cluster.nodes.iter().filter_map(|node| node.pid()).collect(),
        }
    }

    /// The position of the leader, once there is one that serves.
    pub(crate) async fn settled(&self) -> io::Result<usize> {
        match self {
            Self::Ours(nodes) => {
                let leader = nodes.leader().await?;
                let name = nodes.nodes[leader].name.as_str();
                for node in nodes.nodes.iter().filter(|node| node.pid().is_some()) {
                    node.until("a node that runs and knows the leader", |status| {
                        status["leader"] == name && status["phase"] == "running"
                    })
                    .await?;
                }
                Ok(leader)
            }
            Self::Etcd(cluster) => cluster.settled().await,
        }
    }

    /// The term of the leader: it is one more for each election.
    pub(crate) async fn term(&self) -> io::Result<u64> {
        let leader = self.settled().await?;
        match self {
            Self::Ours(nodes) => {
                let status = nodes.nodes[leader].status().await?;
                status["term"].as_u64().ok_or_else(|| io::Error::other("a status without a term"))
            }
            Self::Etcd(cluster) => Ok(cluster.nodes[leader].status().await?.term),
        }
    }

    pub(crate) fn kill(&mut self, nth: usize) {
        match self {
            Self::Ours(nodes) => nodes.nodes[nth].kill(),
            Self::Etcd(cluster) => cluster.nodes[nth].kill(),
        }
    }

    pub(crate) fn run(&mut self, nth: usize) -> io::Result<()> {
        match self {
            Self::Ours(nodes) => nodes.nodes[nth].run(),
            Self::Etcd(cluster) => cluster.nodes[nth].run(),
        }
    }

    /// Resident bytes of each node.
    pub(crate) fn resident_bytes(&self) -> Vec<u64> {
        self.pids().into_iter().filter_map(|pid| memory(pid, "VmRSS:")).collect()
    }

    fn spent(&self) -> Spent {
        self.pids().into_iter().fold(Spent::default(), |sum, pid| Spent {
            cpu: sum.cpu + cpu_of(pid).unwrap_or_default(),
            written_bytes: sum.written_bytes + written_bytes(pid).unwrap_or_default(),
        })
    }

    /// Has a generator do a job, and accounts for what it cost the servers.
    pub(crate) async fn measure(&self, job: &Job) -> io::Result<Figures> {
        let before = self.spent();
        let summary = job.run().await?;
        let after = self.spent();
        let operations = summary.operations.max(1) as f64;
        let resident = self.resident_bytes();
        Ok(Figures {
            per_second: summary.per_second,
            p50_ms: summary.latency_ms.p50,
            p99_ms: summary.latency_ms.p99,
            p999_ms: summary.latency_ms.p999,
            max_ms: summary.latency_ms.max,
            errors: summary.errors,
            errors_by_kind: summary.errors_by_kind,
            missing: summary.missing,
            operations: summary.operations,
            lag_p99_ms: summary.lag_ms.p99,
            server_cpu_us: after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / operations,
            generator_cpu_us: summary.generator_cpu_us,
            written_bytes: after.written_bytes.saturating_sub(before.written_bytes) as f64 / operations,
            resident_mib: resident.iter().sum::<u64>() as f64 / resident.len().max(1) as f64 / 1_048_576.0,
        })
    }
}

/// What a process has had written to disks, by the account of the kernel: pages, and so with what a file system pads.
fn written_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// A line of `/proc/PID/status` that is in kB, in bytes.
pub(crate) fn memory(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes: u64 =
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kilobytes * 1024)
}
