//! Talks to a running node over standard input and output: one line in, one line out.
//!
//! | line | answer |
//! |---|---|
//! | `add NAME N`, `take NAME N` | `ok POSITION ANSWER` once it is applied; POSITION is `index@term` |
//! | | `not_applied WHY`: surely not, and never will be |
//! | | `unknown POSITION WHY`: nobody knows yet, and POSITION (or `-`) is the entry to ask about |
//! | `get NAME`, `all` | `ok POSITION ANSWER`, linearizable, or `failed WHY` |
//! | `status` | `ok POSITION NAME leader=NAME ready`, or why it is not ready |
//! | `stop` | `ok POSITION stopped`, and the program ends |
//! | anything else | `failed WHY` |
//!
//! The end of the input, SIGTERM and SIGINT stop the node as `stop` does.

use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use raft_node::NodeHandle;
use raft_node::handle::{Consistency, WriteError, WriteOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long a line may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a line; a longer one ends the input, as its end would be taken for another command.
const LINE_BYTES_MAX: usize = 1024;
/// Lines that were read and wait for the one before; then reading waits.
const LINES_MAX: usize = 16;

/// Serves lines until one of the three ends comes, and stops the node.
///
/// # Errors
/// When the node fails, or does not stop cleanly, or standard output is closed.
pub async fn run(node: NodeHandle) -> Result<(), String> {
    let served = tokio::select! {
        served = serve(&node) => served,
        ended = node.finished() => ended.map_err(|error| error.to_string()),
    };
    let position = node.position().applied;
    let stopped = node.stop().await.map_err(|error| error.to_string());
    served.and(stopped)?;
    say(&format!("ok {position} stopped"))
}

async fn serve(node: &NodeHandle) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("listening for signals failed: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut lines = read_lines();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        match line.as_deref().map(str::trim) {
            None | Some("stop") => return Ok(()),
            Some(line) => say(&answer(node, line).await)?,
        }
    }
}

/// Reads on a thread of its own: a task that waits for standard input would keep the runtime from ending.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut line = String::new();
        // What is no line of text ends the input too.
        while io::Read::take(&mut input, LINE_BYTES_MAX as u64).read_line(&mut line).is_ok_and(|_| line.ends_with('\n'))
        {
            if sender.blocking_send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

fn say(line: &str) -> Result<(), String> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(|error| format!("writing an answer failed: {error}"))
}

async fn answer(node: &NodeHandle, line: &str) -> String {
    match line.split(' ').next() {
        Some("add" | "take") => write(node, line).await,
        Some("get" | "all") => read(node, line).await,
        Some("status") => status(node),
        _ => "failed write add NAME N, take NAME N, get NAME, all, status or stop".into(),
    }
}

async fn write(node: &NodeHandle, line: &str) -> String {
    // Adding twice is not adding once: the node must not send it again by itself.
    match node.write(Bytes::copy_from_slice(line.as_bytes()), WriteOptions::within(TIMEOUT)).await {
        Ok(written) => format!("ok {} {}", written.id, String::from_utf8_lossy(&written.answer)),
        Err(WriteError::NotApplied { why, .. }) => format!("not_applied {why}"),
        Err(WriteError::Unknown { why, token, .. }) => {
            let token = token.map_or_else(|| "-".to_owned(), |token| token.to_string());
            format!("unknown {token} {why}")
        }
    }
}

async fn read(node: &NodeHandle, line: &str) -> String {
    match node.read(Bytes::copy_from_slice(line.as_bytes()), Consistency::Linearizable, TIMEOUT).await {
        Ok(answer) => format!("ok {} {}", answer.applied, String::from_utf8_lossy(&answer.bytes)),
        Err(why) => format!("failed {why}"),
    }
}

fn status(node: &NodeHandle) -> String {
    let position = node.position();
    let leader = position.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string());
    let ready = node.ready().map_or_else(|why| format!("not ready: {why}"), |()| "ready".into());
    format!("ok {} {} leader={leader} {ready}", position.applied, node.name())
}
