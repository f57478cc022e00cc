//! Sums over rows: a digest of the state that costs each change the same, however large the state is.
//!
//! Every row has a sum of 128 bits, from BLAKE3 over all of it; the state's sums are those of its rows, added up modulo
//! 2^128. Adding does not care for the order in which rows came, so replicas that hold the same rows have the same
//! sums, whether they applied the log or took over a snapshot. The sum of a row is stored with it, so that it can be
//! subtracted when the row goes, and nobody has to read the value for that.
//!
//! It finds rows that differ by accident: that two different states have the same sums by chance is as likely as
//! guessing 128 bits. It is no proof against somebody who chooses the rows.

use raft_core::types::Index;

use crate::engine::Meta;
use crate::idempotency::Window;
use crate::marks::Marks;
use crate::query::Table;

/// Names what is hashed and its order. Another order is another digest: replicas of both would fence each other, so
/// a new one has to come with a replicated setting that all of them switch at one index.
const MARK_DOMAIN: &[u8] = b"raft-kv mark digest 1";

/// The sum of a row, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u128);

impl Sum {
    /// Length of the encoding.
    pub(crate) const LENGTH: usize = 16;

    /// The sum of one row. `scratch` is overwritten; it is there to be used again.
    pub(crate) fn of_row(scratch: &mut Vec<u8>, table: Table, key: &[u8], record: &[&[u8]]) -> Self {
        scratch.clear();
        scratch.push(table.code());
        // Its length, so that no two rows run together to the same bytes.
        scratch.extend_from_slice(&(key.len() as u64).to_be_bytes());
        scratch.extend_from_slice(key);
        record.iter().for_each(|part| scratch.extend_from_slice(part));
        let mut half = [0; Self::LENGTH];
        half.copy_from_slice(&blake3::hash(scratch).as_bytes()[..Self::LENGTH]);
        Self::from_bytes(half)
    }

    /// The sum of an older version: of a row that was replaced at this index. Multiplying by an odd number loses
    /// nothing, so another row has another sum, and so has another index.
    pub(crate) fn superseded_at(self, index: Index) -> Self {
        let odd = u128::from(index.0) * 2 + 1;
        Self(self.0.wrapping_mul(odd))
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// The sums of all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Of keys and of idempotency keys.
    pub(crate) rows: Sum,
    /// Of older versions.
    pub(crate) versions: Sum,
    /// Of those of them that were replaced in the stretch of the log that is not over yet.
    pub(crate) stretch: Sum,
}

/// The digest of the state at a mark: over everything that readers or later commands depend on. `marks` has the mark.
pub(crate) fn of_state(meta: &Meta, marks: &Marks) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(1024);
    let Meta { applied, now_ms, keys, window, settings, oldest, sums } = meta;
    let Window { oldest: first, next, horizon_ms } = *window;
    bytes.extend_from_slice(MARK_DOMAIN);
    for number in [applied.index.0, applied.term.0, *now_ms, *keys, first, next, horizon_ms, oldest.0] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    for sum in [sums.rows, sums.versions, sums.stretch] {
        bytes.extend_from_slice(&sum.to_bytes());
    }
    settings.encode(&mut bytes);
    // Which marks there are, and not their digests: one replica's difference of the past is none of today.
    marks.iter().for_each(|mark| bytes.extend_from_slice(&mark.index.0.to_be_bytes()));
    *blake3::hash(&bytes).as_bytes()
}
