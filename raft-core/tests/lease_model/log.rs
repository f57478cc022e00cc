//! A log of a few entries in one word: states are copied and hashed by the million.

use std::fmt;

/// What an entry is. Which value a write carries does not matter: its term and index name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The first entry of a leader's term.
    Noop,
    /// A client's write: the only kind that a read can miss.
    Write,
    /// The change from the first configuration of the bounds to the second.
    Change,
}

/// Entries from index 1 on: four bits of length, then five bits each (three of term, two of kind).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Log(u64);

/// What fits into the word.
pub(crate) const ENTRIES_MAX: u8 = 12;
/// What fits into an entry.
pub(crate) const TERMS_MAX: u8 = 7;

const LENGTH_BITS: u32 = 4;
const ENTRY_BITS: u32 = 5;
const KIND_BITS: u32 = 2;

impl Log {
    pub(crate) const fn length(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// The log with one more entry.
    pub(crate) fn with(self, term: u8, kind: Kind) -> Self {
        assert!(self.length() < ENTRIES_MAX, "a log of {} entries is full", self.length());
        assert!(term <= TERMS_MAX, "term {term} does not fit into an entry");
        let kind = match kind {
            Kind::Noop => 0,
            Kind::Write => 1,
            Kind::Change => 2,
        };
        let entry = u64::from(term) << KIND_BITS | kind;
        Self((self.0 | entry << (LENGTH_BITS + ENTRY_BITS * u32::from(self.length()))) + 1)
    }

    fn entry(self, index: u8) -> u64 {
        assert!(index > 0 && index <= self.length(), "no entry {index} in a log of {}", self.length());
        self.0 >> (LENGTH_BITS + ENTRY_BITS * u32::from(index - 1)) & 0x1f
    }

    /// The term at an index; 0 at index 0.
    pub(crate) fn term(self, index: u8) -> u8 {
        if index == 0 { 0 } else { (self.entry(index) >> KIND_BITS) as u8 }
    }

    pub(crate) fn kind(self, index: u8) -> Kind {
        match self.entry(index) & 0b11 {
            0 => Kind::Noop,
            1 => Kind::Write,
            _ => Kind::Change,
        }
    }

    pub(crate) fn last_term(self) -> u8 {
        self.term(self.length())
    }

    /// The first `length` entries.
    pub(crate) fn prefix(self, length: u8) -> Self {
        let length = length.min(self.length());
        let bits = LENGTH_BITS + ENTRY_BITS * u32::from(length);
        let kept = if bits == u64::BITS { self.0 } else { self.0 & ((1 << bits) - 1) };
        Self(kept & !0xf | u64::from(length))
    }

    pub(crate) fn begins_with(self, other: Self) -> bool {
        self.length() >= other.length() && self.prefix(other.length()) == other
    }

    fn last_of(self, kind: Kind) -> u8 {
        (1..=self.length()).rev().find(|index| self.kind(*index) == kind).unwrap_or(0)
    }

    /// The index of the last write; 0 when there is none.
    pub(crate) fn last_write(self) -> u8 {
        self.last_of(Kind::Write)
    }

    /// The index of the change of members, if the log holds it.
    pub(crate) fn change(self) -> Option<u8> {
        Some(self.last_of(Kind::Change)).filter(|index| *index > 0)
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for index in 1..=self.length() {
            let kind = match self.kind(index) {
                Kind::Noop => "no-op",
                Kind::Write => "write",
                Kind::Change => "change",
            };
            let space = if index == 1 { "" } else { " " };
            write!(f, "{space}{kind}@{}", self.term(index))?;
        }
        f.write_str("]")
    }
}

#[test]
fn a_log_is_what_was_put_into_it() {
    let log = Log::default().with(1, Kind::Noop).with(1, Kind::Write).with(7, Kind::Change).with(7, Kind::Noop);
    assert_eq!(log.to_string(), "[no-op@1 write@1 change@7 no-op@7]");
    assert_eq!((log.length(), log.last_term(), log.last_write(), log.change()), (4, 7, 2, Some(3)));
    assert_eq!(log.prefix(2), Log::default().with(1, Kind::Noop).with(1, Kind::Write));
    assert!(log.begins_with(log.prefix(3)) && !log.prefix(3).begins_with(log));
    let full = (0..ENTRIES_MAX).fold(Log::default(), |log, _| log.with(7, Kind::Change));
    assert_eq!(full.prefix(ENTRIES_MAX), full);
    assert_eq!(full.length(), ENTRIES_MAX);
}
