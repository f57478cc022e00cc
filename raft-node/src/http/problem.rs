//! Errors as RFC 9457 problem details. `docs/errors.md` documents every code; a test holds the two together.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use raft_core::types::LogId;
use serde::{Deserialize, Serialize};

/// Where the codes are documented; a problem's `type` is this and `#` and its code.
pub const PROBLEM_BASE: &str = "https://github.com/raft-kit/raft-kit/blob/main/docs/errors.md";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// What kind of problem it is. The text is stable; tools may branch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The key is empty or its percent-encoding is malformed.
    MalformedKey = "malformed_key", BAD_REQUEST, "The key cannot be read";
    /// A query parameter or header is unknown or malformed.
    MalformedParameter = "malformed_parameter", BAD_REQUEST, "A parameter cannot be used";
    /// The consistency is none that exists.
    UnknownConsistency = "unknown_consistency", BAD_REQUEST, "This consistency does not exist";
    /// The body is not what the route takes.
    MalformedBody = "malformed_body", BAD_REQUEST, "The body cannot be read";
    /// The token is not one.
    MalformedToken = "malformed_token", BAD_REQUEST, "The token cannot be read";
    /// The request shows no token or certificate that stands for somebody.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "Nobody is named who may come in";
    /// Whoever asks may not do this.
    Forbidden = "forbidden", FORBIDDEN, "The caller may not do this";
    /// A browser asks on behalf of a page of another site.
    CrossOrigin = "cross_origin", FORBIDDEN, "A page of another site asks";
    /// The key does not exist.
    KeyNotFound = "key_not_found", NOT_FOUND, "The key does not exist";
    /// There is no such route.
    RouteNotFound = "route_not_found", NOT_FOUND, "There is no such route";
    /// There is no mark at this index.
    MarkNotFound = "mark_not_found", NOT_FOUND, "There is no mark at this index";
    /// There is no such revision yet.
    RevisionNotFound = "revision_not_found", NOT_FOUND, "There is no such revision yet";
    /// The log does not hold the entry.
    EntryNotFound = "entry_not_found", NOT_FOUND, "The log does not hold this entry";
    /// There is no member of this name.
    MemberNotFound = "member_not_found", NOT_FOUND, "There is no such member";
    /// The route does not take this method.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The token belongs to another cluster or history.
    TokenDiverged = "token_diverged", CONFLICT, "The token belongs to another cluster or history";
    /// The idempotency key is older than the window; its first use may have had its effect.
    IdempotencyKeyExpired = "idempotency_key_expired", CONFLICT, "The idempotency key is older than the window";
    /// The node's state is not to be rebuilt, or cannot be.
    RebuildRefused = "rebuild_refused", CONFLICT, "The state is not rebuilt";
    /// The named node cannot be handed the leadership, or another handover is under way.
    HandoverRefused = "handover_refused", CONFLICT, "The leadership is not handed over";
    /// Without this node the rest of the voters would be no quorum, or nobody can tell.
    StopUnsafe = "stop_unsafe", CONFLICT, "The node must not stop now";
    /// The pre-flight found that a change of the members would cost the quorum or fault tolerance.
    PreflightRefused = "preflight_refused", CONFLICT, "The change would do harm";
    /// Another change of the members is under way.
    ChangeRunning = "change_running", CONFLICT, "Another change of the members is under way";
    /// No change of the members is under way, or it is too late.
    CannotCancel = "cannot_cancel", CONFLICT, "There is nothing to cancel";
    /// The change of the members was cancelled.
    ChangeCancelled = "change_cancelled", CONFLICT, "The change was cancelled";
    /// What was there is forgotten.
    Compacted = "compacted", GONE, "This point of the past is forgotten";
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "The precondition does not hold";
    /// The key is too long.
    KeyTooLarge = "key_too_large", PAYLOAD_TOO_LARGE, "The key is too long";
    /// The value is too long.
    ValueTooLarge = "value_too_large", PAYLOAD_TOO_LARGE, "The value is too long";
    /// The batch holds too many operations or bytes, or the body is too long.
    BatchTooLarge = "batch_too_large", PAYLOAD_TOO_LARGE, "The batch is too large";
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key names another request";
    /// A replicated setting does not exist or cannot have this value.
    SettingRefused = "setting_refused", UNPROCESSABLE_ENTITY, "The setting cannot have this value";
    /// The set of members is none.
    MembersRefused = "members_refused", UNPROCESSABLE_ENTITY, "These cannot be the members";
    /// A bound of this node or of the leader is reached.
    Overloaded = "overloaded", TOO_MANY_REQUESTS, "A bound is reached; try again";
    /// This node does not lead and was told not to pass the request on.
    NotLeader = "not_leader", TEMPORARY_REDIRECT, "Another node leads";
    /// No leader is known.
    NoLeader = "no_leader", SERVICE_UNAVAILABLE, "No leader is known";
    /// The leader is handing over, and no other was known in time.
    HandingOver = "handing_over", SERVICE_UNAVAILABLE, "The leadership is being handed over";
    /// The leadership moved to another node than the named one, or did not move.
    HandoverFailed = "handover_failed", SERVICE_UNAVAILABLE, "The leadership was not handed over";
    /// A leader is known and could not be reached from this node.
    LeaderUnreachable = "leader_unreachable", SERVICE_UNAVAILABLE, "The leader cannot be reached";
    /// The node is not founded or still replays its log.
    NotReady = "not_ready", SERVICE_UNAVAILABLE, "The node is not ready";
    /// This node's state differs from the majority's, or is being rebuilt.
    Fenced = "fenced", SERVICE_UNAVAILABLE, "The state of this node is not to be read";
    /// What this node has applied is older than the read allows, or may be.
    TooStale = "too_stale", SERVICE_UNAVAILABLE, "This node is too far behind";
    /// No mark was passed yet.
    NoMark = "no_mark", SERVICE_UNAVAILABLE, "No mark was passed yet";
    /// The node is stopping.
    Stopping = "stopping", SERVICE_UNAVAILABLE, "The node is stopping";
    /// A committed entry of another leader took the place of this one.
    Overwritten = "overwritten", SERVICE_UNAVAILABLE, "Another leader's entry was committed instead";
    /// This node can take no snapshot.
    SnapshotFailed = "snapshot_failed", SERVICE_UNAVAILABLE, "No snapshot can be taken";
    /// The deadline came first.
    Deadline = "deadline", GATEWAY_TIMEOUT, "The deadline passed first";
    /// The leader changed before the entry was committed.
    LeaderChanged = "leader_changed", GATEWAY_TIMEOUT, "The leader changed meanwhile";
    /// The leader was asked and did not answer.
    NoAnswer = "no_answer", GATEWAY_TIMEOUT, "The leader did not answer";
    /// Storage failed, or something that should not happen did.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The node failed";
}

/// Whether a write with an error had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// It was not applied and never will be.
    NotApplied,
    /// It may have been applied, or may be later.
    Unknown,
}

/// The body of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    /// A URI that documents this kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and the remedy.
    pub detail: String,
    /// [`Code::name`].
    pub code: String,
    /// The leader's name, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// When to try again, where that may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For every write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<WriteOutcome>,
    /// What to ask `GET /v1/outcomes/{token}` for, when the outcome is unknown and the entry is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// An error on its way to a client.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: String,
    leader: Option<String>,
    retry_after: Option<Duration>,
    outcome: Option<WriteOutcome>,
    token: Option<String>,
    // Few problems have these two; boxed, they keep the others small.
    location: Option<Box<str>>,
    position: Option<Box<LogId>>,
}

/// In an answer's extensions: the log position that it reflects, where that is not what the node has applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reflects(pub(crate) LogId);

impl Problem {
    /// A problem of this kind; `detail` says what happened and what to do.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = match code.status() {
            StatusCode::TOO_MANY_REQUESTS => Some(Duration::from_millis(100)),
            StatusCode::SERVICE_UNAVAILABLE => Some(Duration::from_millis(200)),
            _ => None,
        };
        Self {
            code,
            detail: detail.into(),
            leader: None,
            retry_after,
            outcome: None,
            token: None,
            location: None,
            position: None,
        }
    }

    /// Names the leader.
    #[must_use]
    pub fn leader(self, leader: Option<String>) -> Self {
        Self { leader, ..self }
    }

    /// Says whether the write had its effect.
    #[must_use]
    pub fn outcome(self, outcome: WriteOutcome) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    /// The same problem of a write that surely had no effect; a known outcome stays.
    #[must_use]
    pub fn of_write(self) -> Self {
        Self { outcome: self.outcome.or(Some(WriteOutcome::NotApplied)), ..self }
    }

    /// Says what to ask for the outcome with.
    #[must_use]
    pub fn token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Says where to go instead.
    #[must_use]
    pub fn location(self, location: Option<String>) -> Self {
        Self { location: location.map(String::into_boxed_str), ..self }
    }

    /// Says at which entry it was decided.
    #[must_use]
    pub fn position(self, position: LogId) -> Self {
        Self { position: Some(Box::new(position)), ..self }
    }

    /// The kind.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The body as it is sent.
    #[must_use]
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("{PROBLEM_BASE}#{}", self.code.name()),
            title: self.code.title().into(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            code: self.code.name().into(),
            leader: self.leader.clone(),
            retry_after_ms: self.retry_after.map(|after| after.as_millis() as u64),
            outcome: self.outcome,
            token: self.token.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self.code);
        if let Some(position) = self.position {
            response.extensions_mut().insert(Reflects(*position));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            // The header counts whole seconds; `retry_after_ms` says it finer.
            let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(location) = self.location.as_deref().and_then(|location| HeaderValue::from_str(location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_carries_what_the_contract_names() {
        let problem = Problem::new(Code::NoLeader, "wait")
            .leader(Some("n2".into()))
            .outcome(WriteOutcome::Unknown)
            .token(Some("abc".into()));
        let body = serde_json::to_value(problem.body()).unwrap_or_default();
        assert_eq!(
            body,
            serde_json::json!({
                "type": format!("{PROBLEM_BASE}#no_leader"),
                "title": "No leader is known",
                "status": 503,
                "detail": "wait",
                "code": "no_leader",
                "leader": "n2",
                "retry_after_ms": 200,
                "outcome": "unknown",
                "token": "abc",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[test]
    fn overload_and_unavailability_say_when_to_try_again() {
        for code in Code::ALL {
            let again = matches!(code.status().as_u16(), 429 | 503);
            assert_eq!(Problem::new(*code, "").body().retry_after_ms.is_some(), again, "{}", code.name());
        }
    }

    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../../docs/errors.md");
        for code in Code::ALL {
            let row = format!("### {}\n", code.name());
            assert!(page.contains(&row), "docs/errors.md has no `{}`", row.trim());
            let status = format!("`{}`", code.status().as_u16());
            let after = page.split(&row).nth(1).unwrap_or_default();
            assert!(after.trim_start().starts_with(&status), "{} should begin with {status}", code.name());
        }
    }
}
