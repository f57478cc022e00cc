//! The suite that defines [`Transport`] and what it calls on [`Inbound`](crate::ports::Inbound).
//!
//! It is async and knows no executor: run it on the one that your transport needs. A [`TransportLab`] makes the
//! transports of one network and lets time pass; every case gets a lab of its own.
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use raft_core::ports::Transport;
//! use raft_core::testing::MemNet;
//! use raft_core::testing::transport_suite::TransportLab;
//! use raft_core::types::NodeName;
//!
//! struct Lab(MemNet);
//!
//! #[async_trait::async_trait]
//! impl TransportLab for Lab {
//!     fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
//!         self.0.transport(name)
//!     }
//!     fn address(&mut self, name: &NodeName) -> String {
//!         name.to_string()
//!     }
//!     async fn pause(&self, time: Duration) {
//!         std::thread::sleep(time); // `tokio::time::sleep(time).await` where there is a runtime
//!     }
//! }
//! # let _ = Lab(MemNet::new());
//! // In a test: block_on(transport_suite::run(&mut || Box::new(Lab(MemNet::new()))))
//! ```
//!
//! # Faults
//!
//! Links that are cut or bad and peers that stand still are for the lab to bring about, with the methods that have a
//! default. The cases that need one that the lab lacks are not run, and the [`Summary`] names them;
//! [`Summary::demand_all`] makes that a failure. In memory [`MemNet`](crate::testing::MemNet) offers them all. For a
//! transport over UDP put a [`UdpRelay`](crate::testing::UdpRelay) between its nodes, as `raft-net-quic` does in its
//! `tests/conformance.rs`: `address` gives the relay's address of a node, `cut` and `disturb` go to the relay. For one over
//! TCP a [`TcpRelay`](crate::testing::TcpRelay), as `examples/net-tcp` does: `address_for` gives the relay's address of a
//! node for another one.
//! ```
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use raft_core::ports::Transport;
//! # use raft_core::testing::MemNet;
//! # use raft_core::testing::transport_suite::{Disturbance, TransportLab};
//! # use raft_core::types::NodeName;
//! #[derive(Default)]
//! struct Lab {
//!     net: MemNet,
//!     cuts: Vec<(NodeName, NodeName)>,
//! }
//!
//! #[async_trait::async_trait]
//! impl TransportLab for Lab {
//!     // make, address and pause as above
//! #    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
//! #        self.net.transport(name)
//! #    }
//! #    fn address(&mut self, name: &NodeName) -> String {
//! #        name.to_string()
//! #    }
//! #    async fn pause(&self, time: Duration) {
//! #        std::thread::sleep(time);
//! #    }
//!     fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
//!         self.net.stall(name, stalled);
//!         true
//!     }
//!     fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
//!         self.net.cut_one_way(from, to);
//!         self.cuts.push((from.clone(), to.clone()));
//!         true
//!     }
//!     fn disturb(&mut self, disturbance: Disturbance) -> bool {
//!         self.net.lose(disturbance.loss_percent.into(), 1); // it has no datagrams that could be doubled or damaged
//!         true
//!     }
//!     fn heal(&mut self) {
//!         self.net.lose(0, 1);
//!         self.cuts.drain(..).for_each(|(from, to)| self.net.heal(&from, &to));
//!     }
//! }
//! # let mut lab = Lab::default();
//! # assert!(lab.disturb(Disturbance::BAD));
//! # lab.heal();
//! ```
//! Nothing here depends on how fast anything is: what has to happen is waited for, up to half a minute; what must not
//! happen is looked for after something that comes later has happened.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::message::{Envelope, Message, PeerMessage};
use crate::ports::{LocalIdentity, Peer, Transport};
use crate::runs::Span;
use crate::testing::{Outcome, Rule, Summary, Work};
use crate::types::{ClusterId, Entry, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Term};

mod fault_cases;
mod identity_cases;
mod message_cases;
mod recorder;
mod request_cases;
mod snapshot_cases;
mod stage;

use recorder::Recorder;

/// One look at a condition to the next.
const POLL: Duration = Duration::from_millis(5);
/// Looks at a condition before the suite gives up: half a minute.
const POLLS_MAX: u32 = 6000;

/// Makes the transports of one network.
#[async_trait]
pub trait TransportLab: Send {
    /// A transport for the node of this name, neither started nor told of any peer. When it is called again for a name
    /// whose transport was stopped and dropped, that node restarts at the same address.
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport>;

    /// Where others reach the node of this name; asked for before it is made, too. Nobody else listens there.
    fn address(&mut self, name: &NodeName) -> String;

    /// Where `from` reaches the node `to`, if not everybody reaches it at [`TransportLab::address`]: a relay of streams
    /// tells by the address who dials.
    fn address_for(&mut self, from: &NodeName, to: &NodeName) -> String {
        let _ = from;
        self.address(to)
    }

    /// Lets time pass without holding up the executor.
    async fn pause(&self, time: Duration);

    /// Lets a node's process stand still (connections stay up, nothing is taken in) or go on.
    ///
    /// A lab that cannot do that returns false.
    fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
        let _ = (name, stalled);
        false
    }

    /// Cuts the way from one node to another, until [`TransportLab::heal`]: nothing that is sent from now on arrives.
    /// The way back stays, as far as the transport can use it.
    ///
    /// A lab that cannot do that returns false.
    fn cut(&mut self, from: &NodeName, to: &NodeName) -> bool {
        let _ = (from, to);
        false
    }

    /// Makes every link bad in this way, until [`TransportLab::heal`].
    ///
    /// A lab that cannot do that returns false.
    fn disturb(&mut self, disturbance: Disturbance) -> bool {
        let _ = disturbance;
        false
    }

    /// How long nothing may move in a transfer of a snapshot before the transports of this lab end it. Best a second or
    /// two: the case that needs it takes some three times as long.
    ///
    /// A lab that does not know returns nothing.
    fn snapshot_stall_timeout(&mut self) -> Option<Duration> {
        None
    }

    /// Ends what [`TransportLab::cut`] and [`TransportLab::disturb`] have begun.
    fn heal(&mut self) {}
}

/// What a bad link does to the datagrams below the transport, in percent of them. A lab whose network has no such thing
/// below it does what comes nearest: it loses whole messages and says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Lost.
    pub loss_percent: u32,
    /// Delivered twice.
    pub duplicate_percent: u32,
    /// Held back while later ones pass.
    pub reorder_percent: u32,
    /// Delivered with a bit flipped.
    pub corrupt_percent: u32,
    /// Followed by an old one.
    pub replay_percent: u32,
}

impl Disturbance {
    /// A link that nobody would keep, on which a transport still has to be right.
    pub const BAD: Self =
        Self { loss_percent: 5, duplicate_percent: 5, reorder_percent: 10, corrupt_percent: 3, replay_percent: 3 };
}

type CaseFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One rule and the test of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What must hold.
    pub rule: Rule,
    test: for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
}

impl Case {
    /// Tests the rule in a network of its own.
    ///
    /// # Panics
    /// When the rule is broken.
    pub async fn run(&self, lab: Box<dyn TransportLab>) -> Outcome {
        let mut bench = Bench { rule: self.rule, lab, work: Work::default(), lacks: None };
        (self.test)(&mut bench).await;
        let (work, lacks) = (bench.work, bench.lacks);
        lacks.map_or(Outcome::Held(work), |lacks| Outcome::NotRun { lacks })
    }
}

/// Runs every case that the lab can bring about, each in a fresh network.
///
/// # Panics
/// At the first broken rule, with its name and reason.
pub async fn run(fresh: &mut dyn FnMut() -> Box<dyn TransportLab>) -> Summary {
    let mut summary = Summary::new("transport suite");
    for case in cases() {
        summary.note(case.rule.name, case.run(fresh()).await);
    }
    summary
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = message_cases::cases();
    cases.extend(request_cases::cases());
    cases.extend(identity_cases::cases());
    cases.extend(snapshot_cases::cases());
    cases.extend(fault_cases::cases());
    cases
}

struct Bench {
    rule: Rule,
    lab: Box<dyn TransportLab>,
    /// Of the fault cases only.
    work: Work,
    /// What the case has asked the lab for in vain.
    lacks: Option<&'static str>,
}

/// A node of the test.
struct Member {
    name: NodeName,
    id: NodeId,
    incarnation: Incarnation,
    cluster: Option<ClusterId>,
    transport: Arc<dyn Transport>,
    inbound: Arc<Recorder>,
}

const CLUSTER: ClusterId = ClusterId(0xc1);

impl Member {
    /// How it shows itself: a member of its cluster, or blank.
    fn local(&self) -> LocalIdentity {
        LocalIdentity {
            name: self.name.clone(),
            incarnation: self.incarnation,
            cluster: self.cluster,
            id: self.cluster.map(|_| self.id),
        }
    }

    fn is_connected_to(&self, other: &Self) -> bool {
        let (statuses, _) = self.transport.status();
        statuses.iter().any(|(name, status)| *name == other.name && status.connected)
    }

    /// Whether it, or the other one of a pair, shows that a connection was refused.
    fn shows_a_refusal(&self) -> bool {
        let (statuses, refusals) = self.transport.status();
        !refusals.is_empty() || statuses.iter().any(|(_, status)| status.last_error.is_some() && !status.connected)
    }
}

impl Bench {
    /// A member that is not started. Its number gives its id and its name.
    fn member(&mut self, number: u64) -> Member {
        let name = NodeName::new(format!("node{number}"));
        let transport = self.lab.make(&name);
        let id = NodeId(number);
        let inbound = Arc::new(Recorder::default());
        let incarnation = Incarnation(0x1000 + u128::from(number));
        Member { name, id, incarnation, cluster: Some(CLUSTER), transport, inbound }
    }

    /// A member as `other` knows it.
    fn peer(&mut self, member: &Member, other: &Member) -> Peer {
        Peer {
            name: member.name.clone(),
            address: self.lab.address_for(&other.name, &member.name),
            id: member.cluster.map(|_| member.id),
            incarnation: member.cluster.map(|_| member.incarnation),
        }
    }

    async fn start(&mut self, member: &Member, peers: &[&Member]) {
        self.start_alone(member).await;
        self.set_peers(member, peers);
    }

    async fn start_alone(&self, member: &Member) {
        let result = member.transport.start(Arc::clone(&member.inbound) as _).await;
        self.rule.expect(result, "starting a transport");
    }

    fn set_peers(&mut self, member: &Member, peers: &[&Member]) {
        let peers = peers.iter().map(|peer| self.peer(peer, member)).collect();
        member.transport.set_peers(member.local(), peers);
    }

    /// Members of one cluster, all connected.
    async fn cluster(&mut self, size: u64) -> Vec<Member> {
        let members: Vec<_> = (1..=size).map(|number| self.member(number)).collect();
        for member in &members {
            let peers: Vec<_> = members.iter().filter(|peer| peer.id != member.id).collect();
            self.start(member, &peers).await;
        }
        self.connected(&members.iter().collect::<Vec<_>>()).await;
        members
    }

    /// Waits until each one has heard from each other one.
    async fn connected(&self, members: &[&Member]) {
        for one in members {
            for other in members.iter().filter(|other| other.id != one.id) {
                self.heard(one, other).await;
            }
        }
    }

    /// Sends heartbeats until one of them arrives.
    async fn heard(&self, from: &Member, to: &Member) {
        let before = to.inbound.heartbeats_from(from.id);
        self.until(&format!("a heartbeat from {} to {}", from.name, to.name), || {
            from.transport.send(to.id, heartbeat(from, to, 0));
            to.inbound.heartbeats_from(from.id) > before
        })
        .await;
    }

    /// Waits until `condition` holds, and panics by the rule when it does not in half a minute.
    async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        for _ in 0..POLLS_MAX {
            if condition() {
                return;
            }
            self.lab.pause(POLL).await;
        }
        self.rule.fail(&format!("waited {:?} in vain for {what}", POLL * POLLS_MAX));
    }

    /// Sends a message until it arrives. On a working connection it may only be lost when its sender is told so.
    async fn deliver(&self, from: &Member, to: &Member, message: &PeerMessage) {
        loop {
            let (told, seen) = (from.inbound.times_unreachable(to.id), to.inbound.count());
            from.transport.send(to.id, message.clone());
            let mut arrived = false;
            self.until(&format!("{} from {} to {}", message.envelope.message.name(), from.name, to.name), || {
                arrived = to.inbound.messages()[seen..].contains(message);
                arrived || from.inbound.times_unreachable(to.id) > told
            })
            .await;
            if arrived {
                return;
            }
        }
    }

    /// What must hold of everything that a member has received, whatever the case.
    fn check_arrivals(&self, member: &Member) {
        for message in member.inbound.messages() {
            let envelope = &message.envelope;
            self.rule.demand(envelope.to == member.id, || {
                format!("{} received a {} that is for {}", member.id, envelope.message.name(), envelope.to)
            });
        }
    }
}

fn envelope(from: &Member, to: &Member, message: Message) -> PeerMessage {
    let envelope = Envelope { from: from.id, to: to.id, term: Term(7), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() }
}

fn heartbeat(from: &Member, to: &Member, round: u64) -> PeerMessage {
    envelope(from, to, Message::Heartbeat { commit: Index::ZERO, round, wants_holder: false })
}

/// An append of these entries, which follow `prev`.
fn append(from: &Member, to: &Member, prev: LogId, entries: Vec<Entry>) -> PeerMessage {
    let span = Span::of(prev, &entries).expect("the suite sends stretches of a log");
    PeerMessage { entries, ..envelope(from, to, Message::Append { entries: span, commit: prev.index }) }
}

/// The append with one entry of this index and `length` bytes more.
fn numbered_append(from: &Member, to: &Member, index: u64, length: usize) -> PeerMessage {
    append(from, to, LogId::new(Index(index - 1), Term(7)), vec![super::entry(index, 7, length)])
}

/// The number that [`numbered_append`] gave.
fn number_of(message: &PeerMessage) -> Option<u64> {
    match &message.envelope.message {
        Message::Append { entries, .. } => Some(entries.last().index.0),
        _ => None,
    }
}
