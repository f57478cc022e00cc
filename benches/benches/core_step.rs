//! One batch of commands through three members in one thread, from the proposal to the last acknowledgement; and single
//! steps of a leader and of a follower.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raft_benches::members::{CoreCluster, Members, ReplicaCluster};
use raft_core::config::Config;
use raft_core::event::{Event, Now};
use raft_core::membership::Configuration;
use raft_core::message::{Envelope, Message};
use raft_core::ports::Recovered;
use raft_core::raft::Raft;
use raft_core::runs::{Span, TermRun};
use raft_core::types::{Index, LogId, NodeId, Term};

fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    for commands in [1, 64, 1024] {
        group.throughput(Throughput::Elements(commands));
        let mut core = CoreCluster::new().expect("the settings are valid");
        group.bench_function(format!("core/{commands}"), |bencher| {
            bencher.iter(|| core.commit(commands).expect("nothing is lost here"));
        });
        let mut replica = ReplicaCluster::new().expect("the settings are valid");
        group.bench_function(format!("replica/{commands}"), |bencher| {
            bencher.iter(|| replica.commit(commands).expect("nothing is lost here"));
        });
    }
}

/// A follower of term 1 whose log has one entry.
fn follower() -> Raft {
    let config = Config::new(NodeId(2), Configuration::new((1..=3).map(NodeId)));
    Raft::new(config, Recovered::default(), Index::ZERO, Now::default()).expect("the settings are valid")
}

fn append(after: u64) -> Event {
    let (prev, last) = (LogId::new(Index(after), Term(u64::from(after > 0))), Index(after + 1));
    let runs = vec![TermRun { term: Term(1), last }];
    let entries = Span { prev, runs, bytes: 288, configurations: Vec::new() };
    let message = Message::Append { entries, commit: Index(after) };
    Event::Receive(Envelope { from: NodeId(1), to: NodeId(2), term: Term(1), message })
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.bench_function("follower appends", |bencher| {
        let made = || (follower(), Vec::new(), append(0));
        let now = Now::at(Duration::from_millis(1));
        bencher.iter_batched_ref(
            made,
            |(raft, effects, event)| raft.step(now, event.clone(), effects),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("tick with nothing to do", |bencher| {
        let (mut raft, mut effects) = (follower(), Vec::new());
        bencher.iter(|| raft.step(Now::default(), Event::Tick, &mut effects));
    });
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = all; config = settings(); targets = commit, steps }
criterion_main!(all);
