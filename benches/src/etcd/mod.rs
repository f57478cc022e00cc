//! etcd, the peer: its processes, the part of its gRPC interface that a load needs, and that load.

pub mod grpc;
pub mod load;
pub mod proto;

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::data_dir;
use grpc::{Channel, Method};
use proto::Status;

/// How long a condition is awaited before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One etcd process, running or not.
#[derive(Debug)]
pub struct Etcd {
    /// `host:port` of its client listener.
    pub client: String,
    args: Vec<String>,
    program: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// A cluster of them. What still runs is killed when it is dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    /// All nodes.
    pub nodes: Vec<Etcd>,
    _dir: tempfile::TempDir,
}

impl EtcdCluster {
    /// Starts `count` nodes with default flags and these, and waits until they have a leader.
    ///
    /// # Errors
    /// When the program cannot be run, or no leader comes about.
    pub async fn start(program: &str, count: usize, flags: &[&str]) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(data_dir())?;
        let host = |nth: usize| format!("127.91.{}.{}", std::process::id() % 250, nth + 1);
        let members: Vec<String> = (0..count).map(|nth| format!("e{nth}=http://{}:2380", host(nth))).collect();
        let mut nodes = Vec::new();
        for nth in 0..count {
            let client = format!("http://{}:2379", host(nth));
            let peer = format!("http://{}:2380", host(nth));
            let data = dir.path().join(format!("e{nth}")).display().to_string();
            let name = format!("e{nth}");
            let pairs = [
                ("--name", name.as_str()),
                ("--data-dir", &data),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &members.join(",")),
                ("--initial-cluster-state", "new"),
                ("--logger", "zap"),
                ("--log-level", "error"),
            ];
            let own = pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]);
            let mut node = Etcd {
                client: format!("{}:2379", host(nth)),
                args: own.chain(flags.iter().map(|flag| (*flag).to_owned())).collect(),
                program: program.into(),
                log: dir.path().join(format!("e{nth}.log")),
                child: None,
            };
            node.run()?;
            nodes.push(node);
        }
        let cluster = Self { nodes, _dir: dir };
        cluster.settled().await?;
        Ok(cluster)
    }

    /// Waits until every node that runs names the same leader, and gives its position.
    ///
    /// # Errors
    /// When that does not come about for long.
    pub async fn settled(&self) -> io::Result<usize> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let mut seen = Vec::new();
            for (nth, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
                seen.push((nth, node.status().await.ok()));
            }
            let leaders: Vec<u64> = seen.iter().map(|(_, status)| status.map_or(0, |status| status.leader)).collect();
            if let Some(leader) = leaders.first()
                && *leader != 0
                && leaders.iter().all(|other| other == leader)
                && let Some((nth, _)) =
                    seen.iter().find(|(_, status)| status.is_some_and(|status| status.member == *leader))
            {
                return Ok(*nth);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Err(io::Error::other("etcd: no leader that all nodes know"))
    }

    /// The client addresses of all nodes.
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }
}

impl Etcd {
    /// Starts its process, if it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&mut self) -> io::Result<()> {
        if self.child.is_none() {
            let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
            let started =
                Command::new(&self.program).args(&self.args).stdout(Stdio::null()).stderr(log).env_clear().spawn();
            self.child = Some(started.map_err(|error| {
                let remedy = "install etcd 3.4 or later (Debian: apt-get install etcd-server), or name it with --etcd";
                io::Error::other(format!("{} cannot be run: {error}; {remedy}", self.program.display()))
            })?);
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

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> io::Result<Status> {
        let asked = async {
            let channel = Channel::connect(&self.client).await?;
            channel.call(Method::Status, proto::framed(|_| {})).await
        };
        let answered = tokio::time::timeout(Duration::from_secs(2), asked).await;
        let bytes = answered.map_err(|_| io::Error::other("no status in time"))??;
        proto::status(&bytes)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program of etcd says about its version, such as `3.4.23`.
///
/// # Errors
/// When it cannot be run.
pub fn version(program: &str) -> io::Result<String> {
    let output = Command::new(program).arg("--version").env_clear().output().map_err(|error| {
        io::Error::other(format!("{program} cannot be run: {error}; install etcd, or name it with --etcd"))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    Ok(version.unwrap_or("unknown").trim().to_owned())
}
