//! The store against the suite that defines the port, on a disk that loses power, fails, stalls and is full.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Instant;

use lab::RedbLab;
use raft_core::testing::log_store_suite;

#[test]
fn the_store_passes_the_suite() {
    let began = Instant::now();
    let summary = log_store_suite::run(&mut RedbLab::new());
    println!("{summary}\nin {:?}", began.elapsed());
    // It keeps no evidence beside its file, so it cannot know that an older copy of that was put back.
    let not_run: Vec<_> = summary.not_run().iter().map(|(rule, _)| *rule).collect();
    assert_eq!(not_run, ["an-older-copy-with-an-older-beginning-is-noticed", "an-older-copy-is-noticed"]);
}
