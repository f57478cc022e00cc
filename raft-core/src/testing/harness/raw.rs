//! Messages made by hand: what a test wants a peer to say, correct or not.

use super::ScriptError;
use super::arguments::{Arguments, log_ids};
use crate::handover::{Priority, Standing};
use crate::message::{Envelope, Message, PeerMessage};
use crate::runs::{Span, TermRun};
use crate::testing::entry_of;
use crate::types::{Entry, GroupId, Index, LogId, Term};

/// What entries carry that a script names and does not propose.
pub(super) const GIVEN: &str = "given";

/// `send 2 1 Append term=1 prev=1@1 entries="2@1 3@1" commit=1`: from, to, kind, and what the kind needs. Entries are
/// named by `names` where they shall differ from what comes along.
pub(super) fn message(arguments: &mut Arguments) -> Result<PeerMessage, ScriptError> {
    let (from, to) = (arguments.node()?, arguments.node()?);
    let kind = arguments.word().ok_or("`send` wants from, to and the kind of message")?;
    let term = Term(arguments.number("term")?.ok_or("`send` wants a term")?);
    let group = GroupId(arguments.number("group")?.unwrap_or(GroupId::FIRST.0));
    let entries = entries(arguments.key("entries").as_deref().unwrap_or_default())?;
    let message = content(&kind, arguments, &entries)?;
    Ok(PeerMessage { group, envelope: Envelope { from, to, term, message }, entries })
}

fn content(kind: &str, arguments: &mut Arguments, entries: &[Entry]) -> Result<Message, ScriptError> {
    let last = arguments.log_id("last")?.unwrap_or(LogId::ZERO);
    let granted = arguments.flag("granted");
    Ok(match kind {
        "PreVote" => Message::PreVote { last },
        "PreVoteResponse" => Message::PreVoteResponse { granted, ahead: arguments.log_id("ahead")? },
        "FetchSuffix" => Message::FetchSuffix { prev: arguments.log_id("prev")?.unwrap_or(LogId::ZERO) },
        "Suffix" => Message::Suffix { entries: named(arguments, entries)?, last },
        "SuffixRefused" => {
            Message::SuffixRefused { prev: Index(number(arguments, "prev")?), hint: arguments.log_id("hint")? }
        }
        "Vote" => Message::Vote { last, handover: arguments.flag("handover") },
        "TimeoutNow" => Message::TimeoutNow { last, drained_too: arguments.flag("drained_too") },
        "VoteResponse" => {
            Message::VoteResponse { granted, silence: arguments.duration("silence")?.unwrap_or_default() }
        }
        "Append" => {
            let commit = Index(number(arguments, "commit")?);
            Message::Append { entries: named(arguments, entries)?, commit }
        }
        "AppendAccepted" => Message::AppendAccepted { matched: Index(number(arguments, "matched")?) },
        "AppendRejected" => {
            let prev = Index(number(arguments, "prev")?);
            Message::AppendRejected { prev, hint: arguments.log_id("hint")?.unwrap_or(LogId::ZERO) }
        }
        "Heartbeat" => Message::Heartbeat {
            commit: Index(number(arguments, "commit")?),
            round: number(arguments, "round")?,
            wants_holder: arguments.flag("wants_holder"),
        },
        "HeartbeatResponse" => {
            let (verified, matched) = (number(arguments, "verified")?, number(arguments, "matched")?);
            let (verified, matched) = (Index(verified), Index(matched));
            let priority = arguments.number("priority")?.map(|priority| u8::try_from(priority).unwrap_or(u8::MAX));
            let standing = match priority {
                _ if arguments.flag("unfit") => Standing::Unfit,
                _ if arguments.flag("drained") => Standing::Reluctant,
                Some(priority) => Standing::Fit(Priority(priority)),
                None => Standing::default(),
            };
            Message::HeartbeatResponse { round: number(arguments, "round")?, verified, matched, standing }
        }
        "LeaseRequest" => Message::LeaseRequest { number: number(arguments, "number")? },
        "LeaseGrant" => Message::LeaseGrant {
            number: number(arguments, "number")?,
            usable: arguments.duration("usable")?.unwrap_or_default(),
            index: Index(number(arguments, "index")?),
        },
        "Removed" => Message::Removed { configuration: Index(number(arguments, "configuration")?) },
        "ReadIndex" => Message::ReadIndex { number: number(arguments, "number")? },
        "ReadIndexResponse" => Message::ReadIndexResponse {
            number: number(arguments, "number")?,
            index: Index(number(arguments, "index")?),
        },
        other => return Err(format!("no message is called `{other}`").into()),
    })
}

/// The entries that the message names: those that come along, if `names` says nothing else.
fn named(arguments: &mut Arguments, entries: &[Entry]) -> Result<Span, ScriptError> {
    let prev = arguments.log_id("prev")?.unwrap_or(LogId::ZERO);
    let names = arguments.key("names").map(|names| self::entries(&names)).transpose()?;
    Ok(span(prev, names.as_deref().unwrap_or(entries)))
}

fn number(arguments: &mut Arguments, key: &str) -> Result<u64, ScriptError> {
    Ok(arguments.number(key)?.unwrap_or_default())
}

/// Entries by their names, `2@1 3-9@2`; what they carry follows from the name.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, ScriptError> {
    let ids: Result<Vec<_>, _> = text.split_whitespace().map(log_ids).collect();
    Ok(ids?.into_iter().flatten().map(|id| entry_of(id.index.0, id.term.0, GIVEN)).collect())
}

/// What a peer claims, right or wrong.
fn span(prev: LogId, entries: &[Entry]) -> Span {
    Span::of(prev, entries).unwrap_or_else(|_| {
        let runs = entries.iter().map(|entry| TermRun { term: entry.id.term, last: entry.id.index }).collect();
        Span { prev, runs, ..Span::default() }
    })
}
