//! Loss of power, at any moment, on the real store.
//!
//! A writer runs under a library that records every change that it makes to its directory (`tests/preload`). From the
//! record the directory is rebuilt as a loss of power at some moment could have left it, opened with the real store and
//! compared with what the writer had acknowledged by then: term, vote and entries are there, nothing is there that was
//! never written, no loss is claimed, and the directory opens.
//!
//! `docs/testing.md` says how to run it longer and how to look at an image that fails.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

mod faults;
mod found;
mod history;
#[path = "../preload/mod.rs"]
mod preload;
mod repair;
mod stage;
mod state;
mod verifier;
mod writer;

use std::path::Path;
use std::time::Instant;

use preload::Change;
use raft_core::testing::{Random, Report};
use stage::Stage;

/// Images of a default run; `RAFT_CRASH_IMAGES` sets another number.
const IMAGES: u64 = 5_000;
/// The first seed of a run; `RAFT_CRASH_SEED_FIRST` sets another one.
const SEED_FIRST: u64 = 2;
const IMAGES_PER_STAGE: u64 = 84;
/// Each goes on from an image of the one before.
const STAGES_PER_CHAIN: u64 = 3;
/// Seeds that have found something: a database that was named before it had a WAL file. What a kill or a failed sync found
/// stands in `faults.rs`, by its call.
const REGRESSIONS: &[u64] = &[1];

/// Where reports go.
fn reports() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Not a test by itself: the process that is crashed.
#[test]
fn writer_that_is_crashed() {
    writer::run();
}

/// Not a test by itself: the process that opens images.
#[test]
fn verifier_of_images() {
    verifier::run();
}

/// Not a test by itself: the process that finds out what a log has lost.
#[test]
fn finder_of_a_loss() {
    repair::run();
}

/// What a chain of stages came to.
#[derive(Default)]
struct Work {
    images: u64,
    stages: u64,
    events: u64,
    acknowledged: u64,
    compactions: u64,
    installs: u64,
    dropped_files: u64,
    kills: u64,
}

impl Work {
    /// Runs a chain: a writer on a new directory, then writers on what a loss of power left of the one before.
    fn run_chain(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let mut stage = Stage::new(format!("seed {seed}"), random.next_u64());
        for number in 0..STAGES_PER_CHAIN {
            if number > 0 {
                stage = stage.after_crash(&mut random);
            }
            self.run_stage(&stage, &mut random);
        }
    }

    fn run_stage(&mut self, stage: &Stage, random: &mut Random) {
        // A process that is killed leaves more than a loss of power does; the next one must not build on what is not
        // durable.
        if random.below(2) == 0 {
            let action = ["kill", "killafter"][random.below(2) as usize];
            stage.run(stage.writer(&format!("any:*:{}:{action}", 1 + random.below(400))));
        }
        let mut writer = stage.writer("");
        writer.env(writer::WRITES, (20 + random.below(60)).to_string());
        writer.env(writer::OPENINGS, (1 + random.below(2)).to_string());
        stage.run(writer);
        stage.assert_complete();
        self.images += stage.assert_sound(IMAGES_PER_STAGE);
        self.stages += 1;
        self.events += stage.record().events().len() as u64;
        self.acknowledged += stage.count(|change| matches!(change, Change::Mark(text) if text == "done"));
        self.compactions += stage.count(|change| matches!(change, Change::Mark(text) if text == "compacted"));
        let installs = |text: &str| text.starts_with("write ") && text.contains(" s");
        self.installs += stage.count(|change| matches!(change, Change::Mark(text) if installs(text)));
        self.dropped_files += stage.count(|change| matches!(change, Change::Unlink { path } if path.ends_with(".sst")));
        self.kills += stage.count(|change| matches!(change, Change::Fault(_)));
    }
}

#[test]
fn every_acknowledged_write_survives_a_loss_of_power_at_any_moment() {
    let started = Instant::now();
    let images = number("RAFT_CRASH_IMAGES", IMAGES);
    let mut work = Work::default();
    for seed in REGRESSIONS {
        work.run_chain(*seed);
    }
    let mut seed = number("RAFT_CRASH_SEED_FIRST", SEED_FIRST);
    while work.images < images {
        work.run_chain(seed);
        seed += 1;
    }
    let mut report = Report::new("store-crash");
    report
        .at_least("images", work.images, images)
        .at_least("recorded runs", work.stages, images / IMAGES_PER_STAGE)
        .at_least("recorded calls", work.events, images)
        .at_least("acknowledged writes", work.acknowledged, images / 4)
        .at_least("compactions", work.compactions, images / 100)
        .at_least("snapshots in the place of a log", work.installs, images / 100)
        .at_least("table files dropped", work.dropped_files, images / 100)
        .at_least("killed writers", work.kills, images / 1_000)
        .count("seconds", started.elapsed().as_secs())
        .finish(reports());
}
