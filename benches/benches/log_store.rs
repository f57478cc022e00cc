//! Synced writes of the log store and of a bare RocksDB batch of the same bytes, on a real disk.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raft_benches::cluster::data_dir;
use raft_benches::log::{Bare, Ours, Store, warm_up};

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("synced write");
    let place = tempfile::tempdir_in(data_dir()).expect("a directory");
    let mut ours = Ours::open(&place.path().join("ours")).expect("a new log");
    let mut bare = Bare::open(&place.path().join("bare")).expect("a new database");
    warm_up(&mut ours).expect("a disk that works");
    warm_up(&mut bare).expect("a disk that works");
    for entries in [1, 64, 512] {
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("log store/{entries}"), |bencher| {
            bencher.iter(|| ours.sync(entries).expect("a disk that works"));
        });
        group.bench_function(format!("bare RocksDB/{entries}"), |bencher| {
            bencher.iter(|| bare.sync(entries).expect("a disk that works"));
        });
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = all; config = settings(); targets = write }
criterion_main!(all);
