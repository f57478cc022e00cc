//! The few messages of `etcdserverpb` that a load needs, by hand: fields of varints and of bytes.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Bytes before a message of gRPC: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message with the prefix of gRPC.
pub fn framed(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::with_capacity(512);
    bytes.put_bytes(0, PREFIX_BYTES);
    write(&mut bytes);
    let length = u32::try_from(bytes.len() - PREFIX_BYTES).expect("a message is below 4 GiB");
    bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

/// `PutRequest`.
#[must_use]
pub fn put(key: &[u8], value: &[u8]) -> Bytes {
    framed(|bytes| {
        bytes.reserve(value.len() + key.len() + 16);
        bytes_field(bytes, 1, key);
        bytes_field(bytes, 2, value);
    })
}

/// `RangeRequest` of one key; `serializable` reads what the node has.
#[must_use]
pub fn range(key: &[u8], serializable: bool) -> Bytes {
    framed(|bytes| {
        bytes_field(bytes, 1, key);
        if serializable {
            varint(bytes, 7 << 3 | VARINT);
            varint(bytes, 1);
        }
    })
}

/// How many keys a `RangeResponse` holds.
///
/// # Errors
/// When it is no such message.
pub fn range_count(message: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    for field in fields(message) {
        count += usize::from(matches!(field?, (2, Value::Bytes(_))));
    }
    Ok(count)
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who answers.
    pub member: u64,
    /// Whom it follows; zero when nobody leads.
    pub leader: u64,
    /// Its term.
    pub term: u64,
}

/// Reads a `StatusResponse`.
///
/// # Errors
/// When it is no such message.
pub fn status(message: &[u8]) -> io::Result<Status> {
    let mut status = Status::default();
    for field in fields(message) {
        match field? {
            (1, Value::Bytes(header)) => {
                for field in fields(header) {
                    if let (2, Value::Number(member)) = field? {
                        status.member = member;
                    }
                }
            }
            (4, Value::Number(leader)) => status.leader = leader,
            (6, Value::Number(term)) => status.term = term,
            _ => {}
        }
    }
    Ok(status)
}

/// The message behind the prefix of gRPC.
///
/// # Errors
/// When there is not exactly one, or it is compressed.
pub fn unframed(bytes: &[u8]) -> io::Result<&[u8]> {
    let malformed = || io::Error::other("the answer is not one uncompressed message of gRPC");
    let (prefix, message) = bytes.split_at_checked(PREFIX_BYTES).ok_or_else(malformed)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || length as usize != message.len() { Err(malformed()) } else { Ok(message) }
}

fn bytes_field(bytes: &mut BytesMut, number: u64, content: &[u8]) {
    varint(bytes, number << 3 | BYTES);
    varint(bytes, content.len() as u64);
    bytes.put_slice(content);
}

fn varint(bytes: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        bytes.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

/// The content of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, by number.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = io::Result<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest).ok_or_else(|| io::Error::other("the answer is no message of protobuf"));
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = read_varint(rest)?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        *rest = left;
        Some(taken)
    };
    let value = match tag & 7 {
        VARINT => Value::Number(read_varint(rest)?),
        FIXED64 => Value::Bytes(take(8)?),
        FIXED32 => Value::Bytes(take(4)?),
        BYTES => {
            let length = usize::try_from(read_varint(rest)?).ok()?;
            let (taken, left) = rest.split_at_checked(length)?;
            *rest = left;
            Value::Bytes(taken)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_what_protobuf_says() {
        // Field 1 "k", field 2 "vv", behind the prefix of gRPC.
        assert_eq!(&put(b"k", b"vv")[..], b"\x00\x00\x00\x00\x07\x0a\x01k\x12\x02vv");
        let long = put(b"k", &[7; 300]);
        assert_eq!(&long[..11], b"\x00\x00\x00\x01\x32\x0a\x01k\x12\xac\x02");
        assert_eq!(unframed(&long).unwrap().len(), long.len() - 5);
    }

    #[test]
    fn a_range_is_what_protobuf_says() {
        assert_eq!(&range(b"k", false)[..], b"\x00\x00\x00\x00\x03\x0a\x01k");
        assert_eq!(&range(b"k", true)[..], b"\x00\x00\x00\x00\x05\x0a\x01k\x38\x01");
    }

    #[test]
    fn answers_are_read() {
        // header { member_id: 300 }, leader: 5, raftIndex: 9, raftTerm: 2
        let message = b"\x0a\x03\x10\xac\x02\x20\x05\x28\x09\x30\x02";
        assert_eq!(status(message).unwrap(), Status { member: 300, leader: 5, term: 2 });
        // header {}, kvs { key: "k" }, count: 1
        assert_eq!(range_count(b"\x0a\x00\x12\x03\x0a\x01k\x20\x01").unwrap(), 1);
        assert_eq!(range_count(b"\x0a\x00").unwrap(), 0);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        assert!(status(b"\x0a\x05\x10").is_err());
        assert!(range_count(b"\x80").is_err());
        assert!(range_count(b"\x0b").is_err());
        assert!(unframed(b"\x00\x00\x00").is_err());
        assert!(unframed(b"\x01\x00\x00\x00\x01x").is_err());
        assert!(unframed(b"\x00\x00\x00\x00\x02x").is_err());
    }
}
