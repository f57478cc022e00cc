//! The transport suite on TCP and TLS, every fault included.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use raft_core::testing::{Report, TcpCounts, TcpRelay, transport_suite};

mod lab;

use lab::Lab;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transport_over_tcp_passes() {
    let begin = Instant::now();
    let relays: Arc<Mutex<Vec<Arc<TcpRelay>>>> = Arc::default();
    let mut counts = Vec::new();
    let kept = Arc::clone(&relays);
    let mut fresh = || {
        // One network at a time: what the last one did is all that is kept of it.
        counts.extend(kept.lock().unwrap().drain(..).map(|relay| relay.counts()));
        let lab = Lab::new();
        kept.lock().unwrap().push(Arc::clone(&lab.0));
        Box::new(lab) as Box<dyn transport_suite::TransportLab>
    };
    let summary = transport_suite::run(&mut fresh).await.demand_all();
    counts.extend(relays.lock().unwrap().drain(..).map(|relay| relay.counts()));

    let work = summary.work();
    let sum = |of: fn(&TcpCounts) -> u64| counts.iter().map(of).sum::<u64>();
    let mut report = Report::new("suite-transport-tcp");
    report.at_least("cases", summary.held().len() as u64, 33).at_least("messages", work.operations, 2_000);
    report.at_least("cuts", work.cuts, 9).at_least("other-faults", work.faults, 6);
    report.at_least("connections", sum(|counts| counts.connections), 100);
    report.at_least("broken-connections", sum(|counts| counts.resets), 5);
    report.at_least("flipped-bits", sum(|counts| counts.corrupted), 5);
    report.at_least("chunks-in-pieces", sum(|counts| counts.fragmented), 10);
    report.count("seconds", begin.elapsed().as_secs());
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
