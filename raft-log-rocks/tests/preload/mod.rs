//! A disk that can be told what to do, for tests of this crate and of others.
//!
//! `preload.c` is compiled at run time with `cc` and loaded before libc into a child process, usually this test binary
//! again. It records every change below one directory in order and kills, stalls or fails calls by a plan; its head
//! comment has the rules. [`Record`] reads what it recorded, and [`Disk`] rebuilds the directory as a loss of power at
//! any moment could have left it.
//!
//! ```ignore
//! let lab = DiskLab::new(scratch.path());
//! let status = lab.child("writer").env("RAFT_DISK_PLAN", "sync:*.log:3:eio").status().unwrap();
//! let mut disk = Disk::empty();
//! for event in lab.record().events() { disk.apply(event); }
//! disk.image(&mut Random::new(seed)).write_to(&somewhere_else);
//! ```

// A test that cannot set itself up has to stop at once; no test binary uses everything here.
#![allow(clippy::unwrap_used, dead_code, unused_imports)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod disk;
mod record;

pub(crate) use disk::{Disk, Image};
pub(crate) use record::{Change, Event, Record};

const SOURCE: &str = include_str!("preload.c");

/// The compiled library. Compiled once, and again when its source changes.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(directory).unwrap();
        let library = directory.join(format!("preload-{:08x}.so", crc32c::crc32c(SOURCE.as_bytes())));
        if !library.exists() {
            compile(directory, &library);
        }
        library
    })
}

fn compile(directory: &Path, library: &Path) {
    // Another test may be at it too: each under a name of its own, and the last rename wins.
    let (source, fresh) = (
        directory.join(format!("preload-{}.c", std::process::id())),
        directory.join(format!("preload-{}.so", std::process::id())),
    );
    fs::write(&source, SOURCE).unwrap();
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-o"])
        .args([&fresh, &source])
        .args(["-ldl", "-pthread"])
        .output()
        .unwrap_or_else(|error| {
            panic!("the preload library of these tests needs a C compiler named `cc`; install gcc or clang ({error})")
        });
    assert!(output.status.success(), "cc failed on preload.c:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(fresh, library).unwrap();
    fs::remove_file(source).unwrap();
}

/// A directory whose changes are recorded, with what the library needs beside it.
pub(crate) struct DiskLab {
    directory: PathBuf,
}

impl DiskLab {
    /// Takes `directory`, which is made if it is missing; the recorded one is `root` in it.
    pub(crate) fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("root")).unwrap();
        Self { directory: directory.canonicalize().unwrap() }
    }

    /// The directory that is recorded. Everything the child keeps lies below it.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Where the record is written. Children of one lab append to it, each as one more life.
    pub(crate) fn record_path(&self) -> PathBuf {
        self.directory.join("record")
    }

    /// Where plans that change while a child runs are put; see [`DiskLab::plan`].
    pub(crate) fn control_path(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// This test binary again, to run the test `name` alone under the library. The test finds the lab's directory in
    /// `RAFT_DISK_ROOT`. Syncs are recorded and not made; set `RAFT_DISK_SYNC=real` to make them too.
    pub(crate) fn child(&self, name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        self.preload(&mut command);
        command
    }

    /// Puts `command` under the library.
    pub(crate) fn preload(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("RAFT_DISK_ROOT", self.root())
            .env("RAFT_DISK_RECORD", self.record_path())
            .env("RAFT_DISK_MARKS", self.directory.join("marks"))
            .env("RAFT_DISK_CONTROL", self.control_path())
            .env("RAFT_DISK_SYNC", "record");
    }

    /// Replaces the plan of a child that runs.
    pub(crate) fn plan(&self, rules: &str) {
        replace_plan(&self.control_path(), rules);
    }

    /// What was recorded so far, all lives.
    pub(crate) fn record(&self) -> Record {
        Record::load(&self.record_path())
    }
}

/// Puts new rules into a control file, for whoever watches it. Also for a child that changes its own plan.
pub(crate) fn replace_plan(control: &Path, rules: &str) {
    let fresh = control.with_extension("new");
    fs::write(&fresh, rules).unwrap();
    fs::rename(fresh, control).unwrap();
}

/// In the child: words that stand in the record between its calls, such as what it acknowledged.
pub(crate) struct Marks(Option<File>);

impl Marks {
    /// Without the library they go nowhere.
    pub(crate) fn new() -> Self {
        Self(std::env::var_os("RAFT_DISK_MARKS").map(|path| File::create(path).unwrap()))
    }

    pub(crate) fn put(&mut self, text: &str) {
        if let Some(file) = &mut self.0 {
            file.write_all(text.as_bytes()).unwrap();
        }
    }
}
