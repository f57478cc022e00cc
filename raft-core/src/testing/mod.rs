//! For authors of ports: the suites that define them, the ports in memory, and nothing that a product would ship.
//!
//! You bring a storage, a transport or a state machine of your own? Its trait in [`ports`](crate::ports) says what to
//! write; the suite says whether it is right. Switch the feature on in your crate, for its tests only:
//!
//! ```toml
//! [dependencies]
//! raft-core = "0.1"
//!
//! [dev-dependencies]
//! raft-core = { version = "0.1", features = ["testing"] }
//! ```
//!
//! | you wrote a | run | and give it a |
//! |---|---|---|
//! | [`LogStore`](crate::ports::LogStore) | [`log_store_suite::run`] | [`LogStoreLab`](log_store_suite::LogStoreLab) |
//! | [`StateMachine`](crate::ports::StateMachine) | [`state_machine_suite::run`] | [`StateMachineLab`](state_machine_suite::StateMachineLab) |
//! | [`Transport`](crate::ports::Transport) | [`transport_suite::run`] | [`TransportLab`](transport_suite::TransportLab) |
//!
//! A lab is how the suite gets at your code: it makes a fresh one, opens the same one again, lets time pass. Each
//! module begins with a lab that works. One `#[test]` that calls `run` is enough; when it fails, the message names the
//! rule that is broken, what was seen, what goes wrong in a cluster because of it, what to fix and where the rule is
//! written. To work on that rule alone, take its case from `cases()` by the name and call its `run`.
//!
//! A suite makes many fresh instances and writes a few megabytes.
//!
//! # Whole clusters over your parts
//!
//! A part that passes alone goes into a cluster next: [`cluster_suite::run`] makes one of simulated nodes, each with a lab of
//! your log and your state machine (or with what there is in memory), and with the real core and the real ordering glue. On
//! one thread and from one seed it loses messages, kills processes, cuts the power, compacts, sends snapshots and changes
//! members, and demands that no acknowledged write is lost and that every replica is the same. The labs are those of the
//! suites above:
//!
//! ```
//! use raft_core::testing::cluster_suite::{self, ClusterLab};
//! use raft_core::testing::Effort;
//!
//! struct YourCluster;
//!
//! // `fn log` and `fn state_machine` give the labs of a node: both are in memory here.
//! impl ClusterLab for YourCluster {
//!     fn effort(&self) -> Effort {
//!         Effort { seeds: 0..2, steps: 100, rounds: 8 }
//!     }
//! }
//!
//! let summary = cluster_suite::run(&mut YourCluster).demand_all();
//! assert!(summary.tally().acknowledged > 20, "{summary}");
//! ```
//!
//! # Faults
//!
//! What a port promises shows when the power goes, a disk fails or a link is cut; only your lab can bring that about,
//! with methods that have a default:
//!
//! | the lab of a | offers | by |
//! |---|---|---|
//! | store or state machine | loss of power, at once or inside the next call ([`PowerCut`]) | `cut_power` |
//! | store or state machine | a disk whose syncs fail or stall, that is full or unreadable ([`DiskFault`]) | `inject`, `mend` |
//! | store | an older copy of the directory in its place | `keep_copy`, `put_back_copy` |
//! | state machine | a place for the files of snapshots, on its own file system | `scratch` |
//! | transport | links that are cut, one way or both, or bad ([`Disturbance`](transport_suite::Disturbance)) | `cut`, `disturb`, `heal` |
//! | transport | a peer whose process stands still | `stall` |
//!
//! [`FaultyFile`] does the first two for an engine that lets you put an implementation of your own under its file.
//!
//! The default is to offer nothing: the cases that need it are not run, and the [`Summary`] that `run` returns names each
//! with what the lab lacks. Start so, and when the rest holds add one method after the other; [`Summary::demand_all`] in
//! your test keeps it that way. [`Summary::work`] says how much was done, for a [`Report`] that fails when it was too
//! little. Methods that labs gain later will have such defaults too.
//!
//! ```
//! # use raft_core::ports::LogStore;
//! # use raft_core::testing::{MemDisk, log_store_suite::LogStoreLab};
//! # #[derive(Default)]
//! # struct YourLab(MemDisk);
//! # impl LogStoreLab for YourLab {
//! #     fn fresh(&mut self) -> Box<dyn LogStore> {
//! #         self.0 = MemDisk::new();
//! #         Box::new(self.0.open())
//! #     }
//! #     fn reopen(&mut self) -> Box<dyn LogStore> {
//! #         Box::new(self.0.open())
//! #     }
//! # }
//! use raft_core::testing::log_store_suite;
//!
//! let summary = log_store_suite::run(&mut YourLab::default());
//! for (rule, lacks) in summary.not_run() {
//!     eprintln!("not tested: {rule}, for want of {lacks}");
//! }
//! assert!(summary.held().contains(&"acknowledged-entries-survive"));
//! ```
//!
//! The same rules hold for the labs of this repository: `tests/conformance.rs` of `raft-log-rocks` and `raft-kv` run
//! themselves again under a preload library that knows what was synced, and that of `raft-net-quic` puts a [`UdpRelay`]
//! between its nodes, as that of `examples/net-tcp` does with a [`TcpRelay`]. Each rule has a broken implementation in `raft-core/tests/suites` that it must refuse.
//!
//! # What stays as it is
//! Semantic versioning covers this module like the rest of the crate: a lab that works goes on working, and a method that
//! labs gain has a default. Three things are not promised. A minor version may bring new **rules**, and a part that breaks one
//! is then refused where it passed before: that is what you run a suite for; [`Summary::held`] tells you the names. The
//! **texts** of messages change; names of rules do not. And what exists to test this crate itself, [`harness`] and
//! [`mutants`], the keys of a [`sim::Plan`] and what a given seed does, changes with the core.
//!
//! The ports in memory ([`MemLog`], [`MemState`], [`MemNet`]) pass the same suites. They are for tests of what stands on
//! the ports: a whole cluster of them runs in one process and needs no directory and no socket. [`MemLog`] refuses what
//! no correct core asks for, so a bug above it shows where it happens.
mod clock;
pub mod cluster_suite;
mod disk_fault;
mod faulty_file;
pub mod harness;
pub mod linear;
pub mod log_store_suite;
mod mem_log;
mod mem_net;
mod mem_state;
pub mod mutants;
mod random;
mod report;
mod rule;
pub mod sim;
pub mod state_machine_suite;
mod summary;
mod tcp_relay;
pub mod transport_suite;
mod udp_relay;

pub use disk_fault::{DiskFault, Effort, PowerCut};
pub use faulty_file::FaultyFile;
pub use mem_log::{MemDisk, MemDiskCopy, MemLog, entry};
pub use mem_net::{MemNet, MemTransport};
pub use mem_state::{MemState, MemStateDisk, entry_of, noop};
pub use random::random_bytes;
pub use report::Report;
pub use rule::Rule;
pub use summary::{Outcome, Summary, Work};
pub use tcp_relay::{TcpCounts, TcpFaults, TcpRelay};
pub use udp_relay::{UdpCounts, UdpFaults, UdpRelay};

pub use crate::random::Random;
