//! `demo`: a local cluster of real processes.

mod place;
mod supervisor;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use raft_node::http::view::ClusterView;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::certs::Plan;
use crate::cli::client::{Call, Client};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output;
use place::{Addresses, Place};
use supervisor::{Event, NodeProcess};

/// The cluster's name in its certificates.
const CLUSTER: &str = "demo";
/// How long the nodes may take to have a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the demo looks for a leader.
const LEADER_POLL: Duration = Duration::from_millis(50);
/// Nodes that one machine's ports and memory are good for.
const NODES_MAX: u8 = 9;
/// Events that wait to be printed; then the supervisors wait.
const EVENTS_MAX: usize = 64;

/// Runs a local cluster of real processes, with certificates made for it, until Ctrl-C or for a time.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// Where certificates, data and logs go; kept at the end. Otherwise a temporary directory, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Stop by itself after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

impl DemoArgs {
    pub(crate) async fn run(self) -> Result<(), CliError> {
        let mut signals = Signals::new()?;
        let place = Place::new(self.dir.as_deref())?;
        let names: Vec<String> = (1..=self.nodes).map(|number| format!("n{number}")).collect();
        Plan::new(&place.certificates(), CLUSTER).make(&names)?;
        let (addresses, moved) = place::choose_addresses(self.nodes)?;
        if moved {
            output::line("some of the usual ports are taken, so others were chosen")?;
        }
        let mut cluster = Cluster::begin(&place, &names, &addresses)?;
        let result = cluster.watch(&place, self.duration, &mut signals).await;
        let stopped = cluster.stop(&mut signals).await;
        place.leave(result.is_ok())?;
        result.and(stopped)
    }
}

/// Ctrl-C, and what a service manager sends.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::failed);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The running processes.
struct Cluster {
    addresses: Vec<Addresses>,
    supervisors: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Cluster {
    fn begin(place: &Place, names: &[String], addresses: &[Addresses]) -> Result<Self, CliError> {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let program = std::env::current_exe().map_err(CliError::failed)?;
        let mut supervisors = JoinSet::new();
        for (name, own) in names.iter().zip(addresses) {
            let config = place.config_file(name);
            write_config(&config, name, own, names, addresses)?;
            let process = NodeProcess {
                name: name.clone(),
                program: program.clone(),
                config,
                log: place.log_file(name),
                stop: stop.clone(),
                kill: kill.clone(),
            };
            supervisors.spawn(process.supervise(sender.clone()));
        }
        Ok(Self { addresses: addresses.to_vec(), supervisors, events, stop, kill })
    }

    /// Introduces the cluster once it has a leader, then tells what happens to it, until it is time to stop.
    async fn watch(
        &mut self,
        place: &Place,
        duration: Option<Duration>,
        signals: &mut Signals,
    ) -> Result<(), CliError> {
        let urls: Vec<String> = self.addresses.iter().map(Addresses::client_url).collect();
        let client = Client::to(urls, Duration::from_secs(2))?;
        let end = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        let founding = wait_for_leader(&client, self.addresses.len());
        tokio::pin!(founding);
        let mut introduced = false;
        loop {
            tokio::select! {
                view = &mut founding, if !introduced => {
                    introduced = true;
                    introduce(place, &self.addresses, &view?)?;
                }
                event = self.events.recv() => match event {
                    Some(Event::GaveUp { name, why }) => {
                        return Err(CliError::failed(format!("{name} does not stay up: {why}")));
                    }
                    Some(event) => output::line(event)?,
                    None => return Err(CliError::failed("all nodes are gone")),
                },
                () = &mut end => return Ok(()),
                () = signals.next() => return Ok(()),
            }
        }
    }

    /// Stops the processes cleanly and waits for them; a signal meanwhile kills them.
    async fn stop(mut self, signals: &mut Signals) -> Result<(), CliError> {
        self.events.close();
        output::line("stopping the nodes")?;
        self.stop.cancel();
        let mut interrupted = false;
        loop {
            tokio::select! {
                joined = self.supervisors.join_next() => {
                    if joined.is_none() {
                        break;
                    }
                }
                () = signals.next(), if !interrupted => {
                    interrupted = true;
                    self.kill.cancel();
                }
            }
        }
        match interrupted {
            true => Err(CliError::new(Exit::Interrupted, "a second signal: the nodes were killed")),
            false => output::line("all nodes are stopped"),
        }
    }
}

/// Waits until the leader answers for itself, with every node in sight.
async fn wait_for_leader(client: &Client, nodes: usize) -> Result<ClusterView, CliError> {
    let deadline = tokio::time::Instant::now() + LEADER_TIMEOUT;
    loop {
        let view = match client.once(&Call::get("/v1/cluster?timeout=1s")).await {
            Ok(reply) => reply.json::<ClusterView>(),
            Err(error) => Err(error),
        };
        match view {
            Ok(view) if view.healthy && view.members.len() == nodes => return Ok(view),
            Ok(view) if tokio::time::Instant::now() > deadline => {
                return Err(CliError::failed(format!("no healthy cluster in time: {}", view.reasons.join("; "))));
            }
            Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
            _ => tokio::time::sleep(LEADER_POLL).await,
        }
    }
}

/// Prints where the nodes are and what to try.
fn introduce(place: &Place, addresses: &[Addresses], view: &ClusterView) -> Result<(), CliError> {
    let leader = view.leader.as_deref().unwrap_or("?");
    let pid_of = |name: &str| view.members.iter().find(|member| member.name == name).and_then(|member| member.pid);
    let mut text = format!("\n{} nodes are up, {leader} leads.\n\n", addresses.len());
    for own in addresses {
        let pid = pid_of(&own.name).map_or_else(|| "?".into(), |pid| pid.to_string());
        text.push_str(&format!(
            "  {}  {}  pid {pid}  (probes and metrics {})\n",
            own.name,
            own.client_url(),
            own.ops_url()
        ));
    }
    let (first, last) = (&addresses[0], &addresses[addresses.len() - 1]);
    let pid = pid_of(leader).map_or_else(|| "?".into(), |pid| pid.to_string());
    text.push_str(&format!(
        "\ntry:\n  curl -X PUT --data-binary hello {}/v1/kv/greeting\n  curl {}/v1/kv/greeting\n  kill -9 {pid}    # the \
         leader, {leader}: another one takes over; {leader} is started again and catches up\n\n{}\nCtrl-C stops the nodes.\n",
        first.client_url(),
        last.client_url(),
        place.describe(),
    ));
    output::bytes(text.as_bytes())
}

/// Writes the configuration file of one node.
fn write_config(
    path: &Path,
    name: &str,
    own: &Addresses,
    names: &[String],
    addresses: &[Addresses],
) -> Result<(), CliError> {
    let bootstrap: Vec<String> =
        names.iter().zip(addresses).map(|(name, addresses)| format!("\"{name}={}\"", addresses.peer)).collect();
    let text = format!(
        "# Written by `raft-node demo` at each start.\n\
         name = \"{name}\"\ncluster = \"{CLUSTER}\"\ndata_dir = \"{name}\"\nbootstrap = [{}]\n\n\
         [client]\nlisten = \"{}\"\n\n[ops]\nlisten = \"{}\"\n\n[peer]\nlisten = \"{}\"\n\n\
         [peer.tls]\nca = \"certs/ca.pem\"\ncert = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n",
        bootstrap.join(", "),
        own.client,
        own.ops,
        own.peer,
    );
    std::fs::write(path, text)
        .map_err(|error| CliError::failed(format!("{} cannot be written: {error}", path.display())))
}
