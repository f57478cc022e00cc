//! A cluster of three real processes to measure: `raft-node demo`, in a directory of its own on a real disk.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running `raft-node demo`. Stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    demo: Child,
    /// `host:port` of each node's client listener.
    pub clients: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts the binary that lies beside this program and waits until it names its nodes.
    ///
    /// # Errors
    /// When the binary is not built, or ends before it is ready.
    pub fn start(nodes: usize) -> io::Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("raft-node");
        let dir = tempfile::tempdir_in(data_dir())?;
        let mut demo = Command::new(&binary)
            .args(["demo", "--nodes", &nodes.to_string(), "--dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}; build it first", binary.display())))?;
        let stdout = demo.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let mut clients = Vec::new();
        let mut lines = BufReader::new(stdout).lines();
        while clients.len() < nodes {
            let Some(line) = lines.next() else {
                return Err(io::Error::other("the demo ended before it was ready"));
            };
            // One line a node; the first address on it is the clients'.
            let line = line?;
            let Some(host) = line.split_whitespace().find_map(|word| word.strip_prefix("http://")) else { continue };
            if !host.contains('/') && !clients.iter().any(|known| known == host) {
                clients.push(host.to_owned());
            }
        }
        // The rest of what it prints must not fill the pipe.
        std::thread::spawn(move || for _ in lines {});
        Ok(Self { demo, clients, _dir: dir })
    }

    /// User and system time of all nodes so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.pids().iter().filter_map(|pid| cpu_of(*pid)).sum()
    }

    /// Resident memory of each node, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> Vec<u64> {
        self.pids().into_iter().filter_map(memory_of).map(|(resident, _)| resident).collect()
    }

    fn pids(&self) -> Vec<u32> {
        let demo = self.demo.id();
        let mut pids = Vec::new();
        // Children are listed under the thread that started them.
        for task in std::fs::read_dir(format!("/proc/{demo}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        pids
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.demo.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.demo.wait();
    }
}

/// User and system time of a process.
#[must_use]
pub fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may contain spaces.
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<u64> =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // The kernel reports these in hundredths of a second whatever its own tick is.
    Some(Duration::from_millis(10 * fields.iter().sum::<u64>()))
}

/// Resident bytes of a process, and how many of them are not pages of files.
pub(crate) fn memory_of(pid: u32) -> Option<(u64, u64)> {
    let page = rustix::param::page_size() as u64;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut fields = statm.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    let (resident, of_files) = (fields.next()?, fields.next()?);
    Some((resident * page, resident.saturating_sub(of_files) * page))
}

/// Where to measure: a directory on a real disk, since fsync costs nothing on tmpfs.
pub fn data_dir() -> &'static Path {
    Path::new("/var/tmp")
}
