//! A walk through all of the state: its digest, and whether its sums are right.

use std::collections::BTreeMap;

use raft_core::ports::QueryError;

use crate::digest::Sum;
use crate::engine::{Header, Meta};
use crate::idempotency::Remembered;
use crate::marks::Marks;
use crate::query::Table;
use crate::versions;

/// Takes every row of the state.
#[derive(Default)]
pub(crate) struct Audit {
    hasher: blake3::Hasher,
    scratch: Vec<u8>,
    keys: u64,
    numbers: u64,
    rows: Sum,
    /// Which number has which idempotency key, by the records and by the numbers.
    recorded: Sum,
    numbered: Sum,
    /// Of the idempotency keys' records, as they are and as the numbers say.
    records: Sum,
    records_stored: Sum,
    versions: Sum,
    /// Of each stretch, by its rows; what was written down of it is taken away.
    stretches: BTreeMap<u64, Sum>,
}

impl Audit {
    pub(crate) fn visit(&mut self, table: Table, key: &[u8], record: &[&[u8]]) -> Result<(), QueryError> {
        // Lengths are part of it, so that no two states run together to the same bytes.
        let length = record.iter().map(|part| part.len()).sum::<usize>();
        self.hasher.update(&[table.code()]);
        self.hasher.update(&(key.len() as u64).to_be_bytes());
        self.hasher.update(&(length as u64).to_be_bytes());
        self.hasher.update(key);
        record.iter().for_each(|part| {
            self.hasher.update(part);
        });
        let sound = match table {
            Table::Keys => self.key(key, record),
            Table::Remembered => self.remembered(key, record),
            Table::Numbers => self.number(key, record),
            Table::Versions => self.version(key, record),
            Table::Stretches => self.stretch(key, record),
        };
        sound.ok_or_else(|| QueryError::Storage(format!("the row of {} in {table:?} is damaged", key.escape_ascii())))
    }

    /// The digest of everything.
    ///
    /// # Errors
    /// When the sums and counts of `meta` are not those of the rows.
    pub(crate) fn finish(mut self, meta: &Meta, marks: &Marks) -> Result<blake3::Hash, QueryError> {
        let mut stretch = Sum::default();
        for (number, sum) in &self.stretches {
            let open = *number == versions::stretch_of(meta.applied.index.next());
            if open {
                stretch = *sum;
            } else if *sum != Sum::default() {
                return Err(wrong(&format!("the sum of the versions up to {}", versions::last_of(*number))));
            }
        }
        let checks = [
            (self.keys == meta.keys, "the count of keys"),
            (self.numbers == meta.window.len(), "the count of idempotency keys"),
            (self.recorded == self.numbered, "the numbers of the idempotency keys"),
            (self.records == self.records_stored, "the sums of the idempotency keys' records"),
            (self.rows == meta.sums.rows, "the sum of the keys"),
            (self.versions == meta.sums.versions, "the sum of the versions"),
            (stretch == meta.sums.stretch, "the sum of the newest versions"),
        ];
        if let Some((_, what)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(wrong(what));
        }
        self.hasher.update(&meta.encode());
        self.hasher.update(&marks.encode());
        Ok(self.hasher.finalize())
    }

    fn key(&mut self, key: &[u8], record: &[&[u8]]) -> Option<()> {
        self.keys += 1;
        let sum = self.record(key, record)?;
        self.rows.add(sum);
        Some(())
    }

    /// The sum of a record, if it is the one that stands in its header.
    fn record(&mut self, key: &[u8], record: &[&[u8]]) -> Option<Sum> {
        let [header, value] = record else { return None };
        let (header, _) = Header::split(header)?;
        let sum = header.sum_of(&mut self.scratch, key, value);
        (sum == header.sum).then_some(sum)
    }

    fn remembered(&mut self, key: &[u8], record: &[&[u8]]) -> Option<()> {
        let [record] = record else { return None };
        let sum = Sum::of_row(&mut self.scratch, Table::Remembered, key, &[record]);
        self.rows.add(sum);
        self.records.add(sum);
        let number = Remembered::decode(bytes::Bytes::copy_from_slice(record))?.number;
        self.recorded.add(Sum::of_row(&mut self.scratch, Table::Numbers, key, &[&number.to_be_bytes()]));
        Some(())
    }

    fn number(&mut self, number: &[u8], record: &[&[u8]]) -> Option<()> {
        let [record] = record else { return None };
        self.numbers += 1;
        let (sum, key) = record.split_first_chunk()?;
        self.records_stored.add(Sum::from_bytes(*sum));
        self.numbered.add(Sum::of_row(&mut self.scratch, Table::Numbers, key, &[number]));
        Some(())
    }

    fn version(&mut self, row: &[u8], record: &[&[u8]]) -> Option<()> {
        let (key, superseded) = versions::split_row_key(row)?;
        let sum = self.record(&key, record)?.superseded_at(superseded);
        self.versions.add(sum);
        self.stretches.entry(versions::stretch_of(superseded)).or_default().add(sum);
        Some(())
    }

    fn stretch(&mut self, number: &[u8], record: &[&[u8]]) -> Option<()> {
        let [record] = record else { return None };
        let (number, sum) = (u64::from_be_bytes(number.try_into().ok()?), Sum::from_bytes((*record).try_into().ok()?));
        self.stretches.entry(number).or_default().subtract(sum);
        Some(())
    }
}

fn wrong(what: &str) -> QueryError {
    QueryError::Storage(format!("{what} is not what the rows add up to: the state differs from what was applied"))
}
