//! What is done to a cluster, drawn from a seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raft_core::random::Random;
use raft_core::testing::UdpFaults;

use super::arena::Arena;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of any node; it is started again when the step ends.
    KillOne,
    /// Of the node that leads.
    KillLeader,
    /// Of all at once.
    KillAll,
    /// Of any node, started again at once, some times in a row.
    KillAgain,
    /// SIGSTOP of any node, SIGCONT when the step ends.
    StopOne,
    /// Of the node that leads.
    StopLeader,
    /// Of all at once: nobody's clock goes on, and all think they are late.
    StopAll,
    /// One direction between two nodes.
    CutOneWay,
    /// Both directions between two nodes; the others still see both (a partial partition).
    CutPair,
    /// All that comes to a node; what it says is heard.
    Deaf,
    /// All that a node says; it hears the others.
    Mute,
    /// A node from all others.
    Isolate,
    /// The leader from all others.
    IsolateLeader,
    /// The leader from all others, for longer than an idle connection lives.
    IsolateLong,
    /// A minority from the majority.
    Split,
    /// Two halves that see each other only through one node.
    Bridge,
    /// A node's ways, cut and mended every 10 to 300 ms.
    Flap,
    /// Delay, loss, doubles, reordering, replays and flipped bits on all ways.
    Weather,
    /// Much delay on the ways of one node: a far-away one.
    Slow,
    /// Another node is to lead.
    Transfer,
    /// A voter is made a learner, and votes again afterwards.
    Demote,
    /// Read leases become longer or shorter, are turned off or on, or are to be held whether anybody reads or not.
    Leases,
}

impl Fault {
    /// One of each. Every run goes through all of them.
    pub const ALL: [Self; 22] = [
        Self::KillOne,
        Self::KillLeader,
        Self::KillAll,
        Self::KillAgain,
        Self::StopOne,
        Self::StopLeader,
        Self::StopAll,
        Self::CutOneWay,
        Self::CutPair,
        Self::Deaf,
        Self::Mute,
        Self::Isolate,
        Self::IsolateLeader,
        Self::IsolateLong,
        Self::Split,
        Self::Bridge,
        Self::Flap,
        Self::Weather,
        Self::Slow,
        Self::Transfer,
        Self::Demote,
        Self::Leases,
    ];

    /// Whether it hits the leader, whoever that is.
    fn is_of_leader(self) -> bool {
        matches!(self, Self::KillLeader | Self::StopLeader | Self::IsolateLeader | Self::IsolateLong)
    }

    /// How long it takes to do something.
    fn held_min(self) -> Duration {
        match self {
            Self::IsolateLong => Duration::from_millis(5500),
            Self::Weather => Duration::from_millis(1500),
            _ => Duration::from_millis(300),
        }
    }
}

/// Some faults at once, and for how long.
#[derive(Clone, Debug)]
pub struct Step {
    /// Time without faults before.
    pub calm: Duration,
    /// Time with them.
    pub held: Duration,
    pub faults: Vec<Fault>,
    /// Draws targets and strengths.
    pub seed: u64,
}

/// The steps of a run: all kinds in a drawn order, again and again until `length` is filled; every third step has a
/// second and a third kind added.
pub fn schedule(seed: u64, length: Duration) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    let mut total = Duration::ZERO;
    loop {
        let mut deck = Fault::ALL.to_vec();
        for left in (1..deck.len()).rev() {
            deck.swap(left, usize::try_from(random.below(left as u64 + 1)).unwrap());
        }
        for fault in deck {
            let mut faults = vec![fault];
            // Weather by itself once per round, so that some of all that it does meets traffic.
            if fault != Fault::Weather && random.below(3) == 0 {
                for _ in 0..2 {
                    let other = Fault::ALL[usize::try_from(random.below(Fault::ALL.len() as u64)).unwrap()];
                    if !faults.contains(&other) {
                        faults.push(other);
                    }
                }
            }
            let calm = Duration::from_millis(100 + random.below(500));
            let least = faults.iter().map(|fault| fault.held_min()).max().unwrap_or_default();
            let held = least + Duration::from_millis(random.below(1200));
            total += calm + held;
            steps.push(Step { calm, held, faults, seed: random.next_u64() });
        }
        if total >= length {
            return steps;
        }
    }
}

/// What was done, by kind.
#[derive(Debug, Default)]
pub struct Done {
    pub faults: BTreeMap<Fault, u64>,
    pub combined: u64,
}

/// Does one step and undoes it.
pub fn perform(arena: &mut Arena, step: &Step, done: &mut Done) {
    let mut random = Random::new(step.seed);
    let mut flapping = None;
    for (nth, fault) in step.faults.iter().enumerate() {
        *done.faults.entry(*fault).or_default() += 1;
        // Before the first fault of a step nothing is wrong, so there has to be a leader soon.
        let leader = if nth == 0 && fault.is_of_leader() { Some(arena.await_leader()) } else { arena.leader() };
        arena.leaders_hit += u64::from(leader.is_some() && fault.is_of_leader());
        begin(arena, *fault, leader, &mut random, &mut flapping);
    }
    done.combined += u64::from(step.faults.len() > 1);
    let begun = Instant::now();
    while begun.elapsed() < step.held {
        let left = step.held.saturating_sub(begun.elapsed());
        let Some(node) = flapping else {
            std::thread::sleep(left);
            break;
        };
        arena.isolate(node, true, true);
        std::thread::sleep(left.min(Duration::from_millis(10 + random.below(290))));
        arena.mend(node);
        let left = step.held.saturating_sub(begun.elapsed());
        std::thread::sleep(left.min(Duration::from_millis(10 + random.below(290))));
    }
    arena.heal();
}

fn begin(arena: &mut Arena, fault: Fault, leader: Option<usize>, random: &mut Random, flapping: &mut Option<usize>) {
    let count = arena.count();
    let any = usize::try_from(random.below(count as u64)).unwrap();
    let other = (any + 1 + usize::try_from(random.below(count as u64 - 1)).unwrap()) % count;
    let nodes: Vec<usize> = (0..count).map(|nth| (any + nth) % count).collect();
    match fault {
        Fault::KillOne => arena.kill(any),
        Fault::KillLeader => leader.into_iter().for_each(|leader| arena.kill(leader)),
        Fault::KillAll => nodes.iter().for_each(|node| arena.kill(*node)),
        Fault::KillAgain => {
            for _ in 0..3 {
                arena.kill(any);
                arena.start(any);
                std::thread::sleep(Duration::from_millis(random.below(150)));
            }
        }
        Fault::StopOne => arena.stop(any),
        Fault::StopLeader => leader.into_iter().for_each(|leader| arena.stop(leader)),
        Fault::StopAll => nodes.iter().for_each(|node| arena.stop(*node)),
        Fault::CutOneWay => arena.cut(any, other),
        Fault::CutPair => {
            arena.cut(any, other);
            arena.cut(other, any);
        }
        Fault::Deaf => arena.isolate(any, true, false),
        Fault::Mute => arena.isolate(any, false, true),
        Fault::Isolate => arena.isolate(any, true, true),
        Fault::IsolateLeader | Fault::IsolateLong => {
            leader.into_iter().for_each(|leader| arena.isolate(leader, true, true));
        }
        Fault::Split => arena.separate(&nodes[..(count - 1) / 2], &nodes[(count - 1) / 2..]),
        Fault::Bridge => {
            // The first one sees all; the rest are two halves that do not see each other.
            let (left, right) = nodes[1..].split_at((count - 1) / 2);
            arena.separate(left, right);
        }
        Fault::Flap => *flapping = Some(any),
        Fault::Weather => arena.relay.set_all(weather(random)),
        Fault::Slow => {
            let delay_min = Duration::from_millis(random.below(60));
            let delay_max = delay_min + Duration::from_millis(random.below(60));
            arena.slow(any, UdpFaults { delay_min, delay_max, ..UdpFaults::default() });
        }
        Fault::Transfer => drop(arena.ask_cluster("POST", "/v1/cluster/leader?timeout=500ms", "")),
        Fault::Demote => arena.demote(any),
        Fault::Leases => {
            let duration = [0, 130, 200, 200, 400][usize::try_from(random.below(5)).unwrap()];
            let holders = random.below(2);
            let body = format!(r#"{{"read_lease.duration_ms": {duration}, "read_lease.min_holders": {holders}}}"#);
            arena.ask_cluster("PUT", "/v1/cluster/settings?timeout=500ms", &body);
        }
    }
}

fn weather(random: &mut Random) -> UdpFaults {
    let mut share = |most: u64| u32::try_from(40 + random.below(most)).unwrap();
    let (loss, duplicate, reorder, replay, corrupt) = (share(200), share(150), share(150), share(80), share(40));
    let delay_min = Duration::from_millis(random.below(15));
    let delay_max = delay_min + Duration::from_millis(1 + random.below(40));
    let reorder_by = Duration::from_millis(1 + random.below(60));
    UdpFaults { loss, delay_min, delay_max, duplicate, reorder, reorder_by, replay, corrupt }
}
