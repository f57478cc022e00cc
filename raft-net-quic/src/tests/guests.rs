//! Nodes that ask and are no peers, and processes on copies of one disk.

use raft_core::ports::RequestError;

use super::hostile::{Stranger, greet};
use super::*;
use crate::link::PeerLink;
use crate::wire::hello::{Hello, Refusal, Reply};
use crate::{EARLIER_STARTS_MAX, Limits, Start};

const WAIT: Duration = Duration::from_secs(10);

/// A host that belongs to a cluster and knows nobody, and a blank node that knows the host.
async fn strangers(authority: &Authority) -> (Node, Node) {
    let host = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let guest = Node::start(2, authority.node(CLUSTER, "n2")).await;
    host.knows(&[]);
    let known = Peer { id: None, incarnation: None, ..peer(1, host.address) };
    guest.transport.set_peers(blank(2), vec![known]);
    (host, guest)
}

/// Asks until it is answered: a request on a connection that gives way to another one meanwhile is not.
async fn is_answered(node: &Node, number: u64) {
    let answered = async { while asks(node, number).await != Ok(Bytes::from_static(b"hello")) {} };
    tokio::time::timeout(3 * WAIT, answered).await.expect("an answer");
}

async fn asks(node: &Node, number: u64) -> Result<Bytes, RequestError> {
    node.transport.request(&name(number), Bytes::from_static(b"hello"), WAIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused_until_guests_are_admitted_and_becomes_a_peer() {
    let authority = Authority::new();
    let (host, guest) = strangers(&authority).await;
    until("a refusal", || host.refusals("unknown_name") > 0).await;
    assert!(host.inbound.asked.lock().is_empty());
    host.transport.admit_guests(true);
    until("the guest", || guest.is_connected(1)).await;
    is_answered(&guest, 1).await;
    assert_eq!(host.inbound.asked.lock()[0].0.name, name(2));
    // It is admitted: both know each other, and Raft messages travel.
    host.knows(&[&guest]);
    guest.knows(&[&host]);
    guest.reaches(&host).await;
    host.reaches(&guest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_name_with_another_disk_may_ask_as_a_guest() {
    let authority = Authority::new();
    let (host, guest) = strangers(&authority).await;
    host.transport.admit_guests(true);
    let lost = Peer { incarnation: Some(Incarnation(99)), ..peer(2, guest.address) };
    host.transport.set_peers(member(1), vec![lost]);
    until("a refusal", || host.refusals("other_incarnation") > 0).await;
    // The host dials too, to the disk that it knows; what is asked on such a connection has no answer.
    is_answered(&guest, 1).await;
    assert!(host.inbound.received.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_may_ask_and_nothing_else() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    one.transport.admit_guests(true);
    one.knows(&[]);
    let before = one.inbound.count();
    until("a visit", || {
        two.send(1, heartbeat(7));
        two.is_connected(1) && one.refusals("unknown_name") > 0
    })
    .await;
    is_answered(&two, 1).await;
    assert_eq!(one.inbound.count(), before, "no message of a node that is no peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_another_nonce_or_a_lower_count_is_refused() {
    let authority = Authority::new();
    // So patient that a busy machine does not pass for a dead process.
    let patient = |config: &mut QuicConfig| config.timing.acknowledge_timeout = WAIT;
    let host = Node::start_at(1, authority.node(CLUSTER, "n1"), any_port(), patient).await;
    let start = |count, nonce, earlier: &[u128]| {
        let earlier = earlier.to_vec();
        let files = authority.node(CLUSTER, "n2");
        async move {
            let transport = QuicTransport::new(QuicConfig::new(any_port(), CLUSTER, files)).unwrap();
            transport.set_start(Start { count, nonce, earlier });
            let inbound = Recorder::new();
            transport.start(inbound.clone()).await.unwrap();
            let address = transport.local_address().unwrap();
            Node { number: 2, transport, inbound, address }
        }
    };
    let real = start(7, 1, &[]).await;
    host.knows(&[&real]);
    real.knows(&[&host]);
    real.reaches(&host).await;
    for (count, nonce, reason) in [(7, 2, "cloned_disk"), (6, 3, "rolled_back_disk")] {
        let copy = start(count, nonce, &[]).await;
        copy.knows(&[&host]);
        until(reason, || host.refusals(reason) > 0).await;
        until("the copy to be told", || copy.inbound.refused.lock().iter().any(|told| told == reason)).await;
        assert!(!copy.is_connected(1));
    }
    // A later start is a copy too while the one before it lives.
    let twin = start(8, 5, &[1]).await;
    twin.knows(&[&host]);
    until("the twin to be told", || twin.inbound.refused.lock().iter().any(|told| told == "cloned_disk")).await;
    assert!(!twin.is_connected(1));
    real.reaches(&host).await;
    // Afterwards it is none, if it comes after it: an older copy reaches the same counts in the end.
    twin.transport.stop().await;
    real.transport.stop().await;
    let before = host.refusals("cloned_disk");
    let copy = start(9, 6, &[3, 2]).await;
    copy.knows(&[&host]);
    until("the copy to be told", || copy.inbound.refused.lock().iter().any(|told| told == "cloned_disk")).await;
    assert!(host.refusals("cloned_disk") > before && !copy.is_connected(1));
    copy.transport.stop().await;
    let later = start(9, 4, &[5, 1]).await;
    host.knows(&[&later]);
    later.knows(&[&host]);
    later.reaches(&host).await;
}

/// A disk that is started again and again; a clone of it is a copy of the disk.
#[derive(Clone, Default)]
struct Disk {
    nonces: Vec<u128>,
}

impl Disk {
    /// Starts are numbered over all copies, so that no two have the same nonce.
    fn start(&mut self, drawn: &mut u128) -> Start {
        *drawn += 1;
        let earlier = self.nonces.iter().rev().take(EARLIER_STARTS_MAX).copied().collect();
        self.nonces.push(*drawn);
        Start { count: self.nonces.len() as u64, nonce: *drawn, earlier }
    }
}

#[test]
fn a_disk_that_was_set_back_is_refused_however_often_it_is_started() {
    let remote = RemoteIdentity { name: name(2), incarnation: Incarnation(7), cluster: None, id: None };
    let meets = |starts: &[Start]| {
        let link = PeerLink::new(member(1), peer(2, nowhere()), &Limits::default());
        starts.iter().map(|start| link.check_start(&remote, Some(start.clone()))).collect::<Vec<_>>()
    };
    let mut drawn = 0;
    let mut disk = Disk::default();
    let mut seen = vec![disk.start(&mut drawn)];
    let mut copy = disk.clone();
    seen.extend([disk.start(&mut drawn), disk.start(&mut drawn)]);
    seen.extend((0..5).map(|_| copy.start(&mut drawn)));
    let outcomes = meets(&seen);
    assert_eq!(outcomes[..3], [const { Ok(()) }; 3]);
    let refused: Vec<_> = outcomes[3..].iter().map(|outcome| outcome.clone().unwrap_err()).collect();
    assert_eq!(refused[0], Refusal::RolledBackDisk { known: 3, found: 2 });
    assert_eq!(refused[1], Refusal::ClonedDisk { count: 3 });
    assert_eq!(refused[2..], [4, 5, 6].map(|found| Refusal::ForkedDisk { known: 3, found }));
    assert!(refused[1..].iter().all(|refusal| refusal.reason() == "cloned_disk"));
    // The real disk is taken, whether it was seen at each start or not.
    for unseen in [0, 4, EARLIER_STARTS_MAX - 1, EARLIER_STARTS_MAX, 69] {
        let mut disk = disk.clone();
        (0..unseen).for_each(|_| drop(disk.start(&mut drawn)));
        let next = disk.start(&mut drawn);
        assert_eq!(meets(&[seen[2].clone(), next]), [Ok(()), Ok(())], "after {unseen} unseen starts");
    }
    // The bound is that of the list: nobody can tell beyond it.
    let found = 3 + EARLIER_STARTS_MAX as u64;
    let lost = |count| Start { count, nonce: 1 << 100, earlier: (1000..1064).collect() };
    assert_eq!(meets(&[seen[2].clone(), lost(found)])[1], Err(Refusal::ForkedDisk { known: 3, found }));
    assert_eq!(meets(&[seen[2].clone(), lost(found + 1)])[1], Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_name_does_not_disturb_the_guest_of_a_name() {
    let authority = Authority::new();
    let (host, guest) = strangers(&authority).await;
    host.transport.admit_guests(true);
    until("the guest", || guest.is_connected(1)).await;
    is_answered(&guest, 1).await;
    let to = name(1);
    let asked = guest.transport.request(&to, Bytes::from_static(b"wait"), WAIT);
    let claims = async {
        until("the request", || host.inbound.asked.lock().iter().any(|(_, request)| request.starts_with(b"w"))).await;
        let stranger = Stranger::new(&authority.node(CLUSTER, "n9")).unwrap();
        let another = LocalIdentity { incarnation: Incarnation(5), ..blank(2) };
        let hello = Hello { guest: true, ..Hello::of(&another, CLUSTER, 1) };
        let reply = greet(&stranger.connect(host.address).await, &hello).await;
        assert!(matches!(&reply, Reply::Refused { reason, .. } if reason == "certificate_name"), "{reply:?}");
        host.inbound.gate.add_permits(1);
    };
    assert_eq!(tokio::join!(asked, claims).0, Ok(Bytes::from_static(b"wait")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_comes_as_that_and_not_as_a_guest() {
    let authority = Authority::new();
    let host = Node::start(1, authority.node(CLUSTER, "n1")).await;
    host.transport.set_peers(member(1), vec![peer(2, nowhere())]);
    host.transport.admit_guests(true);
    let stranger = Stranger::new(&authority.node(CLUSTER, "n2")).unwrap();
    for (local, guest, outcome) in [
        (member(2), true, "not_ready"),
        (blank(2), true, "not_ready"),
        (member(2), false, "welcome"),
        // It may ask why it is known with another id, or another disk.
        (LocalIdentity { id: Some(NodeId(9)), ..member(2) }, true, "welcome"),
        (LocalIdentity { incarnation: Incarnation(5), ..blank(2) }, true, "welcome"),
    ] {
        let hello = Hello { guest, ..Hello::of(&local, CLUSTER, 1) };
        match greet(&stranger.connect(host.address).await, &hello).await {
            Reply::Welcome(_) => assert_eq!(outcome, "welcome", "{hello:?}"),
            Reply::Refused { reason, .. } => assert_eq!(reason, outcome, "{hello:?}"),
        }
    }
    assert_eq!(host.refusals("not_ready"), 0, "it is no fault of anybody");
}
