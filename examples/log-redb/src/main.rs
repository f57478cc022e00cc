//! Counters whose log is on redb: the state machine and the shell are those of `examples/counter`, the peers are
//! reached over QUIC.

use std::process::ExitCode;
use std::sync::Arc;

use counter::{Arguments, Counter, shell};
use log_redb::{DataFile, RedbIdentity, RedbStore};
use raft_core::ports::LogStore;
use raft_net_quic::{QuicConfig, QuicTransport, Start, TlsFiles};
use raft_node::parts::IdentityStore as _;
use raft_node::small_state::InMemory;
use raft_node::{Node, Parts};

/// One thread is enough for what waits; the log, apply and snapshots have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log-redb: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    std::fs::create_dir_all(&arguments.dir)?;
    let file = DataFile::open(&arguments.dir.join("node.redb"))?;
    let identity = RedbIdentity::open(&file, arguments.name.clone())?;

    let tls = TlsFiles { ca: arguments.authority(), cert: arguments.certificate(), key: arguments.key() };
    let transport = QuicTransport::new(QuicConfig::new(arguments.listen, &arguments.cluster, tls))?;
    // By this a peer tells this file from a copy of it.
    if let [nonce, earlier @ ..] = identity.starts() {
        transport.set_start(Start { count: identity.start_count(), nonce: *nonce, earlier: earlier.to_vec() });
    }

    let log = Box::new(move || Ok(Box::new(RedbStore::new(&file)) as Box<dyn LogStore>));
    let state = InMemory::<Counter>::factory(arguments.dir.join("counter"), Counter::default);
    let parts = Parts::new(Box::new(identity), log, state, Arc::new(transport), &arguments.dir, arguments.config());
    Ok(shell::run(Node::start(parts).await?).await?)
}
