//! The network between members, over QUIC: [`QuicTransport`] implements [`raft_core::ports::Transport`].
//!
//! There is one connection per pair of nodes, and one for each snapshot that travels, always with mutual TLS 1.3. A certificate must chain to the configured
//! authority and name the node that it is used by: with the URI `raft://<cluster>/<node>`, or with a DNS name equal to
//! the host of the node's address. The first stream carries a handshake, in which each side says who it is and refuses
//! whoever does not fit, with a reason that both log. After that:
//!
//! - appends travel in one stream, in the order of their sending;
//! - votes, heartbeats and all answers travel in another one of higher priority, and never wait behind appends;
//! - each request has a stream of its own;
//! - each transfer of a snapshot has a connection of its own, served by threads of low priority.
//!
//! [`send`](raft_core::ports::Transport::send) puts a message in a bounded lane and returns; one task per lane writes
//! whatever waits in one go. A full lane drops and counts, and the node is told
//! ([`unreachable`](raft_core::ports::Inbound::unreachable)); Raft sends again. Nodes that are not members of a cluster
//! yet can ask each other, and nothing else.
//!
//! Both sides dial, with a short jittered backoff, so a node that comes back is connected at once. When two connections
//! come about at the same time, the one that the lesser name dialed stays. A node that lost its memory of a connection
//! says so (a stateless reset), so nobody waits for a timeout.
//!
//! What arrives is bounded before anything is allocated for it. Bytes that are no frame close their connection; a
//! message of a type that this build does not know is dropped, and the connection stays. All of it is counted by
//! reason and logged once per peer and reason. `docs/wire.md` describes every byte.
//!
//! # What to know
//! - The transport runs on the tokio runtime that [`start`](raft_core::ports::Transport::start) is called on, and starts
//!   tasks there. For snapshots it has a runtime of its own (`raft-bulk`): one thread, and one more that may block while
//!   a snapshot travels. On Linux they are niced by 10.
//! - Payloads that are received are views of a read buffer, which lives as long as the last of them. Who keeps single
//!   payloads for long copies them.
//! - Payloads are checked against their checksums as they are read, which costs nanoseconds: a fault in a sender's
//!   memory is so refused at the door and never reaches the disk of another node.
//!
//! # Example
//! Two nodes that are not founded yet; one asks the other.
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use raft_core::message::PeerMessage;
//! use raft_core::ports::{Inbound, LocalIdentity, Peer, RemoteIdentity, Transport};
//! use raft_core::ports::{SnapshotError, SnapshotOffer, SnapshotSink};
//! use raft_core::types::{Incarnation, NodeId, NodeName};
//! use raft_net_quic::{QuicConfig, QuicTransport, TlsFiles};
//!
//! struct Polite;
//!
//! #[async_trait::async_trait]
//! impl Inbound for Polite {
//!     fn receive(&self, _message: PeerMessage) {} // give it to the Raft core
//!     fn unreachable(&self, _peer: NodeId) {} // tell the Raft core
//!     async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
//!         format!("{}, {}!", String::from_utf8_lossy(&request), from.name).into()
//!     }
//!     fn snapshot(&self, _offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
//!         Err(SnapshotError::Refused("a blank node has no use for it".into())) // give the place where it is stored
//!     }
//! }
//!
//! # fn issue(directory: &std::path::Path, names: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
//! #     use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
//! #     let key = KeyPair::generate()?;
//! #     let mut params = CertificateParams::default();
//! #     params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
//! #     std::fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
//! #     let authority = Issuer::new(params, key);
//! #     for name in names {
//! #         let key = KeyPair::generate()?;
//! #         let mut params = CertificateParams::default();
//! #         params.subject_alt_names = vec![SanType::URI(format!("raft://demo/{name}").as_str().try_into()?)];
//! #         std::fs::write(directory.join(format!("{name}.pem")), params.signed_by(&key, &authority)?.pem())?;
//! #         std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
//! #     }
//! #     Ok(())
//! # }
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let at = |file: String| directory.path().join(file);
//! # issue(directory.path(), &["n1", "n2"])?;
//! let mut nodes = Vec::new();
//! for name in ["n1", "n2"] {
//!     let tls = TlsFiles {
//!         ca: at("ca.pem".into()),
//!         cert: at(format!("{name}.pem")),
//!         key: at(format!("{name}.key")),
//!     };
//!     let transport = QuicTransport::new(QuicConfig::new("127.0.0.1:0".parse()?, "demo", tls))?;
//!     transport.start(Arc::new(Polite)).await?;
//!     nodes.push((NodeName::new(name), transport));
//! }
//! for (name, transport) in &nodes {
//!     let local = LocalIdentity { name: name.clone(), incarnation: Incarnation(7), cluster: None, id: None };
//!     let peers = nodes.iter().filter(|(peer, _)| peer != name).map(|(peer, transport)| Peer {
//!         name: peer.clone(),
//!         address: transport.local_address().map(|address| address.to_string()).unwrap_or_default(),
//!         id: None,
//!         incarnation: None,
//!     });
//!     transport.set_peers(local, peers.collect());
//! }
//! let (_, first) = &nodes[0];
//! let second = NodeName::new("n2");
//! // Two connections may compete at first, and the loser may take a request with it: then ask again.
//! let answer = loop {
//!     match first.request(&second, Bytes::from_static(b"hello"), Duration::from_secs(5)).await {
//!         Ok(answer) => break answer,
//!         Err(error) => eprintln!("{error}"),
//!     }
//! };
//! assert_eq!(answer, "hello, n1!");
//! for (_, transport) in &nodes {
//!     transport.stop().await;
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod bulk;
mod config;
mod handshake;
mod lane;
mod link;
#[doc(hidden)]
pub mod measured;
mod refusals;
mod request;
mod session;
mod shared;
mod snapshot;
mod socket;
mod tls;
mod transport;
mod twin;
mod wire;

#[cfg(test)]
mod tests;

pub use config::{EARLIER_STARTS_MAX, Limits, QuicConfig, SetupError, Start, Timing, TlsFiles};
pub use transport::QuicTransport;
