//! The simulated network: messages on their way, and links that lose, delay, repeat and cut.

use crate::message::PeerMessage;
use crate::random::Random;
use crate::testing::sim::members::NODES_MAX;
use crate::testing::sim::plan::Plan;

/// Old messages that may be replayed.
const ARCHIVED: usize = 48;

/// A direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) cut: bool,
    /// When its newest message arrives.
    newest: u64,
}

/// Where the network wants a message delivered: when, and which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: u64,
    pub(super) slot: u32,
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) first: Option<Arrival>,
    pub(super) second: Option<Arrival>,
    pub(super) replayed: Option<Arrival>,
    /// It overtook an earlier one.
    pub(super) overtook: bool,
}

/// A message on its way, with the life of its sender's process.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) message: PeerMessage,
    pub(super) life: u32,
}

/// The network of one cluster.
#[derive(Debug)]
pub(super) struct Network {
    links: Vec<Link>,
    nodes: usize,
    slots: Vec<Option<InFlight>>,
    free: Vec<u32>,
    archive: Vec<(PeerMessage, u32)>,
    latency: u64,
    spread: u64,
    loss: u64,
    duplicate: u64,
    replay: u64,
    in_order: bool,
}

impl Network {
    pub(super) fn new(plan: &Plan) -> Self {
        let nodes = NODES_MAX;
        Self {
            links: vec![Link::default(); nodes * nodes],
            nodes,
            slots: Vec::new(),
            free: Vec::new(),
            archive: Vec::new(),
            latency: plan.latency * 1_000,
            spread: plan.latency_spread * 1_000,
            loss: plan.loss,
            duplicate: plan.duplicate,
            replay: plan.replay,
            in_order: plan.in_order != 0,
        }
    }

    pub(super) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to].cut
    }

    /// All links work again.
    pub(super) fn heal(&mut self) {
        for link in &mut self.links {
            link.cut = false;
        }
    }

    /// From now on nothing is lost, repeated or late.
    pub(super) fn be_kind(&mut self) {
        self.heal();
        (self.loss, self.duplicate, self.replay) = (0, 0, 0);
        self.spread = self.spread.min(2_000_000);
    }

    /// Takes a message between two nodes (by their places) and says when it arrives, if it does.
    pub(super) fn send(
        &mut self,
        now: u64,
        (from, to): (usize, usize),
        life: u32,
        message: PeerMessage,
        random: &mut Random,
    ) -> Sent {
        let mut sent = Sent::default();
        let draw = random.next_u64();
        let (lost, twice, again) = (draw % 1_000, (draw >> 16) % 1_000, (draw >> 32) % 1_000);
        if again < self.replay && !self.archive.is_empty() {
            let nth = usize::try_from((draw >> 48) % self.archive.len() as u64).unwrap_or(0);
            let (old, life) = self.archive[nth].clone();
            sent.replayed = Some(self.put(now + self.latency, old, life));
        }
        if self.replay > 0 && (draw >> 44) & 15 == 0 {
            self.remember(&message, life, draw >> 48);
        }
        if lost < self.loss {
            return sent;
        }
        let mut at = now + self.latency + random.below(self.spread + 1);
        let in_order = self.in_order;
        let link = self.link(from, to);
        if at <= link.newest {
            if in_order {
                at = link.newest + 1;
            } else {
                sent.overtook = true;
            }
        }
        link.newest = link.newest.max(at);
        if twice < self.duplicate {
            let later = at + self.latency + random.below(self.spread + 1);
            sent.second = Some(self.put(later, message.clone(), life));
        }
        sent.first = Some(self.put(at, message, life));
        sent
    }

    fn remember(&mut self, message: &PeerMessage, life: u32, place: u64) {
        if self.archive.len() < ARCHIVED {
            self.archive.push((message.clone(), life));
        } else {
            let nth = usize::try_from(place % ARCHIVED as u64).unwrap_or(0);
            self.archive[nth] = (message.clone(), life);
        }
    }

    fn put(&mut self, at: u64, message: PeerMessage, life: u32) -> Arrival {
        let in_flight = Some(InFlight { message, life });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = in_flight;
                slot
            }
            None => {
                self.slots.push(in_flight);
                u32::try_from(self.slots.len() - 1).expect("fewer messages than 2^32")
            }
        };
        Arrival { at, slot }
    }

    /// The message arrives.
    pub(super) fn take(&mut self, slot: u32) -> InFlight {
        self.free.push(slot);
        self.slots[slot as usize].take().expect("a message arrives once")
    }

    /// Whom the message in `slot` is from and for.
    pub(super) fn addresses(&self, slot: u32) -> (usize, usize) {
        let envelope = &self.slots[slot as usize].as_ref().expect("a message on its way").message.envelope;
        (place(envelope.from.0), place(envelope.to.0))
    }
}

/// Ids count from 1, places from 0.
pub(super) fn place(id: u64) -> usize {
    usize::try_from(id - 1).expect("a small id")
}
