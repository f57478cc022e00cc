//! Row 14: what becomes of puts with larger values, more clients, more nodes and more keys.

use std::io;

use crate::figures::Results;
use crate::job::Job;
use crate::loads::{Clusters, Effort, put_name};

/// Lengths of values.
pub(crate) const VALUES: [usize; 5] = [16, 256, 4 << 10, 64 << 10, 1 << 20];
/// Numbers of clients beyond those of the other rows.
pub(crate) const CLIENTS: [usize; 6] = [1, 16, 64, 256, 1000, 4000];
/// Sizes of clusters.
pub(crate) const NODES: [usize; 4] = [1, 3, 5, 7];
/// Clients where something else is varied.
const USUAL_CLIENTS: usize = 64;
/// Bytes that are put in one round at most, about: the peer keeps every version, up to 2 GiB by default.
const ROUND_BYTES_MAX: usize = 128 << 20;

/// The name of puts of values of this length.
pub(crate) fn value_name(bytes: usize) -> String {
    format!("value/{bytes}")
}

/// The name of puts at a cluster of this size.
pub(crate) fn nodes_name(nodes: usize) -> String {
    format!("nodes/{nodes}")
}

/// The name of puts over this many keys, all of which have a value.
pub(crate) fn keys_name(keys: u64) -> String {
    format!("keys/{keys}")
}

/// Values from a few bytes to a megabyte.
pub(crate) async fn values(results: &mut Results, etcd: &str, effort: Effort) -> io::Result<()> {
    for value_bytes in VALUES {
        // A cluster for each length: what the one before has left to do in the background is not part of the next.
        let mut clusters = Clusters::start(etcd, 3, effort).await?;
        let shape = |job: Job| {
            let most = (ROUND_BYTES_MAX / value_bytes) as u64;
            // Long values by number: a fast side would else fill the disk.
            let requests = (value_bytes > 16 << 10).then_some(most);
            let warm_up_ms = if requests.is_some() { 0 } else { job.warm_up_ms };
            Job { value_bytes, requests, warm_up_ms, clients: USUAL_CLIENTS, keys: job.keys.min(most), ..job }
        };
        clusters.rounds(results, &value_name(value_bytes), shape).await?;
    }
    Ok(())
}

/// From one client to more than are good for it.
pub(crate) async fn clients(results: &mut Results, etcd: &str, effort: Effort) -> io::Result<()> {
    let mut clusters = Clusters::start(etcd, 3, effort).await?;
    // Those of the other rows that are not known yet.
    let missing: Vec<usize> =
        CLIENTS.into_iter().filter(|count| *count > 1000 || !results.loads.contains_key(&put_name(*count))).collect();
    clusters.puts(results, &missing).await
}

/// From one node to seven, all on this machine: what is seen is the cost of replication, not the room that it gives.
pub(crate) async fn nodes(results: &mut Results, etcd: &str, effort: Effort) -> io::Result<()> {
    for nodes in NODES {
        let mut clusters = Clusters::start(etcd, nodes, effort).await?;
        clusters.rounds(results, &nodes_name(nodes), |job| Job { clients: USUAL_CLIENTS, ..job }).await?;
    }
    Ok(())
}

/// A few keys, then many, in one cluster.
pub(crate) async fn keys(results: &mut Results, etcd: &str, effort: Effort, many: u64) -> io::Result<()> {
    for keys in [1000, many] {
        let mut clusters = Clusters::start(etcd, 3, Effort { keys, ..effort }).await?;
        clusters.fill().await?;
        clusters.rounds(results, &keys_name(keys), |job| Job { clients: USUAL_CLIENTS, ..job }).await?;
    }
    Ok(())
}
