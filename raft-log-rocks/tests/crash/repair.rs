//! A log that has lost what it acknowledged, found out by a start that is itself cut off: wherever that was, the next
//! start comes to the same verdict, and no vote is forgotten on the way.

use std::path::PathBuf;

use raft_core::ports::LogStore as _;
use raft_core::testing::{Random, Report};
use raft_log_rocks::{DataDir, RocksLog};

use crate::preload::{Disk, Image, Marks};
use crate::stage::Stage;
use crate::state::GROUPS;
use crate::writer::{data_dir, node, options, start_of};
use crate::{reports, writer};

/// Names the file with the verdict, beside the recorded root.
pub(crate) const VERDICT: &str = "RAFT_CRASH_VERDICT";
const LOSSES: u64 = 6;
const SEEDS_MAX: u64 = 40;
const IMAGES_PER_LOSS: u64 = 60;

/// What recovery says of every group.
///
/// # Errors
/// When the log is not recovered.
pub(crate) fn verdict(log: &mut RocksLog) -> Result<String, String> {
    let mut text = String::new();
    for id in GROUPS {
        let recovered = log.recover(id).map_err(|error| error.to_string())?;
        let last = recovered.last();
        text += &format!("[{id} lost {:?} {:?} last {last}]", recovered.lost, recovered.hard_state);
    }
    Ok(text)
}

/// Runs the child that finds the loss out, when this process is one.
pub(crate) fn run() {
    let Some(file) = std::env::var_os(VERDICT).map(PathBuf::from) else {
        return;
    };
    let mut marks = Marks::new();
    let root = PathBuf::from(std::env::var_os("RAFT_DISK_ROOT").unwrap());
    marks.put("starting");
    let directory = DataDir::open(data_dir(&root), &node()).unwrap();
    let start = start_of(&directory);
    marks.put(&format!("started {} {}", start.incarnation, start.count));
    let mut log = directory.open_log(options()).unwrap();
    std::fs::write(file, verdict(&mut log).unwrap()).unwrap();
}

/// The directory as its writer left it, with the end of the newest WAL file gone.
fn lose_an_end(stage: &Stage, random: &mut Random) -> Image {
    let mut disk = Disk::empty();
    stage.record().events().iter().for_each(|event| disk.apply(event));
    let mut image = disk.newest();
    let wal = image.files.iter_mut().rev().find(|(path, content)| path.ends_with(".log") && !content.is_empty());
    if let Some((_, content)) = wal {
        content.truncate(random.below(content.len() as u64) as usize);
    }
    image
}

#[test]
fn a_repair_that_is_cut_off_comes_to_the_same_verdict() {
    let (mut losses, mut images) = (0, 0);
    for seed in 1..=SEEDS_MAX {
        if losses == LOSSES {
            break;
        }
        let mut random = Random::new(seed);
        let stage = Stage::new(format!("loss {seed}"), seed);
        let mut writer = stage.writer("");
        writer.env(writer::WRITES, "30");
        stage.run(writer);
        let image = lose_an_end(&stage, &mut random);
        let damaged = stage.followed_by(&image, stage.record().events().len(), format!("loss {seed}, found out"), seed);
        let mut finder = damaged.lab().child("finder_of_a_loss");
        finder.env(VERDICT, damaged.lab().root().with_file_name("expected"));
        damaged.run(finder);
        damaged.assert_complete();
        let expected = std::fs::read_to_string(damaged.lab().root().with_file_name("expected")).unwrap();
        if expected.contains("lost Some") {
            losses += 1;
            images += damaged.assert_sound(IMAGES_PER_LOSS);
        }
    }
    let mut report = Report::new("store-crash-repairs");
    report.at_least("losses", losses, LOSSES).at_least("images", images, LOSSES * IMAGES_PER_LOSS).finish(reports());
}
