//! A node of nothing but parts of its own: the log on redb, the peers over TCP and TLS, counters as the state.

use std::process::ExitCode;
use std::sync::Arc;

use counter::{Arguments, Counter, shell};
use log_redb::{DataFile, RedbIdentity, RedbStore};
use net_tcp::{Settings, TcpTransport, Tls};
use raft_node::parts::LogFactory;
use raft_node::small_state::InMemory;
use raft_node::{Node, Parts};

/// One thread is enough for what waits; the log, apply and snapshots have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("own-parts: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    std::fs::create_dir_all(&arguments.dir)?;

    // Who the node is and what its log holds lie in one file.
    let file = DataFile::open(&arguments.dir.join("node.redb"))?;
    let identity = RedbIdentity::open(&file, arguments.name.clone())?;
    let log: LogFactory = Box::new(move || Ok(Box::new(RedbStore::new(&file))));

    let tls = Tls::load(&arguments.cluster, &arguments.authority(), &arguments.certificate(), &arguments.key())?;
    let transport = TcpTransport::new(Settings::new(arguments.listen.to_string(), tls));

    let state = InMemory::<Counter>::factory(arguments.dir.join("counter"), Counter::default);
    let (directory, config) = (&arguments.dir, arguments.config());
    let parts = Parts::new(Box::new(identity), log, state, Arc::new(transport), directory, config);
    Ok(shell::run(Node::start(parts).await?).await?)
}
