//! One situation of the whole cluster. There are no instants in it: each is kept as the time since, or the time left, by
//! the clock of whoever keeps it, up to the longest that matters. So equal situations are equal whenever they come about.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::bounds::{Bounds, DRIFT_FACTOR, NODES_MAX, Nodes};
use crate::log::{Kind, Log};

/// A lease of a follower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Lease {
    /// How long it may be used still.
    pub(crate) left: u8,
    /// What must be verified before it may be used.
    pub(crate) named: u8,
    /// Whether it was.
    pub(crate) reached: bool,
}

/// A grant on its way. The request that it answers reached the leader at once: had it been slow, the lease would be used
/// for a shorter time and honoured for a longer one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Grant {
    pub(crate) promise: u8,
    /// Since the request, by the clock of the node that asked.
    pub(crate) age: u8,
    pub(crate) named: u8,
    /// Whether the node has restarted since it asked.
    pub(crate) earlier_life: bool,
}

/// Acknowledgements of one node on their way to the leader. They have been put together: what the later one says includes
/// what the earlier one says, and one that comes alone could as well have come before the other was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) matched: u8,
    /// Whether it answers the round that is open.
    pub(crate) of_round: bool,
}

/// The round that a leader has open. An older one is given up: whoever waits for it begins anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Round {
    /// Since it was sent, by the leader's clock.
    pub(crate) age: u8,
    pub(crate) acknowledged: Nodes,
    /// Whether a linearizable read waits for it that would miss an acknowledged write. (Others cannot go wrong.)
    pub(crate) misses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Candidate {
    pub(crate) votes: Nodes,
    /// The longest time that old leases may run still, by the votes so far.
    pub(crate) wait: u8,
    /// Since the campaign began; 0 unless a broken rule looks at it.
    pub(crate) age: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Leader {
    /// How long the leader's own lease may be used still.
    pub(crate) own: u8,
    pub(crate) round: Option<Round>,
    pub(crate) matched: [u8; NODES_MAX],
    /// How long each node's lease has to be honoured still.
    pub(crate) holders: [u8; NODES_MAX],
    /// Who has acknowledged in this term. Not kept once an entry of this term is committed.
    pub(crate) fresh: Nodes,
    /// How long old leases may run still. Not kept once an entry of this term is committed.
    pub(crate) wait: u8,
    pub(crate) inbox: [Option<Acknowledgement>; NODES_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) enum Role {
    #[default]
    Follower,
    Candidate(Candidate),
    Leader(Leader),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Node {
    // Durable.
    pub(crate) term: u8,
    pub(crate) vote: Option<u8>,
    pub(crate) log: Log,
    // Of this life.
    pub(crate) commit: u8,
    /// How much of the log is known to equal this term's leader's.
    pub(crate) verified: u8,
    /// Since this node last acknowledged any leader, or started.
    pub(crate) stamp: u8,
    pub(crate) lease: Lease,
    pub(crate) grant: Option<Grant>,
    pub(crate) role: Role,
    /// How old the instant is that the node goes by; 0 unless a broken rule lets it be old.
    pub(crate) lag: u8,
}

/// The read of this run. One is enough: what must be seen is whatever was acknowledged when the read began, and no read
/// changes anything but what the rounds do, which are there anyway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) enum Read {
    #[default]
    None,
    /// The lease was usable; `must_see` is none while the read has not begun, which is a broken rule.
    Checked { node: u8, must_see: Option<u8>, leads: bool },
    /// The index is noted; the read is answered with the state there once that is committed, if `checked`.
    Noted { node: u8, must_see: u8, noted: u8, checked: bool },
}

/// An append that takes its time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SlowAppend {
    pub(crate) leader: u8,
    pub(crate) to: u8,
    pub(crate) term: u8,
    pub(crate) log: Log,
    pub(crate) commit: u8,
    pub(crate) of_round: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) nodes: [Node; NODES_MAX],
    pub(crate) read: Read,
    pub(crate) slow_append: Option<SlowAppend>,
    /// The log as far as any leader has ever committed it.
    pub(crate) committed: Log,
    /// Who was elected in each term.
    pub(crate) elected: [Option<u8>; 8],
    pub(crate) writes_left: u8,
    pub(crate) restarts_left: u8,
}

impl Node {
    /// Whether an entry of its own term is committed, as this leader knows.
    pub(crate) fn term_committed(&self) -> bool {
        self.commit > 0 && self.log.term(self.commit) == self.term
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, times) = match &self.role {
            Role::Follower => ("follows", [("", 0), ("", 0), ("", 0)]),
            Role::Candidate(candidate) => ("campaigns", [("would wait for", candidate.wait), ("", 0), ("", 0)]),
            Role::Leader(leader) => {
                let longest = leader.holders.iter().copied().max().unwrap_or(0);
                ("leads", [("own lease for", leader.own), ("holders for", longest), ("waits for", leader.wait)])
            }
        };
        write!(f, "term {}, {role}, {}, committed {}", self.term, self.log, self.commit)?;
        for (what, time) in times.iter().filter(|(_, time)| *time > 0) {
            write!(f, ", {what} {time}")?;
        }
        if self.lease.left > 0 {
            let reached = if self.lease.reached { "" } else { ", not verified so far" };
            write!(f, ", lease for {}{reached}", self.lease.left)?;
        }
        Ok(())
    }
}

impl State {
    /// Node 1 leads term 1, its first entry is committed everywhere, and nobody has acknowledged anything for a long time.
    /// Nodes that join later have nothing.
    pub(crate) fn first(bounds: &Bounds) -> Self {
        let mut nodes = [Node::default(); NODES_MAX];
        let first_entry = Log::default().with(1, Kind::Noop);
        let mut leader = Leader::default();
        for (number, node) in nodes.iter_mut().enumerate().take(bounds.nodes) {
            node.stamp = bounds.duration * DRIFT_FACTOR;
            if bounds.before.members().has(number) {
                (node.term, node.vote, node.log, node.commit, node.verified) = (1, Some(0), first_entry, 1, 1);
                leader.matched[number] = 1;
            }
        }
        nodes[0].role = Role::Leader(leader);
        let mut elected = [None; 8];
        elected[1] = Some(0);
        let (writes_left, restarts_left) = (bounds.writes, bounds.restarts);
        let (read, slow_append, committed) = (Read::None, None, first_entry);
        Self { nodes, read, slow_append, committed, elected, writes_left, restarts_left }
    }

    /// Never 0, which stands for a free place in the table of known states.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut mixer = Mixer::default();
        self.hash(&mut mixer);
        mixer.finish().max(1)
    }
}

/// Fills words of 64 bits before it mixes them: most parts of a state are single bytes.
#[derive(Default)]
struct Mixer {
    mixed: u64,
    word: u64,
    bits: u32,
}

impl Mixer {
    fn mix(&mut self) {
        // The multiplications and shifts of MurmurHash3's finalizer.
        let mut word = self.mixed.rotate_left(23) ^ self.word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.mixed = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (self.word, self.bits) = (0, 0);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.word |= u64::from(byte) << self.bits;
        self.bits += 8;
        if self.bits == u64::BITS {
            self.mix();
        }
    }

    fn write_u64(&mut self, word: u64) {
        if self.bits > 0 {
            self.mix();
        }
        self.word = word;
        self.mix();
    }

    /// Lengths of arrays and the numbers of variants: all small.
    fn write_usize(&mut self, number: usize) {
        self.write_u8(number as u8);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number as u8);
    }

    fn finish(&self) -> u64 {
        let mut last = Self { mixed: self.mixed, word: self.word ^ 1 << 63, bits: 0 };
        last.mix();
        last.mixed ^ last.mixed >> 29
    }
}
