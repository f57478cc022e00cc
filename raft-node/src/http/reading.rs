//! Reads of the present: how they are asked for, and what their answers say about themselves.

use axum::http::{HeaderMap, HeaderValue};
use raft_core::types::LogId;

use crate::handle::{Consistency, ReadAnswer, ReadFailure};
use crate::http::parameters::{Parameters, consistency_name, header, malformed};
use crate::http::problem::{Code, Problem};
use crate::http::shared::{CONSISTENCY, DIVERGED, STALENESS, Shared, TOKEN, millis};
use crate::http::token::{Token, TokenError};

/// What the answer may be behind.
pub(crate) fn consistency(
    shared: &Shared,
    parameters: &Parameters,
    headers: &HeaderMap,
) -> Result<Consistency, Problem> {
    let staleness_max = parameters.staleness_max(headers)?;
    Ok(match (parameters.consistency(|| seen(shared, headers))?, staleness_max) {
        (Consistency::Local, Some(max)) => Consistency::LocalWithin(max),
        (other, _) => other,
    })
}

/// What the token of a verified read names.
fn seen(shared: &Shared, headers: &HeaderMap) -> Result<LogId, Problem> {
    let Some(text) = header(headers, TOKEN.as_str())? else {
        let remedy = "send the one that an answer gave, or read with another consistency";
        return Err(malformed("Raft-Token", "is missing, and consistency=verified reads by it", remedy));
    };
    let token: Token =
        text.trim().parse().map_err(|error: TokenError| Problem::new(Code::MalformedToken, error.to_string()))?;
    shared.seen(token)
}

/// Says which state was read, and how.
pub(crate) fn set_headers(shared: &Shared, headers: &mut HeaderMap, consistency: Consistency, answer: &ReadAnswer) {
    shared.set_position(headers, answer.applied);
    // Without a lease the leader was asked.
    let served = match consistency {
        Consistency::Lease if !answer.under_lease => Consistency::Linearizable,
        other => other,
    };
    headers.insert(CONSISTENCY, HeaderValue::from_static(consistency_name(served)));
    let may_be_stale =
        matches!(consistency, Consistency::Local | Consistency::LocalWithin(_) | Consistency::Verified(_));
    if let Some(staleness) = answer.staleness.filter(|_| may_be_stale) {
        headers.insert(STALENESS, millis(staleness).into());
    }
}

/// Says why a read of the present has no answer. One that is never older than a token does not say so with an older one,
/// or who keeps the newest token of all answers would go back.
pub(crate) fn refused(shared: &Shared, consistency: Consistency, failure: ReadFailure) -> Problem {
    let seen = match (consistency, &failure) {
        (_, ReadFailure::Diverged { .. }) => None,
        (Consistency::Verified(seen), _) => Some(seen),
        _ => None,
    };
    let problem = problem(shared, failure);
    match seen {
        Some(seen) => problem.position(seen),
        None => problem,
    }
}

/// Says why a read has no answer.
pub(crate) fn problem(shared: &Shared, failure: ReadFailure) -> Problem {
    let code = match failure {
        ReadFailure::NotReady(_) => Code::NotReady,
        ReadFailure::NoLeader => Code::NoLeader,
        ReadFailure::Deadline => Code::Deadline,
        ReadFailure::Overloaded { .. } => Code::Overloaded,
        ReadFailure::TooStale { .. } => Code::TooStale,
        ReadFailure::Diverged { .. } => Code::TokenDiverged,
        ReadFailure::Stopping => Code::Stopping,
        ReadFailure::Fenced(_) => Code::Fenced,
        ReadFailure::Query(_) => Code::Internal,
    };
    let detail = match code {
        Code::TokenDiverged => format!("{failure}; {DIVERGED}"),
        Code::TooStale => format!(
            "{failure}; try again (this node asks the leader meanwhile), ask another node, or read with \
             consistency=linearizable"
        ),
        _ => failure.to_string(),
    };
    let leader = shared.node.position().leader.map(|leader| leader.to_string());
    Problem::new(code, detail).leader(leader)
}
