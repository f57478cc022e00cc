//! The command line: one binary for nodes and for those who use them.

mod bench;
mod certs;
mod client;
mod credentials;
mod demo;
mod doctor;
mod exit;
mod kv;
mod leader;
mod members;
mod output;
mod probe;
mod settings;
mod snapshot;
mod start;
mod status;
mod token;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::{CliError, Exit};

/// A replicated, linearizable key-value store on Raft.
#[derive(Debug, Parser)]
#[command(name = "raft-node", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a local cluster of real processes, with certificates made for it.
    Demo(demo::DemoArgs),
    /// Runs a node.
    Start(Box<start::StartArgs>),
    /// Makes a development authority and certificates for nodes.
    InitCerts(certs::InitCertsArgs),
    /// Reads and writes keys.
    Kv(kv::KvArgs),
    /// Puts a load on a cluster, and shows its rate and latency.
    Bench(Box<bench::BenchArgs>),
    /// Shows the cluster.
    Status(status::StatusArgs),
    /// Shows and changes who belongs to the cluster.
    #[command(alias = "member")]
    Members(members::MembersArgs),
    /// Has a node take a snapshot of its state now.
    Snapshot(snapshot::SnapshotArgs),
    /// Moves the leadership.
    Leader(leader::LeaderArgs),
    /// Has a node hand over what it leads and refuse new requests.
    Drain(leader::DrainArgs),
    /// Waits until stopping the node keeps the quorum, and hands over what it leads.
    PreStop(probe::PreStopArgs),
    /// Asks a node's own probes, as a container's health check does.
    Healthcheck(probe::HealthcheckArgs),
    /// Shows what happened to a node lately.
    Events(leader::EventsArgs),
    /// Looks for what is wrong with a cluster or a node, and says what to do about it.
    Doctor(Box<doctor::DoctorArgs>),
    /// Makes tokens, and checks the file that says who may do what.
    Token(token::TokenArgs),
    /// Checks or shows the configuration.
    Config(Box<settings::ConfigArgs>),
    /// Prints completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Runs what the command line asks for.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage.code() } else { 0 };
            // Nothing can be said when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "raft-node: {error}");
            ExitCode::from(error.exit.code())
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Start(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::InitCerts(args) => args.run(),
        Command::Token(args) => args.run(),
        Command::Demo(args) => block_on(args.run()),
        Command::Kv(args) => block_on(args.run()),
        Command::Bench(args) => block_on(args.run()),
        Command::Status(args) => block_on(args.run()),
        Command::Snapshot(args) => block_on(args.run()),
        Command::Leader(args) => block_on(args.run()),
        Command::Drain(args) => block_on(args.run()),
        Command::PreStop(args) => block_on(args.run()),
        Command::Healthcheck(args) => block_on(args.run()),
        Command::Events(args) => block_on(args.run()),
        Command::Doctor(args) => block_on(args.run()),
        Command::Members(args) => block_on(args.run()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "raft-node", &mut script);
            output::bytes(&script)
        }
    }
}

fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
