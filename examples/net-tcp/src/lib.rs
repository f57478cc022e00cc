//! A [`Transport`](raft_core::ports::Transport) over TCP and mutual TLS 1.3, written from the documentation of the port:
//! an example to copy. `docs/guides/transport.md` walks through it; [`TcpTransport`] is where to begin.
//!
//! Each node dials each other one, and speaks only on connections that it has dialed; so there is never a tie between
//! two. A connection has one purpose, which its dialer says in the handshake:
//!
//! | purpose | carries | how many to a peer |
//! |---|---|---|
//! | urgent | all messages but those with entries | one |
//! | bulk | appends, in the order of their sending | one |
//! | ask | a request, its answer, then the next request | as many as are asked at once; idle ones are kept |
//! | snapshot | one transfer | one |
//!
//! Votes and heartbeats never wait behind appends since they have a connection, and a queue, of their own. What a stream
//! cannot do wrong TCP sees to; what it can is handled in one place: a new connection first ends the one before it (the
//! place in `accept.rs`), so bytes of a connection that its dialer gave up are never taken after newer ones.
//!
//! - `tls`: who may connect at all, and which node a certificate names. `connection`: frames, both ways.
//! - `transport`: the port. What a node may say is judged by [`raft_core::roster`].
//! - `link`: what this node dials. `accept`: what others dial. `snapshots`: both ends of a transfer.

mod accept;
mod connection;
mod link;
mod snapshots;
mod tls;
mod transport;

pub use tls::Tls;
pub use transport::{Settings, TcpTransport};
