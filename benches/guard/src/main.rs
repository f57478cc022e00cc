//! Carries out one path so many times and says how often it allocated; the test beside it runs this program, alone and
//! under callgrind.
//!
//! `raft-guard PATH COUNT`; without arguments it names its paths.

mod codec;
mod log;
#[path = "../../src/members/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the directory is a module of a library too")]
mod members;

use std::process::ExitCode;

use members::{Anything, CoreCluster, Members, ReplicaCluster};

/// A path: its name, and what does it once.
type Once = Box<dyn FnMut() -> Result<(), Anything>>;

/// Before anything is counted, so that buffers have their sizes.
const WARM_UP: u64 = 100;

const PATHS: [&str; 12] = [
    "core-commit-1",
    "core-commit-64",
    "replica-commit-1",
    "replica-commit-64",
    "codec-encode-append-1",
    "codec-encode-append-64",
    "codec-encode-accepted",
    "codec-decode-append-1",
    "codec-decode-append-64",
    "codec-decode-accepted",
    "log-write-1",
    "log-write-64",
];

fn commit(mut members: impl Members + 'static, commands: u64) -> Once {
    Box::new(move || members.commit(commands))
}

fn path(name: &str) -> Result<Once, Anything> {
    Ok(match name {
        "core-commit-1" => commit(CoreCluster::new()?, 1),
        "core-commit-64" => commit(CoreCluster::new()?, 64),
        "replica-commit-1" => commit(ReplicaCluster::new()?, 1),
        "replica-commit-64" => commit(ReplicaCluster::new()?, 64),
        "codec-encode-append-1" => codec::encode(codec::append(1)),
        "codec-encode-append-64" => codec::encode(codec::append(64)),
        "codec-encode-accepted" => codec::encode(codec::accepted()),
        "codec-decode-append-1" => codec::decode(&codec::append(1))?,
        "codec-decode-append-64" => codec::decode(&codec::append(64))?,
        "codec-decode-accepted" => codec::decode(&codec::accepted())?,
        "log-write-1" => log::write(1)?,
        "log-write-64" => log::write(64)?,
        _ => return Err(format!("{name} is none of {}", PATHS.join(", ")).into()),
    })
}

#[expect(clippy::print_stdout, reason = "a report is what this program is for")]
fn run() -> Result<(), Anything> {
    let mut words = std::env::args().skip(1);
    let (Some(name), Some(count)) = (words.next(), words.next()) else {
        PATHS.iter().for_each(|path| println!("{path}"));
        return Ok(());
    };
    let count = count.parse::<u64>().map_err(|error| format!("COUNT {count}: {error}"))?;
    let mut once = path(&name)?;
    (0..WARM_UP).try_for_each(|_| once())?;
    let mut result = Ok(());
    let counted = allocation_counter::measure(|| result = (0..count).try_for_each(|_| once()));
    result?;
    println!("{}", counted.count_total);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raft-guard: {error}");
            ExitCode::FAILURE
        }
    }
}
