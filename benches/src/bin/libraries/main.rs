//! Our libraries against what they are made of and against other libraries, in one run: rows 7 to 11 of
//! `docs/performance-libraries.md`.
//!
//! `cargo run --release -p raft-benches --bin libraries -- [--rows 7,8,9,10,11] [--rounds N] [--seconds S] [--json PATH]
//! [--peers PROGRAM] [--directory DIR] [--chunks MiB]`
//!
//! Rows 7 and 8 are those of `benches/peers`, a package of its own: `--peers` names its program, and without it they are
//! left out. Data goes below `--directory`, which should lie on a disk. `make bench-libraries` does all of it.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod lanes;
mod log;
mod stream;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use raft_benches::cluster::data_dir;
use raft_benches::rounds::{Anything, Arguments};
use raft_benches::rows::Row;

/// That of the product's program, for both sides.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs the program of the rows that compare with other Raft libraries.
fn peers(program: &str, arguments: &Arguments, rows: &[&str], directory: &Path) -> Result<Vec<Row>, Anything> {
    let json = directory.join("peers.json");
    let status = Command::new(program)
        .args(["--rows", &rows.join(","), "--rounds", &arguments.rounds.to_string()])
        .args(["--seconds", &arguments.time.as_secs_f64().to_string(), "--json"])
        .arg(&json)
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|error| format!("--peers {program}: {error}; build it with `make bench-peers`"))?;
    if !status.success() {
        return Err(format!("{program} failed: {status}").into());
    }
    let text = std::fs::read_to_string(&json)?;
    let read: serde_json::Value = serde_json::from_str(&text)?;
    let rows = read.as_array().ok_or("it wrote no rows")?.iter().map(Row::from_json).collect::<Option<_>>();
    rows.ok_or_else(|| format!("{program} wrote rows that this program does not know: build both anew").into())
}

fn run() -> Result<(), Anything> {
    let flags = ["--peers", "--directory", "--chunks"];
    let arguments = Arguments::parse(std::env::args().skip(1), &[7, 8, 9, 10, 11], &flags)?;
    let directory = arguments.other("--directory").map_or_else(|| data_dir().to_owned(), PathBuf::from);
    let directory = tempfile::tempdir_in(directory)?;
    let chunks = arguments.other("--chunks").unwrap_or("256");
    let chunks = chunks.parse().map_err(|error| format!("--chunks {chunks}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (rounds, time) = (arguments.rounds, arguments.time);
    let mut rows = Vec::new();
    let of_peers: Vec<&str> =
        ["7", "8"].into_iter().filter(|row| arguments.rows.contains(&row.parse().unwrap_or(0))).collect();
    match arguments.other("--peers") {
        Some(program) if !of_peers.is_empty() => rows.extend(peers(program, &arguments, &of_peers, directory.path())?),
        None if !of_peers.is_empty() => println!("rows 7 and 8 are left out: --peers names the program that has them"),
        _ => {}
    }
    if arguments.wants(9) {
        rows.extend(log::compare(directory.path(), rounds, time)?);
    }
    if arguments.wants(10) {
        rows.extend(lanes::compare(&runtime, directory.path(), rounds, time)?);
    }
    if arguments.wants(11) {
        rows.extend(runtime.block_on(stream::compare(directory.path(), chunks, rounds))?);
    }
    print!("{}", arguments.report(&rows)?);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("libraries: {error}");
            ExitCode::FAILURE
        }
    }
}
