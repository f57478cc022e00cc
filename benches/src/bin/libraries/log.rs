//! Row 9: synced entries per second of the log store, against the same bytes in a bare RocksDB batch.

use std::path::Path;
use std::time::{Duration, Instant};

use raft_benches::log::{Bare, Ours, Store, warm_up};
use raft_benches::rounds::{Anything, alternate, cpu};
use raft_benches::rows::{Row, Side};

const BATCHES: [u64; 3] = [1, 64, 512];

fn measure(store: &mut impl Store, batch: u64, time: Duration) -> Result<Side, Anything> {
    let (cpu_before, begin) = (cpu(), Instant::now());
    let mut entries = 0;
    while begin.elapsed() < time {
        store.sync(batch)?;
        entries += batch;
    }
    Ok(Side::per_second(entries, begin.elapsed(), cpu() - cpu_before))
}

pub(crate) fn compare(directory: &Path, rounds: usize, time: Duration) -> Result<Vec<Row>, Anything> {
    let mut rows = Vec::new();
    for batch in BATCHES {
        let place = tempfile::tempdir_in(directory)?;
        let mut ours = Ours::open(&place.path().join("ours"))?;
        let mut bare = Bare::open(&place.path().join("bare"))?;
        warm_up(&mut ours)?;
        warm_up(&mut bare)?;
        let measured = alternate(rounds, || measure(&mut ours, batch, time), || measure(&mut bare, batch, time))?;
        rows.push(Row {
            number: 9,
            what: "log store".into(),
            case: format!("batches of {batch}"),
            peer_name: "bare RocksDB".into(),
            unit: "synced entries/s".into(),
            must: Some(0.8),
            goal: Some(0.95),
            lower_is_better: false,
            ours: measured.0,
            peer: measured.1,
        });
    }
    Ok(rows)
}
