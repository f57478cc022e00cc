//! From a command to its answer or its problem.

use std::time::Instant;

use axum::http::HeaderMap;
use axum::response::Response;
use raft_core::types::{LogId, NodeName};
use raft_kv::{Answer, Command, IdempotencyKey, Verdict};

use crate::handle::{Doubt, Refusal, WriteError, WriteOptions};
use crate::http::parameters::{Parameters, header, malformed};
use crate::http::problem::{Code, Problem, WriteOutcome};
use crate::http::shared::{SERVED_BY, Shared, insert_name, json, remaining};
use crate::http::view::{OperationView, WriteView};
use crate::status::Member;

/// How a client asked for a write.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) deadline: Instant,
    pub(crate) forward: bool,
    idempotency: Option<IdempotencyKey>,
    /// Path and query, for a redirection.
    target: String,
}

/// The parameters that every write takes.
pub(crate) const WRITE_PARAMETERS: [&str; 2] = ["timeout", "forward"];

impl Asked {
    pub(crate) fn read(shared: &Shared, uri: &axum::http::Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let parameters = Parameters::read(uri, &WRITE_PARAMETERS)?;
        let idempotency = header(headers, "idempotency-key")?
            .map(|key| IdempotencyKey::new(unquote(key).as_bytes().to_vec()))
            .transpose()
            .map_err(|error| Problem::new(Code::MalformedParameter, format!("`Idempotency-Key`: {error}")))?;
        Ok(Self {
            deadline: Instant::now() + parameters.timeout(shared.limits())?,
            forward: parameters.forward()?,
            idempotency,
            target: uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string),
        })
    }
}

/// The draft of the header wants a quoted string; most clients send it bare.
fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// The revision in an `If-Match`.
pub(crate) fn revision(text: &str) -> Result<u64, Problem> {
    text.trim()
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("If-Match", &format!("is `{text}`"), "write one revision in quotes, as ETag gives it"))
}

/// A write that was applied, and what to say about it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) view: WriteView,
    id: LogId,
    served_by: NodeName,
}

impl Done {
    pub(crate) fn respond(self, shared: &Shared) -> Response {
        let mut response = json(&self.view);
        // A replayed write changed nothing now: its position is this entry's, its revision the first one's.
        shared.set_position(response.headers_mut(), self.id);
        insert_name(response.headers_mut(), SERVED_BY, &self.served_by);
        response
    }
}

/// Has the command applied.
pub(crate) async fn carry_out(shared: &Shared, asked: &Asked, command: Command) -> Result<Done, Problem> {
    let command = match asked.idempotency.clone() {
        Some(key) => command.with_idempotency(key),
        None => command,
    };
    let command = command.encode().map_err(|error| Problem::new(Code::MalformedBody, error.to_string()))?;
    let options = WriteOptions {
        timeout: remaining(asked.deadline),
        forward: asked.forward,
        idempotent: asked.idempotency.is_some(),
    };
    let written = shared.node.write(command, options).await.map_err(|error| problem_of(shared, asked, error))?;
    let answer = Answer::decode(written.answer).map_err(|error| {
        let problem = Problem::new(Code::Internal, error.to_string()).outcome(WriteOutcome::Unknown);
        problem.token(shared.token(written.id).map(|token| token.to_string()))
    })?;
    let view = view_of(&answer).map_err(|problem| problem.position(written.id))?;
    Ok(Done { view, id: written.id, served_by: written.served_by })
}

/// The body of a successful answer, or why the state machine refused the command.
fn view_of(answer: &Answer) -> Result<WriteView, Problem> {
    let refuse = |code, detail: String| Err(Problem::new(code, detail).outcome(WriteOutcome::NotApplied));
    let results = match &answer.verdict {
        Verdict::Written { existed } => existed.iter().map(|existed| OperationView { existed: *existed }).collect(),
        Verdict::SettingsChanged => Vec::new(),
        Verdict::PreconditionFailed { change, current } => {
            let state = current.map_or("the key does not exist".into(), |index| format!("its revision is {index}"));
            return refuse(Code::PreconditionFailed, format!("operation {change}: {state}; read it again"));
        }
        Verdict::TooLarge { change, setting, limit, size } => {
            let code = match setting {
                raft_kv::Setting::KeyBytesMax => Code::KeyTooLarge,
                _ => Code::ValueTooLarge,
            };
            let remedy = "make it shorter, or raise the setting with PUT /v1/cluster/settings";
            return refuse(code, format!("operation {change}: {size} bytes, and {setting} is {limit}; {remedy}"));
        }
        Verdict::SettingRefused { .. } => {
            let detail = answer.setting_error().map_or_else(String::new, |error| error.to_string());
            return refuse(Code::SettingRefused, detail);
        }
        Verdict::IdempotencyConflict { original } => {
            let detail = format!("the key was used at revision {} for another request; draw a new key", original.index);
            return refuse(Code::IdempotencyKeyReused, detail);
        }
        Verdict::IdempotencyForgotten { .. } => {
            let detail = "a request of this age may have been applied and forgotten (idempotency.window); read the key \
                          to see, and draw a new idempotency key";
            return Err(Problem::new(Code::IdempotencyKeyExpired, detail).outcome(WriteOutcome::Unknown));
        }
        Verdict::Malformed(reason) => return refuse(Code::MalformedBody, reason.to_string()),
    };
    let LogId { index, term } = answer.decided;
    Ok(WriteView { revision: index.0, term: term.0, replayed: answer.replayed, deleted: None, results: Some(results) })
}

fn name_of(leader: Option<&Member>) -> Option<String> {
    leader.map(|leader| leader.name.to_string())
}

/// Says what a write came to that has no answer of the state machine.
pub(crate) fn problem_of(shared: &Shared, asked: &Asked, error: WriteError) -> Problem {
    match error {
        WriteError::NotApplied { why, leader } => {
            refusal(&why, leader.as_ref(), &asked.target).leader(name_of(leader.as_ref())).of_write()
        }
        WriteError::Unknown { why, token, leader } => {
            let code = match why {
                Doubt::Deadline => Code::Deadline,
                Doubt::LeaderChanged => Code::LeaderChanged,
                Doubt::NoAnswer(_) | Doubt::Stopping => Code::NoAnswer,
            };
            let remedy = if token.is_some() {
                "ask GET /v1/outcomes/{token}, or repeat the request if it has an Idempotency-Key"
            } else {
                "read the key to see, or repeat the request if it has an Idempotency-Key"
            };
            Problem::new(code, format!("{why}; {remedy}"))
                .leader(name_of(leader.as_ref()))
                .outcome(WriteOutcome::Unknown)
                .token(token.and_then(|id| shared.token(id)).map(|token| token.to_string()))
        }
    }
}

fn refusal(why: &Refusal, leader: Option<&Member>, target: &str) -> Problem {
    let code = match why {
        Refusal::NotLeader => return not_leader(leader, target),
        Refusal::NoLeader => Code::NoLeader,
        Refusal::LeaderUnreachable(_) => Code::LeaderUnreachable,
        Refusal::Overloaded { .. } => Code::Overloaded,
        Refusal::Deadline => Code::Deadline,
        Refusal::Stopping => Code::Stopping,
        Refusal::NotReady(_) => Code::NotReady,
        Refusal::Overwritten => Code::Overwritten,
        Refusal::HandingOver => Code::HandingOver,
        Refusal::TooLarge { .. } => Code::ValueTooLarge,
    };
    Problem::new(code, why.to_string())
}

/// Sends the client to the leader, if there is one that says where.
fn not_leader(leader: Option<&Member>, target: &str) -> Problem {
    match leader {
        Some(leader) if !leader.api_address.is_empty() => {
            let detail = format!("{} leads; this node was told not to pass the request on", leader.name);
            Problem::new(Code::NotLeader, detail).location(Some(format!("{}{target}", leader.api_address)))
        }
        Some(leader) => Problem::new(Code::NoLeader, format!("{} leads and names no client address", leader.name)),
        None => Problem::new(Code::NoLeader, "no leader is known, and this node was told not to pass the request on"),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::{Incarnation, Index, NodeId, Term};

    use super::*;

    fn answer(verdict: Verdict) -> Answer {
        Answer { decided: LogId::new(Index(5), Term(2)), replayed: false, verdict }
    }

    #[test]
    fn revisions_are_read_as_etag_gives_them() {
        assert_eq!(revision("\"17\"").ok(), Some(17));
        for wrong in ["17", "*", "W/\"17\"", "\"1\", \"2\"", "\"\"", "\"-1\""] {
            assert!(revision(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_state_machine_refuses_has_its_own_code_and_outcome() {
        for (verdict, code, outcome) in [
            (
                Verdict::PreconditionFailed { change: 0, current: None },
                Code::PreconditionFailed,
                WriteOutcome::NotApplied,
            ),
            (
                Verdict::TooLarge { change: 0, setting: raft_kv::Setting::KeyBytesMax, limit: 1, size: 2 },
                Code::KeyTooLarge,
                WriteOutcome::NotApplied,
            ),
            (
                Verdict::IdempotencyConflict { original: LogId::ZERO },
                Code::IdempotencyKeyReused,
                WriteOutcome::NotApplied,
            ),
            (Verdict::IdempotencyForgotten { horizon_ms: 0 }, Code::IdempotencyKeyExpired, WriteOutcome::Unknown),
        ] {
            let Err(problem) = view_of(&answer(verdict.clone())) else { panic!("{verdict:?} is no success") };
            assert_eq!((problem.code(), problem.body().outcome), (code, Some(outcome)), "{verdict:?}");
        }
    }

    #[test]
    fn a_redirection_keeps_path_and_query() {
        let leader = Member {
            id: NodeId(2),
            name: NodeName::new("n2"),
            incarnation: Incarnation(1),
            peer_address: "h:2".into(),
            api_address: "http://h:1".into(),
        };
        let problem = not_leader(Some(&leader), "/v1/kv/a%2Fb?timeout=1s");
        assert_eq!(problem.code(), Code::NotLeader);
        let response = axum::response::IntoResponse::into_response(problem);
        assert_eq!(response.status(), 307);
        assert_eq!(response.headers()["location"], "http://h:1/v1/kv/a%2Fb?timeout=1s");
        assert_eq!(not_leader(None, "/").code(), Code::NoLeader);
    }
}
