//! Snapshots: whole or not at all, from where the last try ended, and in nobody's way.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::request_cases::{ask, both};
use super::stage::Chunks;
use super::{Bench, CLUSTER, Case, CaseFuture, Member, POLL, numbered_append};
use crate::ports::{SnapshotError, SnapshotOffer, SnapshotSent};
use crate::testing::random::random_bytes;
use crate::testing::{Random, Rule};
use crate::types::{ClusterId, GroupId, NodeId, Term};

const PATIENT: Duration = Duration::from_secs(20);
/// Tries of one transfer whose connection ends under it.
const TRIES_MAX: u32 = 50;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = transfer_cases();
    cases.extend(beside_cases());
    cases
}

/// What becomes of one transfer.
fn transfer_cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "a-snapshot-arrives-whole",
            "a chunk that is lost or changed makes a replica that differs from all others",
            "give the sink every chunk of every file with its offset and checksum, and return only when it says \
             that all is durable",
            "Transport::send_snapshot; Raft §7, Figure 13",
            whole as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "only-missing-chunks-are-sent",
            "a transfer that begins anew after each break never ends where the state is large and the link is bad",
            "ask the sink what it has before the first chunk, and skip that",
            "Transport::send_snapshot; SnapshotSink::missing",
            only_missing,
        ),
        case(
            "a-damaged-chunk-is-sent-again-alone",
            "one flipped bit must not cost gigabytes, and must never be installed",
            "check each chunk's checksum where it arrives, and ask for that chunk again",
            "SnapshotSink::put",
            damaged,
        ),
        case(
            "a-refused-offer-says-why",
            "an operator who is not told that a disk is full looks for the fault in the network",
            "carry the reason of Inbound::snapshot's error to the sender and return it as it is",
            "Inbound::snapshot: the reason travels to the other side",
            refused,
        ),
        case(
            "a-snapshot-goes-on-where-it-was",
            "links break and leaders change; a transfer that was given up must end at both sides and leave what has \
             come",
            "drop the sink and the source when a transfer ends, by a break or by the sender's giving up, and begin \
             the next one with what the receiver has",
            "Transport::send_snapshot: dropping the future gives up; try again, it goes on where it was",
            goes_on,
        ),
    ]
}

/// What it does to others, and others to it.
fn beside_cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "messages-pass-snapshots",
            "heartbeats and appends that wait behind gigabytes depose the leader that sends them",
            "send chunks on a stream of their own with lower priority, or on another connection, a bounded amount \
             at a time",
            "Transport::send_snapshot: beside and behind everything else; Raft §5.2 [F2-LEADER-HEARTBEAT]",
            messages_pass as for<'a> fn(&'a mut Bench) -> CaseFuture<'a>,
        ),
        case(
            "a-snapshot-ends-when-nothing-moves-and-not-before",
            "a transfer that hangs holds back the log for ever; one that is only slow must not be begun again and \
             again",
            "measure the time since the last progress, not since the beginning, and end both sides when it exceeds \
             the limit",
            "Transport::send_snapshot: an error when nothing moves for too long",
            stalled,
        ),
        case(
            "snapshots-of-strangers-are-refused",
            "who can hand a node a snapshot decides what it holds: only a known member of its cluster may",
            "take offers only from peers by id with the same cluster; guests and blank nodes may not",
            "Inbound::snapshot: a peer that passed the handshake, `offer.from`; Raft §5.2",
            strangers,
        ),
        case(
            "a-snapshot-crosses-bad-links",
            "it is sent to nodes that were long away, and links that are bad or break are why",
            "let send_snapshot fail on a break, and go on from what the receiver has at the next call",
            "Transport::send_snapshot; SnapshotSink::missing",
            bad_links,
        ),
    ]
}

/// So many chunks of drawn lengths up to `length`, of which the second is empty.
fn chunks(count: u32, length: usize) -> Arc<Chunks> {
    let mut random = Random::new(u64::from(count));
    let lengths = (0..count).map(|number| match number {
        0 => length,
        1 => 0,
        _ => random.below(length as u64 + 1) as usize,
    });
    let lengths: Vec<_> = lengths.collect();
    Chunks::new(lengths.into_iter().map(|length| random_bytes(&mut random, length)).collect())
}

fn offer(from: &Member, to: &Member, chunks: &Chunks, manifest: &Bytes) -> SnapshotOffer {
    SnapshotOffer {
        group: GroupId::FIRST,
        from: from.id,
        to: to.id,
        term: Term(7),
        manifest: manifest.clone(),
        chunks: chunks.bytes.len() as u32,
    }
}

async fn send_once(from: &Member, to: &Member, source: &Arc<Chunks>) -> Result<SnapshotSent, SnapshotError> {
    let offer = offer(from, to, source, &Bytes::from_static(b"manifest"));
    from.transport.send_snapshot(offer, Arc::clone(source) as _).await
}

/// Sends until it arrives: the connection may be made again meanwhile.
async fn send(bench: &Bench, from: &Member, to: &Member, source: &Arc<Chunks>) -> SnapshotSent {
    for _ in 0..TRIES_MAX {
        match send_once(from, to, source).await {
            Ok(sent) => return sent,
            Err(SnapshotError::Interrupted(_)) => bench.lab.pause(POLL * 20).await,
            Err(error) => bench.rule.fail(&format!("a snapshot from {} to {}: {error}", from.name, to.name)),
        }
    }
    bench.rule.fail(&format!("{TRIES_MAX} tries did not bring a snapshot from {} to {}", from.name, to.name));
}

/// Waits for the first of two; the other one is dropped.
async fn first<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> Result<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        if let Poll::Ready(value) = one.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        other.as_mut().poll(context).map(Err)
    })
    .await
}

/// Demands that all of it is there, as it is, and was made durable.
fn demand_whole(bench: &Bench, to: &Member, source: &Chunks) {
    to.inbound.stage.look(|staged| {
        bench.rule.demand(staged.finished > 0, || "the sender was told of the end of what is not durable".into());
        let held: Vec<_> = staged.chunks.values().cloned().collect();
        let differs = held.iter().zip(&source.bytes).position(|(held, sent)| held != sent);
        bench.rule.demand_eq(&differs, &None, || format!("a chunk arrived at {} with other bytes", to.name));
        bench.rule.demand_eq(&held.len(), &source.bytes.len(), || format!("chunks at {}", to.name));
    });
}

async fn demand_closed(bench: &Bench, to: &Member) {
    bench.until("the receiver's sink to be dropped", || to.inbound.stage.look(|staged| staged.open == 0)).await;
}

fn whole(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let manifest = random_bytes(&mut Random::new(9), 300_000);
        for (from, to, count, length) in [(0, 1, 0, 0), (1, 0, 1, 1), (0, 2, 40, 200_000), (2, 1, 3, 1 << 20)] {
            let (from, to) = (&members[from], &members[to]);
            to.inbound.stage.change(|staged| staged.chunks.clear());
            let source = chunks(count, length);
            let offer = offer(from, to, &source, &manifest);
            let mut sent = Err(SnapshotError::Interrupted("not tried".into()));
            for _ in 0..TRIES_MAX {
                sent = from.transport.send_snapshot(offer.clone(), Arc::clone(&source) as _).await;
                if !matches!(sent, Err(SnapshotError::Interrupted(_))) {
                    break;
                }
                bench.lab.pause(POLL * 20).await;
            }
            let sent = bench.rule.expect(sent, "sending a snapshot");
            demand_whole(bench, to, &source);
            let seen = to.inbound.stage.look(|staged| staged.offers.last().cloned());
            bench.rule.demand(seen.as_ref() == Some(&offer), || "the offer arrived with other fields".into());
            bench.rule.demand_eq(&sent.again, &0, || "chunks that were sent again on a sound way".into());
            bench.rule.demand(sent.chunks <= u64::from(count), || format!("{} of {count} chunks sent", sent.chunks));
            demand_closed(bench, to).await;
        }
    })
}

fn only_missing(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        let source = chunks(30, 20_000);
        let missing: BTreeSet<u32> = [0..1, 7..11, 20..21, 29..30].into_iter().flatten().collect();
        to.inbound.stage.change(|staged| {
            let held = (0..).zip(&source.bytes).filter(|(number, _)| !missing.contains(number));
            staged.chunks = held.map(|(number, bytes)| (number, bytes.clone())).collect();
        });
        let sent = send(bench, from, to, &source).await;
        demand_whole(bench, to, &source);
        demand_read(bench, &source, &missing);
        bench.rule.demand(sent.chunks <= missing.len() as u64, || format!("{} chunks were sent", sent.chunks));
        // And once more, when nothing is missing.
        let again = Chunks::new(source.bytes.clone());
        let sent = send(bench, from, to, &again).await;
        bench.rule.demand_eq(&(again.read(), sent.chunks), &(Vec::new(), 0), || "chunks that were there".into());
    })
}

/// Demands that these chunks were read and no others.
fn demand_read(bench: &Bench, source: &Chunks, wanted: &BTreeSet<u32>) {
    let read = source.read();
    let needless: Vec<_> = read.iter().filter(|number| !wanted.contains(number)).collect();
    bench.rule.demand(needless.is_empty(), || format!("chunks {needless:?} were read, and are not missing"));
    let lacking: Vec<_> = wanted.iter().filter(|number| !read.contains(number)).collect();
    bench.rule.demand(lacking.is_empty(), || format!("chunks {lacking:?} are missing and were not read"));
}

fn damaged(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        // The last one too: by then the sender has nothing else to do.
        for damaged in [BTreeSet::from([5, 11]), BTreeSet::from([24])] {
            let source = chunks(25, 30_000);
            to.inbound.stage.change(|staged| {
                staged.chunks.clear();
                staged.put.clear();
                staged.damaged = damaged.clone();
            });
            let sent = send(bench, from, to, &source).await;
            demand_whole(bench, to, &source);
            let put = to.inbound.stage.look(|staged| staged.put.clone());
            for number in 0..25 {
                let times = put.iter().filter(|put| **put == number).count();
                let wanted = 1 + usize::from(damaged.contains(&number));
                bench.rule.demand_eq(&times, &wanted, || format!("times that chunk {number} came"));
            }
            let again = damaged.len() as u64;
            bench.rule.demand(sent.again <= again, || format!("{} chunks were sent again", sent.again));
        }
    })
}

fn refused(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        const WHY: &str = "only 12 bytes are free in `data_dir`, ω";
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        let source = chunks(5, 1000);
        to.inbound.stage.change(|staged| staged.refusal = Some(WHY.into()));
        let mut refusal = String::new();
        for _ in 0..TRIES_MAX {
            match send_once(from, to, &source).await {
                Err(SnapshotError::Refused(why)) => {
                    refusal = why;
                    break;
                }
                Err(SnapshotError::Interrupted(_)) => bench.lab.pause(POLL * 20).await,
                other => bench.rule.fail(&format!("a refused offer ended in {other:?}, and Refused was due")),
            }
        }
        bench.rule.demand(refusal.contains(WHY), || format!("the receiver said {WHY:?}, the sender heard {refusal:?}"));
        bench.rule.demand_eq(&source.read(), &Vec::new(), || "chunks that were read for a refused offer".into());
        to.inbound.stage.change(|staged| staged.refusal = None);
        send(bench, from, to, &source).await;
        demand_whole(bench, to, &source);
    })
}

fn goes_on(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        const CHUNKS: u32 = 128;
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        // Of a transfer that is given up a slow receiver still takes what was on its way: a few megabytes. Twice that is
        // still far from the whole.
        let source = chunks(CHUNKS, 300_000);
        for more in [5, 8] {
            let most = more + to.inbound.stage.look(|staged| staged.put.len());
            to.inbound.stage.change(|staged| staged.puts_max = Some(most));
            let some = bench.until("some chunks to come", || to.inbound.stage.look(|staged| staged.put.len() == most));
            let ended = first(send(bench, from, to, &source), some).await;
            bench.rule.demand(ended.is_err(), || "a transfer ended whose receiver has not taken all of it".into());
            // It was dropped: what the receiver still does with it comes to an end, without having it whole.
            to.inbound.stage.change(|staged| staged.puts_max = None);
            demand_closed(bench, to).await;
            to.inbound.stage.look(|staged| {
                bench.rule.demand_eq(&staged.finished, &0, || "snapshots that were finished".into());
            });
        }
        let held: BTreeSet<_> = to.inbound.stage.look(|staged| staged.chunks.keys().copied().collect());
        let missing = (0..CHUNKS).filter(|number| !held.contains(number)).collect();
        let again = Chunks::new(source.bytes.clone());
        send(bench, from, to, &again).await;
        demand_whole(bench, to, &source);
        demand_read(bench, &again, &missing);

        // A sender that stops ends its transfer, at both sides.
        to.inbound.stage.change(|staged| {
            staged.chunks.clear();
            staged.put.clear();
            staged.puts_max = Some(3);
        });
        let stopping = async {
            bench.until("some chunks to come", || to.inbound.stage.look(|staged| staged.put.len() == 3)).await;
            from.transport.stop().await;
        };
        let (ended, ()) = both(send_once(from, to, &source), stopping).await;
        bench.rule.demand(ended.is_err(), || "a transfer of a stopped sender ended well".into());
        to.inbound.stage.change(|staged| staged.puts_max = None);
        demand_closed(bench, to).await;
    })
}

fn messages_pass(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(3).await;
        let (from, to, third) = (&members[0], &members[1], &members[2]);
        let source = chunks(24, 1 << 20);
        // The receiver takes one chunk: the way is full of the others from then on.
        to.inbound.stage.change(|staged| staged.puts_max = Some(1));
        let messages = async {
            bench.until("the first chunk", || to.inbound.stage.look(|staged| !staged.put.is_empty())).await;
            for number in 1..=30 {
                for (one, other) in [(from, to), (to, from), (from, third)] {
                    bench.deliver(one, other, &numbered_append(one, other, number, 50_000)).await;
                    bench.heard(one, other).await;
                }
            }
            for (one, other) in [(from, to), (to, from)] {
                let answer = ask(one, other, Bytes::from_static(b"who"), PATIENT).await;
                bench.rule.demand(answer.is_ok(), || format!("a request beside a snapshot ended in {answer:?}"));
            }
            to.inbound.stage.look(|staged| {
                bench.rule.demand_eq(&staged.finished, &0, || "snapshots that were finished meanwhile".into());
            });
            to.inbound.stage.change(|staged| staged.puts_max = None);
        };
        both(send(bench, from, to, &source), messages).await;
        demand_whole(bench, to, &source);
    })
}

fn stalled(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let Some(timeout) = bench.lab.snapshot_stall_timeout() else {
            bench.lacks = Some("a stall timeout that it knows (`snapshot_stall_timeout`)");
            return;
        };
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        let source = chunks(8, 1000);
        // Twice the timeout in all, and a quarter of it at a time.
        to.inbound.stage.change(|staged| staged.put_time = timeout / 4);
        let slow = first(send_once(from, to, &source), bench.until("the end of a slow transfer", || false)).await;
        bench.rule.demand(matches!(slow, Ok(Ok(_))), || format!("a transfer that is only slow ended in {slow:?}"));
        demand_whole(bench, to, &source);

        to.inbound.stage.change(|staged| {
            staged.put_time = Duration::ZERO;
            staged.chunks.clear();
            staged.put.clear();
            staged.puts_max = Some(2);
        });
        let ended = first(
            send_once(from, to, &source),
            bench.until("the end of a transfer to a receiver that stands still", || false),
        )
        .await;
        bench.rule.demand(matches!(ended, Ok(Err(SnapshotError::Interrupted(_)))), || {
            format!("a transfer to a receiver that stands still ended in {ended:?}, and Interrupted was due")
        });
        to.inbound.stage.change(|staged| staged.puts_max = None);
        demand_closed(bench, to).await;
    })
}

fn strangers(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let mut members = bench.cluster(3).await;
        let source = chunks(3, 1000);
        let manifest = Bytes::from_static(b"manifest");
        {
            let (liar, victim, receiver) = (&members[0], &members[1], &members[2]);
            let honest = offer(liar, receiver, &source, &manifest);
            let forged = SnapshotOffer { from: victim.id, ..honest.clone() };
            demand_refused(bench, liar, forged, &source, "in the name of another member").await;
            let nobody = SnapshotOffer { to: NodeId(99), ..honest };
            demand_refused(bench, liar, nobody, &source, "to a node that nobody knows").await;
            let strange = receiver.inbound.stage.look(|staged| staged.offers.len());
            bench.rule.demand_eq(&strange, &0, || "offers that were let in".into());
            // The true one of the same node is taken.
            bench.connected(&[liar, receiver]).await;
            send(bench, liar, receiver, &source).await;
            demand_whole(bench, receiver, &source);
            let offers = receiver.inbound.stage.look(|staged| staged.offers.clone());
            bench.rule.demand(offers.iter().all(|offer| offer.from == liar.id), || format!("offers came: {offers:?}"));
        }
        // One belongs to another cluster now, and one has no cluster any more.
        for cluster in [Some(ClusterId(0xc2)), None] {
            members[1].cluster = cluster;
            bench.set_peers(&members[1], &[&members[0], &members[2]]);
            members[1].cluster = Some(CLUSTER);
            let (stranger, other) = (&members[1], &members[0]);
            let to_it = offer(other, stranger, &source, &manifest);
            demand_refused(bench, other, to_it, &source, "to a node of another cluster").await;
            let of_it = offer(stranger, other, &source, &manifest);
            demand_refused(bench, stranger, of_it, &source, "of a node of another cluster").await;
            for member in [other, stranger] {
                let seen = member.inbound.stage.look(|staged| staged.offers.len());
                bench.rule.demand_eq(&seen, &0, || format!("offers at {}", member.name));
            }
        }
    })
}

async fn demand_refused(bench: &Bench, from: &Member, offer: SnapshotOffer, source: &Arc<Chunks>, which: &str) {
    let sending = from.transport.send_snapshot(offer, Arc::clone(source) as _);
    let ended = first(sending, bench.until("the end of an offer that nobody takes", || false)).await;
    bench.rule.demand(matches!(ended, Ok(Err(_))), || format!("an offer {which} ended in {ended:?}"));
}

fn bad_links(bench: &mut Bench) -> CaseFuture<'_> {
    Box::pin(async move {
        let members = bench.cluster(2).await;
        let (from, to) = (&members[0], &members[1]);
        if !bench.can_disturb() {
            return;
        }
        let source = chunks(16, 64 << 10);
        // Cut in the middle.
        to.inbound.stage.change(|staged| staged.puts_max = Some(6));
        let some = bench.until("some chunks to come", || to.inbound.stage.look(|staged| staged.put.len() == 6));
        let ended = first(send(bench, from, to, &source), some).await;
        bench.rule.demand(ended.is_err(), || "a transfer ended whose receiver has not taken all of it".into());
        if !bench.can_cut(from, to) || !bench.can_cut(to, from) {
            return;
        }
        to.inbound.stage.change(|staged| staged.puts_max = None);
        let cut = send_once(from, to, &source).await;
        bench.rule.demand(cut.is_err(), || "a snapshot crossed a link that is cut".into());
        bench.lab.heal();
        bench.can_disturb();
        send(bench, from, to, &source).await;
        bench.work.operations += source.bytes.len() as u64;
        demand_whole(bench, to, &source);
        bench.lab.heal();
    })
}
