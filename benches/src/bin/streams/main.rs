//! How fast snapshots travel: `send_snapshot` against a bare stream of quinn, side by side in one run.
//!
//! `cargo run --release -p raft-benches --bin streams [directory] [memory MiB] [disk MiB] [rounds]`
//!
//! Both ends are in this process, on two runtime threads and loopback. Three things alternate:
//!
//! - *bare quinn*: one stream of one direction, written from memory in pieces of 1 MiB, read and forgotten. TLS 1.3 with
//!   certificates of both sides, windows, congestion control and socket buffers are those of `raft-net-quic`; it has no
//!   frames, no checksums of its own, no priorities, and nobody puts the bytes together again.
//! - *snapshot, memory*: `send_snapshot` of the same bytes to a sink that forgets them.
//! - *snapshot, disk*: the source reads chunks of real files and checks each, the sink checks each, writes it into files,
//!   and syncs them at the end.
//!
//! The figures end when the sender knows that the receiver has all of it.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod bare;
mod ends;
mod setup;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use raft_core::ports::{SnapshotOffer, SnapshotSource, Transport};
use raft_core::types::{GroupId, NodeId, Term};

use bare::BarePair;
use ends::{Files, Memory};
use setup::{Authority, Nodes};

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// What a snapshot must reach of bare quinn.
const MEMORY_SHARE_MIN: f64 = 0.70;
const DISK_SHARE_MIN: f64 = 0.40;

type Outcome<T> = Result<T, Box<dyn Error>>;

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

fn median(mut rates: Vec<f64>) -> (f64, f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[0], rates[rates.len() / 2], rates[rates.len() - 1])
}

async fn run(directory: &Path, memory_chunks: u32, disk_chunks: u32, rounds: usize) -> Outcome<()> {
    let authority = Authority::new()?;
    let bare = BarePair::start(&authority).await?;
    let nodes = Nodes::start(&authority, directory).await?;
    let memory = Arc::new(Memory::new());
    let files = Arc::new(Files::make(directory, disk_chunks)?);
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    // The first one of each warms up: code, page cache, the congestion window.
    for round in 0..=rounds {
        let figures = [
            bare.measure(&memory, memory_chunks).await?,
            send(&nodes, memory.clone(), memory_chunks).await?,
            nodes.to_disk(send(&nodes, files.clone(), disk_chunks)).await?,
        ];
        if round > 0 {
            rates.iter_mut().zip(figures).for_each(|(rates, figure)| rates.push(figure));
        }
    }
    let reference = median(rates[0].clone()).1;
    println!("{:<18} {:>8} {:>20} {:>8} {:>8}", "MB/s", "median", "lowest to highest", "ratio", "must");
    let rows =
        [("bare quinn", None), ("snapshot, memory", Some(MEMORY_SHARE_MIN)), ("snapshot, disk", Some(DISK_SHARE_MIN))];
    let mut missed = Vec::new();
    for ((name, must), rates) in rows.into_iter().zip(rates) {
        let (low, middle, high) = median(rates);
        let share = middle / reference;
        let must_text = must.map_or_else(String::new, |must: f64| format!("{must:.2}"));
        println!("{name:<18} {middle:>8.0} {:>20} {share:>8.2} {must_text:>8}", format!("{low:.0} to {high:.0}"));
        if must.is_some_and(|must| share < must) {
            missed.push(name);
        }
    }
    if !missed.is_empty() {
        return Err(format!("below what it must reach: {}", missed.join(", ")).into());
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (memory, disk, rounds) = (number(512)?, number(1024)?, number(5)?);
    let directory = tempfile::tempdir_in(directory)?;
    println!("{memory} MiB from memory, {disk} MiB from disk to disk, medians of {rounds} alternating rounds");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(directory.path(), memory, disk, rounds as usize))
}
