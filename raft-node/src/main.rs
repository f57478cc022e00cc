//! The `raft-node` program: see `raft-node help` and `docs/cli.md`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
