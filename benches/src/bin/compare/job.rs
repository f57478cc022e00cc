//! The generator is a process of its own, so that its CPU is told apart from everything else. It is this program again,
//! with a job as its argument and what came of it on its standard output.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use raft_load::{End, Keys, Load, Pace, Summary, Work};
use serde::{Deserialize, Serialize};

/// How the generator of an open loop is started. Clients live on other machines: here it gets a core at once when a request
/// is due. A closed loop has no need of it, and wakes servers less without.
const PROMPT: [&str; 3] = ["chrt", "--fifo", "1"];

/// Whether there is that program and the right to it. Without them the generator may be late, and the run says so.
async fn may_be_prompt() -> bool {
    let tried = tokio::process::Command::new(PROMPT[0]).args(&PROMPT[1..]).arg("true").stderr(Stdio::null()).status();
    tried.await.is_ok_and(|status| status.success())
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    /// raft-node, by HTTP/1.1.
    Ours,
    /// etcd, by gRPC.
    Etcd,
}

/// One load, in words that fit on a command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) who: Who,
    pub(crate) hosts: Vec<String>,
    /// None puts; otherwise the consistency of the reads.
    pub(crate) read: Option<String>,
    pub(crate) clients: usize,
    /// Requests per second of an open loop.
    pub(crate) rate: Option<f64>,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) warm_up_ms: u64,
    pub(crate) run_ms: u64,
    /// A number of requests instead of a time.
    pub(crate) requests: Option<u64>,
    /// The number of the first request.
    pub(crate) first: u64,
}

impl Job {
    /// Puts in a closed loop, 256 bytes each.
    pub(crate) fn puts(who: Who, hosts: &[String], clients: usize) -> Self {
        Self {
            who,
            hosts: hosts.to_vec(),
            read: None,
            clients,
            rate: None,
            value_bytes: 256,
            keys: 100_000,
            warm_up_ms: 1_000,
            run_ms: 5_000,
            requests: None,
            first: 0,
        }
    }

    /// Puts each key once.
    pub(crate) fn fill(who: Who, hosts: &[String], keys: u64, value_bytes: usize) -> Self {
        Self { keys, value_bytes, warm_up_ms: 0, requests: Some(keys), ..Self::puts(who, hosts, 256) }
    }

    fn load(&self) -> Load {
        let work = self.read.clone().map_or(Work::Put, |consistency| Work::Get { consistency });
        Load {
            keys: Keys { prefix: "bench/".into(), count: self.keys },
            value_bytes: self.value_bytes,
            clients: self.clients,
            pace: self.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
            end: self.requests.map_or_else(|| End::After(Duration::from_millis(self.run_ms)), End::Requests),
            warm_up: Duration::from_millis(self.warm_up_ms),
            timeout: Duration::from_secs(30),
            first: self.first,
            ..Load::new(self.hosts.clone(), work)
        }
    }

    /// Does it in this process.
    pub(crate) async fn work(&self) -> io::Result<Summary> {
        match self.who {
            Who::Ours => raft_load::run(&self.load()).map_err(io::Error::other),
            Who::Etcd => raft_benches::etcd::load::run(&self.load()).await,
        }
    }

    /// Has it done by a process of its own.
    pub(crate) async fn run(&self) -> io::Result<Summary> {
        let text = serde_json::to_string(self)?;
        let program = std::env::current_exe()?;
        let mut command = if self.rate.is_some() && may_be_prompt().await {
            let mut prompt = tokio::process::Command::new(PROMPT[0]);
            prompt.args(&PROMPT[1..]).arg(program);
            prompt
        } else {
            tokio::process::Command::new(program)
        };
        let generator = command
            .args(["generate", &text])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await?;
        if !generator.status.success() {
            return Err(io::Error::other(format!("the generator ended with {}", generator.status)));
        }
        Ok(serde_json::from_slice(&generator.stdout)?)
    }
}
