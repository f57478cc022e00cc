//! How effects look in a script.

use std::fmt::Write;

use super::raw;
use crate::handover::Standing;
use crate::membership::Configuration;
use crate::message::{Envelope, Message};
use crate::replica::{Answer, Persist, ReadMode};
use crate::runs::Span;
use crate::status::Status;
use crate::types::{Entry, EntryKind, LogId, NodeId, Term};

/// Lists of more entries than this are shown by their ends.
const ENTRIES_SHOWN_MAX: usize = 5;

/// `[2@1 3@1]`, or the ends and the count of a long list.
pub(super) fn ids(ids: impl Iterator<Item = LogId>) -> String {
    let ids: Vec<LogId> = ids.collect();
    match ids.as_slice() {
        [first, .., last] if ids.len() > ENTRIES_SHOWN_MAX => format!("[{first} .. {last}, {} entries]", ids.len()),
        _ => format!("[{}]", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    }
}

fn span(span: &Span) -> String {
    let indexes = span.prev.index.0 + 1..=span.last().index.0;
    ids(indexes.filter_map(|index| {
        let index = crate::types::Index(index);
        span.term_at(index).map(|term| LogId::new(index, term))
    }))
}

/// An entry with what it carries.
pub(super) fn entry(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::Noop => format!("{} no-op", entry.id),
        // What the script itself put on the disk has no content to speak of.
        EntryKind::Command if entry.payload.bytes() == raw::GIVEN => entry.id.to_string(),
        EntryKind::Command => format!("{} {}", entry.id, payload(entry)),
        EntryKind::Mark => format!("{} mark", entry.id),
        EntryKind::Configuration => {
            let read = Configuration::of_entry(entry.id.index, entry.payload.bytes());
            let shown = read.map_or_else(|error| error.to_string(), |it| configuration(&it));
            format!("{} {shown}", entry.id)
        }
        EntryKind::Unknown(code) => format!("{} kind {code}", entry.id),
    }
}

/// `voters 1 2 3`, `joint 1 2 3 → 4 5 6`, with learners in brackets: those that are to vote with a `+`.
pub(super) fn configuration(configuration: &Configuration) -> String {
    let ids = |ids: &[NodeId]| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = if configuration.is_joint() {
        format!("joint {} → {}", ids(configuration.outgoing()), ids(configuration.voters()))
    } else {
        format!("voters {}", ids(configuration.voters()))
    };
    let joining: Vec<NodeId> = configuration.joining().collect();
    let learner = |id: NodeId| {
        let joins = !configuration.is_joint() && joining.contains(&id);
        let promotes = configuration.seat(id).is_some_and(|seat| seat.promotes);
        format!("{}{}", id.0, if joins || promotes { "+" } else { "" })
    };
    let learners: Vec<String> = configuration.learners().map(learner).collect();
    if !learners.is_empty() {
        let _ = write!(text, " ({})", learners.join(" "));
    }
    text
}

/// What an entry carries, shortened.
pub(super) fn payload(entry: &Entry) -> String {
    let bytes = entry.payload.bytes();
    if entry.kind == EntryKind::Noop {
        "no-op".into()
    } else if bytes.len() > 40 {
        format!("{} bytes", bytes.len())
    } else {
        format!("\"{}\"", String::from_utf8_lossy(bytes))
    }
}

/// `Append prev=1@1 [2@1] commit=1`. The term is shown where elections are about it, and elsewhere where it is not
/// the newest term that any node is in.
pub(super) fn message(envelope: &Envelope, newest: Term) -> String {
    let mut text = envelope.message.name().to_owned();
    let about_terms = matches!(
        envelope.message,
        Message::PreVote { .. }
            | Message::PreVoteResponse { .. }
            | Message::FetchSuffix { .. }
            | Message::Suffix { .. }
            | Message::SuffixRefused { .. }
            | Message::Vote { .. }
            | Message::VoteResponse { .. }
            | Message::TimeoutNow { .. }
    );
    if about_terms || envelope.term != newest {
        let _ = write!(text, " term={}", envelope.term);
    }
    let _ = match &envelope.message {
        Message::Vote { last, handover: true } => write!(text, " last={last} handover"),
        Message::TimeoutNow { last, drained_too: true } => write!(text, " last={last} drained_too"),
        Message::PreVote { last } | Message::Vote { last, .. } | Message::TimeoutNow { last, .. } => {
            write!(text, " last={last}")
        }
        Message::PreVoteResponse { granted: false, ahead: Some(end) } => write!(text, " refused ahead={end}"),
        Message::PreVoteResponse { granted, .. } | Message::VoteResponse { granted, .. } => {
            write!(text, " {}", if *granted { "granted" } else { "refused" })
        }
        Message::FetchSuffix { prev } => write!(text, " prev={prev}"),
        Message::Suffix { entries, last } => write!(text, " prev={} {} last={last}", entries.prev, span(entries)),
        Message::SuffixRefused { prev, hint: Some(hint) } => write!(text, " prev={prev} hint={hint}"),
        Message::SuffixRefused { prev, hint: None } => write!(text, " prev={prev}"),
        Message::Append { entries, commit } => {
            write!(text, " prev={} {} commit={commit}", entries.prev, span(entries))
        }
        Message::AppendAccepted { matched } => write!(text, " matched={matched}"),
        Message::AppendRejected { prev, hint } => write!(text, " prev={prev} hint={hint}"),
        Message::Heartbeat { commit, round, wants_holder } => {
            let wants = if *wants_holder { " wants_holder" } else { "" };
            write!(text, " round={round} commit={commit}{wants}")
        }
        Message::HeartbeatResponse { round, verified, matched, standing } => {
            let standing = self::standing(*standing);
            write!(text, " round={round} verified={verified} matched={matched}{standing}")
        }
        Message::Removed { configuration } => write!(text, " configuration={configuration}"),
        Message::LeaseRequest { number } => write!(text, " number={}", read_number(*number)),
        Message::LeaseGrant { number, usable, index } => {
            write!(text, " number={} usable={usable:?} index={index}", read_number(*number))
        }
        Message::ReadIndex { number } => write!(text, " number={}", read_number(*number)),
        Message::ReadIndexResponse { number, index } => {
            write!(text, " number={} index={index}", read_number(*number))
        }
    };
    text
}

/// What is said of every node is left out.
fn standing(standing: Standing) -> String {
    match standing {
        Standing::Unfit => " unfit".into(),
        Standing::Reluctant => " drained".into(),
        fit if fit == Standing::default() => String::new(),
        Standing::Fit(priority) => format!(" priority={priority}"),
    }
}

/// The number of a question counts from 1 in every process life; `life/number`.
fn read_number(number: u64) -> String {
    const LIFE_SHIFT: u32 = 40;
    format!("{}/{}", number >> LIFE_SHIFT, number & ((1 << LIFE_SHIFT) - 1))
}

/// `w2 term=2 vote=n1 truncate=3 [3@2] commit=2`: what becomes durable, without what it releases.
pub(super) fn write(persist: &Persist) -> String {
    let write = &persist.write;
    let mut text = write.id.to_string();
    if let Some(hard_state) = write.hard_state {
        let vote = hard_state.vote.map_or_else(|| "none".into(), |vote| vote.to_string());
        let _ = write!(text, " term={} vote={vote}", hard_state.term);
    }
    if let Some(meta) = &write.snapshot {
        let _ = write!(text, " snapshot={}", meta.last);
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " truncate={from}");
    }
    if !write.entries.is_empty() {
        let _ = write!(text, " {}", ids(write.entries.iter().map(|entry| entry.id)));
    }
    if write.is_empty() {
        text.push_str(" nothing new");
    }
    if let Some(commit) = write.commit {
        let _ = write!(text, " commit={commit}");
    }
    text
}

/// What the replica itself tells a caller.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Rejected { why, leader: Some(leader) } => format!("not applied: {why} (leader {leader})"),
        Answer::Rejected { why, leader: None } => format!("not applied: {why}"),
        Answer::Changed { index } => format!("changed with {index}"),
        Answer::ChangeRefused { why } => format!("not changed: {why}"),
        Answer::HandedOver(handed) => format!("handed over: {} leads term {}", handed.leader, handed.term),
        Answer::NotHandedOver { why, .. } => format!("not handed over: {why}"),
        Answer::Unknown { token } => format!("unknown, ask for {token}"),
        Answer::ReadReady { index, term, mode: ReadMode::Round } => {
            format!("may read at {index}, confirmed in term {term}")
        }
        Answer::ReadReady { index, term, mode: ReadMode::Lease } => {
            format!("may read at {index}, under a lease of term {term}")
        }
    }
}

/// One line about a node, and one for each peer of a leader if they are wanted.
pub(super) fn status(status: &Status, with_peers: bool) -> String {
    let named = |node: Option<NodeId>| node.map_or_else(|| "none".into(), |node| node.to_string());
    let mut text = format!(
        "{} {} term={} vote={} leader={} last={} durable={} commit={} applied={}",
        status.id,
        status.role.name(),
        status.term,
        named(status.vote),
        named(status.leader),
        status.last,
        status.durable_index,
        status.commit_index,
        status.applied_index
    );
    if status.first_index.0 > 1 {
        let _ = write!(text, " first={}", status.first_index);
    }
    let handing = status.handover.map(|handover| {
        let phase = if handover.holds { "hands over to" } else { "will hand over to" };
        format!("{phase} {} ({})", handover.to, handover.cause.name())
    });
    for (is, word) in [
        (status.installing, "installing"),
        (status.fenced, "fenced"),
        (status.rebuilding, "rebuilding"),
        (status.drained, "drained"),
        (handing.is_some(), handing.as_deref().unwrap_or_default()),
    ] {
        if is {
            let _ = write!(text, " {word}");
        }
    }
    if let Some(lost) = status.lost {
        let _ = write!(text, " lost={lost}");
    }
    for peer in status.peers.iter().filter(|_| with_peers) {
        let _ = write!(
            text,
            "\n  {} {} match={} next={} inflight_bytes={}",
            peer.id, peer.state, peer.match_index, peer.next_index, peer.inflight_bytes
        );
        text.push_str(&peer.standing.map(standing).unwrap_or_default());
        if let Some(snapshot) = peer.snapshot {
            let _ = write!(text, " snapshot={snapshot}");
        }
    }
    text
}
