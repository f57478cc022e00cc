//! The shapes that a network of five nodes can have: which pairs reach each other.

use std::fmt;

/// Nodes of the network.
pub(crate) const NODES: usize = 5;
/// How many a majority is.
const MAJORITY: usize = NODES / 2 + 1;
/// Pairs of nodes.
const PAIRS: u32 = 10;

/// An undirected graph of five nodes, each with its name: one bit per pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(u32);

impl Shape {
    /// Everybody reaches everybody.
    pub(crate) const WHOLE: Self = Self((1 << PAIRS) - 1);

    /// The shape of this number.
    pub(crate) fn numbered(number: u64) -> Self {
        Self(u32::try_from(number).unwrap() % (1 << PAIRS))
    }

    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..1 << PAIRS).map(Self)
    }

    /// Whether these two reach each other.
    pub(crate) fn links(self, a: usize, b: usize) -> bool {
        let (low, high) = (a.min(b), a.max(b));
        a == b || self.0 & (1 << (high * (high - 1) / 2 + low)) != 0
    }

    /// Whether some node reaches a majority, itself included.
    pub(crate) fn has_majority(self) -> bool {
        (0..NODES).any(|node| (0..NODES).filter(|other| self.links(node, *other)).count() >= MAJORITY)
    }

    /// Whether a majority is such that all its members reach each other.
    pub(crate) fn has_full_majority(self) -> bool {
        (0..1u32 << NODES).any(|set| {
            let members: Vec<usize> = (0..NODES).filter(|node| set & (1 << node) != 0).collect();
            members.len() >= MAJORITY && members.iter().all(|a| members.iter().all(|b| self.links(*a, *b)))
        })
    }

    /// Whether there is a way from every node to every other one.
    pub(crate) fn is_connected(self) -> bool {
        let mut reached = 1u32;
        for _ in 0..NODES {
            for node in 0..NODES {
                if (0..NODES).any(|other| reached & (1 << other) != 0 && self.links(node, other)) {
                    reached |= 1 << node;
                }
            }
        }
        reached == (1 << NODES) - 1
    }

    /// The same shape with other names: node `n` becomes `names[n]`.
    pub(crate) fn renamed(self, names: &[usize; NODES]) -> Self {
        let mut renamed = 0;
        for high in 1..NODES {
            for low in 0..high {
                if self.links(low, high) {
                    let (a, b) = (names[low], names[high]);
                    let (low, high) = (a.min(b), a.max(b));
                    renamed |= 1 << (high * (high - 1) / 2 + low);
                }
            }
        }
        Self(renamed)
    }

    /// Its number.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        write!(f, "[")?;
        for high in 1..NODES {
            for low in (0..high).filter(|low| self.links(*low, high)) {
                write!(f, "{gap}{}-{}", low + 1, high + 1)?;
                gap = " ";
            }
        }
        write!(f, "]")
    }
}
