//! Messages: what arrives, in which order, and what happens when nothing can arrive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{Bench, Case, CaseFuture, Member, append, envelope, heartbeat, number_of, numbered_append};
use crate::handover::{Priority, Standing};
use crate::membership::Configuration;
use crate::message::{Message, PeerMessage};
use crate::testing::{Rule, entry, noop};
use crate::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "messages-arrive-intact",
            "a field that is lost or changed on the way is a lie about a log or a vote",
            "encode every field of Envelope, Message and Entry, payload checksum and unknown kinds included; test \
             the codec by round trips",
            "Transport; Raft Figure 2, arguments and results of both calls",
            intact as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "appends-arrive-in-order-and-once",
            "a leader sends appends without waiting for answers; out of order each is rejected and sent again",
            "send the appends of a peer on one ordered stream, and do not repeat what a broken connection may have \
             carried",
            "Transport contract; thesis 10.2.1 [TH-PIPELINE]",
            ordered,
        ),
        case(
            "each-peer-gets-its-own",
            "an acknowledgement that reaches another node is counted for entries that nobody holds",
            "look the connection up by `to`, and drop what arrives for another id",
            "Transport::send; Raft Figure 2",
            own_messages,
        ),
        case(
            "no-loss-without-a-word",
            "a leader that does not know of a loss waits for answers that never come, with its window used up",
            "whenever a message is dropped (full lane, broken connection) call Inbound::unreachable for its peer",
            "Inbound::unreachable; Raft §5.3, the leader tries again [F2-LEADER-NEXT]",
            told_of_loss,
        ),
        case(
            "send-never-blocks",
            "the thread that sends also answers heartbeats: one dead or stalled peer would stop the whole node",
            "put into a bounded queue with try_send and return; count what does not fit",
            "Transport::send never blocks: a full lane drops and counts",
            never_blocks,
        ),
        case(
            "heartbeats-pass-appends",
            "a heartbeat behind megabytes of entries comes too late, and the follower campaigns against a live \
             leader",
            "send votes, heartbeats and their answers on a stream or connection of their own",
            "Transport contract; Raft §5.2 [F2-LEADER-HEARTBEAT]",
            heartbeat_passes,
        ),
        case(
            "a-restarted-peer-is-found-again",
            "a peer that is cut off by its own restart counts as failed until an operator comes",
            "notice the broken connection, resolve the name again and dial until it answers",
            "Transport contract: what cannot be delivered is dropped, and Raft sends again",
            restart,
        ),
        case(
            "stop-is-final",
            "a node that has stopped and still speaks promises what it will not remember",
            "end all tasks and close all connections before stop() returns, and ignore send() afterwards",
            "Transport::stop",
            stopped,
        ),
    ]
}

/// An entry that says who votes.
fn configuration(index: u64, term: u64) -> Entry {
    let voters = Configuration::new([NodeId(1), NodeId(7)]);
    let set = voters.with_contexts(Index(index), &[(NodeId(7), Bytes::from(vec![0xfe; 1024]))]);
    let payload = Payload::new(set.expect("another context").encode());
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Configuration, payload }
}

/// One of each, with values that use their whole range.
fn every_kind(from: &Member, to: &Member) -> Vec<PeerMessage> {
    let last = LogId::new(Index(Index::LIMIT.0 - 1), Term(Term::LIMIT.0 - 1));
    let prev = LogId::new(Index(41), Term(3));
    let unknown = Payload::new(Bytes::from_static(b"\0of a later version\xff"));
    let entries = vec![
        noop(42, 5),
        entry(43, 5, 0),
        Entry { id: LogId::new(Index(44), Term(6)), kind: EntryKind::Unknown(231), payload: unknown },
        entry(45, 7, 3 << 19),
        entry(46, 7, 100),
        configuration(47, 7),
    ];
    let plain = [
        Message::PreVote { last },
        Message::PreVoteResponse { granted: true, ahead: None },
        Message::PreVoteResponse { granted: false, ahead: None },
        Message::PreVoteResponse { granted: false, ahead: Some(LogId::new(Index(9), Term(2))) },
        Message::FetchSuffix { prev: LogId::new(Index(9), Term(2)) },
        Message::SuffixRefused { prev: Index(9), hint: Some(LogId::new(Index(4), Term(2))) },
        Message::SuffixRefused { prev: Index(9), hint: None },
        Message::Vote { last: LogId::ZERO, handover: true },
        Message::TimeoutNow { last: LogId::new(Index(5), Term(1)), drained_too: false },
        Message::TimeoutNow { last: LogId::new(Index(5), Term(1)), drained_too: true },
        Message::VoteResponse { granted: true, silence: Duration::from_nanos(1_234_567) },
        Message::VoteResponse { granted: true, silence: Duration::ZERO },
        Message::VoteResponse { granted: false, silence: Duration::ZERO },
        Message::AppendAccepted { matched: last.index },
        Message::AppendRejected { prev: Index(9), hint: LogId::new(Index(4), Term(2)) },
        Message::Heartbeat { commit: Index(77), round: u64::MAX, wants_holder: false },
        Message::Heartbeat { commit: Index(77), round: 3, wants_holder: true },
        Message::LeaseRequest { number: u64::MAX },
        Message::LeaseGrant { number: 1 << 40, usable: Duration::from_nanos(165_289_256), index: Index(78) },
        Message::HeartbeatResponse {
            round: 1,
            verified: Index(5),
            matched: Index(4),
            standing: Standing::Fit(Priority(7)),
        },
        Message::ReadIndex { number: u64::MAX },
        Message::ReadIndexResponse { number: 1 << 40, index: Index(1 << 40) },
        Message::Removed { configuration: last.index },
    ];
    let mut messages: Vec<_> = plain.into_iter().map(|message| envelope(from, to, message)).collect();
    messages.push(append(from, to, prev, entries));
    messages.push(append(from, to, LogId::ZERO, Vec::new()));
    messages.push(PeerMessage { group: GroupId(u64::MAX), ..heartbeat(from, to, 3) });
    messages
}

fn intact(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        for (from, to) in [(&members[0], &members[1]), (&members[1], &members[0])] {
            for message in every_kind(from, to) {
                bench.deliver(from, to, &message).await;
            }
            bench.check_arrivals(to);
            for message in to.inbound.messages() {
                let damaged = message.entries.iter().find(|entry| !entry.payload.verify());
                bench.rule.demand(damaged.is_none(), || format!("entry {damaged:?} does not fit its checksum"));
            }
        }
    })
}

/// The numbers of the appends that arrived, which must rise: nothing twice, nothing out of order.
pub(super) fn demand_rising(bench: &Bench, from: &Member, to: &Member) {
    let messages = to.inbound.messages();
    let numbers: Vec<_> = messages.iter().filter(|it| it.envelope.from == from.id).filter_map(number_of).collect();
    for pair in numbers.windows(2) {
        bench.rule.demand(pair[0] < pair[1], || {
            format!("append {} from {} arrived after append {}", pair[1], from.name, pair[0])
        });
    }
}

fn ordered(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (leader, followers) = (&members[0], &members[1..]);
        // Of many sizes, to several peers at once, with other messages between.
        for number in 1..=1500 {
            for follower in followers {
                let length = if number % 50 == 0 { 50_000 } else { number as usize % 700 };
                leader.transport.send(follower.id, numbered_append(leader, follower, number, length));
                if number % 10 == 0 {
                    leader.transport.send(follower.id, heartbeat(leader, follower, number));
                }
            }
        }
        // The last one is sent until it arrives, each time under a new number; by then all before it have.
        for follower in followers {
            let mut number = 1500;
            bench
                .until("an append after many", || {
                    number += 1;
                    leader.transport.send(follower.id, numbered_append(leader, follower, number, 0));
                    follower.inbound.messages().iter().filter_map(number_of).any(|number| number > 1500)
                })
                .await;
            demand_rising(bench, leader, follower);
            bench.check_arrivals(follower);
        }
    })
}

fn own_messages(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        for round in 1..=100 {
            for from in &members {
                for to in members.iter().filter(|to| to.id != from.id) {
                    from.transport.send(to.id, heartbeat(from, to, round));
                    from.transport.send(to.id, numbered_append(from, to, round * 10 + to.id.0, 10));
                }
            }
        }
        bench.connected(&members.iter().collect::<Vec<_>>()).await;
        for to in &members {
            for from in members.iter().filter(|from| from.id != to.id) {
                bench.deliver(from, to, &numbered_append(from, to, 2000 + to.id.0, 0)).await;
                demand_rising(bench, from, to);
            }
            bench.check_arrivals(to);
            for number in to.inbound.messages().iter().filter_map(number_of) {
                bench.rule.demand(number % 10 == to.id.0, || format!("append {number} arrived at {}", to.name));
            }
        }
    })
}

fn told_of_loss(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let (leader, follower) = (&members[0], &members[1]);
        // Few at a time, so that no bound is in the way: each one arrives, or the sender is told.
        for window in 0..40 {
            let told = leader.inbound.times_unreachable(follower.id);
            let wanted: Vec<_> = (1..=8).map(|at| window * 8 + at).collect();
            for number in &wanted {
                leader.transport.send(follower.id, numbered_append(leader, follower, *number, 1000));
            }
            bench
                .until("8 appends on a working connection, or a word that they may be lost", || {
                    let arrived: Vec<_> = follower.inbound.messages().iter().filter_map(number_of).collect();
                    wanted.iter().all(|number| arrived.contains(number))
                        || leader.inbound.times_unreachable(follower.id) > told
                })
                .await;
        }
    })
}

fn never_blocks(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(2).await;
        // Known to the others and never made: nobody answers at its address.
        let dead = bench.member(3);
        members.push(dead);
        let (leader, alive, dead) = (&members[0], &members[1], &members[2]);
        bench.set_peers(leader, &[alive, dead]);
        flood(bench, leader, dead).await;
        bench.heard(leader, alive).await;
        bench
            .until("the word that messages to the dead peer are lost", || {
                leader.inbound.times_unreachable(dead.id) > 0 && dropped(leader, dead) > 0
            })
            .await;
    })
}

pub(super) fn dropped(from: &Member, to: &Member) -> u64 {
    let (statuses, _) = from.transport.status();
    statuses.iter().find(|(name, _)| *name == to.name).map_or(0, |(_, status)| status.dropped)
}

/// Sends 640 MiB (of shared bytes) from a thread of its own, which has to come to its end.
pub(super) async fn flood(bench: &Bench, from: &Member, to: &Member) {
    const MESSAGES: u64 = 10_000;
    let large = entry(1, 7, 64 * 1024);
    let messages: Vec<_> = (1..=MESSAGES)
        .map(|number| {
            let id = LogId::new(Index(number), Term(7));
            append(from, to, LogId::new(id.index.prev(), id.term), vec![Entry { id, ..large.clone() }])
        })
        .collect();
    let (transport, to) = (std::sync::Arc::clone(&from.transport), to.id);
    let ended = std::sync::Arc::new(AtomicBool::new(false));
    let ended_there = std::sync::Arc::clone(&ended);
    let thread = std::thread::Builder::new().name("transport suite: flood".into()).spawn(move || {
        for message in messages {
            transport.send(to, message);
        }
        ended_there.store(true, Ordering::Release);
    });
    bench.rule.expect(thread, "starting a thread");
    bench.until("10,000 calls of send to a peer that takes nothing", || ended.load(Ordering::Acquire)).await;
}

fn heartbeat_passes(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        // That one heartbeat comes first proves that it can; that none ever does, that it cannot.
        const ROUNDS_MAX: u64 = 60;
        let members = bench.cluster(2).await;
        let (leader, follower) = (&members[0], &members[1]);
        for round in 1..=ROUNDS_MAX {
            let start = follower.inbound.count();
            let base = round * 1000;
            let bulk: Vec<_> = (1..=32).map(|at| numbered_append(leader, follower, base + at, 256 * 1024)).collect();
            for message in bulk {
                leader.transport.send(follower.id, message);
            }
            leader.transport.send(follower.id, heartbeat(leader, follower, round));
            let mut number = base + 32;
            bench
                .until("the appends and the heartbeat of a round", || {
                    number += 1;
                    leader.transport.send(follower.id, numbered_append(leader, follower, number, 0));
                    follower.inbound.messages()[start..].iter().filter_map(number_of).any(|it| it > base + 32)
                })
                .await;
            let messages = follower.inbound.messages();
            let is_heartbeat = |it: &PeerMessage| matches!(it.envelope.message, Message::Heartbeat { round: found, .. } if found == round);
            let heartbeat_at = messages[start..].iter().position(is_heartbeat);
            let last_append_at =
                messages[start..].iter().rposition(|it| number_of(it).is_some_and(|it| it <= base + 32));
            if heartbeat_at.zip(last_append_at).is_some_and(|(heartbeat, append)| heartbeat < append) {
                return;
            }
        }
        bench.rule.fail(&format!("in {ROUNDS_MAX} rounds no heartbeat arrived before 8 MiB of appends sent before it"));
    })
}

fn restart(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(2).await;
        for _ in 0..3 {
            let Member { transport, inbound, .. } = members.pop().expect("two members");
            transport.stop().await;
            drop((transport, inbound));
            let leader = &members[0];
            let again = {
                let told = leader.inbound.times_unreachable(NodeId(2));
                let probe = |leader: &Member| {
                    let gone = NodeId(2);
                    let mut message = heartbeat(leader, leader, 0);
                    message.envelope.to = gone;
                    leader.transport.send(gone, message);
                    leader.inbound.times_unreachable(gone) > told
                };
                bench.until("the word that the stopped peer is unreachable", || probe(leader)).await;
                bench.member(2)
            };
            bench.start(&again, &[leader]).await;
            members.push(again);
            let (leader, again) = (&members[0], &members[1]);
            bench.connected(&[leader, again]).await;
            bench.deliver(leader, again, &numbered_append(leader, again, 5, 1000)).await;
            bench
                .until("both to show the connection", || leader.is_connected_to(again) && again.is_connected_to(leader))
                .await;
            bench.check_arrivals(again);
        }
    })
}

fn stopped(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (gone, other, third) = (&members[0], &members[1], &members[2]);
        gone.transport.stop().await;
        let before = other.inbound.heartbeats_from(gone.id);
        for round in 1..=50 {
            gone.transport.send(other.id, heartbeat(gone, other, round));
            other.transport.send(gone.id, heartbeat(other, gone, round));
        }
        bench
            .until("the word that the stopped node is unreachable", || {
                other.transport.send(gone.id, heartbeat(other, gone, 51));
                other.inbound.times_unreachable(gone.id) > 0
            })
            .await;
        bench.heard(third, other).await;
        let after = other.inbound.heartbeats_from(gone.id);
        bench.rule.demand_eq(&after, &before, || "heartbeats of a node before and after it was stopped".into());
        gone.transport.stop().await;
    })
}
