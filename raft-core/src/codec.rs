//! Bytes for what a [`Transport`](crate::ports::Transport) carries, for authors who do not want to write them again.
//!
//! Nothing in this crate calls it: a transport may use it, or have bytes of its own, as `raft-net-quic` does. Three
//! things travel that are not opaque to a transport: messages ([`encode`], [`decode`]), who is at the other end of a
//! connection ([`encode_identity`], [`decode_identity`]), and the offer of a snapshot ([`encode_offer`],
//! [`decode_offer`]). A transport over streams finds frames here, too ([`frame`], [`Frames`]); over anything else lengths
//! and checksums are the transport's ([`checksum`] computes one).
//!
//! ```
//! use raft_core::codec;
//! use raft_core::message::{Envelope, Message, PeerMessage};
//! use raft_core::types::{GroupId, Index, NodeId, Term};
//!
//! let message = Message::AppendAccepted { matched: Index(5) };
//! let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(7), message };
//! let message = PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() };
//! let bytes = codec::encode(&message);
//! assert_eq!(codec::decode(bytes.clone().into()), Ok(message));
//! let cut = codec::decode(bytes[..bytes.len() - 1].to_vec().into());
//! assert_eq!(cut.unwrap_err().to_string(), "the bytes end inside `matched`");
//! ```
//!
//! # What decoding checks
//! Whatever bytes come in, decoding ends with a value or a named error, and allocates a small multiple of them. What
//! the core takes for granted is checked here: terms and indexes lie below their limits, entries follow each other and
//! the entry before them ([`Span::of`]), and each payload fits its checksum, so that a bit that the sender's memory
//! flipped reaches no other disk \[TH-LOG-CHECKSUM\]. **Not** checked, since only the connection knows: that
//! `envelope.from` is the peer at the other end, and `envelope.to` this node.
//!
//! # The layout
//! Big-endian numbers without padding; the first byte is the [`VERSION`], the second says what it is. A version or kind
//! that is not known is an error of its own: drop the message and keep the connection, so that a later version can say
//! more. The entries of an append stand at its end, each as term, kind, checksum, length and bytes.

use std::time::Duration;

use bytes::Bytes;

use crate::handover::{Priority, Standing};
use crate::message::{Envelope, Message, PeerMessage};
use crate::ports::{RemoteIdentity, SnapshotOffer};
use crate::runs::Span;
use crate::types::{ClusterId, Entry, EntryKind, GroupId, Incarnation, Index, LogId, NodeId, NodeName, Payload, Term};

mod fields;
mod frames;
#[cfg(test)]
mod tests;

pub use fields::CodecError;
use fields::{Reader, Writer};
pub use frames::{FrameError, Frames, frame};

/// The version of all three layouts.
pub const VERSION: u8 = 1;
/// The longest name of a node, in bytes; longer ones are refused.
pub const NAME_BYTES_MAX: usize = 253;

/// The second byte of an identity and of an offer; those of messages are below them.
const IDENTITY: u8 = 64;
const OFFER: u8 = 65;

/// CRC-32C (Castagnoli), for the frames that the bytes travel in.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The bytes of a message, with its entries.
#[must_use]
pub fn encode(message: &PeerMessage) -> Vec<u8> {
    let PeerMessage { group, envelope, entries } = message;
    let payloads: usize = entries.iter().map(|entry| entry.payload.bytes().len() + 17).sum();
    let mut writer = Writer::new(kind_of(&envelope.message), 96 + payloads);
    writer.number(group.0);
    writer.number(envelope.from.0);
    writer.number(envelope.to.0);
    writer.number(envelope.term.0);
    write_message(&mut writer, &envelope.message);
    for entry in entries {
        writer.number(entry.id.term.0);
        writer.byte(entry.kind.code());
        writer.short(entry.payload.checksum());
        writer.short(u32::try_from(entry.payload.bytes().len()).unwrap_or(u32::MAX));
        writer.bytes(entry.payload.bytes());
    }
    writer.done()
}

/// Reads a message. Payloads share `bytes`.
///
/// # Errors
/// When the bytes are no message, or one that no correct peer sends. [`CodecError::is_unknown`] tells those of a later
/// version from damage.
pub fn decode(bytes: Bytes) -> Result<PeerMessage, CodecError> {
    let mut reader = Reader::new(bytes)?;
    let kind = reader.kind();
    let group = GroupId(reader.number("group")?);
    let (from, to) = (NodeId(reader.number("from")?), NodeId(reader.number("to")?));
    let term = reader.term("term")?;
    let (message, entries) = read_message(&mut reader, kind)?;
    reader.end()?;
    Ok(PeerMessage { group, envelope: Envelope { from, to, term, message }, entries })
}

/// The bytes by which a node says who it is.
#[must_use]
pub fn encode_identity(identity: &RemoteIdentity) -> Vec<u8> {
    let mut writer = Writer::new(IDENTITY, 64);
    writer.wide(identity.incarnation.0);
    writer.option(identity.cluster, |writer, cluster| writer.wide(cluster.0));
    writer.option(identity.id, |writer, id| writer.number(id.0));
    writer.bytes(identity.name.as_str().as_bytes());
    writer.done()
}

/// Reads who the other node says it is. That it is so is for its certificate to prove.
///
/// # Errors
/// When the bytes are no identity.
pub fn decode_identity(bytes: Bytes) -> Result<RemoteIdentity, CodecError> {
    let mut reader = Reader::new(bytes)?;
    reader.demand_kind(IDENTITY)?;
    let incarnation = Incarnation(reader.wide("incarnation")?);
    let cluster = reader.option("cluster", |reader| reader.wide("cluster").map(ClusterId))?;
    let id = reader.option("id", |reader| reader.number("id").map(NodeId))?;
    let name = reader.rest();
    match std::str::from_utf8(&name) {
        Ok(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => {
            Ok(RemoteIdentity { name: NodeName::new(name), incarnation, cluster, id })
        }
        _ => Err(CodecError::Value { field: "name", found: name.len() as u64 }),
    }
}

/// The bytes of the offer of a snapshot, its manifest included.
#[must_use]
pub fn encode_offer(offer: &SnapshotOffer) -> Vec<u8> {
    let mut writer = Writer::new(OFFER, 64 + offer.manifest.len());
    writer.number(offer.group.0);
    writer.number(offer.from.0);
    writer.number(offer.to.0);
    writer.number(offer.term.0);
    writer.short(offer.chunks);
    writer.bytes(&offer.manifest);
    writer.done()
}

/// Reads the offer of a snapshot.
///
/// # Errors
/// When the bytes are no offer.
pub fn decode_offer(bytes: Bytes) -> Result<SnapshotOffer, CodecError> {
    let mut reader = Reader::new(bytes)?;
    reader.demand_kind(OFFER)?;
    let group = GroupId(reader.number("group")?);
    let (from, to) = (NodeId(reader.number("from")?), NodeId(reader.number("to")?));
    let term = reader.term("term")?;
    let chunks = reader.short("chunks")?;
    Ok(SnapshotOffer { group, from, to, term, chunks, manifest: reader.rest() })
}

/// The numbers are part of the format: none is ever used for something else.
fn kind_of(message: &Message) -> u8 {
    match message {
        Message::PreVote { .. } => 1,
        Message::PreVoteResponse { .. } => 2,
        Message::Vote { .. } => 3,
        Message::VoteResponse { .. } => 4,
        Message::Append { .. } => 5,
        Message::AppendAccepted { .. } => 6,
        Message::AppendRejected { .. } => 7,
        Message::Heartbeat { .. } => 8,
        Message::HeartbeatResponse { .. } => 9,
        Message::ReadIndex { .. } => 10,
        Message::ReadIndexResponse { .. } => 11,
        Message::FetchSuffix { .. } => 12,
        Message::Suffix { .. } => 13,
        Message::SuffixRefused { .. } => 14,
        Message::Removed { .. } => 15,
        Message::TimeoutNow { .. } => 16,
        Message::LeaseRequest { .. } => 17,
        Message::LeaseGrant { .. } => 18,
    }
}

fn write_message(writer: &mut Writer, message: &Message) {
    match message {
        Message::PreVote { last } => writer.log_id(*last),
        Message::PreVoteResponse { granted, ahead } => {
            writer.flag(*granted);
            writer.option(*ahead, Writer::log_id);
        }
        Message::Vote { last, handover: flag } | Message::TimeoutNow { last, drained_too: flag } => {
            writer.log_id(*last);
            writer.flag(*flag);
        }
        Message::VoteResponse { granted, silence } => {
            writer.flag(*granted);
            writer.time(*silence);
        }
        Message::Append { entries, commit } => {
            writer.log_id(entries.prev);
            writer.number(commit.0);
        }
        Message::AppendAccepted { matched: index } | Message::Removed { configuration: index } => {
            writer.number(index.0);
        }
        Message::AppendRejected { prev, hint } => {
            writer.number(prev.0);
            writer.log_id(*hint);
        }
        Message::Heartbeat { commit, round, wants_holder } => {
            writer.number(commit.0);
            writer.number(*round);
            writer.flag(*wants_holder);
        }
        Message::HeartbeatResponse { round, verified, matched, standing } => {
            writer.number(*round);
            writer.number(verified.0);
            writer.number(matched.0);
            writer.byte(standing_code(*standing));
        }
        Message::ReadIndex { number } | Message::LeaseRequest { number } => writer.number(*number),
        Message::ReadIndexResponse { number, index } => {
            writer.number(*number);
            writer.number(index.0);
        }
        Message::FetchSuffix { prev } => writer.log_id(*prev),
        Message::Suffix { entries, last } => {
            writer.log_id(entries.prev);
            writer.log_id(*last);
        }
        Message::SuffixRefused { prev, hint } => {
            writer.number(prev.0);
            writer.option(*hint, Writer::log_id);
        }
        Message::LeaseGrant { number, usable, index } => {
            writer.number(*number);
            writer.time(*usable);
            writer.number(index.0);
        }
    }
}

fn read_message(reader: &mut Reader, kind: u8) -> Result<(Message, Vec<Entry>), CodecError> {
    let message = match kind {
        1 => Message::PreVote { last: reader.log_id("last")? },
        2 => Message::PreVoteResponse {
            granted: reader.flag("granted")?,
            ahead: reader.option("ahead", |reader| reader.log_id("ahead"))?,
        },
        3 => Message::Vote { last: reader.log_id("last")?, handover: reader.flag("handover")? },
        4 => Message::VoteResponse { granted: reader.flag("granted")?, silence: read_time(reader, "silence")? },
        5 => {
            let (prev, commit) = (reader.log_id("prev")?, reader.index("commit")?);
            let (entries, span) = read_entries(reader, prev)?;
            return Ok((Message::Append { entries: span, commit }, entries));
        }
        6 => Message::AppendAccepted { matched: reader.index("matched")? },
        7 => Message::AppendRejected { prev: reader.index("prev")?, hint: reader.log_id("hint")? },
        8 => Message::Heartbeat {
            commit: reader.index("commit")?,
            round: reader.number("round")?,
            wants_holder: reader.flag("wants_holder")?,
        },
        9 => Message::HeartbeatResponse {
            round: reader.number("round")?,
            verified: reader.index("verified")?,
            matched: reader.index("matched")?,
            standing: read_standing(reader)?,
        },
        10 => Message::ReadIndex { number: reader.number("number")? },
        11 => Message::ReadIndexResponse { number: reader.number("number")?, index: reader.index("index")? },
        12 => Message::FetchSuffix { prev: reader.log_id("prev")? },
        13 => {
            let (prev, last) = (reader.log_id("prev")?, reader.log_id("last")?);
            let (entries, span) = read_entries(reader, prev)?;
            return Ok((Message::Suffix { entries: span, last }, entries));
        }
        14 => Message::SuffixRefused {
            prev: reader.index("prev")?,
            hint: reader.option("hint", |reader| reader.log_id("hint"))?,
        },
        15 => Message::Removed { configuration: reader.index("configuration")? },
        16 => Message::TimeoutNow { last: reader.log_id("last")?, drained_too: reader.flag("drained_too")? },
        17 => Message::LeaseRequest { number: reader.number("number")? },
        18 => Message::LeaseGrant {
            number: reader.number("number")?,
            usable: read_time(reader, "usable")?,
            index: reader.index("index")?,
        },
        found => return Err(CodecError::UnknownKind { found }),
    };
    Ok((message, Vec::new()))
}

/// What is left are entries; their indexes follow `prev`.
fn read_entries(reader: &mut Reader, prev: LogId) -> Result<(Vec<Entry>, Span), CodecError> {
    let mut entries = Vec::new();
    let mut index = prev.index;
    while !reader.is_empty() {
        index = index.next();
        let id = LogId::new(index, Term(reader.number("entry.term")?));
        let kind = EntryKind::from_code(reader.byte("entry.kind")?);
        let checksum = reader.short("entry.checksum")?;
        let length = reader.short("entry.length")?;
        let payload = Payload::with_checksum(reader.take(length, "entry.payload")?, checksum);
        if !payload.verify() {
            return Err(CodecError::Checksum { entry: id });
        }
        entries.push(Entry { id, kind, payload });
    }
    let span = Span::of(prev, &entries).map_err(CodecError::Entries)?;
    Ok((entries, span))
}

fn read_time(reader: &mut Reader, field: &'static str) -> Result<Duration, CodecError> {
    Ok(Duration::from_nanos(reader.number(field)?))
}

/// 0 to 100 are priorities.
fn standing_code(standing: Standing) -> u8 {
    match standing {
        Standing::Fit(Priority(priority)) => priority.min(Priority::MAX.0),
        Standing::Reluctant => 101,
        Standing::Unfit => 102,
    }
}

fn read_standing(reader: &mut Reader) -> Result<Standing, CodecError> {
    match reader.byte("standing")? {
        priority @ 0..=100 => Ok(Standing::Fit(Priority(priority))),
        101 => Ok(Standing::Reluctant),
        102 => Ok(Standing::Unfit),
        found => Err(CodecError::Value { field: "standing", found: found.into() }),
    }
}

impl Reader {
    fn term(&mut self, field: &'static str) -> Result<Term, CodecError> {
        self.below(field, Term::LIMIT.0).map(Term)
    }

    fn index(&mut self, field: &'static str) -> Result<Index, CodecError> {
        self.below(field, Index::LIMIT.0).map(Index)
    }

    fn log_id(&mut self, field: &'static str) -> Result<LogId, CodecError> {
        Ok(LogId::new(self.index(field)?, self.term(field)?))
    }
}

impl Writer {
    fn log_id(&mut self, id: LogId) {
        self.number(id.index.0);
        self.number(id.term.0);
    }

    /// Nanoseconds; what does not fit is five centuries.
    fn time(&mut self, time: Duration) {
        self.number(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}
