//! Nodes as an operator runs them: a process each, that can be killed and started again, in a directory on a real disk.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{data_dir, memory_of};
use crate::http::{Connection, get_request};

/// How long a condition is awaited before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// One node, running or not.
#[derive(Debug)]
pub struct Node {
    /// `n1`, `n2` and so on.
    pub name: String,
    /// `host:port` of its client listener.
    pub client: String,
    /// `host:port` of its probes and metrics.
    pub ops: String,
    /// Its data directory.
    pub data: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// A cluster of such nodes. What still runs is killed when it is dropped.
#[derive(Debug)]
pub struct Nodes {
    /// All nodes.
    pub nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Nodes {
    /// Makes certificates, starts `count` nodes with these flags besides their own, and waits until they have a leader.
    ///
    /// # Errors
    /// When `raft-node` does not lie beside this program, or no leader comes about.
    pub async fn start(count: usize, flags: &[&str]) -> io::Result<Self> {
        let binary = binary()?;
        let dir = tempfile::tempdir_in(data_dir())?;
        let certs = dir.path().join("certs");
        let names: Vec<String> = (1..=count).map(|nth| format!("n{nth}")).collect();
        let made = Command::new(&binary)
            .args(["init-certs", "--cluster", "bench", "--names", &names.join(","), "--dir"])
            .arg(&certs)
            .output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let host = |nth: usize| format!("127.90.{}.{}", std::process::id() % 250, nth + 1);
        let founders: Vec<String> =
            names.iter().enumerate().map(|(nth, name)| format!("{name}={}:7082", host(nth))).collect();
        let mut nodes = Vec::new();
        for (nth, name) in names.iter().enumerate() {
            let mut node = Node {
                name: name.clone(),
                client: format!("{}:7080", host(nth)),
                ops: format!("{}:7081", host(nth)),
                data: dir.path().join(name),
                args: Vec::new(),
                log: dir.path().join(format!("{name}.log")),
                child: None,
            };
            node.args = node.flags(&certs, &format!("{}:7082", host(nth)), &founders.join(","));
            node.args.extend(flags.iter().map(|flag| (*flag).to_owned()));
            node.run()?;
            nodes.push(node);
        }
        let nodes = Self { nodes, _dir: dir };
        nodes.leader().await?;
        Ok(nodes)
    }

    /// The position of the leader, as soon as one says that it leads.
    ///
    /// # Errors
    /// When none does for long.
    pub async fn leader(&self) -> io::Result<usize> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for (nth, node) in self.nodes.iter().enumerate() {
                if node.status().await.is_ok_and(|status| status["role"] == "leader") {
                    return Ok(nth);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(io::Error::other("no leader"))
    }

    /// The client addresses of the nodes that run.
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.client.clone()).collect()
    }
}

impl Node {
    fn flags(&self, certs: &Path, peer: &str, founders: &str) -> Vec<String> {
        let pem = |file: String| certs.join(file).display().to_string();
        let pairs = [
            ("name", self.name.clone()),
            ("cluster", "bench".to_owned()),
            ("data-dir", self.data.display().to_string()),
            ("client-listen", self.client.clone()),
            ("ops-listen", self.ops.clone()),
            ("peer-listen", peer.to_owned()),
            ("peer-tls-ca", pem("ca.pem".to_owned())),
            ("peer-tls-cert", pem(format!("{}.pem", self.name))),
            ("peer-tls-key", pem(format!("{}.key", self.name))),
            ("bootstrap", founders.to_owned()),
        ];
        let flags = pairs.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]);
        std::iter::once("start".to_owned()).chain(flags).collect()
    }

    /// Starts its process, if it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&mut self) -> io::Result<()> {
        if self.child.is_none() {
            let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
            let child = Command::new(binary()?).args(&self.args).stdout(Stdio::null()).stderr(log).spawn()?;
            self.child = Some(child);
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Resident bytes, and how many of them are not pages of files; zeros when it does not run.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        self.pid().and_then(memory_of).unwrap_or_default()
    }

    /// `GET /v1/node`.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn status(&self) -> io::Result<Value> {
        let body = get(&self.client, "/v1/node").await?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }

    /// Whether `/startupz` says that its storage is open and replayed.
    pub async fn is_started(&self) -> bool {
        get(&self.ops, "/startupz").await.is_ok()
    }

    /// A metric without labels; zero when it is not there.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn metric(&self, name: &str) -> io::Result<f64> {
        let text = String::from_utf8(get(&self.ops, "/metrics").await?).map_err(io::Error::other)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// A metric summed over its labels.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn sum(&self, name: &str) -> io::Result<f64> {
        let text = String::from_utf8(get(&self.ops, "/metrics").await?).map_err(io::Error::other)?;
        let labelled = text.lines().filter(|line| line.starts_with(name) && line.contains('{'));
        Ok(labelled.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Sends its process a signal, if it runs.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = self.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            // It fails only for a process that has ended already.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until `holds` of its status.
    ///
    /// # Errors
    /// When it does not for long; says what was waited for.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> io::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.status().await.is_ok_and(|status| holds(&status)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(io::Error::other(format!("{}: waited {PATIENCE:?} in vain: {what}", self.name)))
    }

    /// Bytes of the files in a directory of its data directory.
    #[must_use]
    pub fn disk(&self, directory: &str) -> u64 {
        bytes_below(&self.data.join(directory))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // Files come and go while one looks.
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

async fn get(host: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut connection = Connection::open(host).await?;
    let (status, body) = connection.call(&get_request(host, path)).await?;
    if status != 200 {
        return Err(io::Error::other(format!("{host}{path}: status {status}")));
    }
    Ok(body.to_vec())
}

fn binary() -> io::Result<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("raft-node");
    if binary.exists() { Ok(binary) } else { Err(io::Error::other(format!("{}: build it first", binary.display()))) }
}
