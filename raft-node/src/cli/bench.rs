//! `bench`: puts a load on a cluster and shows what the cluster makes of it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use raft_load::{End, Headers, Keys, Load, LoadError, Pace, Summary, Work};
use serde::Serialize;

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::{CliError, Exit};
use crate::cli::kv::Mode;
use crate::cli::output::{self, Format};

/// Clients that give the keys their first values.
const FILL_CLIENTS: usize = 64;

/// Puts a load on a cluster, from one thread, and shows its rate and latency. The keys that it writes begin with
/// --prefix and stay.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// What is asked for.
    #[arg(long, value_enum, default_value_t)]
    work: Kind,
    /// What the answers of `--work get` may be behind.
    #[arg(long, value_enum, default_value_t)]
    consistency: Mode,
    /// Connections, each with at most one request under way, spread over all endpoints.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests per second over all clients, sent when they are due: latency then counts from that moment. Without it
    /// each client sends its next request when it has an answer.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    duration: Duration,
    /// What happens in this time before is not counted.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    warm_up: Duration,
    /// Bytes of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_bytes: usize,
    /// How many keys there are.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// What every key begins with.
    #[arg(long, default_value = "bench/")]
    prefix: String,
    /// Reads the keys as they are, without giving each a value before.
    #[arg(long)]
    no_fill: bool,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Writes.
    #[default]
    Put,
    /// Reads.
    Get,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct BenchView<'a> {
    work: &'static str,
    consistency: Option<&'static str>,
    endpoints: &'a [String],
    clients: usize,
    rate: Option<f64>,
    value_bytes: usize,
    keys: u64,
    #[serde(flatten)]
    summary: &'a Summary,
}

impl BenchArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let mut load = self.load()?;
        load.check().map_err(refused)?;
        if self.work == Kind::Get {
            if !self.no_fill {
                fill(&load)?;
            }
            if self.consistency == Mode::Verified {
                load.headers.add("Raft-Token", &self.token().await?);
            }
        }
        let summary = raft_load::run(&load).map_err(refused)?;
        match self.output {
            Format::Json => output::json(&self.view(&load, &summary))?,
            Format::Table => output::bytes(self.text(&summary).as_bytes())?,
        }
        if summary.errors > 0 {
            let (errors, all) = (summary.errors, summary.errors + summary.operations);
            return Err(CliError::failed(format!("{errors} of {all} requests failed: {}", kinds(&summary))));
        }
        Ok(())
    }

    fn load(&self) -> Result<Load, CliError> {
        let hosts = self.endpoints.urls().iter().map(|url| host_of(url)).collect::<Result<_, _>>()?;
        let work = match self.work {
            Kind::Put => Work::Put,
            Kind::Get => Work::Get { consistency: self.consistency.name().into() },
        };
        let mut headers = Headers::default();
        if let Some(token) = self.endpoints.token()? {
            headers.add("Authorization", &format!("Bearer {}", token.expose()));
        }
        Ok(Load {
            keys: Keys { prefix: self.prefix.clone(), count: self.keys },
            value_bytes: self.value_bytes,
            clients: self.clients,
            pace: self.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
            end: End::After(self.duration),
            warm_up: self.warm_up,
            timeout: self.endpoints.timeout(),
            headers,
            ..Load::new(hosts, work)
        })
    }

    /// The position of what was written before, for reads that are never older.
    async fn token(&self) -> Result<String, CliError> {
        let reply = Client::new(&self.endpoints)?.call(&Call::get("/v1/cluster/settings")).await?;
        let token = reply.header("raft-token").ok_or_else(|| CliError::failed("the node gave no Raft-Token"))?;
        Ok(token.to_owned())
    }

    fn consistency(&self) -> Option<&'static str> {
        (self.work == Kind::Get).then(|| self.consistency.name())
    }

    fn view<'a>(&self, load: &'a Load, summary: &'a Summary) -> BenchView<'a> {
        BenchView {
            work: if self.work == Kind::Put { "put" } else { "get" },
            consistency: self.consistency(),
            endpoints: &load.hosts,
            clients: load.clients,
            rate: self.rate,
            value_bytes: load.value_bytes,
            keys: load.keys.count,
            summary,
        }
    }

    fn text(&self, summary: &Summary) -> String {
        let what = self.consistency().map_or_else(|| "put".to_owned(), |consistency| format!("get {consistency}"));
        let pace = self.rate.map_or_else(|| "as fast as they are answered".to_owned(), |rate| format!("at {rate}/s"));
        let mut text = format!(
            "{what}, {} clients, {pace}, {} keys, values of {} bytes\n",
            self.clients, self.keys, self.value_bytes
        );
        let (latency, lag) = (&summary.latency_ms, &summary.lag_ms);
        let mut rows = vec![
            ("answered", format!("{} in {:.1} s", summary.counted, summary.seconds)),
            ("per second", format!("{:.0}", summary.per_second)),
            (
                "latency",
                format!(
                    "p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
                    latency.p50, latency.p90, latency.p99, latency.p999, latency.max
                ),
            ),
            ("own CPU", format!("{:.1} µs an operation", summary.generator_cpu_us)),
        ];
        if self.rate.is_some() {
            let doubt = if lag.p99 > 1.0 { "; this machine is too busy for what latency says to count" } else { "" };
            rows.push(("own lag", format!("p99 {:.3} ms{doubt}", lag.p99)));
        }
        if summary.missing > 0 {
            rows.push(("no such key", summary.missing.to_string()));
        }
        rows.push(("errors", if summary.errors == 0 { "0".into() } else { kinds(summary) }));
        rows.iter().for_each(|(name, value)| text.push_str(&format!("  {name:<12}{value}\n")));
        text
    }
}

/// Gives every key a value, so that reads find one.
fn fill(load: &Load) -> Result<(), CliError> {
    let fill = Load {
        work: Work::Put,
        clients: FILL_CLIENTS,
        pace: Pace::Closed,
        end: End::Requests(load.keys.count),
        warm_up: Duration::ZERO,
        ..load.clone()
    };
    let Keys { prefix, count } = &load.keys;
    eprintln!(
        "giving {count} keys under `{prefix}` a value first, which takes a while for many; --no-fill leaves that out"
    );
    let summary = raft_load::run(&fill).map_err(refused)?;
    if summary.errors > 0 {
        let message = format!("not every key could be given a value ({}); try again", kinds(&summary));
        return Err(CliError::new(Exit::Unavailable, message));
    }
    Ok(())
}

/// The errors by kind, in one line.
fn kinds(summary: &Summary) -> String {
    let kinds = summary.errors_by_kind.iter().map(|(kind, count)| format!("{count} times {}", kind.trim()));
    kinds.collect::<Vec<_>>().join(", ")
}

fn refused(error: LoadError) -> CliError {
    let exit = match &error {
        LoadError::Setting(_) => Exit::Usage,
        LoadError::Unreachable { .. } => Exit::Unavailable,
        LoadError::Io(_) => Exit::Failed,
    };
    CliError::new(exit, error.to_string())
}

/// `host:port` of an endpoint.
fn host_of(endpoint: &str) -> Result<String, CliError> {
    let usage = |problem: &str| CliError::new(Exit::Usage, format!("the endpoint `{endpoint}` {problem}"));
    let trimmed = endpoint.trim().trim_end_matches('/');
    if trimmed.starts_with("https://") {
        return Err(usage("is served over TLS, which bench does not speak; give a listener without it"));
    }
    let host = trimmed.strip_prefix("http://").unwrap_or(trimmed);
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if host.contains('/') || port.is_none() {
        return Err(usage("is no address; write host:port"));
    }
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_addresses() {
        for good in ["n1:7080", "http://n1:7080/", " [::1]:7080"] {
            assert!(host_of(good).is_ok(), "{good}");
        }
        for (bad, said) in [("https://n1:7080", "TLS"), ("n1", "host:port"), ("http://n1:7080/v1", "host:port")] {
            let error = host_of(bad).expect_err(bad);
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.message.contains(said) && error.message.contains(bad), "{}", error.message);
        }
    }
}
