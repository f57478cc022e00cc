//! Reads of the past: at a mark or at a revision, out of this node's own state. Every node gives the same answer.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use raft_core::types::{Index, LogId};
use raft_kv::{FoundAt, Passed, Query, QueryAnswerError, Value};

use crate::handle::Consistency;
use crate::http::kv::value_response;
use crate::http::parameters::{At, consistency_name};
use crate::http::problem::{Code, Problem};
use crate::http::reading;
use crate::http::shared::{CONSISTENCY, MARK, REVISION, STALENESS, Shared, millis, remaining};

/// How often the newest mark is looked for again when its versions are forgotten while it is being read.
const NEWEST_TRIES: usize = 3;

/// What was read, and as of when.
struct Past {
    value: Option<Value>,
    revision: Index,
    /// Whether the revision is a mark.
    is_mark: bool,
}

/// Answers a read of the past.
pub(crate) async fn get(shared: &Shared, key: Bytes, at: At, deadline: Instant) -> Result<Response, Problem> {
    let past = match at {
        At::NewestMark => at_newest_mark(shared, &key, deadline).await?,
        At::Mark(mark) => {
            check_mark(shared, mark, deadline).await?;
            Past { value: read_at(shared, &key, mark, deadline).await??, revision: mark, is_mark: true }
        }
        At::Revision(revision) => {
            Past { value: at_revision(shared, &key, revision, deadline).await?, revision, is_mark: false }
        }
    };
    respond(shared, past).await
}

async fn respond(shared: &Shared, past: Past) -> Result<Response, Problem> {
    let Past { value, revision, is_mark } = past;
    let mut response = value_response(shared, value)?;
    let (id, age) = position(shared, revision, is_mark).await;
    let headers = response.headers_mut();
    set_position(shared, headers, revision, id);
    headers.insert(CONSISTENCY, HeaderValue::from_static(consistency_name(Consistency::Snapshot)));
    if is_mark {
        headers.insert(MARK, revision.0.into());
        if let Some(age) = age {
            headers.insert(STALENESS, millis(age).into());
        }
    }
    Ok(response)
}

/// The entry's whole name, and how old a mark is; from memory for marks, else from the log, as long as that holds it.
async fn position(shared: &Shared, revision: Index, is_mark: bool) -> (Option<LogId>, Option<Duration>) {
    if is_mark {
        let made = shared.node.mark_made(revision).await;
        return (made.map(|made| made.id), made.and_then(|made| made.age()));
    }
    let entry = shared.node.entries(revision, 1).await.ok().and_then(|entries| entries.into_iter().next());
    (entry.map(|entry| entry.id), None)
}

fn set_position(shared: &Shared, headers: &mut HeaderMap, revision: Index, id: Option<LogId>) {
    match id {
        Some(id) => shared.set_position(headers, id),
        // The term is not known any more, and without it there is no token.
        None => drop(headers.insert(REVISION, revision.0.into())),
    }
}

/// The newest mark moves on, and with it what is forgotten.
async fn at_newest_mark(shared: &Shared, key: &Bytes, deadline: Instant) -> Result<Past, Problem> {
    let mut outside = None;
    for _ in 0..NEWEST_TRIES {
        let Some(mark) = passed(shared, Consistency::Snapshot, deadline).await?.newest().map(|mark| mark.index) else {
            let detail = "no mark was passed yet; one follows every change (mark.interval), or make one: \
                          POST /v1/cluster/mark";
            return Err(Problem::new(Code::NoMark, detail));
        };
        match read_at(shared, key, mark, deadline).await? {
            Ok(value) => return Ok(Past { value, revision: mark, is_mark: true }),
            Err(problem) => outside = Some(problem),
        }
    }
    Err(outside.unwrap_or_else(|| Problem::new(Code::Internal, "the newest mark was not looked for")))
}

/// A mark is read as such only where there was one.
async fn check_mark(shared: &Shared, mark: Index, deadline: Instant) -> Result<(), Problem> {
    let mut known = passed(shared, Consistency::Snapshot, deadline).await?;
    if known.newest().is_none_or(|newest| newest.index < mark) {
        // Perhaps this node is only behind.
        known = passed(shared, Consistency::Linearizable, deadline).await?;
    }
    if known.marks.iter().any(|passed| passed.index == mark) {
        return Ok(());
    }
    let oldest = known.marks.iter().map(|mark| mark.index).find(|index| *index >= known.oldest);
    match (oldest, known.newest()) {
        (Some(oldest), _) if mark < oldest => Err(compacted(mark, "the oldest mark that can be read", oldest, &known)),
        (oldest, newest) => {
            let window = match (oldest, newest) {
                (Some(oldest), Some(newest)) => format!("marks {oldest} to {} can be read", newest.index),
                (None, Some(newest)) => format!("the newest is {}, and forgotten", newest.index),
                (_, None) => "none was passed".into(),
            };
            Err(Problem::new(Code::MarkNotFound, format!("there is no mark {mark}; {window}")))
        }
    }
}

fn compacted(revision: Index, what: &str, oldest: Index, known: &Passed) -> Problem {
    let newest = known.newest().map_or(Index::ZERO, |mark| mark.index);
    let detail = format!("what was at {revision} is forgotten; {what} is {oldest}, the newest is {newest}");
    Problem::new(Code::Compacted, format!("{detail}; read a newer one, or raise versions.window"))
}

async fn at_revision(
    shared: &Shared,
    key: &Bytes,
    revision: Index,
    deadline: Instant,
) -> Result<Option<Value>, Problem> {
    match read_at(shared, key, revision, deadline).await? {
        Err(problem) if problem.code() == Code::RevisionNotFound => {
            // Perhaps this node is only behind: once it has caught up it knows.
            passed(shared, Consistency::Linearizable, deadline).await?;
            read_at(shared, key, revision, deadline).await?
        }
        read => read,
    }
}

/// The value at a revision; the inner error when that is not among those that are kept.
async fn read_at(
    shared: &Shared,
    key: &Bytes,
    revision: Index,
    deadline: Instant,
) -> Result<Result<Option<Value>, Problem>, Problem> {
    let query = Query::get_at(key.clone(), revision).encode();
    let answer = shared.node.read(query, Consistency::Snapshot, remaining(deadline)).await;
    let answer = answer.map_err(|failure| reading::problem(shared, failure))?;
    Ok(match FoundAt::decode(answer.bytes).map_err(unreadable)? {
        FoundAt::Value(value) => Ok(value),
        FoundAt::Outside { oldest, newest } if revision > newest => {
            let detail = format!("there is no revision {revision} yet; revisions {oldest} to {newest} can be read");
            Err(Problem::new(Code::RevisionNotFound, detail))
        }
        FoundAt::Outside { oldest, newest } => {
            let detail = format!(
                "what was at {revision} is forgotten; revisions {oldest} to {newest} can be read; read one of those, or \
                 raise versions.window"
            );
            Err(Problem::new(Code::Compacted, detail))
        }
    })
}

async fn passed(shared: &Shared, consistency: Consistency, deadline: Instant) -> Result<Passed, Problem> {
    let answer = shared.node.read(Query::Marks.encode(), consistency, remaining(deadline)).await;
    let answer = answer.map_err(|failure| reading::problem(shared, failure))?;
    Passed::decode(answer.bytes).map_err(unreadable)
}

fn unreadable(error: QueryAnswerError) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}
