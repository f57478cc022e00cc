//! Ours against other Raft libraries, on the same work and in one run: the core against `raft` (raft-rs), the node in
//! memory against `openraft`.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- [--rows 7,8] [--rounds N] [--seconds S] [--json PATH]`
//!
//! Each round measures ours and the peer's one after the other, and rounds alternate in who comes first. Raft libraries
//! only: nothing here touches a disk or a socket. `make bench-libraries` prints these rows with the others.

mod core;
#[path = "../../src/members/mod.rs"]
#[allow(unreachable_pub, reason = "the directory is a module of a library too")]
mod members;
mod node;
#[path = "../../src/rounds.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file is a module of a library too")]
mod rounds;
#[path = "../../src/rows.rs"]
#[allow(dead_code, unreachable_pub, reason = "the file is a module of a library too")]
mod rows;

use std::process::ExitCode;

use rounds::{Anything, Arguments};

fn run() -> Result<(), Anything> {
    let arguments = Arguments::parse(std::env::args().skip(1), &[7, 8], &[])?;
    let mut rows = Vec::new();
    if arguments.wants(7) {
        rows.extend(core::compare(arguments.rounds, arguments.time)?);
    }
    if arguments.wants(8) {
        rows.extend(node::compare(arguments.rounds, arguments.time)?);
    }
    print!("{}", arguments.report(&rows)?);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raft-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
