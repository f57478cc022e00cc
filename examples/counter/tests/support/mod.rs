//! Three real processes of a program that speaks as `counter::shell` does, with fresh certificates, on loopback and a
//! real disk. The other examples use it too.
// A panic is how a test fails; not every test uses every helper.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

/// How long a condition is awaited before a test gives up; far above what any of them takes.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes of a cluster.
pub const NODES: usize = 3;

/// Three nodes, running or not. What still runs is killed when it goes.
pub struct Cluster {
    directory: tempfile::TempDir,
    program: PathBuf,
    hosts: Vec<String>,
    nodes: Vec<Option<Process>>,
}

struct Process {
    child: Child,
    /// None once it was closed.
    input: Option<ChildStdin>,
    output: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// Starts three nodes of `program` (`env!("CARGO_BIN_EXE_…")`) and waits until all are ready.
    pub fn start(program: &str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let hosts: Vec<String> = (0..NODES).map(|_| own_host()).collect();
        let names: Vec<String> = (0..NODES).map(name).collect();
        let certificates = directory.path().join("certs");
        std::fs::create_dir(&certificates).unwrap();
        make_certificates(&certificates, "raft", &names);
        let nodes = (0..NODES).map(|_| None).collect();
        let mut cluster = Self { directory, program: program.into(), hosts, nodes };
        (0..NODES).for_each(|node| cluster.run(node));
        (0..NODES).for_each(|node| cluster.await_ready(node));
        cluster
    }

    /// Starts a node, on what it kept.
    pub fn run(&mut self, node: usize) {
        assert!(self.nodes[node].is_none(), "{} runs already", name(node));
        let at = |file: String| self.directory.path().join(file);
        let address = |node: usize| format!("{}:7082", self.hosts[node]);
        let founders: Vec<String> = (0..NODES).map(|node| format!("{}={}", name(node), address(node))).collect();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(at(format!("{}.log", name(node))));
        let mut child = Command::new(&self.program)
            .args(["--name", &name(node), "--listen", &address(node), "--founders", &founders.join(",")])
            .arg("--dir")
            .arg(at(name(node)))
            .arg("--certs")
            .arg(at("certs".into()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let input = child.stdin.take();
        self.nodes[node] = Some(Process { child, input, output });
    }

    /// Kills a node as a crash of its process would (SIGKILL).
    pub fn kill(&mut self, node: usize) {
        drop(self.nodes[node].take().expect("it runs"));
    }

    /// Tells a node to terminate (SIGTERM) and waits until it has.
    pub fn terminate(&mut self, node: usize) -> ExitStatus {
        let process = self.nodes[node].as_ref().expect("it runs");
        let sent = Command::new("kill").args(["-TERM", &process.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill: {sent}");
        self.ended(node)
    }

    /// Closes a node's input and waits until it has ended.
    pub fn close_input(&mut self, node: usize) -> ExitStatus {
        self.nodes[node].as_mut().expect("it runs").input = None;
        self.ended(node)
    }

    fn ended(&mut self, node: usize) -> ExitStatus {
        let mut process = self.nodes[node].take().expect("it runs");
        let what = format!("the end of {}", name(node));
        let status = self.await_some(&what, |_| process.child.try_wait().unwrap());
        let last = process.output.try_iter().last().unwrap_or_default();
        assert!(last.ends_with(" stopped"), "{} ended with `{last}`{}", name(node), self.logs());
        status
    }

    /// Says a line to a node and gives its answer.
    pub fn ask(&mut self, node: usize, line: &str) -> String {
        self.try_ask(node, line).unwrap_or_else(|why| panic!("`{line}` to {}: {why}{}", name(node), self.logs()))
    }

    fn try_ask(&mut self, node: usize, line: &str) -> Result<String, String> {
        let process = self.nodes[node].as_mut().expect("it runs");
        let input = process.input.as_mut().expect("it is open");
        writeln!(input, "{line}").map_err(|error| format!("cannot be asked: {error}"))?;
        process.output.recv_timeout(PATIENCE).map_err(|why| match why {
            RecvTimeoutError::Timeout => format!("no answer within {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => "it has ended".into(),
        })
    }

    /// Says a line to a node and gives what stands behind `ok POSITION` in its answer, which it must be.
    pub fn ok(&mut self, node: usize, line: &str) -> String {
        let answer = self.ask(node, line);
        match answer.strip_prefix("ok ").and_then(|rest| rest.split_once(' ')) {
            Some((_position, answer)) => answer.to_owned(),
            // An empty answer.
            None if answer.starts_with("ok ") => String::new(),
            None => panic!("`{line}` to {}: {answer}{}", name(node), self.logs()),
        }
    }

    /// Waits until a node can serve.
    pub fn await_ready(&mut self, node: usize) {
        let what = format!("{} to be ready", name(node));
        self.await_some(&what, |cluster| cluster.ok(node, "status").ends_with(" ready").then_some(()));
    }

    /// Waits until the nodes that run agree on a leader that runs, and gives its number.
    pub fn leader(&mut self) -> usize {
        self.await_some("a leader that all agree on", |cluster| {
            let running: Vec<usize> = (0..NODES).filter(|node| cluster.nodes[*node].is_some()).collect();
            let said: Vec<String> = running.iter().map(|node| cluster.ok(*node, "status")).collect();
            let led_by = |node: &usize| format!(" leader={} ", name(*node));
            running.into_iter().find(|node| said.iter().all(|said| said.contains(&led_by(node))))
        })
    }

    fn await_some<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the nodes wrote to standard error, for a message.
    fn logs(&self) -> String {
        let log = |node| std::fs::read_to_string(self.directory.path().join(format!("{}.log", name(node))));
        (0..NODES).map(|node| format!("\n--- {}\n{}", name(node), log(node).unwrap_or_default())).collect()
    }
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

/// An address of the loopback network that no other node of this test run has. A port that was free a moment ago may be
/// the end of somebody's connection by now; nobody connects from these.
fn own_host() -> String {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let nth = HOSTS.fetch_add(1, Ordering::Relaxed);
    assert!(nth < 250, "more nodes in one test binary than one network of 250 addresses has");
    let process = std::process::id();
    format!("127.{}.{}.{}", 1 + process / 250 % 250, 1 + process % 250, 1 + nth)
}

/// An authority and a certificate for each node, with the names and under the file names that `raft-node init-certs`
/// gives them.
pub fn make_certificates(directory: &Path, cluster: &str, names: &[String]) {
    let write = |file: String, text: String| std::fs::write(directory.join(file), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    write("ca.pem".into(), params.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("raft://{cluster}/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write(format!("{name}.pem"), params.signed_by(&key, &authority).unwrap().pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}
