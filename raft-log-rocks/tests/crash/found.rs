//! The suite finds what it is for: stores that leave a sync out, or write in another order, are caught.

use raft_core::testing::Report;

use crate::stage::Stage;
use crate::{reports, writer};

const IMAGES_PER_RUN: u64 = 150;
/// Runs of other seeds before a fault counts as missed.
const RUNS_MAX: u64 = 8;

struct Broken {
    what: &'static str,
    plan: &'static str,
    /// How many batches are written; few where the fault lies in the making of the directory.
    writes: &'static str,
    /// Switches `LogOptions::sync` off.
    unsynced: bool,
    /// A word of the violation that is to be found, to be sure that it is this one.
    shows: &'static str,
}

const USUAL: Broken = Broken { what: "", plan: "", writes: "40", unsynced: false, shows: "" };

const BROKEN: &[Broken] = &[
    Broken { what: "no sync of the log (LogOptions::sync)", unsynced: true, shows: "what was written", ..USUAL },
    Broken { what: "no sync of the WAL", plan: "sync:*.log:1+:skip", ..USUAL },
    Broken { what: "no sync of any file", plan: "sync:*:1+:skip", ..USUAL },
    Broken { what: "no sync of tables", plan: "sync:*.sst:1+:skip", ..USUAL },
    Broken { what: "no sync of the manifest", plan: "sync:*/MANIFEST*:1+:skip", ..USUAL },
    Broken { what: "no sync of any directory", plan: "dirsync:*:1+:skip", ..USUAL },
    Broken { what: "no sync of the directory above the data directory", plan: "dirsync:.:1+:skip", ..USUAL },
    Broken { what: "no sync of the data directory", plan: "dirsync:data:1+:skip", ..USUAL },
    Broken { what: "no sync of the log's directory", plan: "dirsync:data/log:1+:skip", ..USUAL },
    Broken { what: "no sync of the database's directory", plan: "dirsync:data/log/db:1+:skip", ..USUAL },
    Broken { what: "small files renamed before they are synced", plan: "sync:data/*.tmp:1+:skip", ..USUAL },
    Broken {
        what: "evidence written before the log",
        plan: "write:*.log:1+:hold;sync:*.log:1+:hold;write:*/EVIDENCE:1+:release",
        shows: "claims to have lost",
        ..USUAL
    },
    Broken {
        what: "the start counted before the identity is named",
        plan: "rename:data/IDENTITY:1:hold;rename:data/START:1:release",
        writes: "2",
        shows: "IDENTITY",
        ..USUAL
    },
    Broken {
        what: "the log noted as made before the name of its evidence is synced",
        plan: "dirsync:data/log:1+:hold;dirsync:data:1+:release",
        writes: "2",
        shows: "EVIDENCE",
        ..USUAL
    },
];

impl Broken {
    /// How many images it took to find it, and what was found.
    fn find(&self) -> Option<(u64, String)> {
        let mut images = 0;
        for seed in 1..=RUNS_MAX {
            let stage = Stage::new(self.what, seed);
            let mut writer = stage.writer(self.plan);
            writer.env(writer::WRITES, self.writes);
            if self.unsynced {
                writer.env(writer::UNSYNCED, "1");
            }
            stage.run(writer);
            let verdict = stage.verify(IMAGES_PER_RUN, true);
            images += verdict.images;
            if let Some(violation) = verdict.violations.into_iter().find(|text| text.contains(self.shows)) {
                return Some((images, violation));
            }
        }
        None
    }
}

#[test]
fn a_store_without_a_sync_or_in_another_order_is_found() {
    let mut report = Report::new("store-crash-mutants");
    let mut found = 0;
    for broken in BROKEN {
        match broken.find() {
            Some((images, violation)) => {
                found += 1;
                report.count(&format!("images until found: {}", broken.what), images);
                report.note(violation.chars().take(400).collect::<String>());
            }
            None => {
                report.note(format!("NOT FOUND: {}", broken.what));
            }
        }
    }
    report.at_least("found", found, BROKEN.len() as u64).finish(reports());
}
