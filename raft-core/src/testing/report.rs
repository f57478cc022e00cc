//! What a stage of tests did, with the least that it must have done: a green suite that ran nothing is a failure.
//!
//! A random test that draws no faults, a crash test whose process never dies, a checker that is handed empty histories:
//! all pass. So each stage counts its work, names minimums, and ends in a report that fails where one was not reached.
//!
//! ```
//! # let target = std::env::temp_dir().join(format!("report-example-{}", std::process::id()));
//! # let tmpdir = target.join("tmp");
//! // In an integration test: let tmpdir = Path::new(env!("CARGO_TARGET_TMPDIR"));
//! use raft_core::testing::Report;
//!
//! let (crashes, seconds) = (12, 3);
//! let mut report = Report::new("crashes");
//! report.at_least("crashes", crashes, 10).count("seconds", seconds);
//! report.note("the slowest restart was the ninth");
//! report.finish(&tmpdir);
//! # std::fs::remove_dir_all(target).unwrap();
//! ```

use std::fmt::{self, Write as _};
use std::path::Path;
use std::{fs, io};

struct Count {
    name: String,
    value: u64,
    minimum: Option<u64>,
}

/// The counts of one stage. It prints as the report file reads.
pub struct Report {
    stage: String,
    counts: Vec<Count>,
    notes: Vec<String>,
}

impl Report {
    /// A report of `stage`, which names the file: small letters, digits and `-`, unique in the workspace.
    ///
    /// # Panics
    /// When the name is anything else.
    #[must_use]
    pub fn new(stage: &str) -> Self {
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        assert!(
            !stage.is_empty() && stage.chars().all(plain),
            "a stage's name has small letters, digits and `-`: {stage}"
        );
        Self { stage: stage.to_owned(), counts: Vec::new(), notes: Vec::new() }
    }

    /// Adds a line: `value` of what `name` says (`seconds`, `states`), however little that is.
    pub fn count(&mut self, name: &str, value: u64) -> &mut Self {
        self.counts.push(Count { name: name.to_owned(), value, minimum: None });
        self
    }

    /// Adds a line whose value must be `minimum` or more, or [`finish`](Self::finish) fails.
    pub fn at_least(&mut self, name: &str, value: u64, minimum: u64) -> &mut Self {
        self.counts.push(Count { name: name.to_owned(), value, minimum: Some(minimum) });
        self
    }

    /// Adds a sentence below the counts: a seed, a rate, what was drawn.
    pub fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.notes.push(text.into());
        self
    }

    /// Writes `reports/<stage>.txt` beside `target_tmpdir`, replacing the last run's, and prints it. In an integration
    /// test that is `Path::new(env!("CARGO_TARGET_TMPDIR"))`, so that all reports lie in the target directory.
    ///
    /// # Panics
    /// When a count is under its minimum; the message names each. When there is no count at all, or no file.
    #[expect(clippy::print_stdout, reason = "a test's output")]
    pub fn finish(&self, target_tmpdir: &Path) {
        print!("{self}");
        if let Err(error) = self.store(target_tmpdir) {
            panic!("the report of {} cannot be written below {}: {error}", self.stage, target_tmpdir.display());
        }
        let missing = self.missing();
        assert!(missing.is_empty(), "stage {} did too little: {}", self.stage, missing.join(", "));
    }

    fn store(&self, target_tmpdir: &Path) -> io::Result<()> {
        let directory = target_tmpdir.parent().unwrap_or(target_tmpdir).join("reports");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{}.txt", self.stage)), self.to_string())
    }

    /// What was not reached, in words.
    fn missing(&self) -> Vec<String> {
        if self.counts.is_empty() {
            return vec!["it counted nothing".to_owned()];
        }
        let too_few = |count: &Count| {
            let minimum = count.minimum.filter(|minimum| count.value < *minimum)?;
            Some(format!("{} {} (at least {minimum})", count.name, count.value))
        };
        self.counts.iter().filter_map(too_few).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.missing().is_empty() { "" } else { ": TOO LITTLE WORK" };
        writeln!(f, "stage {}{verdict}", self.stage)?;
        let name_width = self.counts.iter().map(|count| count.name.chars().count()).max().unwrap_or(0);
        let value_width = self.counts.iter().map(|count| count.value.to_string().len()).max().unwrap_or(0);
        for Count { name, value, minimum } in &self.counts {
            let mut line = format!("  {name:name_width$}  {value:>value_width$}");
            if let Some(minimum) = minimum {
                write!(line, "  (at least {minimum})")?;
            }
            writeln!(f, "{line}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn target(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("raft-report-{name}-{}", std::process::id()))
    }

    fn report() -> Report {
        let mut report = Report::new("stage-1");
        report.at_least("crashes", 3, 5).at_least("events", 12_000, 12_000).count("seconds", 0).note("seed 7 was slow");
        report
    }

    #[test]
    fn a_report_is_aligned_and_lies_beside_the_temporary_directory() {
        let target = target("aligned");
        let mut report = report();
        report.counts[0].minimum = Some(3);
        report.finish(&target.join("tmp"));
        let written = fs::read_to_string(target.join("reports/stage-1.txt")).unwrap();
        let expected = "stage stage-1\n  crashes      3  (at least 3)\n  events   12000  (at least 12000)\n  \
                        seconds      0\n  seed 7 was slow\n";
        assert_eq!(written, expected);
        fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn what_was_too_little_is_written_and_named_alone() {
        let target = target("little");
        let failure = std::panic::catch_unwind(|| report().finish(&target.join("tmp"))).unwrap_err();
        let message = failure.downcast_ref::<String>().unwrap();
        assert_eq!(message, "stage stage-1 did too little: crashes 3 (at least 5)");
        let written = fs::read_to_string(target.join("reports/stage-1.txt")).unwrap();
        assert!(written.starts_with("stage stage-1: TOO LITTLE WORK\n"), "{written}");
        fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn a_report_without_counts_fails() {
        let report = Report::new("empty");
        assert_eq!(report.missing(), ["it counted nothing"]);
    }

    #[test]
    #[should_panic(expected = "small letters")]
    fn a_stage_is_no_path() {
        let _ = Report::new("../stage");
    }
}
