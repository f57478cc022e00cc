//! Messages of `raft-net-quic` to bytes and back: an append of few and of many entries of 256 bytes, and its answer.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::runs::{Span, TermRun};
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term};
use raft_net_quic::{Limits, measured};

fn message(message: Message, entries: Vec<Entry>) -> PeerMessage {
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(3), message };
    PeerMessage { group: GroupId::FIRST, envelope, entries }
}

fn append(count: u64) -> PeerMessage {
    let payload = Payload::new(Bytes::from_static(&[b'v'; 256]));
    let entry =
        |index| Entry { id: LogId::new(Index(index), Term(3)), kind: EntryKind::Command, payload: payload.clone() };
    let entries: Vec<Entry> = (2..=count + 1).map(entry).collect();
    let (prev, runs) = (LogId::new(Index(1), Term(3)), vec![TermRun { term: Term(3), last: Index(count + 1) }]);
    let span = Span { prev, runs, bytes: entries.iter().map(Entry::size).sum(), configurations: Vec::new() };
    message(Message::Append { entries: span, commit: Index(1) }, entries)
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let limits = Limits::default();
    let accepted = message(Message::AppendAccepted { matched: Index(7) }, Vec::new());
    for (name, message) in [("accepted", accepted), ("append/1", append(1)), ("append/64", append(64))] {
        let messages = [message];
        let encode = || measured::encode(&messages, &limits).expect("within the limits");
        let frame = encode().concat();
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("encode/{name}"), |bencher| bencher.iter(encode));
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter_batched_ref(
                || BytesMut::from(&frame[..]),
                |buffer| assert!(measured::decode(buffer, &limits, |message| drop(black_box(message)))),
                BatchSize::SmallInput,
            );
        });
    }
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = all; config = settings(); targets = codec }
criterion_main!(all);
