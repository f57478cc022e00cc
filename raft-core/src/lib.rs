//! Raft, as a value that thinks and does nothing else.
//!
//! This crate decides: who leads, what is appended, what is committed, when a read may be served. It has no clock, no
//! thread, no socket, no disk, and sees no payload bytes while it decides. Whoever embeds it says what happened, and
//! does what it asks.
//!
//! # The protocol in one page
//! Members agree on a **log** of entries; each applies the committed ones, in order, to its own state machine. Time is
//! cut into **terms**; in each, at most one **leader** is elected, since a member votes once per term and a majority
//! is needed ([`raft`], files `candidate.rs` and `member.rs`; Raft §5.2). Before it raises the term, a node asks
//! whether it would be elected at all (PreVote, thesis 9.6). Only a candidate whose log is at least as up to date as
//! its voters' is elected (§5.4.1), so a new leader holds everything that was ever committed.
//!
//! The leader appends clients' commands and sends them to the others. Each append names the entry before its first
//! one; a follower that does not hold that entry refuses, and says where the logs could still meet (§5.3, `log.rs`,
//! `progress.rs`). An entry of the leader's own term that a majority holds **durably** is committed, and with it all
//! before it (§5.4.2, `leader.rs`); a no-op opens each term, so that this comes soon (§8). Linearizable reads write
//! nothing: the leader confirms with a round of heartbeats that it still leads (thesis 6.4, `reads.rs`).
//!
//! Who votes is an entry too. It acts as soon as it is appended, and any set of voters becomes any other by a joint
//! configuration, in which both sets decide ([`membership`], `changes.rs`; §6).
//!
//! # The two values
//! [`raft::Raft`] is the protocol: [`event::Event`] in, [`effect::Effect`]s out. [`replica::Replica`] adds what decides
//! an order around it: payloads, a cache of entries, callers that wait. Embed `Replica`; read `Raft`.
//!
//! Your duties, for every [`replica::Input`]:
//! 1. Read the clock **after** you took the input from its queue, and call [`replica::Replica::step`].
//! 2. Carry out all outputs, in order, before the next input.
//! 3. [`Persist`](replica::Output::Persist): give the write to the log store; after it and all before it are durable,
//!    send its `release` messages, then report [`Persisted`](replica::Input::Persisted). Never send them sooner: they
//!    are votes and acknowledgements, and promise what the write holds.
//! 4. [`Apply`](replica::Output::Apply): apply in order, answer the waiters, report
//!    [`Applied`](replica::Input::Applied).
//! 5. Give a [`Tick`](replica::Input::Tick) when [`replica::Replica::deadline`] has come.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use raft_core::config::Config;
//! use raft_core::membership::Configuration;
//! use raft_core::ports::Recovered;
//! use raft_core::replica::{Input, Now, Output, Proposal, Replica};
//! use raft_core::types::{Index, NodeId, Payload};
//!
//! // A cluster of one. Its "disk" is durable at once, and its state machine counts.
//! let config = Config::new(NodeId(1), Configuration::new([NodeId(1)]));
//! let mut replica = Replica::new(config, Recovered::default(), Index::ZERO, Now::default())?;
//! let mut applied = Vec::new();
//! let mut inputs = std::collections::VecDeque::new();
//! let mut outputs = Vec::new();
//!
//! // Nobody is heard for an election timeout: it elects itself.
//! let now = Now::at(Duration::from_secs(1));
//! inputs.push_back(Input::Tick);
//! let payload = Payload::new(Bytes::from_static(b"hello"));
//! let mut proposal = Some(Proposal { payload, deadline: Duration::from_secs(9), waiter: "the caller" });
//! while let Some(input) = inputs.pop_front() {
//!     replica.step(now, input, &mut outputs);
//!     for output in outputs.drain(..) {
//!         match output {
//!             Output::Persist(persist) => {
//!                 inputs.push_back(Input::Persisted { write: persist.write.id, result: Ok(()) });
//!             }
//!             Output::Apply(batch) => {
//!                 inputs.push_back(Input::Applied { index: batch.last, durable: batch.last });
//!                 applied.extend(batch.waiters);
//!             }
//!             _ => {}
//!         }
//!     }
//!     if replica.raft().leader().is_some() {
//!         inputs.extend(proposal.take().map(|proposal| Input::Propose(vec![proposal])));
//!     }
//! }
//! // The no-op is entry 1, the command entry 2.
//! assert_eq!(applied, [(Index(2), "the caller")]);
//! # Ok::<(), raft_core::config::ConfigError>(())
//! ```
//!
//! # What is absent
//! No wire or disk format: they belong to the edges, and so does serde. One exception: the bytes of a configuration
//! ([`membership`]), which is an entry that the core itself has to read. What the core does not use and transport authors
//! would each write again is offered to them: [`codec`] and [`roster`]. No panic on what a peer, a disk or a client
//! says: those are named errors and [`Refused`](replica::Output::Refused). A panic here is a bug of ours: the
//! invariants (`invariants.rs`) are asserted after every step, in release builds too.
#![forbid(unsafe_code)]

mod cache;
mod candidate;
mod changes;
pub mod codec;
pub mod config;
mod configurations;
pub mod effect;
pub mod event;
mod fill;
mod follower;
pub mod handover;
mod input;
mod invariants;
pub mod kept_log;
mod leader;
pub mod lease;
mod log;
mod member;
pub mod membership;
pub mod message;
mod mutant;
pub mod ports;
mod progress;
mod proposals;
mod quorum;
pub mod raft;
pub mod random;
mod reads;
pub mod replica;
pub mod roster;
pub mod runs;
pub mod snapshot;
pub mod status;
mod suffix;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
mod view;
