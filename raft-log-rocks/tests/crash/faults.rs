//! Kills, failing syncs, a full disk and a disk that stalls, each at many moments of a short run.

use std::time::{Duration, Instant};

use raft_core::testing::Report;

use crate::preload::Change;
use crate::stage::Stage;
use crate::{reports, writer};

/// Batches of the short run; a flush of tables lies within it.
const WRITES: &str = "24";
const IMAGES_PER_MOMENT: u64 = 10;
/// Moments of a full disk.
const FULL_MOMENTS: u64 = 20;
const KILLED_CALLS: &[&str] = &["create", "write", "sync", "dirsync", "rename", "unlink", "mkdir", "truncate"];
const KILLED_AT: &[u64] = &[1, 2, 3, 5, 8, 13, 30];
/// Kills that have found something: the database had its name and no WAL file yet; the data directory's own name was
/// never synced.
const REGRESSIONS: &[&str] = &["rename:*/CURRENT:1:killafter", "mkdir:data:1:killafter", "mkdir:data/log:1:killafter"];
const IMAGES_PER_REGRESSION: u64 = 40;
/// How long to wait for a child that ought to answer at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the writer under `plan` and then, the directory as the first one left it, without.
fn run_twice(stage: &Stage, plan: &str, until_failure: bool) {
    let mut first = stage.writer(plan);
    first.env(writer::WRITES, WRITES);
    if until_failure {
        first.env(writer::UNTIL_FAILURE, "1");
    }
    stage.run(first);
    if !stage.happened() {
        return;
    }
    let mut second = stage.writer("");
    second.env(writer::WRITES, WRITES);
    stage.run(second);
    assert!(stage.is_closed(), "{plan}: the writer after the fault did not come to its end: {}", stage.last_mark());
    stage.assert_complete();
}

impl Stage {
    /// Whether the plan's fault has happened.
    fn happened(&self) -> bool {
        self.count(|change| matches!(change, Change::Fault(_))) > 0
    }

    fn is_closed(&self) -> bool {
        self.last_mark() == "closed"
    }

    fn last_mark(&self) -> String {
        let record = self.record();
        let mut marks = record.events().iter().rev();
        marks.find_map(|event| if let Change::Mark(text) = &event.change { Some(text.clone()) } else { None }).unwrap()
    }

    /// Whether the fault met a file of this kind in the thread that writes.
    fn is_fault_of_writer(&self, kind: &str) -> bool {
        let record = self.record();
        let begins = |change: &Change| matches!(change, Change::Mark(text) if text.starts_with("write "));
        let writer = record.events().iter().find(|event| begins(&event.change)).map(|event| event.thread);
        let faults = |change: &Change| matches!(change, Change::Fault(text) if text.ends_with(kind));
        record.events().iter().any(|event| faults(&event.change) && Some(event.thread) == writer)
    }

    /// Acknowledgements of batches that were begun after the fault, in its life.
    fn acknowledged_after_fault(&self) -> u64 {
        let (mut fault, mut begun, mut acknowledged) = (false, false, 0);
        for event in self.record().events() {
            match &event.change {
                Change::Life => (fault, begun) = (false, false),
                Change::Fault(_) => (fault, begun) = (true, false),
                Change::Mark(text) if text.starts_with("write ") => begun = fault,
                Change::Mark(text) if text == "done" && begun => acknowledged += 1,
                _ => {}
            }
        }
        acknowledged
    }
}

/// How many calls of interest a run without faults makes.
fn count(of: impl Fn(&Change) -> bool) -> u64 {
    let stage = Stage::new("without faults", 7);
    let mut writer = stage.writer("");
    writer.env(writer::WRITES, WRITES);
    stage.run(writer);
    stage.count(of)
}

#[test]
fn a_writer_killed_at_any_call_leaves_a_directory_that_the_next_one_goes_on_with() {
    let (mut kills, mut images) = (0, 0);
    for plan in REGRESSIONS {
        let stage = Stage::new(format!("plan {plan}"), 1);
        run_twice(&stage, plan, false);
        assert!(stage.happened(), "{plan}: there is no such call");
        kills += 1;
        images += stage.assert_sound(IMAGES_PER_REGRESSION);
    }
    for (number, kind) in KILLED_CALLS.iter().enumerate() {
        for (at, nth) in KILLED_AT.iter().enumerate() {
            let action = ["kill", "killafter"][(number + at) % 2];
            let plan = format!("{kind}:*:{nth}:{action}");
            let stage = Stage::new(format!("plan {plan}"), *nth);
            run_twice(&stage, &plan, false);
            if stage.happened() {
                kills += 1;
                images += stage.assert_sound(IMAGES_PER_MOMENT);
            }
        }
    }
    let mut report = Report::new("store-crash-kills");
    report.at_least("kills", kills, 40).at_least("images", images, 400).finish(reports());
}

#[test]
fn a_sync_that_fails_ends_the_store_and_costs_nothing_acknowledged_whichever_it_is() {
    let syncs = count(|change| matches!(change, Change::SyncStart { .. }));
    let (mut images, mut own, mut closed, mut late) = (0, 0, 0, 0);
    for nth in 1..=syncs {
        let plan = format!("anysync:*:{nth}:eio");
        let stage = Stage::new(format!("plan {plan}"), nth);
        run_twice(&stage, &plan, true);
        assert!(stage.happened(), "{plan}: there is no such sync");
        // A sync of the log by the writer itself fails the very write that waits for it. One in the background, of a log
        // that is closed too, shows with the next write or soon; until then each batch has a sync of its own.
        let of_the_log = stage.is_fault_of_writer(".log");
        own += u64::from(of_the_log);
        closed += u64::from(!of_the_log && stage.count(|c| matches!(c, Change::Fault(t) if t.ends_with(".log"))) > 0);
        let acknowledged = stage.acknowledged_after_fault();
        assert!(
            !of_the_log || acknowledged == 0,
            "{plan}: {acknowledged} batches acknowledged after the log's sync failed"
        );
        late = late.max(acknowledged);
        images += stage.assert_sound(IMAGES_PER_MOMENT);
    }
    let mut report = Report::new("store-crash-failed-syncs");
    report
        .at_least("failed syncs", syncs, 50)
        .at_least("of the log, by the writer", own, 10)
        .count("of a log, in the background", closed)
        .at_least("images", images, 500)
        .count("most batches acknowledged on syncs of their own after one failed in the background", late)
        .finish(reports());
}

#[test]
fn a_full_disk_ends_the_store_and_costs_nothing_acknowledged() {
    let calls = count(|change| change.is_of_names() || matches!(change, Change::Write { .. }));
    let mut images = 0;
    for moment in 0..FULL_MOMENTS {
        let nth = 1 + moment * calls / FULL_MOMENTS;
        let plan = format!("grow:*:{nth}:short;grow:*:{}+:enospc", nth + 1);
        let stage = Stage::new(format!("plan {plan}"), nth);
        run_twice(&stage, &plan, true);
        assert!(stage.happened(), "{plan}: there are no such calls");
        images += stage.assert_sound(IMAGES_PER_MOMENT);
    }
    let mut report = Report::new("store-crash-full-disks");
    report.at_least("full disks", FULL_MOMENTS, 20).at_least("images", images, 200).finish(reports());
}

#[test]
fn a_batch_whose_sync_stalls_is_not_acknowledged_before_it_ends() {
    let stage = Stage::new("a stall", 3);
    let mut writer = stage.writer("sync:*.log:5:stall").env(writer::WRITES, WRITES).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !stage.lab().record_path().exists() || !stage.happened() {
        assert!(Instant::now() < deadline, "the fifth sync of the log is never made");
        std::thread::yield_now();
    }
    stage.lab().plan("");
    assert!(writer.wait().unwrap().success());
    assert!(stage.is_closed(), "the writer did not go on: {}", stage.last_mark());
    let record = stage.record();
    let mut events = record.events().iter().skip_while(|event| !matches!(event.change, Change::Fault(_)));
    let stalled = events.next().unwrap().thread;
    let ended = |thread, change: &Change| thread == stalled && matches!(change, Change::SyncEnd { .. });
    let acknowledged = events
        .take_while(|event| !ended(event.thread, &event.change))
        .filter(|event| matches!(&event.change, Change::Mark(text) if text == "done"));
    assert_eq!(acknowledged.count(), 0, "acknowledged while its sync had not ended");
    stage.assert_sound(20);
}
