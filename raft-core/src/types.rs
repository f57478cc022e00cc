//! The words of the protocol: terms, indexes, log ids, entries and who is who.

use std::fmt;

use bytes::Bytes;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// A member of the cluster, by its number. Never reused: founders are 1..=n, a later member has the next number that
    /// was never given, which the configuration knows. Zero names nobody.
    NodeId, "n"
}
number! {
    /// A Raft group. It is part of every log key and every frame; one group is served today, [`GroupId::FIRST`].
    GroupId, "g"
}
number! {
    /// An election epoch. Zero is "before the first election". Raft §5.1.
    Term, ""
}
number! {
    /// A position in the log, counted from 1. Zero is "before the first entry".
    Index, ""
}
number! {
    /// A client call that waits for exactly one answer. Given out in rising order by whoever proposes.
    Ticket, "t"
}
number! {
    /// A durable batch, unique over a process life, so that a late completion of a write whose entries were truncated
    /// meanwhile can never count for others (the append ABA race).
    WriteId, "w"
}

impl GroupId {
    /// The one group that a node serves today.
    pub const FIRST: Self = Self(1);
}

impl Term {
    /// Before the first election.
    pub const ZERO: Self = Self(0);
    /// Terms in entries are below this, so that no sum of them overflows.
    pub const LIMIT: Self = Self(1 << 62);
    /// How far ahead of its own term a node lets a peer's message lift it: more than centuries of elections, and so
    /// little that one wrong message leaves terms to go on with.
    pub const JUMP_MAX: u64 = 1 << 40;

    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);
    /// Indexes from peers are below this; see [`Term::LIMIT`].
    pub const LIMIT: Self = Self(1 << 62);

    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; zero stays zero.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// This index moved up by `count`.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many indexes lie after `other` up to and including this one; zero when this one is not after it.
    #[must_use]
    pub fn since(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

/// An entry's name: its index and the term of the leader that made it. Two logs that hold the same log id hold the
/// same entries up to it (log matching, Raft §5.3). Shown as `5@1`: index 5, term 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogId {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that made the entry.
    pub term: Term,
}

impl LogId {
    /// The id before the first entry.
    pub const ZERO: Self = Self { index: Index::ZERO, term: Term::ZERO };

    /// Names the entry at `index` of `term`.
    #[must_use]
    pub fn new(index: Index, term: Term) -> Self {
        Self { index, term }
    }

    /// Whether a log that ends here is at least as up to date as one that ends at `other`: the later term wins, then
    /// the longer log. Raft §5.4.1 \[F2-VOTE-UPTODATE\].
    #[must_use]
    pub fn at_least_as_up_to_date_as(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What must be durable before a node speaks in a term: the term and its one vote. Raft Figure 2, "persistent state".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term that this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// What an entry is for. The number is part of the wire and disk formats; see `docs/wire.md` for the reserved ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A leader's first entry in its term. It carries nothing and lets the leader commit what came before. Raft §8.
    Noop,
    /// A command for the state machine.
    Command,
    /// A consistent cut that every replica passes at the same index. Snapshot reads are served at it, and replicas
    /// compare what they hold there. The payload is the node's (`docs/node-requests.md`).
    Mark,
    /// A configuration: who votes from here on. The payload is [`Configuration::encode`].
    ///
    /// [`Configuration::encode`]: crate::membership::Configuration::encode
    Configuration,
    /// A kind that this version does not know. It is stored and passed on, and stops the applier: it is never skipped.
    Unknown(u8),
}

impl EntryKind {
    /// The number on the wire and on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Noop => 1,
            Self::Command => 2,
            Self::Mark => 3,
            Self::Configuration => 4,
            Self::Unknown(code) => code,
        }
    }

    /// The kind behind a number read from the wire or from disk.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Noop,
            2 => Self::Command,
            3 => Self::Mark,
            4 => Self::Configuration,
            other => Self::Unknown(other),
        }
    }
}

/// The bytes of an entry with their CRC-32C, computed once, where the request enters the system, and checked at every
/// disk and before apply, so that a bit flipped anywhere on the way is found \[TH-LOG-CHECKSUM\].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    checksum: u32,
}

impl Payload {
    /// Takes the bytes of a request and computes their checksum.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let checksum = crc32c::crc32c(&bytes);
        Self { bytes, checksum }
    }

    /// Takes bytes with the checksum that came with them, **unchecked**: call [`Payload::verify`] wherever the bytes
    /// cross a disk, and before apply.
    #[must_use]
    pub fn with_checksum(bytes: Bytes, checksum: u32) -> Self {
        Self { bytes, checksum }
    }

    /// Whether the bytes are still those that the checksum was computed for.
    #[must_use]
    pub fn verify(&self) -> bool {
        crc32c::crc32c(&self.bytes) == self.checksum
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The CRC-32C of the bytes.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.checksum
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
    /// What it carries; empty for a no-op.
    pub payload: Payload,
}

impl Entry {
    /// Bytes that are counted for an entry beside its payload, on the wire, in memory and on disk, so that a flood of
    /// empty entries is bounded too.
    pub const OVERHEAD: u64 = 32;

    /// What this entry counts against every bound in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        Self::OVERHEAD + self.payload.bytes.len() as u64
    }
}

/// A number of 128 random bits, drawn once, that tells two things of the same name apart.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(s, 16).map(Self)
            }
        }
    };
}

random_id! {
    /// One life of a data directory: drawn when it is made. A node is (name, incarnation); a wiped disk under a known
    /// name is another node.
    Incarnation
}
random_id! {
    /// A cluster, drawn when it is founded.
    ClusterId
}
random_id! {
    /// A snapshot, drawn when it is taken. Two nodes that snapshot the same entry take two snapshots, of other files.
    SnapshotId
}

/// A node's name, as the configuration and its certificate give it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(std::sync::Arc<str>);

impl NodeName {
    /// Takes a name.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
