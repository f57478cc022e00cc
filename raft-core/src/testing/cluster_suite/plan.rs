//! What a run is to be like: each seed draws a mix of its own.

use std::time::Duration;

use super::faults::CUT_INSIDE;
use crate::config::Config;
use crate::membership::Configuration;
use crate::random::Random;
use crate::types::NodeId;

/// Microseconds between two calls, about.
pub(super) const PACE: u64 = 8_000;

/// Kinds of faults.
pub(super) const KINDS: usize = 13;

/// One run. Times are in microseconds, chances in thousandths.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) nodes: u64,
    /// Calls before everything is healed.
    pub(super) calls: u64,
    /// Between two faults, about.
    pub(super) fault_every: u64,
    pub(super) latency: u64,
    pub(super) spread: u64,
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    pub(super) sync: u64,
    pub(super) apply: u64,
    /// Chances of the kinds of faults, relative to one another: see `faults.rs`.
    pub(super) weights: [u64; KINDS],
    /// A batch of entries is followed by a flush in one of so many cases.
    pub(super) flush_one_in: u64,
    retain: u64,
    cache: u64,
    entries_in_an_append: u64,
    applying: u64,
}

impl Plan {
    pub(super) fn draw(seed: u64, calls: u64, faults: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9E6C_63D0_876A_3F6B) ^ 0x7C3A_55D1);
        let mut one_of = |values: &[u64]| values[random.below(values.len() as u64) as usize];
        let nodes = one_of(&[3, 3, 5]);
        let (latency, spread) = (one_of(&[200, 1_000]), one_of(&[100, 2_000, 12_000]));
        let (loss, duplicate) = (one_of(&[0, 10, 80]), one_of(&[0, 50]));
        let (sync, apply) = (one_of(&[300, 2_000, 6_000]), one_of(&[100, 2_000]));
        let mut weights = std::array::from_fn(|_| one_of(&[0, 1, 2, 4]));
        // What is nowhere else to be had.
        weights[CUT_INSIDE] = one_of(&[2, 4, 8]);
        let flush_one_in = one_of(&[2, 8, 40]);
        let (retain, cache) = (one_of(&[8, 24, 80]), one_of(&[0, 500, 1 << 20]));
        let (entries_in_an_append, applying) = (one_of(&[2, 8, 4096]), one_of(&[300, 16 << 20]));
        Self {
            seed,
            nodes,
            calls,
            fault_every: (calls * PACE / faults.max(1)).max(1),
            latency,
            spread,
            loss,
            duplicate,
            sync,
            apply,
            weights,
            flush_one_in,
            retain,
            cache,
            entries_in_an_append,
            applying,
        }
    }

    pub(super) fn founders(&self) -> Configuration {
        Configuration::new((1..=self.nodes).map(NodeId))
    }

    /// Entries that a log keeps.
    pub(super) fn retain(&self) -> u64 {
        self.retain
    }

    pub(super) fn config(&self, id: NodeId, life: u32) -> Config {
        Config {
            seed: self.seed.wrapping_mul(31).wrapping_add(u64::from(life)),
            life: u64::from(life),
            election_timeout: Duration::from_millis(100),
            heartbeat_interval: Duration::from_millis(25),
            disk_stall_timeout: Duration::from_millis(200),
            append_entries_max: self.entries_in_an_append,
            inflight_appends_max: 8,
            applying_bytes_max: self.applying,
            cache_bytes_max: self.cache,
            retain_entries_max: self.retain,
            catch_up_entries_max: 50,
            catch_up_time: Duration::from_millis(30),
            ..Config::new(id, self.founders())
        }
    }
}
