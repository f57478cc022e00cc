//! The lanes of `raft-net-quic` and one stream of bare quinn, on loopback: 256 bytes at a time, pipelined and to and fro.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raft_benches::quic::bare::BarePair;
use raft_benches::quic::far_end;
use raft_benches::quic::setup::{Authority, Nodes};
use tokio::runtime::Builder;

/// How long one measurement takes, of which criterion is told the time of one message.
const SLICE: Duration = Duration::from_millis(100);

fn lanes(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let place = tempfile::tempdir().expect("a directory");
    let authority = Authority::new().expect("certificates");
    let far = far_end().expect("a thread");
    let bare = runtime.block_on(BarePair::start(&authority, &far)).expect("two sockets");
    let nodes = runtime.block_on(Nodes::start(&authority, place.path(), &far)).expect("two sockets");
    let mut group = criterion.benchmark_group("256 bytes");
    group.throughput(Throughput::Elements(1));
    let of = |iterations: u64, seconds: f64| Duration::from_secs_f64(seconds * iterations as f64);
    group.bench_function("lanes, pipelined", |bencher| {
        bencher.iter_custom(|iterations| of(iterations, 1.0 / runtime.block_on(nodes.pipelined(SLICE)).figure));
    });
    group.bench_function("bare quinn, pipelined", |bencher| {
        bencher.iter_custom(|iterations| {
            let side = runtime.block_on(bare.pipelined(SLICE)).expect("a connection");
            of(iterations, 1.0 / side.figure)
        });
    });
    group.bench_function("lanes, round trip", |bencher| {
        bencher.iter_custom(|iterations| of(iterations, runtime.block_on(nodes.round_trips(SLICE)).figure / 1e6));
    });
    group.bench_function("bare quinn, round trip", |bencher| {
        bencher.iter_custom(|iterations| {
            let side = runtime.block_on(bare.round_trips(SLICE)).expect("a connection");
            of(iterations, side.figure / 1e6)
        });
    });
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = all; config = settings(); targets = lanes }
criterion_main!(all);
