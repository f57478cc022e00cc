//! What was measured, as it is kept in the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::job::Who;

/// What one round of one load came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) errors: u64,
    pub(crate) errors_by_kind: BTreeMap<String, u64>,
    pub(crate) missing: u64,
    pub(crate) operations: u64,
    /// The generator's own lag, in an open loop.
    pub(crate) lag_p99_ms: f64,
    /// Of all servers together, per operation.
    pub(crate) server_cpu_us: f64,
    pub(crate) generator_cpu_us: f64,
    /// Of all servers together, per operation.
    pub(crate) written_bytes: f64,
    /// Of one server, on average.
    pub(crate) resident_mib: f64,
}

/// The rounds of both sides for one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair<T> {
    pub(crate) ours: Vec<T>,
    pub(crate) etcd: Vec<T>,
}

impl<T> Default for Pair<T> {
    fn default() -> Self {
        Self { ours: Vec::new(), etcd: Vec::new() }
    }
}

impl<T> Pair<T> {
    pub(crate) fn of(&mut self, who: Who) -> &mut Vec<T> {
        match who {
            Who::Ours => &mut self.ours,
            Who::Etcd => &mut self.etcd,
        }
    }
}

/// Everything that was measured, by name: `put/256` is puts of 256 clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// On what, and when.
    pub(crate) machine: BTreeMap<String, String>,
    /// Loads.
    pub(crate) loads: BTreeMap<String, Pair<Figures>>,
    /// Single figures: seconds of a failover, bytes of memory.
    pub(crate) values: BTreeMap<String, Pair<f64>>,
}

impl Results {
    /// What an earlier run has left in this file; nothing when it is not there.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::other(format!("{}: {error}; delete it, or name another with --json", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(io::Error::other(format!("{}: {error}", path.display()))),
        }
    }

    /// The rounds of one metric of a load.
    pub(crate) fn metric(&self, load: &str, metric: impl Fn(&Figures) -> f64) -> Option<Pair<f64>> {
        let pair = self.loads.get(load)?;
        Some(Pair { ours: pair.ours.iter().map(&metric).collect(), etcd: pair.etcd.iter().map(&metric).collect() })
    }

    /// Whether a load ran without errors, and its generator was never late.
    pub(crate) fn counts(&self, load: &str) -> bool {
        let sound = |figures: &Figures| figures.errors == 0 && figures.missing == 0 && figures.lag_p99_ms < 1.0;
        self.loads.get(load).is_some_and(|pair| pair.ours.iter().chain(&pair.etcd).all(sound))
    }
}

/// The middle one; the mean of the two in the middle of an even number.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_run_with_errors_or_a_late_generator_does_not_count() {
        let mut results = Results::default();
        assert!(!results.counts("put/1"));
        let good = Figures::default();
        results.loads.insert("put/1".into(), Pair { ours: vec![good.clone()], etcd: vec![good.clone()] });
        assert!(results.counts("put/1"));
        results.loads.get_mut("put/1").unwrap().etcd.push(Figures { errors: 1, ..good.clone() });
        assert!(!results.counts("put/1"));
        results.loads.insert("put/1".into(), Pair { ours: vec![Figures { lag_p99_ms: 1.5, ..good }], etcd: vec![] });
        assert!(!results.counts("put/1"));
    }
}
