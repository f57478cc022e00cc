//! The control part of `Append` and `Suffix`, written from the entries and read into them without lists in between: one
//! such message is sent and taken in for every few commands. The bytes are those of [`control::Append`].

use bytes::BytesMut;
use prost::Message as _;
use raft_core::types::Entry;

use super::{Malformed, control};

/// What stands beside the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) term: u64,
    pub(super) prev_index: u64,
    pub(super) prev_term: u64,
    pub(super) commit: u64,
    pub(super) last_index: u64,
    pub(super) last_term: u64,
}

/// What the lists say of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) term: u64,
    pub(super) kind: u8,
    pub(super) length: u32,
    pub(super) checksum: u32,
}

const TERMS: u8 = 7;
const KINDS: u8 = 8;
const LENGTHS: u8 = 9;
const CHECKSUMS: u8 = 10;

/// The first byte of a field: all tags here are below 16.
const fn number_key(tag: u8) -> u8 {
    tag << 3
}

const fn list_key(tag: u8) -> u8 {
    tag << 3 | 2
}

/// Bytes of a varint.
fn varint_len(value: u64) -> usize {
    // Seven bits a byte; zero takes one too.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of a number with its key; zero is what is not there.
fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Bytes of a list of `len` bytes with its key and its length; an empty one is not there.
fn list_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len as u64) + len }
}

/// A control part that is about to be written.
pub(super) struct Control<'a> {
    head: Head,
    entries: &'a [Entry],
    terms_len: usize,
    lengths_len: usize,
}

impl<'a> Control<'a> {
    pub(super) fn new(head: Head, entries: &'a [Entry]) -> Self {
        let (mut terms_len, mut lengths_len) = (0, 0);
        for entry in entries {
            terms_len += varint_len(entry.id.term.0);
            lengths_len += varint_len(entry.payload.bytes().len() as u64);
        }
        Self { head, entries, terms_len, lengths_len }
    }

    pub(super) fn encoded_len(&self) -> usize {
        let Head { from, to, term, prev_index, prev_term, commit, last_index, last_term } = self.head;
        let numbers = [from, to, term, prev_index, prev_term, commit, last_index, last_term];
        let count = self.entries.len();
        let lists = [self.terms_len, count, self.lengths_len, 4 * count];
        numbers.map(number_len).iter().sum::<usize>() + lists.map(list_len).iter().sum::<usize>()
    }

    /// Appends it to `buffer`.
    pub(super) fn put(&self, buffer: &mut BytesMut) {
        let mut out = Pen { buffer, bytes: [0; PEN_BYTES], used: 0 };
        let Head { from, to, term, prev_index, prev_term, commit, last_index, last_term } = self.head;
        for (tag, value) in [(1, from), (2, to), (3, term), (4, prev_index), (5, prev_term), (6, commit)] {
            out.number(tag, value);
        }
        let entries = self.entries;
        if !entries.is_empty() {
            out.list(TERMS, self.terms_len);
            entries.iter().for_each(|entry| out.varint(entry.id.term.0));
            out.list(KINDS, entries.len());
            entries.iter().for_each(|entry| out.raw([entry.kind.code()]));
            out.list(LENGTHS, self.lengths_len);
            entries.iter().for_each(|entry| out.varint(entry.payload.bytes().len() as u64));
            out.list(CHECKSUMS, 4 * entries.len());
            entries.iter().for_each(|entry| out.raw(entry.payload.checksum().to_le_bytes()));
        }
        out.number(11, last_index);
        out.number(12, last_term);
        out.flush();
    }
}

const PEN_BYTES: usize = 128;
/// The longest single thing that is written.
const VARINT_LEN_MAX: usize = 10;

/// Collects single bytes, so that the buffer grows by few larger pieces.
struct Pen<'a> {
    buffer: &'a mut BytesMut,
    bytes: [u8; PEN_BYTES],
    used: usize,
}

impl Pen<'_> {
    fn flush(&mut self) {
        self.buffer.extend_from_slice(&self.bytes[..self.used]);
        self.used = 0;
    }

    #[inline]
    fn raw<const N: usize>(&mut self, bytes: [u8; N]) {
        if self.used + N > PEN_BYTES {
            self.flush();
        }
        self.bytes[self.used..self.used + N].copy_from_slice(&bytes);
        self.used += N;
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        // Nearly all are short.
        if value < 0x80 { self.raw([value as u8]) } else { self.long_varint(value) }
    }

    fn long_varint(&mut self, mut value: u64) {
        if self.used + VARINT_LEN_MAX > PEN_BYTES {
            self.flush();
        }
        while value >= 0x80 {
            self.bytes[self.used] = value as u8 | 0x80;
            self.used += 1;
            value >>= 7;
        }
        self.bytes[self.used] = value as u8;
        self.used += 1;
    }

    /// Zero is what is not there.
    fn number(&mut self, tag: u8, value: u64) {
        if value != 0 {
            self.raw([number_key(tag)]);
            self.varint(value);
        }
    }

    fn list(&mut self, tag: u8, len: usize) {
        self.raw([list_key(tag)]);
        self.varint(len as u64);
    }
}

/// A control part that was read. The four lists are of equal length.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub(super) head: Head,
    /// Entries that the lists name.
    pub(super) count: usize,
    /// Sum of their lengths.
    pub(super) bytes: u64,
    lists: Lists<'a>,
}

#[derive(Debug)]
enum Lists<'a> {
    /// As every version writes them: each list in one piece. The varints were checked.
    Plain { terms: &'a [u8], kinds: &'a [u8], lengths: &'a [u8], checksums: &'a [u8] },
    /// In any other way that protobuf allows.
    Odd(control::Append),
}

impl<'a> Parsed<'a> {
    /// Reads a control part that names at most `entries_max` entries.
    pub(super) fn of(control: &'a [u8], entries_max: usize) -> Result<Self, Malformed> {
        let parsed = match Self::plain(control) {
            Some(parsed) => parsed,
            None => Self::odd(control)?,
        };
        if parsed.count > entries_max {
            return Err(Malformed::TooManyEntries);
        }
        let same_len = match &parsed.lists {
            Lists::Plain { .. } => true,
            Lists::Odd(odd) => {
                [odd.kinds.len(), odd.lengths.len(), odd.checksums.len()].iter().all(|len| *len == parsed.count)
            }
        };
        if same_len { Ok(parsed) } else { Err(Malformed::EntryLists) }
    }

    /// None when it is written in another way, or broken.
    fn plain(control: &'a [u8]) -> Option<Self> {
        let mut head = Head::default();
        let [mut terms, mut kinds, mut lengths, mut checksums]: [&[u8]; 4] = [&[]; 4];
        let mut rest = control;
        while let Some((key, behind)) = rest.split_first() {
            rest = behind;
            let value = varint(&mut rest)?;
            let list = match key >> 3 {
                TERMS => &mut terms,
                KINDS => &mut kinds,
                LENGTHS => &mut lengths,
                CHECKSUMS => &mut checksums,
                tag => {
                    let number = match tag {
                        1 => &mut head.from,
                        2 => &mut head.to,
                        3 => &mut head.term,
                        4 => &mut head.prev_index,
                        5 => &mut head.prev_term,
                        6 => &mut head.commit,
                        11 => &mut head.last_index,
                        12 => &mut head.last_term,
                        _ => return None,
                    };
                    if *key != number_key(tag) {
                        return None;
                    }
                    *number = value;
                    continue;
                }
            };
            if key & 7 != 2 || !list.is_empty() {
                return None;
            }
            (*list, rest) = rest.split_at_checked(usize::try_from(value).ok()?)?;
        }
        let (mut left, count, mut bytes) = ((terms, lengths), kinds.len(), 0);
        for _ in 0..count {
            varint(&mut left.0)?;
            bytes += u64::from(u32::try_from(varint(&mut left.1)?).ok()?);
        }
        let whole = left.0.is_empty() && left.1.is_empty() && checksums.len() == 4 * count;
        whole.then_some(Self { head, count, bytes, lists: Lists::Plain { terms, kinds, lengths, checksums } })
    }

    fn odd(control: &[u8]) -> Result<Self, Malformed> {
        let read = control::Append::decode(control).map_err(|_| Malformed::Control)?;
        let head = Head {
            from: read.from,
            to: read.to,
            term: read.term,
            prev_index: read.prev_index,
            prev_term: read.prev_term,
            commit: read.commit,
            last_index: read.last_index,
            last_term: read.last_term,
        };
        let bytes = read.lengths.iter().map(|length| u64::from(*length)).sum();
        Ok(Self { head, count: read.terms.len(), bytes, lists: Lists::Odd(read) })
    }

    /// Hands what the lists say to `each`, in order.
    pub(super) fn for_each(&self, mut each: impl FnMut(Item)) {
        match &self.lists {
            Lists::Plain { terms, kinds, lengths, checksums } => {
                let (mut terms, mut lengths) = (*terms, *lengths);
                for (kind, checksum) in kinds.iter().zip(checksums.as_chunks().0) {
                    // Both were read once already.
                    let (Some(term), Some(length)) = (varint(&mut terms), varint(&mut lengths)) else { return };
                    each(Item { term, kind: *kind, length: length as u32, checksum: u32::from_le_bytes(*checksum) });
                }
            }
            Lists::Odd(odd) => {
                let names = odd.terms.iter().zip(&odd.kinds).zip(odd.lengths.iter().zip(&odd.checksums));
                names.for_each(|((term, kind), (length, checksum))| {
                    each(Item { term: *term, kind: *kind, length: *length, checksum: *checksum });
                });
            }
        }
    }
}

/// Takes a varint off the front of `bytes`.
#[inline]
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    // Nearly all are short.
    if let [byte, rest @ ..] = *bytes
        && *byte < 0x80
    {
        *bytes = rest;
        return Some(u64::from(*byte));
    }
    long_varint(bytes)
}

fn long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (position, byte) in bytes.iter().enumerate().take(VARINT_LEN_MAX) {
        // The tenth byte holds the last bit.
        if position == VARINT_LEN_MAX - 1 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            *bytes = &bytes[position + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
