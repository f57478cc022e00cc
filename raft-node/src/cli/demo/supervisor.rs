//! One node process of a demo: started, started again when it dies, stopped cleanly.

use std::fmt;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pause before a dead node is started again, so that its absence can be seen.
const RESTART_PAUSE: Duration = Duration::from_secs(3);
/// Starts in a row that ended before the node took requests, after which the demo gives up. Killing a node that took
/// requests is what a demo is for, however often.
const FAILED_STARTS_MAX: u32 = 3;
/// How long a node may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What happens to a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It runs again.
    Restarted { name: String, pid: u32 },
    /// It takes requests again.
    Ready { name: String, pid: u32 },
    /// It ended without being told to.
    Ended { name: String, pid: u32, status: String },
    /// It does not stay up.
    GaveUp { name: String, why: String },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarted { name, pid } => write!(f, "{name} is started again (pid {pid})"),
            Self::Ready { name, pid } => write!(f, "{name} takes requests again (pid {pid})"),
            Self::Ended { name, pid, status } => {
                write!(f, "{name} (pid {pid}) ended: {status}; it is started again in {} s", RESTART_PAUSE.as_secs())
            }
            Self::GaveUp { name, why } => write!(f, "{name} does not stay up: {why}"),
        }
    }
}

/// One node process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    /// Its standard error goes here.
    pub(crate) log: PathBuf,
    pub(crate) stop: CancellationToken,
    pub(crate) kill: CancellationToken,
}

/// How one life of the process ended.
enum End {
    /// As it was told to.
    Stopped,
    /// By itself, or by somebody's `kill`.
    Died { pid: u32, status: ExitStatus, was_ready: bool },
    /// It did not even begin.
    NotStarted(String),
}

impl NodeProcess {
    /// Keeps the process running until told to stop.
    pub(crate) async fn supervise(self, events: mpsc::Sender<Event>) {
        let mut failed_starts = 0;
        let mut first = true;
        loop {
            let (why, was_ready) = match self.live(&events, first).await {
                End::Stopped => return,
                End::NotStarted(why) => (why, false),
                End::Died { pid, status, was_ready } => {
                    let status = status.to_string();
                    self.tell(&events, Event::Ended { name: self.name.clone(), pid, status: status.clone() }).await;
                    (format!("{status}; see {}", self.log.display()), was_ready)
                }
            };
            first = false;
            failed_starts = if was_ready { 0 } else { failed_starts + 1 };
            if failed_starts >= FAILED_STARTS_MAX {
                return self.tell(&events, Event::GaveUp { name: self.name.clone(), why }).await;
            }
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn tell(&self, events: &mpsc::Sender<Event>, event: Event) {
        // Nobody listens any more once the demo is stopping.
        let _ = events.send(event).await;
    }

    async fn live(&self, events: &mpsc::Sender<Event>, first: bool) -> End {
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return End::NotStarted(format!("{} cannot be started: {error}", self.program.display())),
        };
        let pid = child.id().unwrap_or_default();
        if !first {
            self.tell(events, Event::Restarted { name: self.name.clone(), pid }).await;
        }
        let ready = Event::Ready { name: self.name.clone(), pid };
        // Of the first life the introduction tells.
        let teller = (!first).then(|| events.clone());
        let was_ready = Arc::new(AtomicBool::new(false));
        let ready = tokio::spawn(wait_for_line(child.stdout.take(), teller, ready, was_ready.clone()));
        let end = tokio::select! {
            status = child.wait() => match status {
                Ok(status) => End::Died { pid, status, was_ready: was_ready.load(Ordering::Acquire) },
                Err(error) => End::NotStarted(error.to_string()),
            },
            () = self.stop.cancelled() => {
                self.end(&mut child).await;
                End::Stopped
            }
        };
        ready.abort();
        end
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(["start", "--name", &self.name, "--stop-with-parent", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C in the terminal is for the demo, which then stops its nodes.
            .process_group(0)
            .kill_on_drop(true);
        // The demo decides what its nodes are; only the log filter is the caller's business.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFT_") && name != "RAFT_LOG" {
                command.env_remove(&name);
            }
        }
        command.spawn()
    }

    /// Asks the process to stop, and kills it when it takes too long or the demo is interrupted again.
    async fn end(&self, child: &mut Child) {
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            // It may have ended this very moment.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        tokio::select! {
            _ = child.wait() => return,
            () = tokio::time::sleep(STOP_TIMEOUT) => {}
            () = self.kill.cancelled() => {}
        }
        let _ = child.kill().await;
    }
}

/// A node prints one line when it is ready.
async fn wait_for_line(
    stdout: Option<ChildStdout>,
    events: Option<mpsc::Sender<Event>>,
    ready: Event,
    was_ready: Arc<AtomicBool>,
) {
    let Some(stdout) = stdout else { return };
    let mut lines = BufReader::new(stdout).lines();
    if let Ok(Some(_)) = lines.next_line().await {
        was_ready.store(true, Ordering::Release);
        if let Some(events) = events {
            let _ = events.send(ready).await;
        }
    }
    // The pipe stays open as long as the node lives.
    while let Ok(Some(_)) = lines.next_line().await {}
}
