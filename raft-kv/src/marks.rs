//! The marks that the state has passed.

use raft_core::types::Index;

use crate::codec::{Fields, Short};

/// A consistent cut that every replica has passed at the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The entry that made it.
    pub index: Index,
    /// What the state was there: replicas that hold the same have the same digest.
    pub digest: [u8; 32],
}

/// The newest marks, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(Vec<Mark>);

impl Marks {
    /// Marks that are remembered at most; then the oldest is forgotten.
    pub(crate) const MAX: usize = 64;
    const FORMAT: u8 = 1;
    const MARK_LENGTH: usize = 40;

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.0.iter()
    }

    pub(crate) fn newest(&self) -> Option<&Mark> {
        self.0.last()
    }

    pub(crate) fn at(&self, index: Index) -> Option<&Mark> {
        self.0.iter().find(|mark| mark.index == index)
    }

    /// Remembers a mark whose digest is not known yet, and forgets those at which nothing can be read any more.
    pub(crate) fn pass(&mut self, index: Index, oldest: Index) {
        assert!(self.newest().is_none_or(|newest| newest.index < index), "a mark at {index} is not the newest");
        self.0.retain(|mark| mark.index >= oldest);
        self.0.push(Mark { index, digest: [0; 32] });
        let surplus = self.0.len().saturating_sub(Self::MAX);
        self.0.drain(..surplus);
    }

    pub(crate) fn set_newest_digest(&mut self, digest: [u8; 32]) {
        if let Some(newest) = self.0.last_mut() {
            newest.digest = digest;
        }
    }

    /// Format u8 = 1, then for each mark its index u64 and digest.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.0.len() * Self::MARK_LENGTH);
        out.push(Self::FORMAT);
        for mark in &self.0 {
            out.extend_from_slice(&mark.index.0.to_be_bytes());
            out.extend_from_slice(&mark.digest);
        }
        out
    }

    /// Reads the record back; says what does not fit.
    pub(crate) fn decode(record: &[u8], applied: Index) -> Result<Self, String> {
        let length = record.len();
        let marks = Self::fields(record).map_err(|Short| format!("{length} bytes"))?;
        if record[0] != Self::FORMAT {
            return Err(format!("format {}", record[0]));
        }
        let rising = marks.0.is_sorted_by(|a, b| a.index < b.index);
        if !rising || marks.0.len() > Self::MAX || marks.newest().is_some_and(|mark| mark.index > applied) {
            return Err(format!("{} marks, or none that come before {applied} in order", marks.0.len()));
        }
        Ok(marks)
    }

    fn fields(record: &[u8]) -> Result<Self, Short> {
        let mut fields = Fields::new(bytes::Bytes::copy_from_slice(record));
        fields.byte()?;
        let mut marks = Vec::new();
        while !fields.is_empty() {
            marks.push(Mark { index: Index(fields.long()?), digest: fields.array()? });
        }
        Ok(Self(marks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(indexes: &[u64]) -> Marks {
        let mut marks = Marks::default();
        for index in indexes {
            marks.pass(Index(*index), Index::ZERO);
            marks.set_newest_digest([*index as u8; 32]);
        }
        marks
    }

    #[test]
    fn marks_have_golden_bytes() {
        let marks = passed(&[3, 258]);
        let expected = [&[1][..], &3_u64.to_be_bytes(), &[3; 32], &258_u64.to_be_bytes(), &[2; 32]].concat();
        assert_eq!(marks.encode(), expected);
        assert_eq!(Marks::decode(&expected, Index(258)), Ok(marks));
        assert_eq!(Marks::decode(&[1], Index::ZERO), Ok(Marks::default()));
    }

    #[test]
    fn marks_that_were_never_written_are_refused() {
        let record = passed(&[3, 258]).encode();
        assert!(Marks::decode(&record, Index(257)).is_err(), "a mark beyond what was applied");
        assert_eq!(Marks::decode(&record[..80], Index(300)), Err("80 bytes".into()));
        assert_eq!(Marks::decode(&[], Index(300)), Err("0 bytes".into()));
        assert_eq!(Marks::decode(&[2], Index(300)), Err("format 2".into()));
        let swapped = [&record[..1], &record[41..], &record[1..41]].concat();
        assert!(Marks::decode(&swapped, Index(300)).is_err(), "out of order");
    }

    #[test]
    fn marks_are_bounded_and_those_that_nobody_can_read_at_are_forgotten() {
        let mut marks = passed(&(1..=200).collect::<Vec<_>>());
        assert_eq!(marks.iter().map(|mark| mark.index.0).collect::<Vec<_>>(), (137..=200).collect::<Vec<_>>());
        marks.pass(Index(300), Index(199));
        assert_eq!(marks.iter().map(|mark| mark.index.0).collect::<Vec<_>>(), [199, 200, 300]);
    }
}
