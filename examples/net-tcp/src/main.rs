//! Counters whose peers talk TCP: the transport of this crate, the log on RocksDB, the state machine of `counter`.

use std::process::ExitCode;
use std::sync::Arc;

use counter::{Arguments, Counter, shell};
use net_tcp::{Settings, TcpTransport, Tls};
use raft_log_rocks::{DataDir, LogOptions};
use raft_node::rocks::SharedDataDir;
use raft_node::small_state::InMemory;
use raft_node::{Node, Parts};

/// One thread is enough for what waits; the log, apply and snapshots have their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("net-tcp: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let directory = SharedDataDir::new(DataDir::open(&arguments.dir, &arguments.name)?);
    let log = directory.log(LogOptions::default());

    let (authority, certificate, key) = (arguments.authority(), arguments.certificate(), arguments.key());
    let tls = Tls::load(&arguments.cluster, &authority, &certificate, &key)?;
    let transport = TcpTransport::new(Settings::new(arguments.listen.to_string(), tls));

    let state = InMemory::<Counter>::factory(arguments.dir.join("counter"), Counter::default);
    let config = arguments.config();
    let parts = Parts::new(Box::new(directory), log, state, Arc::new(transport), &arguments.dir, config);
    Ok(shell::run(Node::start(parts).await?).await?)
}
