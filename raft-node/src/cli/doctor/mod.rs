//! `doctor`: what is wrong with a cluster or a node, and what to do about it.
//!
//! It only looks. What a start would refuse is found by the code of the start; what a running node knows is asked of
//! it.

mod cluster;
mod disk;
mod finding;
mod local;
mod members;
mod ops;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::client::Endpoints;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::Format;
use crate::cli::settings::SettingsArgs;

use cluster::{Asking, Cluster};
use finding::Report;
use local::Local;

/// Looks for what is wrong, and says what to do about it: with a running cluster (--endpoint, --ops), and with a node's
/// own configuration, certificates and data directory (--config, or the same flags and variables as `start`). Changes
/// nothing. Exit code 15 when something was found.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Ops listeners whose metrics are looked at, separated by commas.
    #[arg(long, env = "RAFT_OPS", value_delimiter = ',', value_name = "URL")]
    ops: Vec<String>,
    /// Shows who you are (a token, a client certificate) to the members' own addresses too, not only to those of
    /// --endpoint.
    #[arg(long)]
    trust_members: bool,
    /// The file local.token in the node's data directory, with which its node is asked when its settings are given, no
    /// --endpoint is, and it answers nobody else.
    #[arg(long, env = "RAFT_LOCAL_TOKEN_FILE", value_name = "FILE")]
    local_token_file: Option<PathBuf>,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    thresholds: Thresholds,
}

/// From where on something is wrong.
#[derive(Clone, Debug, Args)]
pub(crate) struct Thresholds {
    /// How much of the data directory's disk should be free, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    disk_free_min: u8,
    /// How long a certificate should still hold, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 14)]
    certificate_days: u32,
    /// How far the clocks of two nodes may be apart.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "500ms")]
    clock_difference_max: Duration,
    /// How many entries a member may be behind its leader.
    #[arg(long, value_name = "ENTRIES", default_value_t = 10_000)]
    lag_max: u64,
}

impl DoctorArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let mut report = Report::default();
        let local = if self.settings.given() {
            local::examine(&self.settings, &self.thresholds, &mut report)
        } else {
            let how = "give --config or the settings that `start` is given";
            report.not_looked_at.push(format!("a node's configuration, certificates and disk: {how}"));
            None
        };
        let cluster = self.cluster(local.as_ref(), &mut report).await?;
        if let Some(local) = &local {
            local.compare(cluster.as_ref(), &mut report);
        }
        self.ops(local.as_ref(), &mut report).await?;
        report.print(self.output)?;
        match report.findings.len() {
            0 => Ok(()),
            found => Err(CliError::new(Exit::Findings, format!("{found} found; see above"))),
        }
    }

    /// The cluster that was named, else the one of the node whose settings were given.
    async fn cluster(&self, local: Option<&Local>, report: &mut Report) -> Result<Option<Cluster>, CliError> {
        let own = local.filter(|_| self.endpoints.is_default());
        let urls = match own {
            Some(local) => vec![local.settings.client.url()],
            None => self.endpoints.urls(),
        };
        let mut asking = Asking { endpoints: &self.endpoints, given: &urls, trust_members: self.trust_members };
        let mut cluster = Cluster::look(&asking).await?;
        // It may do less than a person, so it is for who has nothing else. Who cannot read it does without.
        let readable = self.local_token_file.as_deref().filter(|path| own.is_some() && File::open(path).is_ok());
        if readable.is_some() && cluster.is_refused() {
            let endpoints = self.endpoints.with_local_token(readable);
            asking.endpoints = &endpoints;
            cluster = Cluster::look(&asking).await?;
        }
        // A node may be looked at before its start: nobody said that it runs.
        if let Some(silence) = cluster.silence().filter(|_| own.is_some()) {
            report
                .not_looked_at
                .push(format!("the cluster: the node does not answer, perhaps it does not run: {silence}"));
            return Ok(None);
        }
        report.looked_at.push(format!("the cluster at {}", urls.join(", ")));
        cluster.examine(&self.thresholds, report);
        Ok(Some(cluster))
    }

    async fn ops(&self, local: Option<&Local>, report: &mut Report) -> Result<(), CliError> {
        let settings = local.map(|local| &local.settings);
        let urls: Vec<String> = match settings.filter(|_| self.ops.is_empty()) {
            Some(settings) => vec![settings.ops_listen.replace("0.0.0.0:", "127.0.0.1:")],
            None => self.ops.clone(),
        };
        if urls.is_empty() {
            report.not_looked_at.push("metrics: give --ops".to_owned());
        }
        for url in urls {
            let election_timeout = settings.map(|settings| settings.election_timeout);
            ops::examine(&self.endpoints, &url, election_timeout, &self.thresholds, report).await?;
        }
        Ok(())
    }
}
