//! Row 10: small messages of the transport against bare quinn, pipelined on one stream, and one at a time.
//!
//! Ours are appends of one entry of 256 bytes, framed, checked on both sides, put into the lane one by one and handed to
//! the receiver one by one; answers come back in the other lane. The bare stream carries 256 bytes each, written as many
//! at a time as the window has room for, and nobody looks at what arrives.

use std::path::Path;
use std::time::Duration;

use raft_benches::quic::bare::BarePair;
use raft_benches::quic::setup::{Authority, Nodes};
use raft_benches::quic::{Outcome, far_end};
use raft_benches::rounds::alternate;
use raft_benches::rows::Row;
use tokio::runtime::Runtime;

pub(crate) fn compare(runtime: &Runtime, directory: &Path, rounds: usize, time: Duration) -> Outcome<Vec<Row>> {
    let (authority, far) = (Authority::new()?, far_end()?);
    let bare = runtime.block_on(BarePair::start(&authority, &far))?;
    let nodes = std::sync::Arc::new(runtime.block_on(Nodes::start(&authority, directory, &far))?);
    let ours = |trips: bool| {
        // A task as others, as a node's driver is.
        let nodes = nodes.clone();
        let run = async move { if trips { nodes.round_trips(time).await } else { nodes.pipelined(time).await } };
        Ok(runtime.block_on(runtime.spawn(run))?)
    };
    let warm_up = Duration::from_millis(300);
    runtime.block_on(bare.pipelined(warm_up))?;
    runtime.block_on(nodes.pipelined(warm_up));
    let piped = alternate(rounds, || ours(false), || runtime.block_on(bare.pipelined(time)))?;
    let trips = alternate(rounds, || ours(true), || runtime.block_on(bare.round_trips(time)))?;
    let row = |case: &str, unit: &str, must, goal, lower_is_better, (ours, peer)| Row {
        number: 10,
        what: "transport, 256 B".into(),
        case: case.into(),
        peer_name: "bare quinn".into(),
        unit: unit.into(),
        must: Some(must),
        goal: Some(goal),
        lower_is_better,
        ours,
        peer,
    };
    Ok(vec![row("pipelined", "messages/s", 0.5, 0.8, false, piped), row("round trip", "µs", 1.3, 1.1, true, trips)])
}
