//! What the tests of the golden scripts and those of the mutants share.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use raft_core::testing::harness::Harness;

/// Carries out the commands of one script.
#[derive(Default)]
pub(crate) struct Script {
    cluster: Harness,
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        Ok(self.cluster.command(&line(command))?)
    }
}

/// The command as it was written; the harness splits words at blanks and knows double quotes only.
fn line(command: &goldenscript::Command) -> String {
    let mut line = command.name.clone();
    for argument in &command.args {
        line += &match argument {
            goldenscript::Argument::KeyValue(key, value) => format!(" \"{key}={value}\""),
            goldenscript::Argument::Positional(value) => format!(" \"{value}\""),
            other => format!(" \"{other}\""),
        };
    }
    line
}

/// Where the scripts are, by topic.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// All scripts below `directory`, in order.
pub(crate) fn scripts(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(scripts(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
