//! Row 11: how fast snapshots travel, `send_snapshot` against a bare stream of quinn.
//!
//! Three things alternate: bare quinn, written from memory in pieces of 1 MiB, read and forgotten; `send_snapshot` of the
//! same bytes to a sink that forgets them; and from real files, each chunk checked, to a sink that checks each again,
//! writes it into files and syncs them at the end. The figures end when the sender knows that the receiver has all of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use raft_benches::quic::bare::BarePair;
use raft_benches::quic::ends::{Files, Memory};
use raft_benches::quic::setup::{Authority, Nodes};
use raft_benches::quic::{CHUNK_BYTES, Outcome, far_end};
use raft_benches::rounds::cpu;
use raft_benches::rows::{Row, Side};
use raft_core::ports::{SnapshotOffer, SnapshotSource, Transport};
use raft_core::types::{GroupId, NodeId, Term};

async fn send(nodes: &Nodes, source: Arc<dyn SnapshotSource>, chunks: u32) -> Outcome<f64> {
    let offer = SnapshotOffer {
        group: GroupId::FIRST,
        from: NodeId(1),
        to: NodeId(2),
        term: Term(1),
        manifest: Bytes::new(),
        chunks,
    };
    let begin = Instant::now();
    let sent = nodes.sender.send_snapshot(offer, source).await?;
    let rate = sent.bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
    if sent.bytes != u64::from(chunks) * CHUNK_BYTES as u64 {
        return Err(format!("{} bytes of {chunks} chunks were sent", sent.bytes).into());
    }
    Ok(rate)
}

/// A rate, with CPU per MiB.
async fn measured(chunks: u32, sending: impl Future<Output = Outcome<f64>>) -> Outcome<Side> {
    let before = cpu();
    let figure = sending.await?;
    Ok(Side { figure, cpu_us: (cpu() - before).as_secs_f64() * 1e6 / f64::from(chunks) })
}

pub(crate) async fn compare(directory: &Path, chunks: u32, rounds: usize) -> Outcome<Vec<Row>> {
    let (authority, far) = (Authority::new()?, far_end()?);
    let bare = BarePair::start(&authority, &far).await?;
    let nodes = Nodes::start(&authority, directory, &far).await?;
    let memory = Arc::new(Memory::new());
    let files = Arc::new(Files::make(directory, chunks)?);
    let mut sides = [Vec::new(), Vec::new(), Vec::new()];
    // The first one of each warms up: code, page cache, the congestion window.
    for round in 0..=rounds {
        let figures = [
            measured(chunks, bare.measure(&memory, chunks)).await?,
            measured(chunks, send(&nodes, memory.clone(), chunks)).await?,
            measured(chunks, nodes.to_disk(send(&nodes, files.clone(), chunks))).await?,
        ];
        if round > 0 {
            sides.iter_mut().zip(figures).for_each(|(sides, figure)| sides.push(figure));
        }
    }
    let [bare, memory, disk] = sides;
    let row = |case: &str, ours, must, goal| Row {
        number: 11,
        what: "snapshot stream".into(),
        case: case.into(),
        peer_name: "bare quinn".into(),
        unit: "MB/s".into(),
        must: Some(must),
        goal: Some(goal),
        lower_is_better: false,
        ours,
        peer: bare.clone(),
    };
    Ok(vec![row("from memory", memory, 0.7, 0.85), row("disk to disk", disk, 0.4, 0.6)])
}
