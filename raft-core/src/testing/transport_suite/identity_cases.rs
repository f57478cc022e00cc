//! Who is who: only members that both sides know exchange messages.

use std::time::Duration;

use bytes::Bytes;

use super::{Bench, CLUSTER, Case, CaseFuture, Member, heartbeat, numbered_append};
use crate::message::{Message, PeerMessage};
use crate::testing::Rule;
use crate::types::{ClusterId, Incarnation};

const SHORT: Duration = Duration::from_millis(300);
const PATIENT: Duration = Duration::from_secs(20);
/// Rounds of heartbeats that are sent once two nodes have to be apart begin here.
const APART: u64 = 1 << 40;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "the-sender-is-who-it-is",
            "a node that could speak for another one could vote for it",
            "take the sender from the certificate and handshake of the connection, and drop messages whose envelope \
             says otherwise",
            "Transport contract: the sender is who its certificate says; Raft §5.2",
            forged_sender as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "blank-nodes-only-ask",
            "a node without a cluster has no term, no vote and no log that could count",
            "deliver messages only between peers that both have shown a cluster and an id; let blank ones make \
             requests",
            "design 7, founding: a node with a blank directory neither votes nor campaigns",
            blank,
        ),
        case(
            "another-incarnation-is-refused",
            "a wiped disk under a known name has forgotten its vote and its log, and must not count as the old node",
            "compare the incarnation in the handshake with Peer::incarnation, refuse with a reason, and tell \
             Inbound::refused",
            "design 7: a node is (name, incarnation); Raft Figure 2, persistent state [F2-PERSIST]",
            other_incarnation,
        ),
        case(
            "another-cluster-is-refused",
            "two clusters that share addresses would elect and replicate into each other",
            "compare the cluster id in the handshake, and refuse when both have one and they differ",
            "design 8: the handshake carries the cluster id",
            other_cluster,
        ),
        case(
            "set-peers-replaces",
            "a member that was removed must not be heard any more, and one that was added must",
            "close connections to those that are no peers any more, and forget what was queued for them; dial the \
             new ones",
            "Transport::set_peers; thesis 4.2.3",
            replaced,
        ),
        case(
            "peers-may-come-before-the-start",
            "a node says whom it knows before it lets its transport listen; one that forgets it is alone for ever",
            "keep what set_peers said before start, and dial those peers in start",
            "Transport::start, Transport::set_peers",
            early_peers,
        ),
        case(
            "guests-ask-and-do-nothing-else",
            "a node that joins, or that was removed, has to ask; one that is no member must not be counted as one",
            "after admit_guests let strangers make requests, by their certificates, and drop their messages",
            "Transport::admit_guests; thesis 4.2.3",
            guests,
        ),
    ]
}

fn forged_sender(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (liar, victim, receiver) = (&members[0], &members[1], &members[2]);
        let known = receiver.inbound.heartbeats_from(victim.id);
        liar.transport.send(receiver.id, heartbeat(victim, receiver, 666));
        liar.transport.send(receiver.id, numbered_append(victim, receiver, 666, 0));
        // What is sent after them arrives after them; it may take a new connection.
        bench.deliver(liar, receiver, &numbered_append(liar, receiver, 667, 0)).await;
        bench.heard(liar, receiver).await;
        let forged = receiver
            .inbound
            .messages()
            .into_iter()
            .find(|message| message.envelope.from == victim.id && super::number_of(message).is_some());
        bench.rule.demand(forged.is_none(), || format!("{} sent as {}: {forged:?}", liar.name, victim.name));
        let heard = receiver.inbound.heartbeats_from(victim.id);
        bench.rule.demand_eq(&heard, &known, || format!("heartbeats that seem to be of {}", victim.name));
    })
}

fn blank(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let (mut first, mut second) = (bench.member(1), bench.member(2));
        (first.cluster, second.cluster) = (None, None);
        bench.start(&first, &[&second]).await;
        bench.start(&second, &[&first]).await;
        for (from, to) in [(&first, &second), (&second, &first)] {
            answered(bench, from, to).await;
            let (who, _) = to.inbound.requests().pop().expect("it was answered");
            bench.rule.demand(who.id.is_none() && who.cluster.is_none(), || format!("a blank node asked as {who:?}"));
            bench.rule.demand_eq(&who.incarnation, &from.incarnation, || "incarnation of a blank node".into());
        }
        // One is a member now and takes the other one for a member, which does not know of it yet.
        (first.cluster, second.cluster) = (Some(CLUSTER), Some(CLUSTER));
        bench.set_peers(&first, &[&second]);
        second.cluster = None;
        for round in 1..=20 {
            first.transport.send(second.id, heartbeat(&first, &second, round));
            first.transport.send(second.id, numbered_append(&first, &second, round, 0));
            second.transport.send(first.id, heartbeat(&second, &first, round));
        }
        answered(bench, &first, &second).await;
        answered(bench, &second, &first).await;
        let arrived = first.inbound.count() + second.inbound.count();
        bench.rule.demand_eq(&arrived, &0, || "messages from or to a blank node".into());

        second.cluster = Some(CLUSTER);
        bench.set_peers(&second, &[&first]);
        bench.connected(&[&first, &second]).await;
    })
}

/// Asks until there is an answer: connections are made again after a change of identity.
async fn answered(bench: &Bench, from: &Member, to: &Member) {
    for _ in 0..200 {
        if from.transport.request(&to.name, Bytes::from_static(b"who"), PATIENT).await.is_ok() {
            return;
        }
        bench.lab.pause(super::POLL).await;
    }
    bench.rule.fail(&format!("{} never got an answer from {}", from.name, to.name));
}

/// Lets two nodes that do not fit try for a while and demands that nothing passes.
async fn demand_apart(bench: &Bench, one: &Member, other: &Member) {
    let asked = one.inbound.requests().len() + other.inbound.requests().len();
    bench
        .until("a refusal to show in the status of either side", || {
            one.transport.send(other.id, heartbeat(one, other, APART));
            other.transport.send(one.id, heartbeat(other, one, APART));
            one.shows_a_refusal() || other.shows_a_refusal()
        })
        .await;
    for round in APART + 1..=APART + 5 {
        for (from, to) in [(one, other), (other, one)] {
            from.transport.send(to.id, heartbeat(from, to, round));
            let answer = from.transport.request(&to.name, Bytes::from_static(b"who"), SHORT).await;
            bench.rule.demand(answer.is_err(), || format!("{} was answered by {}", from.name, to.name));
            // One side may welcome the other, and hear only then that it is not welcome itself.
            let what = format!("{} to show no connection to {}", from.name, to.name);
            bench.until(&what, || !from.is_connected_to(to)).await;
        }
    }
    for (from, to) in [(one, other), (other, one)] {
        let passed = heartbeats_since(to, APART);
        bench.rule.demand_eq(&passed, &0, || format!("messages from {} to {}", from.name, to.name));
    }
    let handled = one.inbound.requests().len() + other.inbound.requests().len();
    bench.rule.demand_eq(&handled, &asked, || format!("requests between {} and {}", one.name, other.name));
}

/// Heartbeats that arrived of this round or a later one: told by their rounds from what was on its way before.
fn heartbeats_since(member: &Member, first: u64) -> usize {
    let late =
        |message: &&PeerMessage| matches!(message.envelope.message, Message::Heartbeat { round, .. } if round >= first);
    member.inbound.messages().iter().filter(late).count()
}

fn other_incarnation(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(3).await;
        let known = members.remove(1);
        known.transport.stop().await;
        let incarnation = known.incarnation;
        drop(known);
        let mut wiped = bench.member(2);
        wiped.incarnation = Incarnation(0xbad);
        bench.start(&wiped, &[&members[0], &members[1]]).await;
        demand_apart(bench, &members[0], &wiped).await;
        bench.connected(&[&members[0], &members[1]]).await;

        wiped.transport.stop().await;
        drop(wiped);
        let again = bench.member(2);
        bench.rule.demand_eq(&again.incarnation, &incarnation, || "the suite's own incarnation".into());
        bench.start(&again, &[&members[0], &members[1]]).await;
        bench.connected(&[&members[0], &again]).await;
    })
}

fn other_cluster(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(3).await;
        members[1].cluster = Some(ClusterId(0xc2));
        bench.set_peers(&members[1], &[&members[0], &members[2]]);
        bench
            .until("the connections of the node that moved to be closed", || {
                !members[1].is_connected_to(&members[0]) && !members[0].is_connected_to(&members[1])
            })
            .await;
        demand_apart(bench, &members[0], &members[1]).await;
        bench.connected(&[&members[0], &members[2]]).await;

        members[1].cluster = Some(CLUSTER);
        bench.set_peers(&members[1], &[&members[0], &members[2]]);
        bench.connected(&[&members[0], &members[1]]).await;
    })
}

fn replaced(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (one, removed, other) = (&members[0], &members[1], &members[2]);
        bench.set_peers(one, &[other]);
        bench.until("the connection to the removed peer to be closed", || !removed.is_connected_to(one)).await;
        for round in APART..APART + 50 {
            one.transport.send(removed.id, heartbeat(one, removed, round));
            removed.transport.send(one.id, heartbeat(removed, one, round));
        }
        let asked = one.transport.request(&removed.name, Bytes::from_static(b"who"), SHORT).await;
        bench.rule.demand(asked.is_err(), || "a removed peer was asked and answered".into());
        let (statuses, _) = one.transport.status();
        bench.rule.demand(statuses.iter().all(|(name, _)| *name == other.name), || {
            format!("the status still shows a removed peer: {statuses:?}")
        });
        bench.rule.demand_eq(&heartbeats_since(removed, APART), &0, || "messages to a removed peer".into());
        bench.rule.demand_eq(&heartbeats_since(one, APART), &0, || "messages from a removed peer".into());

        bench.set_peers(one, &[other, removed]);
        bench.connected(&[one, removed, other]).await;
        // The same set again changes nothing: connections stay, nobody is told of a loss.
        let told = one.inbound.times_unreachable(other.id);
        bench.set_peers(one, &[other, removed]);
        bench.deliver(one, other, &numbered_append(one, other, 9, 0)).await;
        bench.rule.demand_eq(&one.inbound.times_unreachable(other.id), &told, || {
            "times that a peer was called unreachable, before and after the same set of peers was given again".into()
        });
    })
}

fn early_peers(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = [bench.member(1), bench.member(2)];
        bench.set_peers(&members[0], &[&members[1]]);
        bench.set_peers(&members[1], &[&members[0]]);
        for member in &members {
            bench.start_alone(member).await;
        }
        bench.connected(&[&members[0], &members[1]]).await;
    })
}

fn guests(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let host = &members[0];
        let mut guest = bench.member(3);
        guest.cluster = None;
        bench.start(&guest, &[host]).await;
        let ask = || guest.transport.request(&host.name, Bytes::from_static(b"let me in"), SHORT);
        for _ in 0..3 {
            let answer = ask().await;
            bench.rule.demand(answer.is_err(), || "a stranger was answered before guests were admitted".into());
        }
        bench.rule.demand_eq(&host.inbound.requests().len(), &0, || "requests of strangers that were let in".into());

        host.transport.admit_guests(true);
        let mut tries = 0;
        while ask().await.is_err() {
            tries += 1;
            if tries > 100 {
                bench.lacks = Some("guests (`Transport::admit_guests`, which may be left out)");
                return;
            }
            bench.lab.pause(super::POLL * 4).await;
        }
        let (who, _) = host.inbound.requests().pop().expect("it was answered");
        bench.rule.demand_eq(&who.name, &guest.name, || "name of the guest".into());
        // It takes itself for a member now, and the host for its leader.
        guest.cluster = Some(CLUSTER);
        bench.set_peers(&guest, &[host]);
        for round in 1..=20 {
            guest.transport.send(host.id, heartbeat(&guest, host, round));
            guest.transport.send(host.id, numbered_append(&guest, host, round, 0));
        }
        answered(bench, &guest, host).await;
        bench.connected(&[host, &members[1]]).await;
        let heard = host.inbound.messages().iter().filter(|message| message.envelope.from == guest.id).count();
        bench.rule.demand_eq(&heard, &0, || "messages of a guest that were let in".into());
    })
}
