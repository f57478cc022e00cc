//! What the one logic of the state machine asks of a place that holds state: a disk or memory.

use std::ops::Range;

use bytes::Bytes;
use raft_core::types::{Index, LogId, Term};

use crate::codec::{Fields, Short};
use crate::digest::{Sum, Sums};
use crate::idempotency::Window;
use crate::query::Table;
use crate::settings::Settings;

/// Counts of keys and of writes of a key are no higher, so that no sum overflows: even at 128 changes in every entry a
/// log does not get there.
const COUNT_LIMIT: u64 = 1 << 62;

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The entry that wrote the value.
    pub(crate) revision: Index,
    /// The entry that made the key.
    pub(crate) created: Index,
    /// Writes since then, 1 for the first.
    pub(crate) version: u64,
    /// The sum of key, header and value, which is subtracted when the value goes.
    pub(crate) sum: Sum,
}

impl Header {
    /// Length of the encoding: format u8 = 2, revision u64, created u64, version u64, sum (16). The value follows.
    pub(crate) const LENGTH: usize = 41;
    const FORMAT: u8 = 2;
    /// What of it is part of the sum.
    const SUMMED: Range<usize> = 1..25;

    pub(crate) fn encode(&self) -> [u8; Self::LENGTH] {
        let mut out = [Self::FORMAT; Self::LENGTH];
        out[1..9].copy_from_slice(&self.revision.0.to_be_bytes());
        out[9..17].copy_from_slice(&self.created.0.to_be_bytes());
        out[17..25].copy_from_slice(&self.version.to_be_bytes());
        out[25..].copy_from_slice(&self.sum.to_bytes());
        out
    }

    /// What the sum of this header's row has to be.
    pub(crate) fn sum_of(&self, scratch: &mut Vec<u8>, key: &[u8], value: &[u8]) -> Sum {
        Sum::of_row(scratch, Table::Keys, key, &[&self.encode()[Self::SUMMED], value])
    }

    /// Splits a stored record into header and value. `None` when it is no record of this format.
    pub(crate) fn split(record: &[u8]) -> Option<(Self, &[u8])> {
        let (header, value) = record.split_first_chunk::<{ Self::LENGTH }>()?;
        let number = |from: usize| -> Option<u64> { Some(u64::from_be_bytes(header[from..from + 8].try_into().ok()?)) };
        let sum = Sum::from_bytes(header[25..].try_into().ok()?);
        let parsed = Self { revision: Index(number(1)?), created: Index(number(9)?), version: number(17)?, sum };
        let believable =
            parsed.created <= parsed.revision && parsed.revision <= Index::LIMIT && parsed.version <= COUNT_LIMIT;
        (header[0] == Self::FORMAT && believable).then_some((parsed, value))
    }
}

/// All of the state that is not under a key: one record, written with every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The last entry whose effects the state holds.
    pub(crate) applied: LogId,
    /// The state machine's time: the latest stamp of any command.
    pub(crate) now_ms: u64,
    /// How many keys exist.
    pub(crate) keys: u64,
    /// Which idempotency keys are remembered.
    pub(crate) window: Window,
    /// The replicated settings.
    pub(crate) settings: Settings,
    /// The oldest revision that can be read. What was replaced after it is kept, and nothing else.
    pub(crate) oldest: Index,
    /// Of all rows.
    pub(crate) sums: Sums,
}

impl Meta {
    const FORMAT: u8 = 2;
    const LENGTH: usize = 65 + 3 * Sum::LENGTH + Settings::LENGTH;

    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            applied: LogId::ZERO,
            now_ms: 0,
            keys: 0,
            window: Window::default(),
            settings,
            oldest: Index::ZERO,
            sums: Sums::default(),
        }
    }

    /// Format u8 = 2; applied index and term, time, keys, window (oldest, next, horizon), oldest revision: each u64;
    /// the sums of rows, of versions and of the versions of the stretch: each 16; settings in the order of their
    /// numbers: each u64.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LENGTH);
        out.push(Self::FORMAT);
        let Self { applied, now_ms, keys, window, settings, oldest, sums } = self;
        let Window { oldest: first, next, horizon_ms } = *window;
        for number in [applied.index.0, applied.term.0, *now_ms, *keys, first, next, horizon_ms, oldest.0] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for sum in [sums.rows, sums.versions, sums.stretch] {
            out.extend_from_slice(&sum.to_bytes());
        }
        settings.encode(&mut out);
        out
    }

    /// Reads the record back; says what does not fit.
    pub(crate) fn decode(record: &[u8]) -> Result<Self, String> {
        let length = record.len();
        let meta = Self::fields(Bytes::copy_from_slice(record)).map_err(|Short| format!("{length} bytes"))?;
        let Window { oldest, next, .. } = meta.window;
        if record[0] != Self::FORMAT {
            return Err(format!("format {}", record[0]));
        }
        let (applied, keys) = (meta.applied, meta.keys);
        let reached = applied.index <= Index::LIMIT && applied.term <= Term::LIMIT && keys <= COUNT_LIMIT;
        if oldest > next || next > Index::LIMIT.0 || !reached {
            return Err(format!("applied {applied}, {keys} keys, idempotency keys {oldest}..{next}"));
        }
        if meta.oldest > applied.index {
            return Err(format!("applied {applied} and versions from {} on", meta.oldest));
        }
        meta.settings.check().map_err(|error| error.to_string())?;
        Ok(meta)
    }

    fn fields(record: Bytes) -> Result<Self, Short> {
        let mut fields = Fields::new(record);
        fields.byte()?;
        let meta = Self {
            applied: LogId::new(Index(fields.long()?), Term(fields.long()?)),
            now_ms: fields.long()?,
            keys: fields.long()?,
            window: Window { oldest: fields.long()?, next: fields.long()?, horizon_ms: fields.long()? },
            oldest: Index(fields.long()?),
            sums: Sums {
                rows: Sum::from_bytes(fields.array()?),
                versions: Sum::from_bytes(fields.array()?),
                stretch: Sum::from_bytes(fields.array()?),
            },
            settings: Settings::decode(&mut fields)?,
        };
        if fields.is_empty() { Ok(meta) } else { Err(Short) }
    }
}

/// One step of a change of the state.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    /// A key has this value.
    Put { key: Bytes, header: Header, value: Bytes },
    /// A key is gone.
    Delete { key: Bytes },
    /// A key had this value until the entry at `superseded`.
    Supersede { key: Bytes, superseded: Index, header: Header, value: Bytes },
    /// A stretch of the log is over, in which versions of this sum were replaced.
    EndStretch { stretch: u64, sum: Sum },
    /// The versions that were replaced in these stretches are forgotten, and those of the last one up to
    /// `Meta::oldest`.
    ForgetStretches(Range<u64>),
    /// An idempotency key is remembered under this number, with this record and its sum.
    Remember { number: u64, key: Bytes, record: Bytes, sum: Sum },
    /// The idempotency key of this number is forgotten.
    Forget { number: u64, key: Bytes },
    /// A mark was passed: these are the newest.
    Marks(Vec<u8>),
}

/// The state's storage failed, or holds what was never written. Says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineError(pub(crate) String);

/// Holds the state. Reads see every batch that was written.
pub(crate) trait Engine: Send {
    /// What stands before the value of `key`.
    fn header(&self, key: &[u8]) -> Result<Option<Header>, EngineError>;

    /// The record under an idempotency key.
    fn remembered(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// What stands before the value of `key`, and the value.
    fn record(&self, key: &[u8]) -> Result<Option<(Header, Bytes)>, EngineError>;

    /// The idempotency key of a number that is remembered, and the sum of its record.
    fn numbered(&self, number: u64) -> Result<Option<(Sum, Bytes)>, EngineError>;

    /// The sum of the versions that were replaced in a stretch that is over and not forgotten.
    fn stretch(&self, stretch: u64) -> Result<Option<Sum>, EngineError>;

    /// Makes all `rows`, in order, and `meta`, in one atomic step that is not asked to be durable. Readers that start
    /// after it returns see it.
    fn write(&mut self, rows: Vec<Row>, meta: &Meta) -> Result<(), EngineError>;

    /// Makes everything that was written durable.
    fn flush(&mut self) -> Result<(), EngineError>;

    /// The applied index of the state that would be there after a loss of power.
    fn durable(&mut self) -> Result<Index, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn records_have_golden_bytes() {
        let header = Header { revision: Index(3), created: Index(2), version: 4, sum: Sum::from_bytes([7; 16]) };
        let sum = "07".repeat(16);
        assert_eq!(hex(&header.encode()), format!("02000000000000000300000000000000020000000000000004{sum}"));
        let record = [&header.encode()[..], b"value"].concat();
        assert_eq!(Header::split(&record), Some((header, &b"value"[..])));

        let window = Window { oldest: 5, next: 6, horizon_ms: 7 };
        let applied = LogId::new(Index(1), Term(2));
        let settings = Settings {
            idempotency_window: 8,
            key_bytes_max: 9,
            value_bytes_max: 10,
            versions_window: 11,
            mark_interval_ms: 112,
            mark_entries: 13,
        };
        let [rows, versions, stretch] = [1, 2, 3].map(|byte| Sum::from_bytes([byte; 16]));
        let sums = Sums { rows, versions, stretch };
        let meta = Meta { applied, now_ms: 3, keys: 4, window, settings, oldest: Index(1), sums };
        let numbers = |of: &[u64]| of.iter().map(|number| format!("{number:016x}")).collect::<String>();
        let sums: String = ["01", "02", "03"].map(|byte| byte.repeat(16)).concat();
        let (before, after) = (numbers(&[1, 2, 3, 4, 5, 6, 7, 1]), numbers(&[8, 9, 10, 11, 112, 13]));
        assert_eq!(hex(&meta.encode()), format!("02{before}{sums}{after}"));
        assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
    }

    #[test]
    fn records_that_were_never_written_are_refused() {
        let header = Header { revision: Index(3), created: Index(2), version: 4, sum: Sum::default() }.encode();
        assert_eq!(Header::split(&header[..40]), None);
        let with = |place: usize, byte: u8| {
            let mut other = header;
            other[place] = byte;
            Header::split(&other).map(|(header, _)| header)
        };
        assert_eq!(with(0, 1), None, "another format");
        assert_eq!(with(16, 4), None, "created after it was written");
        assert_eq!(with(1, 0x80), None, "a revision that no log reaches");
        assert_eq!(with(17, 0x80), None, "more versions than a log can write");

        let meta = Meta::new(Settings::default()).encode();
        let with = |place: usize, byte: u8| {
            let mut other = meta.clone();
            other[place] = byte;
            Meta::decode(&other).unwrap_err()
        };
        assert_eq!(with(0, 1), "format 1");
        assert_eq!(with(40, 1), "applied 0@0, 0 keys, idempotency keys 1..0");
        assert_eq!(with(25, 0x80), "applied 0@0, 9223372036854775808 keys, idempotency keys 0..0");
        assert_eq!(with(9, 0x80), "applied 0@9223372036854775808, 0 keys, idempotency keys 0..0");
        assert_eq!(with(64, 1), "applied 0@0 and versions from 1 on");
        assert_eq!(with(113, 0xff).split(' ').next(), Some("idempotency.window"));
        assert_eq!(Meta::decode(&meta[1..]), Err("160 bytes".into()));
        assert_eq!(Meta::decode(&[]), Err("0 bytes".into()));
    }
}
