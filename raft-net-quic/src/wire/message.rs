//! Raft messages as frames.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use raft_core::handover::{Priority, Standing};
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::runs::Span;
use raft_core::types::{Entry, EntryKind, GroupId, Index, LogId, NodeId, Payload, Term};

use super::control;
use super::{Frame, Malformed, StreamKind, append, frame_type, put_head, put_head_with};
use crate::config::Limits;

/// Payloads up to this many bytes are copied into the batch's buffer. Every piece that is handed to QUIC apart costs a
/// search through all unacknowledged pieces whenever a packet is made, which for small payloads is dearer than the
/// copy; larger ones are handed on as they are.
pub(crate) const COPY_BYTES_MAX: usize = 4096;
/// Bytes that header and control part take, but for the lists of entries: nearly always less.
const HEAD_ROOM: usize = 96;
/// Bytes that the lists take for an entry: nearly always less.
const ENTRY_NAMES_ROOM: usize = 16;

/// The lane that a message travels in. What carries entries keeps its order; everything else is small and must not wait
/// for that.
pub(crate) fn lane_of(message: &Message) -> StreamKind {
    match message {
        Message::Append { .. } | Message::Suffix { .. } => StreamKind::Append,
        _ => StreamKind::Control,
    }
}

/// What a message counts against the bounds of its lane.
pub(crate) fn cost(message: &PeerMessage) -> usize {
    let entries: u64 = message.entries.iter().map(Entry::size).sum();
    128 + usize::try_from(entries).unwrap_or(usize::MAX / 2)
}

/// Frames of one batch, as pieces to be written in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    buffer: BytesMut,
    pieces: Vec<Bytes>,
}

impl Batch {
    /// With room for these messages, so that nothing is moved while they are pushed.
    pub(crate) fn with_room_for(messages: &[PeerMessage]) -> Self {
        let copied = |entry: &Entry| {
            let len = entry.payload.bytes().len();
            ENTRY_NAMES_ROOM + if len <= COPY_BYTES_MAX { len } else { 0 }
        };
        let frame = |message: &PeerMessage| HEAD_ROOM + message.entries.iter().map(copied).sum::<usize>();
        let room = match messages {
            // Takes just what it needs: what is full can be shared at no further cost.
            [message] if message.entries.is_empty() => 0,
            _ => messages.iter().map(frame).sum(),
        };
        Self { buffer: BytesMut::with_capacity(room), pieces: Vec::with_capacity(1) }
    }

    /// Appends a frame. Returns false, with nothing appended, when the message breaks the limits.
    pub(crate) fn push(&mut self, message: &PeerMessage, limits: &Limits) -> bool {
        let Envelope { from, to, term, message: content } = &message.envelope;
        let (from, to, term) = (from.0, to.0, term.0);
        let group = message.group.0;
        let buffer = &mut self.buffer;
        let mut put = |kind, control: &dyn PutHead| control.put(buffer, kind, group, 0, limits);
        match content {
            Message::PreVote { last } => put(frame_type::PRE_VOTE, &ask(from, to, term, *last)),
            Message::Vote { last, handover } => {
                put(frame_type::VOTE, &control::Ask { handover: *handover, ..ask(from, to, term, *last) })
            }
            Message::TimeoutNow { last, drained_too } => {
                put(frame_type::TIMEOUT_NOW, &control::Ask { drained_too: *drained_too, ..ask(from, to, term, *last) })
            }
            Message::PreVoteResponse { granted, ahead } => {
                put(frame_type::PRE_VOTE_RESPONSE, &ask_answer(from, to, term, *granted, *ahead, Duration::ZERO))
            }
            Message::VoteResponse { granted, silence } => {
                put(frame_type::VOTE_RESPONSE, &ask_answer(from, to, term, *granted, None, *silence))
            }
            Message::FetchSuffix { prev } => put(
                frame_type::FETCH_SUFFIX,
                &control::FetchSuffix { from, to, term, prev_index: prev.index.0, prev_term: prev.term.0 },
            ),
            Message::SuffixRefused { prev, hint } => {
                put(frame_type::SUFFIX_REFUSED, &suffix_refused(from, to, term, *prev, *hint))
            }
            Message::AppendAccepted { matched } => {
                put(frame_type::APPEND_ACCEPTED, &control::AppendAccepted { from, to, term, matched: matched.0 })
            }
            Message::AppendRejected { prev, hint } => {
                put(frame_type::APPEND_REJECTED, &append_rejected(from, to, term, *prev, *hint))
            }
            Message::Heartbeat { commit, round, wants_holder } => {
                put(frame_type::HEARTBEAT, &heartbeat(from, to, term, *commit, *round, *wants_holder))
            }
            Message::HeartbeatResponse { round, verified, matched, standing } => put(
                frame_type::HEARTBEAT_RESPONSE,
                &heartbeat_response(from, to, term, *round, (*verified, *matched), *standing),
            ),
            Message::ReadIndex { number } => {
                put(frame_type::READ_INDEX, &control::ReadIndex { from, to, term, number: *number, index: 0 })
            }
            Message::ReadIndexResponse { number, index } => put(
                frame_type::READ_INDEX_RESPONSE,
                &control::ReadIndex { from, to, term, number: *number, index: index.0 },
            ),
            Message::LeaseRequest { number } => {
                put(frame_type::LEASE_REQUEST, &control::LeaseRequest { from, to, term, number: *number })
            }
            Message::LeaseGrant { number, usable, index } => {
                put(frame_type::LEASE_GRANT, &lease_grant(from, to, term, *number, *usable, *index))
            }
            Message::Removed { configuration } => {
                put(frame_type::REMOVED, &control::Removed { from, to, term, configuration: configuration.0 })
            }
            Message::Append { entries, commit } => {
                let rest = append::Head { commit: commit.0, ..Default::default() };
                self.push_entries(frame_type::APPEND, message, entries.prev, rest, limits)
            }
            Message::Suffix { entries, last } => {
                let rest = append::Head { last_index: last.index.0, last_term: last.term.0, ..Default::default() };
                self.push_entries(frame_type::SUFFIX, message, entries.prev, rest, limits)
            }
        }
    }

    /// A frame with entries behind `prev`; `rest` holds the fields that are its own.
    fn push_entries(
        &mut self,
        kind: u8,
        message: &PeerMessage,
        prev: LogId,
        rest: append::Head,
        limits: &Limits,
    ) -> bool {
        let entries = &message.entries;
        let body_len = entries.iter().fold(0usize, |sum, entry| sum.saturating_add(entry.payload.bytes().len()));
        if entries.len() > limits.frame_entries_max || body_len > limits.frame_bytes_max {
            return false;
        }
        let head = append::Head {
            from: message.envelope.from.0,
            to: message.envelope.to.0,
            term: message.envelope.term.0,
            prev_index: prev.index.0,
            prev_term: prev.term.0,
            ..rest
        };
        let control = append::Control::new(head, entries);
        let lens = (control.encoded_len(), body_len);
        if !put_head_with(&mut self.buffer, kind, message.group.0, lens, limits, |buffer| control.put(buffer)) {
            return false;
        }
        for entry in entries {
            let payload = entry.payload.bytes();
            if payload.len() <= COPY_BYTES_MAX {
                self.buffer.extend_from_slice(payload);
            } else {
                self.pieces.push(self.buffer.split().freeze());
                self.pieces.push(payload.clone());
            }
        }
        true
    }

    /// The pieces to write, in order, and their bytes.
    pub(crate) fn finish(mut self) -> (Vec<Bytes>, u64) {
        if !self.buffer.is_empty() {
            self.pieces.push(self.buffer.freeze());
        }
        let bytes = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        (self.pieces, bytes)
    }
}

/// [`put_head`] for any control part, so that one closure serves them all.
pub(super) trait PutHead {
    fn put(&self, buffer: &mut BytesMut, kind: u8, group: u64, body_len: usize, limits: &Limits) -> bool;
}

impl<M: prost::Message> PutHead for M {
    fn put(&self, buffer: &mut BytesMut, kind: u8, group: u64, body_len: usize, limits: &Limits) -> bool {
        put_head(buffer, kind, group, self, body_len, limits)
    }
}

fn ask(from: u64, to: u64, term: u64, last: LogId) -> control::Ask {
    control::Ask {
        from,
        to,
        term,
        last_index: last.index.0,
        last_term: last.term.0,
        handover: false,
        drained_too: false,
    }
}

const UNFIT: u32 = 1;
const PRIORITY_FIRST: u32 = 2;
const DRAINED: u32 = PRIORITY_FIRST + Priority::MAX.0 as u32 + 1;

fn standing_code(standing: Standing) -> u32 {
    match standing {
        Standing::Unfit => UNFIT,
        Standing::Reluctant => DRAINED,
        Standing::Fit(priority) => PRIORITY_FIRST + u32::from(priority.0),
    }
}

fn standing(code: u32) -> Result<Standing, Malformed> {
    match code {
        0 => Ok(Standing::default()),
        UNFIT => Ok(Standing::Unfit),
        DRAINED => Ok(Standing::Reluctant),
        priority => u8::try_from(priority - PRIORITY_FIRST)
            .ok()
            .map(Priority)
            .filter(|priority| *priority <= Priority::MAX)
            .map(Standing::Fit)
            .ok_or(Malformed::Control),
    }
}

fn ask_answer(
    from: u64,
    to: u64,
    term: u64,
    granted: bool,
    ahead: Option<LogId>,
    silence: Duration,
) -> control::AskAnswer {
    let end = ahead.unwrap_or(LogId::ZERO);
    let (silence, ahead_index, ahead_term) = (nanos(silence), end.index.0, end.term.0);
    control::AskAnswer { from, to, term, granted, silence, ahead_index, ahead_term }
}

/// Nanoseconds, or the most that a frame can say: a silence or a lease is only ever taken for shorter than it is.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn heartbeat(from: u64, to: u64, term: u64, commit: Index, round: u64, wants_holder: bool) -> control::Heartbeat {
    control::Heartbeat { from, to, term, commit: commit.0, round, wants_holder }
}

fn heartbeat_response(
    from: u64,
    to: u64,
    term: u64,
    round: u64,
    (verified, matched): (Index, Index),
    standing: Standing,
) -> control::HeartbeatResponse {
    let (verified, matched, standing) = (verified.0, matched.0, standing_code(standing));
    control::HeartbeatResponse { from, to, term, round, verified, matched, standing }
}

fn lease_grant(from: u64, to: u64, term: u64, number: u64, usable: Duration, index: Index) -> control::LeaseGrant {
    control::LeaseGrant { from, to, term, number, usable: nanos(usable), index: index.0 }
}

fn append_rejected(from: u64, to: u64, term: u64, prev: Index, hint: LogId) -> control::AppendRejected {
    let (hint_index, hint_term) = (hint.index.0, hint.term.0);
    control::AppendRejected { from, to, term, prev: prev.0, hint_index, hint_term }
}

fn suffix_refused(from: u64, to: u64, term: u64, prev: Index, hint: Option<LogId>) -> control::SuffixRefused {
    let at = hint.unwrap_or(LogId::ZERO);
    let (hint_index, hint_term) = (at.index.0, at.term.0);
    control::SuffixRefused { from, to, term, prev: prev.0, has_hint: hint.is_some(), hint_index, hint_term }
}

/// Reads a frame of a lane. `None` when its type is not known to this version.
pub(crate) fn decode(frame: Frame, limits: &Limits) -> Result<Option<PeerMessage>, Malformed> {
    let group = GroupId(frame.group);
    if matches!(frame.kind, frame_type::APPEND | frame_type::SUFFIX) {
        return decode_entries(frame, limits).map(Some);
    }
    let kind = frame.kind;
    let (from, to, term, message) = match kind {
        frame_type::PRE_VOTE | frame_type::VOTE | frame_type::TIMEOUT_NOW => {
            let ask: control::Ask = parse(&frame)?;
            let last = log_id(ask.last_index, ask.last_term)?;
            let message = match kind {
                frame_type::VOTE => Message::Vote { last, handover: ask.handover },
                frame_type::TIMEOUT_NOW => Message::TimeoutNow { last, drained_too: ask.drained_too },
                _ => Message::PreVote { last },
            };
            (ask.from, ask.to, ask.term, message)
        }
        frame_type::PRE_VOTE_RESPONSE | frame_type::VOTE_RESPONSE => {
            let control::AskAnswer { from, to, term, granted, silence, ahead_index, ahead_term } = parse(&frame)?;
            let end = log_id(ahead_index, ahead_term)?;
            let message = if kind == frame_type::VOTE_RESPONSE {
                Message::VoteResponse { granted, silence: Duration::from_nanos(silence) }
            } else {
                Message::PreVoteResponse { granted, ahead: (end.index > Index::ZERO).then_some(end) }
            };
            (from, to, term, message)
        }
        frame_type::APPEND_ACCEPTED => {
            let control::AppendAccepted { from, to, term, matched } = parse(&frame)?;
            (from, to, term, Message::AppendAccepted { matched: index(matched)? })
        }
        frame_type::APPEND_REJECTED => {
            let control::AppendRejected { from, to, term, prev, hint_index, hint_term } = parse(&frame)?;
            (from, to, term, Message::AppendRejected { prev: index(prev)?, hint: log_id(hint_index, hint_term)? })
        }
        frame_type::HEARTBEAT => {
            let control::Heartbeat { from, to, term, commit, round, wants_holder } = parse(&frame)?;
            (from, to, term, Message::Heartbeat { commit: index(commit)?, round, wants_holder })
        }
        frame_type::HEARTBEAT_RESPONSE => {
            let control::HeartbeatResponse { from, to, term, round, verified, matched, standing: code } =
                parse(&frame)?;
            let (verified, matched, standing) = (index(verified)?, index(matched)?, standing(code)?);
            (from, to, term, Message::HeartbeatResponse { round, verified, matched, standing })
        }
        frame_type::READ_INDEX => {
            let control::ReadIndex { from, to, term, number, index: _ } = parse(&frame)?;
            (from, to, term, Message::ReadIndex { number })
        }
        frame_type::READ_INDEX_RESPONSE => {
            let control::ReadIndex { from, to, term, number, index: at } = parse(&frame)?;
            (from, to, term, Message::ReadIndexResponse { number, index: index(at)? })
        }
        frame_type::REMOVED => {
            let control::Removed { from, to, term, configuration } = parse(&frame)?;
            (from, to, term, Message::Removed { configuration: index(configuration)? })
        }
        frame_type::FETCH_SUFFIX | frame_type::SUFFIX_REFUSED => decode_suffix_talk(&frame)?,
        frame_type::LEASE_REQUEST | frame_type::LEASE_GRANT => decode_lease_talk(&frame)?,
        frame_type::HELLO | frame_type::WELCOME | frame_type::REFUSAL => return Err(Malformed::OutOfPlace),
        frame_type::REQUEST..=frame_type::SNAPSHOT_FAILED => return Err(Malformed::OutOfPlace),
        _ => return Ok(None),
    };
    let envelope = Envelope { from: NodeId(from), to: NodeId(to), term: checked_term(term)?, message };
    Ok(Some(PeerMessage { group, envelope, entries: Vec::new() }))
}

/// The question for a suffix, and its refusal.
fn decode_suffix_talk(frame: &Frame) -> Result<(u64, u64, u64, Message), Malformed> {
    if frame.kind == frame_type::FETCH_SUFFIX {
        let control::FetchSuffix { from, to, term, prev_index, prev_term } = parse(frame)?;
        return Ok((from, to, term, Message::FetchSuffix { prev: log_id(prev_index, prev_term)? }));
    }
    let control::SuffixRefused { from, to, term, prev, has_hint, hint_index, hint_term } = parse(frame)?;
    let at = log_id(hint_index, hint_term)?;
    Ok((from, to, term, Message::SuffixRefused { prev: index(prev)?, hint: has_hint.then_some(at) }))
}

/// The request for a read lease, and the grant.
fn decode_lease_talk(frame: &Frame) -> Result<(u64, u64, u64, Message), Malformed> {
    if frame.kind == frame_type::LEASE_REQUEST {
        let control::LeaseRequest { from, to, term, number } = parse(frame)?;
        return Ok((from, to, term, Message::LeaseRequest { number }));
    }
    let control::LeaseGrant { from, to, term, number, usable, index: named } = parse(frame)?;
    let (usable, index) = (Duration::from_nanos(usable), index(named)?);
    Ok((from, to, term, Message::LeaseGrant { number, usable, index }))
}

/// The control part of a message that has no body.
pub(super) fn parse<M: prost::Message + Default>(frame: &Frame) -> Result<M, Malformed> {
    if !frame.body.is_empty() {
        return Err(Malformed::UnexpectedBody);
    }
    M::decode(&frame.control[..]).map_err(|_| Malformed::Control)
}

fn decode_entries(frame: Frame, limits: &Limits) -> Result<PeerMessage, Malformed> {
    let append = append::Parsed::of(&frame.control, limits.frame_entries_max)?;
    if append.bytes != frame.body.len() as u64 {
        return Err(Malformed::EntryLists);
    }
    let head = append.head;
    let prev = log_id(head.prev_index, head.prev_term)?;
    let mut body = frame.body;
    let mut entries = Vec::with_capacity(append.count);
    let mut sound = true;
    append.for_each(|item| {
        // The payloads stay where they were read: each is a view of the read buffer. Their lengths add up to it.
        let payload = Payload::with_checksum(body.split_to(item.length as usize), item.checksum);
        sound &= payload.verify();
        entries.push(Entry {
            id: LogId::new(prev.index.plus(entries.len() as u64 + 1), Term(item.term)),
            kind: EntryKind::from_code(item.kind),
            payload,
        });
    });
    let span = Span::of(prev, &entries).map_err(|_| Malformed::EntrySpan)?;
    if !sound {
        return Err(Malformed::PayloadChecksum);
    }
    let message = if frame.kind == frame_type::SUFFIX {
        Message::Suffix { entries: span, last: log_id(head.last_index, head.last_term)? }
    } else {
        Message::Append { entries: span, commit: index(head.commit)? }
    };
    let envelope = Envelope { from: NodeId(head.from), to: NodeId(head.to), term: checked_term(head.term)?, message };
    Ok(PeerMessage { group: GroupId(frame.group), envelope, entries })
}

fn index(number: u64) -> Result<Index, Malformed> {
    if Index(number) >= Index::LIMIT { Err(Malformed::BeyondLimit) } else { Ok(Index(number)) }
}

pub(super) fn checked_term(number: u64) -> Result<Term, Malformed> {
    if Term(number) >= Term::LIMIT { Err(Malformed::BeyondLimit) } else { Ok(Term(number)) }
}

fn log_id(at: u64, term: u64) -> Result<LogId, Malformed> {
    Ok(LogId::new(index(at)?, checked_term(term)?))
}
