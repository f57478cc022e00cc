//! Counters on the default parts: the log on RocksDB, the peers over QUIC, no HTTP.

use std::process::ExitCode;
use std::sync::Arc;

use counter::{Arguments, Counter, shell};
use raft_log_rocks::{DataDir, LogOptions};
use raft_net_quic::{QuicConfig, QuicTransport, Start, TlsFiles};
use raft_node::rocks::SharedDataDir;
use raft_node::small_state::InMemory;
use raft_node::{Node, Parts};

/// One thread is enough for what waits; the log, apply and snapshots have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counter: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let directory = DataDir::open(&arguments.dir, &arguments.name)?;

    let tls = TlsFiles { ca: arguments.authority(), cert: arguments.certificate(), key: arguments.key() };
    let transport = QuicTransport::new(QuicConfig::new(arguments.listen, &arguments.cluster, tls))?;
    // By this a peer tells this disk from a copy of it.
    let start = directory.start();
    transport.set_start(Start { count: start.count, nonce: start.nonce, earlier: start.earlier.clone() });

    let state = InMemory::<Counter>::factory(arguments.dir.join("counter"), Counter::default);
    let directory = SharedDataDir::new(directory);
    let log = directory.log(LogOptions::default());
    let parts = Parts::new(Box::new(directory), log, state, Arc::new(transport), &arguments.dir, arguments.config());
    Ok(shell::run(Node::start(parts).await?).await?)
}
