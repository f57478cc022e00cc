//! System calls of a node, as strace saw them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where strace is.
///
/// # Panics
/// When it is not installed, with the remedy.
pub fn find_strace() -> PathBuf {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "strace is not installed, and only with it can this test see when a node syncs: apt-get install strace"
    );
    PathBuf::from("strace")
}

/// What is traced: syncs, and everything that may carry a request, an answer or a record of the log.
pub const CALLS: &str =
    "trace=fdatasync,fsync,write,writev,pwrite64,pwritev,read,readv,recvfrom,recvmsg,sendto,sendmsg";

/// One system call that succeeded.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// File descriptor with its path or addresses, then the other arguments.
    arguments: String,
    /// Seconds since the Unix epoch at which it was entered and left.
    begin: f64,
    end: f64,
}

impl Call {
    /// The file or socket that it is about.
    fn target(&self) -> &str {
        // A connection's ends are written with an arrow between them, so not every `>` ends the target.
        let rest = self.arguments.split_once('<').map_or("", |(_, rest)| rest);
        let end = [">,", ">)", "> )"].iter().filter_map(|end| rest.find(end)).min();
        end.map_or("", |end| &rest[..end])
    }

    fn is_sync_of_log(&self) -> bool {
        (self.name == "fdatasync" || self.name == "fsync") && is_log(self.target())
    }
}

/// Whether a path is a file of the log database's write-ahead log.
fn is_log(path: &str) -> bool {
    path.ends_with(".log") && path.contains("/log/")
}

/// All calls of one node in the order in which they were entered.
#[derive(Debug)]
pub struct Trace {
    calls: Vec<Call>,
}

impl Trace {
    /// Reads what strace has written so far (`-f -ttt -T -y`).
    pub fn read(path: &Path) -> Self {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()))
    }

    /// Reads lines of strace.
    pub fn parse(text: &str) -> Self {
        let mut unfinished: BTreeMap<&str, String> = BTreeMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            // Numbers of threads are padded with blanks.
            let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
            let Some((at, rest)) = rest.trim_start().split_once(' ') else { continue };
            if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, format!("{at} {begun}"));
            } else if let Some((_, end)) = rest.split_once(" resumed>").filter(|_| rest.starts_with("<... ")) {
                let whole = unfinished.remove(thread).map(|begun| begun + end);
                calls.extend(whole.and_then(|whole| call(&whole)));
            } else {
                calls.extend(call(&format!("{at} {rest}")));
            }
        }
        calls.sort_by(|left, right| left.begin.total_cmp(&right.begin));
        Self { calls }
    }

    /// Completed syncs of the log.
    pub fn syncs(&self) -> usize {
        self.calls.iter().filter(|call| call.is_sync_of_log()).count()
    }

    /// When the first sync was complete that began after `marker` was written to the log.
    pub fn synced(&self, marker: &str) -> Option<f64> {
        let is_record =
            |call: &&Call| call.name.contains("write") && is_log(call.target()) && call.arguments.contains(marker);
        let record = self.calls.iter().find(is_record)?;
        let sync = |call: &&Call| call.is_sync_of_log() && call.target() == record.target() && call.begin >= record.end;
        self.calls.iter().filter(sync).map(|call| call.end).min_by(f64::total_cmp)
    }

    /// When this node began to send the first "200" on the connection on which a request with `marker` came.
    pub fn answered(&self, marker: &str) -> Option<f64> {
        let is_request = |call: &&Call| {
            (call.name.contains("re")) && call.target().starts_with("TCP") && call.arguments.contains(marker)
        };
        let request = self.calls.iter().find(is_request)?;
        let is_answer = |call: &&Call| {
            (call.name.starts_with("send") || call.name.starts_with("write"))
                && call.begin >= request.begin
                && call.target() == request.target()
                && call.arguments.contains("HTTP/1.1 200")
        };
        self.calls.iter().find(is_answer).map(|call| call.begin)
    }
}

/// `100.5 fdatasync(5</d/log/4.log>) = 0 <0.000100>`; none for calls that failed.
fn call(text: &str) -> Option<Call> {
    let (at, rest) = text.split_once(' ')?;
    let begin: f64 = at.parse().ok()?;
    let (name, rest) = rest.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let (value, took) = result.split_once(" <")?;
    if value.trim().starts_with('-') {
        return None;
    }
    let took: f64 = took.trim_end_matches('>').parse().ok()?;
    Some(Call { name: name.to_owned(), arguments: arguments.trim_end().to_owned(), begin, end: begin + took })
}
