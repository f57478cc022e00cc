//! Links that are cut or bad, and peers that stand still.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::message_cases::{demand_rising, dropped, flood};
use super::request_cases::{ask, both};
use super::{Bench, Case, CaseFuture, Disturbance, Member, heartbeat, number_of, numbered_append};
use crate::message::PeerMessage;
use crate::ports::RequestError;
use crate::testing::Rule;

const SHORT: Duration = Duration::from_millis(800);
/// Appends that are numbered from here on were sent after a fault began.
const AFTER: u64 = 1_000_000;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "a-stalled-peer-does-not-block",
            "a peer whose process stands still must not stop those who work",
            "give each peer a queue and a task of its own; never wait for one peer on behalf of another",
            "Transport::send never blocks: a full lane drops and counts",
            stalled_peer as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "a-cut-is-told-and-heals",
            "a leader that is not told of a loss waits for ever with its window used up; a link that does not come back \
             is a node that failed",
            "call Inbound::unreachable when a connection breaks or falls silent (use keep-alives), and dial again \
             with a bounded back-off",
            "Inbound::unreachable; Raft §5.3, the leader tries again [F2-LEADER-NEXT]",
            cut_both_ways,
        ),
        case(
            "a-one-way-cut-is-told-and-heals",
            "half of a link is no link: a sender that nobody hears has to learn of it",
            "expect an answer to keep-alives within a bound, and treat a connection without one as broken at both \
             ends",
            "Inbound::unreachable; Transport contract",
            cut_one_way,
        ),
        case(
            "bad-links-keep-order-and-bytes",
            "networks lose, double, reorder and damage what they carry; a message that Raft gets twice, late or with \
             another bit is a message that nobody sent",
            "use an ordered, checksummed stream per lane, check a checksum per frame, and drop a connection on the \
             first bad one",
            "Transport contract: at most once and intact, appends in the order of their sending [TH-PIPELINE]",
            bad_links,
        ),
        case(
            "a-peer-restarts-behind-a-bad-link",
            "machines restart in bad hours; what was on its way to the old process must not confuse the new one",
            "bind frames to the connection that they came on; a new process begins with a new handshake",
            "Transport contract: what cannot be delivered is dropped, and Raft sends again",
            restart_behind_a_bad_link,
        ),
        case(
            "requests-on-bad-links-are-honest",
            "a client is told whether its write may have had its effect; a wrong word doubles a write or loses it, and so \
             does a request that is handled twice",
            "say NotSent only when no byte of the request left; else NoAnswer; never send a request twice by \
             yourself",
            "RequestError::NotSent, RequestError::NoAnswer",
            honest_requests,
        ),
    ]
}

impl Bench {
    pub(super) fn can_cut(&mut self, from: &Member, to: &Member) -> bool {
        let cut = self.lab.cut(&from.name, &to.name);
        self.work.cuts += u64::from(cut);
        self.lacks = if cut { None } else { Some("links that can be cut (`cut`, `heal`)") };
        cut
    }

    pub(super) fn can_disturb(&mut self) -> bool {
        let disturbed = self.lab.disturb(Disturbance::BAD);
        self.work.faults += u64::from(disturbed);
        self.lacks = if disturbed { None } else { Some("bad links (`disturb`, `heal`)") };
        disturbed
    }
}

fn stalled_peer(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (leader, stalled, alive) = (&members[0], &members[1], &members[2]);
        if !bench.lab.stall(&stalled.name, true) {
            bench.lacks = Some("peers that stand still (`stall`)");
            return;
        }
        bench.work.faults += 1;
        flood(bench, leader, stalled).await;
        bench.heard(leader, alive).await;
        bench.deliver(leader, alive, &numbered_append(leader, alive, AFTER, 100)).await;
        bench
            .until("the word that messages to the stalled peer are lost", || {
                leader.inbound.times_unreachable(stalled.id) > 0 && dropped(leader, stalled) > 0
            })
            .await;
        bench.lab.stall(&stalled.name, false);
        bench.heard(leader, stalled).await;
        demand_rising(bench, leader, stalled);
    })
}

/// Sends into a cut until the sender is told, and demands that none of it arrives.
async fn send_in_vain(bench: &mut Bench, from: &Member, to: &Member, base: u64) {
    let told = from.inbound.times_unreachable(to.id);
    // First a few words and no more: who has little to say must learn of it too, and no lane is full then.
    for round in 0..3 {
        from.transport.send(to.id, heartbeat(from, to, round));
    }
    let silence = format!("{} to notice without a further word that {} hears nothing", from.name, to.name);
    bench.until(&silence, || from.inbound.times_unreachable(to.id) > told || !from.is_connected_to(to)).await;
    let mut number = base;
    bench
        .until(&format!("the word at {} that {} is unreachable", from.name, to.name), || {
            for _ in 0..20 {
                number += 1;
                from.transport.send(to.id, numbered_append(from, to, number, 500));
            }
            from.transport.send(to.id, heartbeat(from, to, number));
            from.inbound.times_unreachable(to.id) > told
        })
        .await;
    bench.work.operations += number - base;
    let of_sender = |message: &PeerMessage| message.envelope.from == from.id;
    let arrived = to.inbound.messages().iter().filter(|message| of_sender(message)).filter_map(number_of).max();
    bench.rule.demand(arrived.is_none_or(|number| number <= base), || {
        format!("append {arrived:?} of {} came through a cut link, sent after {base}", from.name)
    });
}

fn cut_both_ways(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (one, other, third) = (&members[0], &members[1], &members[2]);
        for round in 1..=2 {
            if !bench.can_cut(one, other) || !bench.can_cut(other, one) {
                return;
            }
            send_in_vain(bench, one, other, AFTER * 2 * round).await;
            send_in_vain(bench, other, one, AFTER * 2 * round).await;
            for (from, to) in [(one, third), (third, one), (other, third), (third, other)] {
                bench.deliver(from, to, &numbered_append(from, to, AFTER * 2 * round, 100)).await;
            }
            bench.lab.heal();
            bench.connected(&[one, other]).await;
            for (from, to) in [(one, other), (other, one)] {
                bench.deliver(from, to, &numbered_append(from, to, AFTER * (2 * round + 1), 100)).await;
                demand_rising(bench, from, to);
                bench.check_arrivals(to);
            }
        }
    })
}

fn cut_one_way(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (mute, deaf, third) = (&members[0], &members[1], &members[2]);
        if !bench.can_cut(mute, deaf) {
            return;
        }
        send_in_vain(bench, mute, deaf, AFTER).await;
        for (from, to) in [(mute, third), (third, deaf), (deaf, third)] {
            bench.deliver(from, to, &numbered_append(from, to, AFTER, 100)).await;
        }
        bench.lab.heal();
        bench.connected(&[mute, deaf]).await;
        for (from, to) in [(mute, deaf), (deaf, mute)] {
            bench.deliver(from, to, &numbered_append(from, to, AFTER * 2, 100)).await;
            demand_rising(bench, from, to);
            bench.check_arrivals(to);
        }
    })
}

/// Sends numbered appends of many sizes from each member to each other one, a few at a time: each one arrives, or its
/// sender is told. Gives what was sent, by sender, receiver and number.
async fn exchange(
    bench: &mut Bench,
    members: &[Member],
    base: u64,
    windows: u64,
) -> BTreeMap<(u64, u64, u64), PeerMessage> {
    const WINDOW: u64 = 6;
    let mut sent = BTreeMap::new();
    let pairs: Vec<_> = (0..members.len()).flat_map(|one| (0..members.len()).map(move |other| (one, other))).collect();
    for window in 0..windows {
        let told_before: Vec<_> =
            pairs.iter().map(|(from, to)| members[*from].inbound.times_unreachable(members[*to].id)).collect();
        for (from, to) in pairs.iter().filter(|(from, to)| from != to) {
            let (from, to) = (&members[*from], &members[*to]);
            for at in 0..WINDOW {
                let number = base + 1 + window * WINDOW + at;
                let length = if number.is_multiple_of(37) { 60_000 } else { (number % 7 * 300) as usize };
                let message = numbered_append(from, to, number, length);
                from.transport.send(to.id, message.clone());
                sent.insert((from.id.0, to.id.0, number), message);
            }
            from.transport.send(to.id, heartbeat(from, to, window));
        }
        let last = base + (window + 1) * WINDOW;
        for ((from, to), told) in pairs.iter().zip(told_before).filter(|((from, to), _)| from != to) {
            let (from, to) = (&members[*from], &members[*to]);
            bench
                .until("some appends on a bad link, or a word that they may be lost", || {
                    let messages = to.inbound.messages();
                    let of_sender = messages.iter().rev().filter(|message| message.envelope.from == from.id);
                    let arrived =
                        of_sender.filter_map(number_of).filter(|number| (last - WINDOW + 1..=last).contains(number));
                    arrived.count() as u64 == WINDOW || from.inbound.times_unreachable(to.id) > told
                })
                .await;
        }
    }
    bench.work.operations += sent.len() as u64;
    sent
}

/// Demands that what has arrived was sent, as it is, and at most once and in order.
fn demand_sent(bench: &Bench, members: &[Member], sent: &BTreeMap<(u64, u64, u64), PeerMessage>) {
    for to in members {
        bench.check_arrivals(to);
        for from in members.iter().filter(|from| from.id != to.id) {
            demand_rising(bench, from, to);
        }
        for message in to.inbound.messages() {
            let Some(number) = number_of(&message) else { continue };
            let name = (message.envelope.from.0, to.id.0, number);
            bench.rule.demand(sent.get(&name).is_some_and(|sent| *sent == message), || {
                let what = if sent.contains_key(&name) { "other bytes than were sent" } else { "and was never sent" };
                format!("append {number} from {} arrived at {} with {what}", message.envelope.from, to.id)
            });
        }
    }
}

fn bad_links(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        if !bench.can_disturb() {
            return;
        }
        let mut sent = exchange(bench, &members, 0, 60).await;
        demand_sent(bench, &members, &sent);
        bench.lab.heal();
        bench.connected(&members.iter().collect::<Vec<_>>()).await;
        sent.extend(exchange(bench, &members, AFTER, 3).await);
        demand_sent(bench, &members, &sent);
    })
}

fn restart_behind_a_bad_link(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(2).await;
        if !bench.can_disturb() {
            return;
        }
        for round in 1..=3 {
            let before: Vec<_> = (1..=20).map(|at| AFTER * round + at).collect();
            for number in &before {
                let (leader, old) = (&members[0], &members[1]);
                leader.transport.send(old.id, numbered_append(leader, old, *number, 3000));
            }
            let Member { transport, inbound, .. } = members.pop().expect("two members");
            transport.stop().await;
            drop((transport, inbound));
            let again = bench.member(2);
            bench.start(&again, &[&members[0]]).await;
            members.push(again);
            let (leader, again) = (&members[0], &members[1]);
            bench.connected(&[leader, again]).await;
            let number = AFTER * round + 500;
            bench.deliver(leader, again, &numbered_append(leader, again, number, 1000)).await;
            bench.deliver(again, leader, &numbered_append(again, leader, number, 1000)).await;
            demand_rising(bench, leader, again);
            bench.check_arrivals(again);
            let strange = again
                .inbound
                .messages()
                .iter()
                .filter_map(number_of)
                .find(|found| *found != number && !before.contains(found));
            bench.rule.demand_eq(&strange, &None, || "an append that was sent to an earlier life long ago".into());
            bench.work.operations += 22;
        }
        bench.lab.heal();
        bench.connected(&[&members[0], &members[1]]).await;
    })
}

fn honest_requests(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        const PAIRS: u64 = 25;
        let members = bench.cluster(2).await;
        let (asker, answerer) = (&members[0], &members[1]);
        if !bench.can_disturb() {
            return;
        }
        let mut ended = Vec::new();
        for pair in 0..PAIRS {
            let text =
                |side: u64| Bytes::from(format!("request {} {}", pair * 2 + side, "x".repeat((pair * 700) as usize)));
            if pair == PAIRS - 5 && (!bench.can_cut(answerer, asker) || !bench.can_cut(asker, answerer)) {
                return;
            }
            if pair == PAIRS - 3 {
                bench.lab.heal();
                bench.connected(&[asker, answerer]).await;
            }
            let (one, other) = both(ask(asker, answerer, text(0), SHORT), ask(asker, answerer, text(1), SHORT)).await;
            ended.extend([(text(0), one), (text(1), other)]);
        }
        bench.work.operations += PAIRS * 2;
        let handled = answerer.inbound.requests();
        for (request, result) in ended {
            let times = handled.iter().filter(|(_, bytes)| *bytes == request).count();
            let name = String::from_utf8_lossy(&request[..10]).into_owned();
            bench.rule.demand(times <= 1, || format!("{name} was handled {times} times"));
            match result {
                Ok(answer) => bench.rule.demand(times == 1 && answer == [b"answer to ", &request[..]].concat(), || {
                    format!("{name} has an answer of {} bytes that is not its own", answer.len())
                }),
                Err(RequestError::NotSent(why)) => {
                    bench.rule.demand(times == 0, || format!("{name} is said not to be sent ({why}) and was handled"));
                }
                Err(RequestError::NoAnswer(_)) => {}
            }
        }
    })
}
