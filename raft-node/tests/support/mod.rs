//! Real nodes for tests: processes of the real binary with real certificates, on loopback and a real disk.
// A panic is how a test fails; not every test uses every helper.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, unused_imports)]

pub mod connection;
pub mod http;
pub mod manifests;
pub mod namespace;
pub mod namespaces;
pub mod prometheus;
pub mod stranger;
pub mod trace;

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::{Reply, call};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_raft-node");

/// How long a condition is awaited before a test gives up; far above what any of them takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives something, looking often.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub fn await_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// A directory on the disk that the build uses: fsync must cost what it costs.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A command without the caller's own settings: `RAFT_...` variables are for the tests, or for other nodes.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RAFT_"));
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the CLI to its end.
pub fn cli(args: &[&str]) -> Output {
    command(BINARY).args(args).output().unwrap()
}

/// Makes an authority and certificates for `names`.
pub fn certificates(dir: &Path, cluster: &str, names: &[&str]) {
    let made = cli(&["init-certs", "--dir", dir.to_str().unwrap(), "--cluster", cluster, "--names", &names.join(",")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Of a timeout that a busy machine keeps too: what is found has to be what was planted.
pub const PATIENT: [&str; 4] = ["--election-timeout", "2s", "--heartbeat-interval", "200ms"];

/// A connected cluster of patient nodes.
pub fn started(count: usize) -> TestCluster {
    let mut cluster = TestCluster::prepare(count, &PATIENT);
    cluster.nodes.iter_mut().for_each(TestNode::start);
    cluster.await_leader();
    await_connected(&cluster);
    cluster
}

/// Every node that runs is connected to all others that run.
pub fn await_connected(cluster: &TestCluster) {
    let running = || cluster.nodes.iter().filter(|node| node.child.is_some());
    let peers = (running().count() - 1) as f64;
    await_that("all connections", || {
        running().all(|node| node.metric("raft_peer_connected").unwrap_or_default() == peers)
    });
}

/// A certificate of n1 by the cluster's own authority that ended long ago.
pub fn expired(certs: &Path, directory: &Path) {
    let read = |file: &str| std::fs::read_to_string(certs.join(file)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let authority = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), authority).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("raft://test/n1".try_into().unwrap())];
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::create_dir(directory).unwrap();
    std::fs::write(directory.join("n1.pem"), certificate.pem()).unwrap();
    std::fs::write(directory.join("n1.key"), key.serialize_pem()).unwrap();
}

/// One node: where it listens, where its files are, and its process while it runs.
pub struct TestNode {
    pub name: String,
    pub client: String,
    pub ops: String,
    pub peer: String,
    pub data_dir: PathBuf,
    pub args: Vec<String>,
    pub stderr: PathBuf,
    pub child: Option<Child>,
}

/// A cluster of test nodes. What still runs is killed when it goes.
pub struct TestCluster {
    pub dir: tempfile::TempDir,
    pub nodes: Vec<TestNode>,
}

/// An address of the loopback network that no other node of this test run has. A port that was free a moment ago may be
/// the end of somebody's connection by now; nobody connects from these.
fn own_host() -> String {
    static NODES: AtomicU32 = AtomicU32::new(0);
    let nth = NODES.fetch_add(1, Ordering::Relaxed);
    assert!(nth < 250, "more nodes in one test binary than one network of 250 addresses has");
    let process = std::process::id();
    format!("127.{}.{}.{}", 1 + process / 250 % 250, 1 + process % 250, 1 + nth)
}

/// How a start ended that had to fail.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub said: String,
}

impl TestCluster {
    /// Prepares `count` nodes named n1, n2, ... Starts none.
    pub fn prepare(count: usize, extra: &[&str]) -> Self {
        let dir = scratch();
        let names: Vec<String> = (1..=count).map(|nth| format!("n{nth}")).collect();
        let listed: Vec<&str> = names.iter().map(String::as_str).collect();
        let certs = dir.path().join("certs");
        certificates(&certs, "test", &listed);
        let hosts: Vec<String> = names.iter().map(|_| own_host()).collect();
        let bootstrap: Vec<String> =
            names.iter().zip(&hosts).map(|(name, host)| format!("{name}={host}:7082")).collect();
        let nodes = names.iter().zip(&hosts).map(|(name, host)| {
            let data_dir = dir.path().join(name);
            let flag = |flag: &str, value: String| [format!("--{flag}"), value];
            let pem = |file: String| certs.join(file).to_str().unwrap().to_owned();
            let mut args = vec!["start".to_owned()];
            args.extend(flag("name", name.clone()));
            args.extend(flag("cluster", "test".into()));
            args.extend(flag("data-dir", data_dir.to_str().unwrap().into()));
            args.extend(flag("client-listen", format!("{host}:7080")));
            args.extend(flag("ops-listen", format!("{host}:7081")));
            args.extend(flag("peer-listen", format!("{host}:7082")));
            args.extend(flag("peer-tls-ca", pem("ca.pem".into())));
            args.extend(flag("peer-tls-cert", pem(format!("{name}.pem"))));
            args.extend(flag("peer-tls-key", pem(format!("{name}.key"))));
            args.extend(flag("bootstrap", bootstrap.join(",")));
            args.extend(extra.iter().map(|&arg| arg.to_owned()));
            TestNode {
                name: name.clone(),
                client: format!("{host}:7080"),
                ops: format!("{host}:7081"),
                peer: format!("{host}:7082"),
                stderr: dir.path().join(format!("{name}.log")),
                data_dir,
                args,
                child: None,
            }
        });
        let nodes = nodes.collect();
        Self { dir, nodes }
    }

    /// Prepares and starts `count` nodes and waits until they have a leader.
    pub fn start(count: usize) -> Self {
        let mut cluster = Self::prepare(count, &[]);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.await_leader();
        cluster
    }

    /// The position of the node that says it leads, once one does and a write goes through.
    pub fn await_leader(&self) -> usize {
        await_some("a leader", || self.nodes.iter().position(|node| node.role().as_deref() == Some("leader")))
    }

    /// All client addresses.
    pub fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// What all nodes logged, for a message.
    pub fn logs(&self) -> String {
        self.nodes.iter().fold(String::new(), |mut all, node| {
            let log = std::fs::read_to_string(&node.stderr).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let _ = writeln!(all, "--- {}", node.name);
            for line in tail.iter().rev() {
                let _ = writeln!(all, "{line}");
            }
            all
        })
    }
}

impl TestNode {
    /// Starts its process.
    pub fn start(&mut self) {
        self.start_with(|_| {});
    }

    /// Starts its process with what `change` makes of its command.
    pub fn start_with(&mut self, change: impl FnOnce(&mut Command)) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let stderr = std::fs::File::options().create(true).append(true).open(&self.stderr).unwrap();
        let mut command = command(BINARY);
        command.args(&self.args).stdout(Stdio::null()).stderr(stderr);
        change(&mut command);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts its process with a tracer beside it that writes to [`TestNode::trace`].
    pub fn start_under(&mut self, strace: &Path) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let stderr = std::fs::File::options().create(true).append(true).open(&self.stderr).unwrap();
        let mut command = command(strace);
        // -D: the node is our child, and the tracer ends with it.
        command.args(["-D", "-f", "-ttt", "-T", "-yy", "-s", "2048", "-e", trace::CALLS, "-o"]).arg(self.trace());
        command.arg("--").arg(BINARY).args(&self.args);
        command.stdout(Stdio::null()).stderr(stderr);
        self.child = Some(command.spawn().unwrap());
    }

    /// Where its system calls are written.
    pub fn trace(&self) -> PathBuf {
        self.stderr.with_extension("strace")
    }

    /// Runs its command to its end, with flags that replace those of the same name: for starts that must fail.
    pub fn refused_start(&self, flags: &[(&str, &str)]) -> Refused {
        let mut args = self.args.clone();
        for (flag, value) in flags {
            let flag = format!("--{flag}");
            match args.iter().position(|arg| *arg == flag) {
                Some(at) => args[at + 1] = (*value).to_owned(),
                None => args.extend([flag, (*value).to_owned()]),
            }
        }
        let mut command = command(BINARY);
        command.args(&args).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > PATIENCE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("started, and should have refused to: {args:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        Refused { code: status.code(), said }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let mut child = self.child.take().unwrap();
        await_some("the end of a stopped node", || child.try_wait().unwrap())
    }

    /// Whether its process lives.
    pub fn lives(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// One request to its client listener.
    pub fn get(&self, path: &str) -> Option<Reply> {
        call(&self.client, "GET", path, &[], b"")
    }

    /// Puts a value.
    pub fn put(&self, key: &str, value: &[u8]) -> Option<Reply> {
        call(&self.client, "PUT", &format!("/v1/kv/{key}"), &[], value)
    }

    /// `/v1/node`.
    pub fn status(&self) -> Option<serde_json::Value> {
        self.child.as_ref()?;
        let reply = self.get("/v1/node")?;
        serde_json::from_slice(&reply.body).ok()
    }

    /// Its role, if it answers.
    pub fn role(&self) -> Option<String> {
        self.status()?.get("role")?.as_str().map(str::to_owned)
    }

    /// One metric's value, summed over its labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let reply = call(&self.ops, "GET", "/metrics", &[], b"")?;
        let text = String::from_utf8(reply.body).ok()?;
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')));
        let values: Vec<f64> = values.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() { None } else { Some(values.iter().sum()) }
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs());
        }
        for node in &mut self.nodes {
            node.kill();
        }
    }
}
