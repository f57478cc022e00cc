//! `snapshot`, and how the progress of snapshots is shown.

use std::time::Duration;

use clap::Args;
use raft_node::http::view::{KeptSnapshotView, MemberView, ProgressView};
use reqwest::Method;

use crate::cli::client::{Call, Client, Endpoints};
use crate::cli::exit::CliError;
use crate::cli::output::{self, Format};

/// Has a node take a snapshot of its state now, and waits for it. Nodes take them by themselves too (`snapshot.*`).
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    endpoints: Endpoints,
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl SnapshotArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.endpoints)?;
        let call = Call {
            method: Method::POST,
            ..Call::get(format!("/v1/node/snapshot?timeout={}ms", client.timeout.as_millis()))
        };
        let reply = client.call(&call).await?;
        let view: KeptSnapshotView = reply.json()?;
        match self.output {
            Format::Json => output::json(&view),
            Format::Table => {
                let node = reply.header("raft-served-by").unwrap_or("the node");
                let (id, index, size) = (&view.id, view.index, size(view.bytes));
                output::line(format!("{node} keeps snapshot {id} of entry {index}: {size} in {} files", view.files))
            }
        }
    }
}

/// Characters of a bar.
const BAR_WIDTH: usize = 30;

/// A line for a member to which a snapshot is sent.
pub(crate) fn line(member: &MemberView) -> Option<String> {
    let snapshot = member.snapshot.as_ref()?;
    let progress = &snapshot.progress;
    let what = match snapshot.state.as_str() {
        "sending" => bar(progress),
        "installing" => format!("of entry {} is being installed", progress.index),
        _ => "is waited for".to_owned(),
    };
    Some(format!("  {} snapshot {what}\n", member.name))
}

fn bar(progress: &ProgressView) -> String {
    let full = ((progress.percent / 100.0 * BAR_WIDTH as f64) as usize).min(BAR_WIDTH);
    let left = progress.eta_ms.map_or_else(
        || "standing still".to_owned(),
        |eta| format!("{} left", humantime::format_duration(Duration::from_secs(eta.div_ceil(1000)))),
    );
    format!(
        "[{}{}] {:.1} %, {} of {}, {}/s, {left}",
        "#".repeat(full),
        ".".repeat(BAR_WIDTH - full),
        progress.percent,
        size(progress.done_bytes),
        size(progress.total_bytes),
        size(progress.bytes_per_second)
    )
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_much_is_there_and_how_long_the_rest_takes() {
        let progress = ProgressView {
            index: 7,
            percent: 50.0,
            done_bytes: 512 << 20,
            total_bytes: 1 << 30,
            bytes_per_second: 100 << 20,
            eta_ms: Some(5120),
            running_ms: 5000,
        };
        let half = "#".repeat(15) + &".".repeat(15);
        assert_eq!(bar(&progress), format!("[{half}] 50.0 %, 512.0 MiB of 1.0 GiB, 100.0 MiB/s, 6s left"));
        let still = ProgressView { percent: 100.0, eta_ms: None, bytes_per_second: 0, ..progress };
        assert!(bar(&still).ends_with("0 B/s, standing still"));
        assert!(bar(&still).starts_with(&format!("[{}]", "#".repeat(30))));
    }
}
