//! What a load saw.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Kinds of errors that are told apart; the rest is counted as one.
const ERROR_KINDS_MAX: usize = 16;

/// Gathers what comes of the requests.
#[derive(Debug)]
pub struct Recorder {
    /// From when on it counts.
    counted_from: Instant,
    /// Until when an answer counts for the rate.
    end: Option<Instant>,
    last: Instant,
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    in_window: u64,
    answered: u64,
    missing: u64,
    errors: BTreeMap<String, u64>,
    cpu_before: Duration,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are faster.
    pub p50: f64,
    /// One in ten is slower.
    pub p90: f64,
    /// One in a hundred is slower.
    pub p99: f64,
    /// One in a thousand is slower.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// What a load came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that were answered well, those of the warm-up among them.
    pub operations: u64,
    /// Those that count: after the warm-up.
    pub counted: u64,
    /// Answers a second, after the warm-up and before the end.
    pub per_second: f64,
    /// From the moment a request was due (in a closed loop: sent) to its answer.
    pub latency_ms: Quantiles,
    /// How late requests left by the generator's own fault: from when they were due and a connection was free.
    pub lag_ms: Quantiles,
    /// Reads of keys that are not there, among the answers.
    pub missing: u64,
    /// Requests that failed, those of the warm-up among them.
    pub errors: u64,
    /// The same by what went wrong.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Time that counts, in seconds.
    pub seconds: f64,
    /// CPU of the generator itself per operation, in microseconds.
    pub generator_cpu_us: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("the bounds are valid")
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// User and system time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

impl Recorder {
    /// Begins: what happens before `counted_from` is only counted; an answer after `end` has its latency recorded, and is
    /// none of the rate.
    #[must_use]
    pub fn new(counted_from: Instant, end: Option<Instant>) -> Self {
        Self {
            counted_from,
            end,
            last: counted_from,
            latency: histogram(),
            lag: histogram(),
            in_window: 0,
            answered: 0,
            missing: 0,
            errors: BTreeMap::new(),
            cpu_before: cpu(),
        }
    }

    /// A request left at `now` that could have left at `could`.
    pub fn sent(&mut self, could: Instant, now: Instant) {
        if now >= self.counted_from {
            self.lag.saturating_record(nanoseconds(now.saturating_duration_since(could)));
        }
    }

    /// The request that was due at `due` was answered at `now`; `missing` when it read a key that is not there.
    pub fn answered(&mut self, due: Instant, now: Instant, missing: bool) {
        self.answered += 1;
        self.missing += u64::from(missing);
        if now < self.counted_from {
            return;
        }
        self.latency.saturating_record(nanoseconds(now.saturating_duration_since(due)));
        if self.end.is_none_or(|end| now <= end) {
            self.in_window += 1;
            self.last = now;
        }
    }

    /// A request failed.
    pub fn failed(&mut self, kind: &str) {
        let told_apart = self.errors.contains_key(kind) || self.errors.len() < ERROR_KINDS_MAX;
        *self.errors.entry(if told_apart { kind } else { "other" }.to_owned()).or_default() += 1;
    }

    /// What it came to.
    #[must_use]
    pub fn summary(self) -> Summary {
        let cpu = cpu().saturating_sub(self.cpu_before);
        let until = self.end.unwrap_or(self.last);
        let seconds = until.saturating_duration_since(self.counted_from).as_secs_f64();
        Summary {
            operations: self.answered,
            counted: self.latency.len(),
            per_second: if seconds > 0.0 { self.in_window as f64 / seconds } else { 0.0 },
            latency_ms: Quantiles::of(&self.latency),
            lag_ms: Quantiles::of(&self.lag),
            missing: self.missing,
            errors: self.errors.values().sum(),
            errors_by_kind: self.errors,
            seconds,
            generator_cpu_us: cpu.as_secs_f64() * 1e6 / self.answered.max(1) as f64,
        }
    }
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e6,
            mean: histogram.mean() / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_after_the_warm_up_counts() {
        let from = Instant::now() + Duration::from_secs(100);
        let end = from + Duration::from_secs(10);
        let mut recorder = Recorder::new(from, Some(end));
        let due = from - Duration::from_secs(1);
        recorder.answered(due, from - Duration::from_millis(1), false);
        recorder.answered(due, from + Duration::from_secs(1), true);
        recorder.answered(due, end + Duration::from_secs(1), false);
        let summary = recorder.summary();
        assert_eq!((summary.operations, summary.counted, summary.missing), (3, 2, 1));
        // The late one has its latency, and is none of the rate.
        assert_eq!((summary.per_second, summary.seconds), (0.1, 10.0));
        assert!((summary.latency_ms.max / 12_000.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn errors_are_counted_by_kind_up_to_a_bound() {
        let mut recorder = Recorder::new(Instant::now(), None);
        for nth in 0..40 {
            recorder.failed(&format!("kind {nth}"));
        }
        recorder.failed("kind 0");
        let summary = recorder.summary();
        assert_eq!((summary.errors, summary.errors_by_kind["kind 0"], summary.errors_by_kind["other"]), (41, 2, 24));
    }
}
