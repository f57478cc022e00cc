//! `kv put|get|delete`.

use std::io::Read as _;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use raft_node::http::key;
use raft_node::http::view::WriteView;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use crate::cli::client::{Call, Client, Endpoints, Reply};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{self, Format};

/// Reads and writes keys.
#[derive(Debug, Args)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum KvCommand {
    /// Gives a key a value.
    Put {
        /// The key.
        key: String,
        /// The value; `-` reads it from the standard input.
        value: String,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Prints the value of a key.
    Get {
        /// The key.
        key: String,
        /// What the answer may be behind.
        #[arg(long, value_enum, default_value_t, default_value_ifs = [
            ("at_mark", clap::builder::ArgPredicate::IsPresent, "snapshot"),
            ("at_revision", clap::builder::ArgPredicate::IsPresent, "snapshot"),
        ])]
        consistency: Mode,
        /// What was seen before: `verified` never reads anything older. `kv` prints it with `-o json`.
        #[arg(long, value_name = "TOKEN", env = "RAFT_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// How old the answer of a `local` read may be.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        max_staleness: Option<Duration>,
        /// Reads at this mark, on any node with the same answer.
        #[arg(long, value_name = "INDEX", conflicts_with = "at_revision")]
        at_mark: Option<u64>,
        /// Reads what was there right after this entry.
        #[arg(long, value_name = "REVISION")]
        at_revision: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
        #[command(flatten)]
        write: WriteArgs,
    },
}

#[derive(Debug, Args)]
struct WriteArgs {
    /// Only if the key was last written at this revision.
    #[arg(long, value_name = "REVISION", conflicts_with = "if_absent")]
    if_match: Option<u64>,
    /// Only if the key does not exist.
    #[arg(long)]
    if_absent: bool,
    /// Names the request over its retries. Drawn anew when left out; the retries of this command carry it.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// What a read promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Sees every write acknowledged before.
    #[default]
    Linearizable,
    /// The same, from a node that holds a lease.
    Lease,
    /// Never older than --token.
    Verified,
    /// Whatever the node has applied; possibly stale.
    Local,
    /// The state at the newest mark that the node has passed, unless --at-mark or --at-revision names another point.
    Snapshot,
}

impl Mode {
    /// As the HTTP interface calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Verified => "verified",
            Self::Local => "local",
            Self::Snapshot => "snapshot",
        }
    }
}

impl KvArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        let timeout = client.timeout.as_millis();
        match self.command {
            KvCommand::Put { key, value, write } => {
                let body = read_value(value)?;
                let target = format!("{}?timeout={timeout}ms", path(&key)?);
                let call = Call { method: Method::PUT, target, headers: write.headers()?, body };
                show_write(&client.call(&call).await?, self.output)
            }
            KvCommand::Delete { key, write } => {
                let target = format!("{}?timeout={timeout}ms", path(&key)?);
                let call = Call { method: Method::DELETE, target, headers: write.headers()?, body: Vec::new() };
                show_write(&client.call(&call).await?, self.output)
            }
            KvCommand::Get { key, consistency, token, max_staleness, at_mark, at_revision } => {
                let mut target = format!("{}?timeout={timeout}ms&consistency={}", path(&key)?, consistency.name());
                if let Some(max) = max_staleness {
                    target.push_str(&format!("&max_staleness={}ms", max.as_millis()));
                }
                for (name, at) in [("at_mark", at_mark), ("at_revision", at_revision)] {
                    if let Some(at) = at {
                        target.push_str(&format!("&{name}={at}"));
                    }
                }
                let mut call = Call::get(target);
                if matches!(consistency, Mode::Verified) {
                    let token = token.ok_or_else(|| {
                        let message = "--consistency verified reads by a token; give it with --token or RAFT_TOKEN";
                        CliError::new(Exit::Usage, message)
                    })?;
                    call.headers.insert(HeaderName::from_static("raft-token"), header(&token)?);
                }
                show_value(&client.call(&call).await?, self.output)
            }
        }
    }
}

/// The path of a key. Two keys cannot be written in a URL that client libraries leave alone.
fn path(key: &str) -> Result<String, CliError> {
    if key.is_empty() || key == "." || key == ".." {
        let message = format!("the key `{key}` cannot stand in a URL; use POST /v1/kv/batch for `.` and `..`");
        return Err(CliError::new(Exit::Usage, message));
    }
    Ok(format!("/v1/kv/{}", key::encode(key.as_bytes())))
}

fn read_value(value: String) -> Result<Vec<u8>, CliError> {
    if value != "-" {
        return Ok(value.into_bytes());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::failed(format!("the value cannot be read from the standard input: {error}")))?;
    Ok(bytes)
}

impl WriteArgs {
    fn headers(&self) -> Result<HeaderMap, CliError> {
        let mut headers = HeaderMap::new();
        if let Some(revision) = self.if_match {
            headers.insert("if-match", header(&format!("\"{revision}\""))?);
        }
        if self.if_absent {
            headers.insert("if-none-match", HeaderValue::from_static("*"));
        }
        let key = self.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        headers.insert(HeaderName::from_static("idempotency-key"), header(&key)?);
        Ok(headers)
    }
}

fn header(text: &str) -> Result<HeaderValue, CliError> {
    HeaderValue::from_str(text)
        .map_err(|_| CliError::new(Exit::Usage, format!("`{text}` cannot stand in a header; use printable ASCII")))
}

/// What the interface answers, and the position that goes into the next command.
#[derive(serde::Serialize)]
struct WriteOutput {
    #[serde(flatten)]
    view: WriteView,
    token: Option<String>,
}

fn show_write(reply: &Reply, format: Format) -> Result<(), CliError> {
    let view: WriteView = reply.json()?;
    match format {
        Format::Json => output::json(&WriteOutput { view, token: reply.header("raft-token").map(str::to_owned) }),
        Format::Table => {
            let deleted = match view.deleted {
                Some(true) => ", deleted",
                Some(false) => ", there was no such key",
                None => "",
            };
            let replayed = if view.replayed { ", applied by an earlier attempt" } else { "" };
            output::line(format!("revision {}{deleted}{replayed}", view.revision))
        }
    }
}

fn show_value(reply: &Reply, format: Format) -> Result<(), CliError> {
    match format {
        Format::Table => {
            output::bytes(&reply.body)?;
            // A value is printed as it is; only a person at a terminal gets a line end with it.
            if std::io::IsTerminal::is_terminal(&std::io::stdout()) { output::line("") } else { Ok(()) }
        }
        Format::Json => {
            use base64::Engine as _;
            let revision = reply.header("etag").and_then(|tag| tag.trim_matches('"').parse::<u64>().ok());
            output::json(&json!({
                "value": base64::engine::general_purpose::STANDARD.encode(&reply.body),
                "revision": revision,
                "token": reply.header("raft-token"),
                "consistency": reply.header("raft-consistency"),
                "mark": reply.header("raft-mark").and_then(|text| text.parse::<u64>().ok()),
                "staleness_ms": reply.header("raft-staleness-ms").and_then(|text| text.parse::<u64>().ok()),
                "served_by": reply.header("raft-served-by"),
            }))
        }
    }
}
