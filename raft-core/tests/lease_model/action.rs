//! All that can happen next.

use std::fmt;

use crate::bounds::{Bounds, Clocks};

/// How far a node's two clocks go in one tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// See [`Clocks::Worst`].
    Worst,
    Slow,
    Fast,
    /// The machine sleeps: what it holds ages, what it gave does not.
    Asleep,
}

impl Pace {
    /// Units of the clock by which a node measures what it holds.
    pub(crate) const fn holder(self) -> u8 {
        match self {
            Self::Worst | Self::Slow => 1,
            Self::Asleep => 2,
            Self::Fast => 4,
        }
    }

    /// Units of the clock by which a node measures what it gave.
    pub(crate) const fn giver(self) -> u8 {
        match self {
            Self::Slow => 1,
            Self::Worst | Self::Fast => 4,
            Self::Asleep => 0,
        }
    }
}

/// The paces of all nodes, two bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Paces(u8);

impl Paces {
    /// All that one tick can be.
    pub(crate) fn all(bounds: &Bounds) -> impl Iterator<Item = Self> {
        let choices: u8 = match bounds.clocks {
            Clocks::Worst => 1,
            Clocks::Any => 3,
        };
        let (first, nodes) = (u8::from(bounds.clocks == Clocks::Any), bounds.nodes as u32);
        (0..choices.pow(nodes)).map(move |number| {
            let pace = |node| (number / choices.pow(node) % choices + first) << (2 * node);
            Self((0..nodes).map(pace).sum())
        })
    }

    pub(crate) const fn of(self, node: usize) -> Pace {
        match self.0 >> (2 * node) & 0b11 {
            0 => Pace::Worst,
            1 => Pace::Slow,
            2 => Pace::Fast,
            _ => Pace::Asleep,
        }
    }
}

/// One step of one node, or of time. Nodes are numbered from 0 here and from 1 where they are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// A tick of true time passes.
    Tick(Paces),
    Campaign(u8),
    Vote {
        voter: u8,
        candidate: u8,
    },
    /// The leader takes a client's write.
    Write(u8),
    /// The leader changes the members.
    Change(u8),
    /// An append with the first `length` entries goes and arrives; its answer is on its way.
    Append {
        leader: u8,
        to: u8,
        length: u8,
    },
    /// An append goes.
    Send {
        leader: u8,
        to: u8,
        length: u8,
    },
    /// The append that was under way arrives.
    Arrive,
    /// An answer arrives.
    Acknowledged {
        leader: u8,
        by: u8,
    },
    /// The leader sends a round, for the sake of its lease or of a linearizable read.
    Round(u8),
    Commit {
        leader: u8,
        index: u8,
    },
    /// A node asks, and the leader answers with a grant that the node may use for `usable`.
    Grant {
        leader: u8,
        to: u8,
        usable: u8,
    },
    /// The grant arrives.
    Granted(u8),
    Restart(u8),
    /// A node looks at its clock: broken rules only, else it does so in every step.
    LookAtClock(u8),
    /// A read begins, unless it has begun, and finds the lease usable.
    Check(u8),
    /// A read begins, unless it has begun, and notes an index.
    Note(u8),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tick(paces) => {
                write!(f, "a tick passes")?;
                for node in (0..crate::bounds::NODES_MAX).filter(|node| paces.of(*node) != Pace::Worst) {
                    write!(f, ", for n{} {:?}", node + 1, paces.of(node))?;
                }
                Ok(())
            }
            Self::Campaign(node) => write!(f, "n{} campaigns", node + 1),
            Self::Vote { voter, candidate } => write!(f, "n{} answers the candidate n{}", voter + 1, candidate + 1),
            Self::Write(leader) => write!(f, "n{} takes a write", leader + 1),
            Self::Change(leader) => write!(f, "n{} changes the members", leader + 1),
            Self::Append { leader, to, length } => {
                write!(f, "n{} appends {length} of n{}'s entries, and answers", to + 1, leader + 1)
            }
            Self::Send { leader, to, length } => {
                write!(f, "n{} sends {length} entries to n{}, which takes a while", leader + 1, to + 1)
            }
            Self::Arrive => write!(f, "the append arrives"),
            Self::Acknowledged { leader, by } => write!(f, "n{} gets the answer of n{}", leader + 1, by + 1),
            Self::Round(leader) => write!(f, "n{} sends a round", leader + 1),
            Self::Commit { leader, index } => write!(f, "n{} commits up to {index}", leader + 1),
            Self::Grant { leader, to, usable } => {
                write!(f, "n{} asks n{}, which grants a lease for {usable} usable units", to + 1, leader + 1)
            }
            Self::Granted(node) => write!(f, "n{} gets the grant", node + 1),
            Self::Restart(node) => write!(f, "n{} restarts", node + 1),
            Self::LookAtClock(node) => write!(f, "n{} looks at its clock", node + 1),
            Self::Check(node) => write!(f, "a read at n{} finds the lease usable", node + 1),
            Self::Note(node) => write!(f, "a read at n{} notes its index", node + 1),
        }
    }
}
