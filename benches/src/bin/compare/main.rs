//! Ours and etcd side by side: the same work on the same machine in one run, in alternating rounds, each from a generator
//! that is a process of its own. `docs/performance.md` says how it is measured and what came out.
//!
//! `cargo run --release -p raft-benches --bin compare -- --help`, or `make bench-etcd`. It runs the `raft-node` that lies beside
//! it, and `etcd` from the path.

mod failover;
mod figures;
mod growth;
mod job;
mod loads;
mod plots;
mod report;
mod restart;
mod rows;
mod side;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use figures::Results;
use job::{Job, Who};
use loads::{Clusters, Effort};

/// Most keys that a machine of the usual size has room for.
const MANY_KEYS_MAX: u64 = 100_000_000;

/// Compares raft-node with etcd on this machine, and prints what must come of it, what came of it, and all rounds.
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws what was measured as SVG.
    Plots {
        /// Where the figures are.
        #[arg(long, default_value = "target/bench.json")]
        json: PathBuf,
        /// Where the plots go.
        #[arg(long, default_value = "docs/performance")]
        directory: PathBuf,
    },
    /// Prints the rows of what was measured as Markdown, for docs/performance.md.
    Table {
        /// Where the figures are.
        #[arg(long, default_value = "target/bench.json")]
        json: PathBuf,
    },
    /// Does one load and prints what came of it as JSON: what this program starts as its generator.
    #[command(hide = true)]
    Generate {
        /// The load, as JSON.
        job: String,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which rows of the table, such as `1,3-5`.
    #[arg(long, default_value = "1-6,12-15", value_parser = parse_rows)]
    rows: Rows,
    /// Shorter runs over fewer keys: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Seconds of each round [default: 5, quick: 2].
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Keys that are there when nodes are restarted and their memory is looked at [default: 1000000, quick: 100000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MANY_KEYS_MAX))]
    many_keys: Option<u64>,
    /// Restarts ours with so many keys too, and puts over them: 10000000 takes most of an hour.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MANY_KEYS_MAX))]
    more_keys: Option<u64>,
    /// Where the figures go. Rows that are not measured keep those that are there.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// The program of the peer [default: what `make bench-etcd` has fetched, or `etcd` on the path].
    #[arg(long)]
    etcd: Option<String>,
}

/// Rows of the table, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows(BTreeSet<u8>);

impl Rows {
    fn any(&self, numbers: &[u8]) -> bool {
        numbers.iter().any(|number| self.0.contains(number))
    }
}

/// Numbers and ranges, separated by commas.
fn parse_rows(text: &str) -> Result<Rows, String> {
    let refused = |part: &str| format!("`{part}` is no row; give numbers from 1 to 15 such as 1,3-5");
    let mut rows = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u8>().ok().filter(|number| (1..=15).contains(number));
        let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(refused(part)) };
        if first > last {
            return Err(refused(part));
        }
        rows.extend(first..=last);
    }
    Ok(Rows(rows))
}

impl RunArgs {
    fn effort(&self) -> Effort {
        let seconds = self.seconds.unwrap_or(if self.quick { 2.0 } else { 5.0 });
        Effort {
            rounds: self.rounds.into(),
            warm_up_ms: if self.quick { 500 } else { 1_000 },
            run_ms: (seconds.max(0.1) * 1e3) as u64,
            keys: if self.quick { 10_000 } else { 100_000 },
        }
    }

    fn etcd(&self) -> String {
        let fetched = || {
            let program = std::env::current_exe().ok()?.parent()?.parent()?.join("tools/usr/bin/etcd");
            program.exists().then(|| program.display().to_string())
        };
        self.etcd.clone().or_else(fetched).unwrap_or_else(|| "etcd".to_owned())
    }

    async fn run(self) -> io::Result<()> {
        let mut results = Results::read(&self.json)?;
        results.machine = machine(&self.etcd())?;
        if self.rows.any(&[1, 2, 3, 4, 5, 6]) {
            self.loads(&mut results).await?;
        }
        if self.rows.any(&[12]) {
            self.failovers(&mut results).await?;
        }
        if self.rows.any(&[13, 15]) {
            self.restarts(&mut results).await?;
        }
        if self.rows.any(&[14]) {
            self.growth(&mut results).await?;
        }
        self.write(&results)?;
        report::print(&results);
        Ok(())
    }

    /// Rows 1 to 6: puts and gets of three nodes.
    async fn loads(&self, results: &mut Results) -> io::Result<()> {
        let mut clusters = Clusters::start(&self.etcd(), 3, self.effort()).await?;
        let mut clients = BTreeSet::new();
        for (rows, counts) in [
            (&[1_u8][..], &[256_usize, 1000][..]),
            (&[2], &[64, 256]),
            (&[3], &[1, 16, 64]),
            (&[4], &[256]),
            (&[5], &[1, 256]),
        ] {
            if self.rows.any(rows) {
                clients.extend(counts);
            }
        }
        clusters.puts(results, &clients.into_iter().collect::<Vec<_>>()).await?;
        self.write(results)?;
        if self.rows.any(&[2]) {
            clusters.open_puts(results).await?;
        }
        if self.rows.any(&[6]) {
            clusters.fill().await?;
            clusters.gets(results, &[64, 256, 1000]).await?;
        }
        Ok(())
    }

    /// Row 12.
    async fn failovers(&self, results: &mut Results) -> io::Result<()> {
        let (trials, seconds) = if self.quick { (3, 10) } else { (10, 60) };
        // Those of the peer, which waits for 1 to 2 s.
        let equal = ["--election-timeout", "1s", "--heartbeat-interval", "100ms"];
        for (name, flags) in [("failover/equal", &equal[..]), ("failover/default", &[])] {
            failover::failovers(results, &self.etcd(), name, flags, trials).await?;
            self.write(results)?;
        }
        failover::elections(results, &self.etcd(), seconds).await?;
        self.write(results)
    }

    fn many_keys(&self) -> u64 {
        self.many_keys.unwrap_or(if self.quick { 100_000 } else { 1_000_000 })
    }

    /// Rows 13 and 15.
    async fn restarts(&self, results: &mut Results) -> io::Result<()> {
        restart::at_rest(results, &self.etcd()).await?;
        let rounds = self.rounds.into();
        for who in [Who::Ours, Who::Etcd] {
            restart::restarts(results, &self.etcd(), who, self.many_keys(), rounds).await?;
            self.write(results)?;
        }
        if let Some(keys) = self.more_keys {
            restart::restarts(results, &self.etcd(), Who::Ours, keys, rounds).await?;
        }
        self.write(results)
    }

    /// Row 14.
    async fn growth(&self, results: &mut Results) -> io::Result<()> {
        let effort = self.effort();
        growth::clients(results, &self.etcd(), effort).await?;
        self.write(results)?;
        growth::values(results, &self.etcd(), effort).await?;
        self.write(results)?;
        growth::nodes(results, &self.etcd(), effort).await?;
        self.write(results)?;
        growth::keys(results, &self.etcd(), effort, self.more_keys.unwrap_or_else(|| self.many_keys())).await?;
        self.write(results)
    }

    fn write(&self, results: &Results) -> io::Result<()> {
        if let Some(directory) = self.json.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut whole = serde_json::to_value(results)?;
        whole["rows"] = serde_json::to_value(rows::rows(results).iter().map(rows::Row::view).collect::<Vec<_>>())?;
        let text = serde_json::to_string_pretty(&whole)? + "\n";
        std::fs::write(&self.json, text).map_err(|error| io::Error::other(format!("{}: {error}", self.json.display())))
    }
}

/// What the figures were taken on.
fn machine(etcd: &str) -> io::Result<std::collections::BTreeMap<String, String>> {
    let cores = std::thread::available_parallelism()?.to_string();
    let system = rustix::system::uname();
    let kernel = format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy());
    let peer = raft_benches::etcd::version(etcd)?;
    let pairs = [("cores", cores), ("kernel", kernel), ("etcd", peer)];
    Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

async fn run(cli: Cli) -> io::Result<()> {
    match cli.command {
        None => cli.run.run().await,
        Some(Command::Plots { json, directory }) => {
            let drawn = plots::draw(&Results::read(&json)?, &directory)?;
            if drawn.is_empty() {
                return Err(io::Error::other(format!("{} has no loads: measure rows 1 to 6 first", json.display())));
            }
            drawn.iter().for_each(|file| report::note(file));
            Ok(())
        }
        Some(Command::Table { json }) => {
            report::markdown(&Results::read(&json)?);
            Ok(())
        }
        Some(Command::Generate { job }) => {
            let summary = serde_json::from_str::<Job>(&job)?.work().await?;
            serde_json::to_writer(io::stdout().lock(), &summary)?;
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::note(&format!("compare: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbers_and_ranges() {
        assert_eq!(parse_rows("1,3-5, 12").unwrap().0.into_iter().collect::<Vec<_>>(), [1, 3, 4, 5, 12]);
        for text in ["", "0", "16", "5-3", "a", "1-"] {
            assert!(parse_rows(text).is_err(), "{text}");
        }
    }
}
