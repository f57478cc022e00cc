//! A recorded run of the writer, in a directory of its own: `root` (what was recorded), `record`, and where the run
//! began with the image of an earlier one, `base` (that image) and `history` (what had been acknowledged by then). Where
//! the log has really lost something, `expected` is the verdict that every image has to come to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use raft_core::testing::Random;
use tempfile::TempDir;

use super::verifier::{self, Cursor};
use super::writer;
use crate::preload::{Change, Disk, DiskLab, Image, Record};

/// Images that failed are kept here, with the record that they come from.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/crash-failures");

pub(crate) struct Stage {
    scratch: TempDir,
    lab: DiskLab,
    /// Told in messages: how to get this stage again.
    story: String,
    seed: u64,
}

/// What verifying a stage came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) images: u64,
    pub(crate) violations: Vec<String>,
}

impl Stage {
    pub(crate) fn new(story: impl Into<String>, seed: u64) -> Self {
        let scratch = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let lab = DiskLab::new(scratch.path());
        Self { scratch, lab, story: story.into(), seed }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// A writer of this stage; what it is to do is up to the caller.
    pub(crate) fn writer(&self, plan: &str) -> Command {
        let mut command = self.lab.child("writer_that_is_crashed");
        command.env(writer::SEED, self.seed.to_string()).env("RAFT_DISK_PLAN", plan);
        command
    }

    pub(crate) fn lab(&self) -> &DiskLab {
        &self.lab
    }

    pub(crate) fn record(&self) -> Record {
        self.lab.record()
    }

    /// Runs a writer to its end, which may be a kill. It must not end in any other unusual way.
    pub(crate) fn run(&self, mut command: Command) {
        use std::os::unix::process::ExitStatusExt as _;
        let output = command.output().unwrap();
        let killed = output.status.signal() == Some(9);
        assert!(
            output.status.success() || killed,
            "{}: the writer ended with {}\n{}{}",
            self.story,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The record accounts for every byte: replayed, it gives the directory as it is.
    pub(crate) fn assert_complete(&self) {
        let base = self.path().join("base");
        let mut disk = if base.exists() { Disk::of_directory(&base) } else { Disk::empty() };
        let record = self.record();
        record.events().iter().for_each(|event| disk.apply(event));
        let (replayed, real) = (disk.newest(), Disk::of_directory(&self.lab.root()).newest());
        let names = |image: &Image| image.files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&replayed), names(&real), "{}: other files than were recorded", self.story);
        for (name, content) in &real.files {
            assert!(replayed.files[name] == *content, "{}: {name} holds other bytes than were recorded", self.story);
        }
    }

    /// Opens `images` images of this stage in a process of their own.
    pub(crate) fn verify(&self, images: u64, first_only: bool) -> Verdict {
        let mut command = self.lab.child("verifier_of_images");
        command
            .env_remove("RAFT_DISK_RECORD")
            .env_remove("RAFT_DISK_MARKS")
            .env_remove("RAFT_DISK_CONTROL")
            .env("RAFT_DISK_ROOT", self.lab.root().with_file_name("image"))
            .env(verifier::STAGE, self.lab.root().parent().unwrap())
            .env(verifier::IMAGES, images.to_string())
            .env(verifier::CHOICES, self.seed.to_string());
        if first_only {
            command.env(verifier::FIRST_ONLY, "1");
        }
        let output = command.output().unwrap();
        let text = fs::read_to_string(self.path().join("verdict")).unwrap_or_else(|error| {
            panic!("{}: no verdict ({error})\n{}", self.story, String::from_utf8_lossy(&output.stderr))
        });
        let count =
            text.lines().find_map(|line| line.strip_prefix("images ")).map_or(0, |count| count.parse().unwrap());
        let violations: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("violation"))
            .map(|line| format!("{}: {line}", self.story))
            .collect();
        assert!(
            !violations.is_empty() || text.ends_with("complete\n"),
            "{}: the verifier ended with {}\n{}",
            self.story,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let _ = fs::remove_dir_all(self.path().join("image"));
        Verdict { images: count, violations }
    }

    /// As [`Stage::verify`], of a store that is right: also nothing that the writer saw itself may be wrong.
    pub(crate) fn assert_sound(&self, images: u64) -> u64 {
        let record = self.record();
        let mut cursor = Cursor::new(self.path(), &record);
        cursor.go_to(record.events().len());
        let mut verdict = self.verify(images, false);
        verdict.violations.extend(cursor.history.violations.iter().map(|seen| format!("{}: {seen}", self.story)));
        if !verdict.violations.is_empty() {
            let kept = self.keep(&verdict);
            panic!(
                "{} of {} images are wrong; record and images are kept in {}:\n{}",
                verdict.violations.len(),
                verdict.images,
                kept.display(),
                verdict.violations.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
            );
        }
        verdict.images
    }

    fn keep(&self, verdict: &Verdict) -> PathBuf {
        let kept = Path::new(KEPT).join(format!("{}-{}", std::process::id(), self.seed));
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("violations"), verdict.violations.join("\n")).unwrap();
        fs::copy(self.path().join("record"), kept.join("record")).unwrap();
        let wrong = self.path().join("wrong");
        if wrong.exists() {
            Disk::of_directory(&wrong).newest().write_to(&kept.join("wrong"));
        }
        if let Ok(history) = fs::read(self.path().join("history")) {
            fs::write(kept.join("history"), history).unwrap();
            Disk::of_directory(&self.path().join("base")).newest().write_to(&kept.join("base"));
        }
        kept
    }

    /// A stage that goes on from an image of this one: the power came back.
    pub(crate) fn after_crash(&self, random: &mut Random) -> Self {
        let record = self.record();
        let point = random.below(record.events().len() as u64 + 1) as usize;
        let choice = random.next_u64();
        let mut cursor = Cursor::new(self.path(), &record);
        cursor.go_to(point);
        let image = cursor.disk.image(&mut Random::new(choice));
        let story = format!("{}, crashed at {point} choice {choice}", self.story);
        self.followed_by(&image, point, story, random.next_u64())
    }

    /// A stage that begins with `image`, as this one was at `point` of its record.
    pub(crate) fn followed_by(&self, image: &Image, point: usize, story: String, seed: u64) -> Self {
        let next = Self::new(story, seed);
        image.write_to(&next.lab.root());
        image.write_to(&next.path().join("base"));
        let mut marks = fs::read_to_string(self.path().join("history")).unwrap_or_default();
        for event in &self.record().events()[..point] {
            if let Change::Mark(text) = &event.change {
                marks += text;
                marks.push('\n');
            }
        }
        fs::write(next.path().join("history"), marks).unwrap();
        next
    }

    /// How many calls of each kind the record holds.
    pub(crate) fn count(&self, of: impl Fn(&Change) -> bool) -> u64 {
        self.record().events().iter().filter(|event| of(&event.change)).count() as u64
    }
}
