//! The loads, and their rounds: both sides do the same one after the other, and who begins changes with each round.

use std::io;

use crate::figures::{Results, median};
use crate::job::{Job, Who};
use crate::side::Side;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) warm_up_ms: u64,
    pub(crate) run_ms: u64,
    /// Keys that are put over and over, and read.
    pub(crate) keys: u64,
}

/// The name of a closed loop of puts.
pub(crate) fn put_name(clients: usize) -> String {
    format!("put/{clients}")
}

/// The name of a closed loop of reads, by the consistency that we know it by.
pub(crate) fn get_name(consistency: &str, clients: usize) -> String {
    format!("get-{consistency}/{clients}")
}

/// The name of the open loop.
pub(crate) const OPEN: &str = "put-open/70";
/// Its rate, as a part of what the peer can do.
const OPEN_PART: f64 = 0.7;

/// What the peer calls the consistency of ours: all but the first are `serializable`.
const CONSISTENCIES: [&str; 3] = ["linearizable", "lease", "local"];

/// Two clusters that are measured side by side.
pub(crate) struct Clusters {
    pub(crate) sides: [Side; 2],
    pub(crate) effort: Effort,
    first: u64,
}

impl Clusters {
    pub(crate) async fn start(etcd: &str, nodes: usize, effort: Effort) -> io::Result<Self> {
        let ours = Side::start(Who::Ours, etcd, nodes, &[]).await?;
        let peer = Side::start(Who::Etcd, etcd, nodes, &[]).await?;
        Ok(Self { sides: [ours, peer], effort, first: 0 })
    }

    /// All rounds of one load, which `job` shapes. What was measured before under this name is replaced.
    pub(crate) async fn rounds(
        &mut self,
        results: &mut Results,
        name: &str,
        shape: impl Fn(Job) -> Job,
    ) -> io::Result<()> {
        results.loads.remove(name);
        for round in 0..self.effort.rounds {
            for turn in 0..2 {
                let side = &self.sides[(round + turn) % 2];
                let effort = self.effort;
                let base = Job { keys: effort.keys, ..Job::puts(side.who(), &side.hosts(), 1) };
                let job = shape(Job {
                    warm_up_ms: effort.warm_up_ms,
                    run_ms: effort.run_ms,
                    // Other values than in the rounds before.
                    first: self.first,
                    ..base
                });
                self.first += 1 << 24;
                let figures = side.measure(&job).await?;
                crate::report::progress(name, round, side.who(), &figures);
                results.loads.entry(name.to_owned()).or_default().of(side.who()).push(figures);
            }
        }
        Ok(())
    }

    /// Closed loops of puts.
    pub(crate) async fn puts(&mut self, results: &mut Results, clients: &[usize]) -> io::Result<()> {
        for clients in clients {
            self.rounds(results, &put_name(*clients), |job| Job { clients: *clients, ..job }).await?;
        }
        Ok(())
    }

    /// Puts at seven tenths of what the peer made of 256 clients in this run.
    pub(crate) async fn open_puts(&mut self, results: &mut Results) -> io::Result<()> {
        let peak = results.metric(&put_name(256), |figures| figures.per_second).and_then(|pair| median(&pair.etcd));
        let Some(peak) = peak else {
            return Err(io::Error::other(
                "the rate of the open loop follows from puts of 256 clients: measure them too",
            ));
        };
        let rate = Some((peak * OPEN_PART).floor());
        self.rounds(results, OPEN, |job| Job { clients: 256, rate, ..job }).await
    }

    /// Gives every key a value.
    pub(crate) async fn fill(&self) -> io::Result<()> {
        for side in &self.sides {
            let job = Job::fill(side.who(), &side.hosts(), self.effort.keys, 256);
            let summary = job.run().await?;
            if summary.errors > 0 {
                return Err(io::Error::other(format!("{} errors: {:?}", summary.errors, summary.errors_by_kind)));
            }
        }
        Ok(())
    }

    /// Closed loops of reads, at each consistency.
    pub(crate) async fn gets(&mut self, results: &mut Results, clients: &[usize]) -> io::Result<()> {
        for consistency in CONSISTENCIES {
            for clients in clients {
                let shape = |job| Job { clients: *clients, read: Some(consistency.to_owned()), ..job };
                self.rounds(results, &get_name(consistency, *clients), shape).await?;
            }
        }
        Ok(())
    }
}
