//! One call: as many tries as it takes, within its deadline and the bound on tries.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};

use crate::client::endpoints::Endpoints;
use crate::client::error::{Error, ErrorKind, Outcome};
use crate::client::options::{Mode, Read};
use crate::client::session::{Session, Surpasses, Token};
use crate::client::wire::{OutcomeBody, ProblemBody};

/// An answer that is longer is not read to its end.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The first pause before all nodes are tried again; it doubles each time, up to the longest.
/// A write is sent to the node that another one named as leader so often; then any node may pass it on.
const REDIRECTS_MAX: u32 = 3;
/// No call lasts longer, whatever deadline it has.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// A node is given this much less time than its answer is waited for, a tenth at most, so that what it says when the
/// time is over still arrives.
const ANSWER_MARGIN_MAX: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// How it is read; a write otherwise, whose headers hold an idempotency key.
    pub(super) read: Option<Read>,
}

impl Call {
    fn is_write(&self) -> bool {
        self.read.is_none()
    }
}

/// An answer that is no error, or that no value stands there.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.header("raft-token").map(Token::new)
    }
}

/// What came of one try.
enum Attempt {
    Done(Reply),
    /// Another node leads, and was noted; what the one that was asked said.
    Redirected(Error),
    Failed {
        error: Error,
        again: Again,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    /// Another node may do better at once.
    Elsewhere,
    /// Not before this.
    After(Duration),
}

/// The bounds of all calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) deadline: Duration,
    pub(super) try_timeout: Duration,
    pub(super) tries_max: u32,
}

/// What tries.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) http: reqwest::Client,
    pub(super) endpoints: Endpoints,
    pub(super) bounds: Bounds,
}

/// What the tries so far came to.
#[derive(Default)]
struct Tries {
    count: u32,
    pauses: u32,
    last: Option<Error>,
    unknown: bool,
    is_write: bool,
}

impl Tries {
    fn note(&mut self, error: Error) {
        self.unknown |= error.outcome() == Some(Outcome::Unknown);
        self.last = Some(error);
    }

    /// One try in doubt leaves the whole in doubt, unless the state machine has decided: it decides a key once.
    fn conclude(self) -> Error {
        let not_sent = self.is_write.then_some(Outcome::NotApplied);
        let none = || {
            let error = Error::new(ErrorKind::Deadline, "the deadline passed before anything was sent");
            error.with(|about| about.outcome = not_sent)
        };
        let error = self.last.unwrap_or_else(none);
        let is_decided = error.is("precondition_failed") || error.is("idempotency_key_reused");
        error.with(|about| {
            if self.unknown && !is_decided {
                about.outcome = Some(Outcome::Unknown);
            }
            about.tries = self.count;
        })
    }

    /// How long to wait before the next try.
    fn pause(&mut self, again: Again, endpoints: usize) -> Duration {
        let least = match again {
            Again::After(least) => least,
            Again::Elsewhere if !(self.count as usize).is_multiple_of(endpoints) => return Duration::ZERO,
            _ => Duration::ZERO,
        };
        let pause = (PAUSE_FIRST * 2u32.saturating_pow(self.pauses.min(16))).min(PAUSE_LONGEST);
        self.pauses += 1;
        least + jitter(pause)
    }
}

/// Between half of a pause and the whole, so that clients that failed together do not come back together.
fn jitter(pause: Duration) -> Duration {
    const PARTS: u32 = 1024;
    let drawn = (uuid::Uuid::new_v4().as_u128() % u128::from(PARTS)) as u32;
    pause / 2 + pause / 2 * drawn / PARTS
}

impl Caller {
    /// Tries until there is an answer, or no hope for one.
    pub(super) async fn run(&self, session: &Session, call: &Call, within: Option<Duration>) -> Result<Reply, Error> {
        let deadline = Instant::now() + within.unwrap_or(self.bounds.deadline).min(DEADLINE_MAX);
        let mut tries = Tries { is_write: call.is_write(), ..Tries::default() };
        // A write goes to the leader itself, as long as that works; else any node passes it on.
        let mut is_direct = call.is_write();
        let mut redirects = 0;
        while tries.count < self.bounds.tries_max {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tries.count += 1;
            let endpoint = self.endpoints.next(is_direct);
            let (error, again) = match self.attempt(session, call, &endpoint, is_direct, left).await {
                Attempt::Done(reply) => return Ok(reply),
                Attempt::Redirected(error) => {
                    tries.note(error);
                    redirects += 1;
                    // Nodes that name each other, or an address that leads elsewhere: let them pass it on.
                    is_direct = redirects < REDIRECTS_MAX;
                    continue;
                }
                Attempt::Failed { error, again } => (error, again),
            };
            tries.note(error);
            if again == Again::Never {
                break;
            }
            is_direct = false;
            self.endpoints.failed(&endpoint);
            let pause = tries.pause(again, self.endpoints.count());
            if pause >= deadline.saturating_duration_since(Instant::now()) {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(tries.conclude())
    }

    async fn attempt(
        &self,
        session: &Session,
        call: &Call,
        endpoint: &str,
        is_direct: bool,
        left: Duration,
    ) -> Attempt {
        let patience = left.min(self.bounds.try_timeout);
        let given = (patience - ANSWER_MARGIN_MAX.min(patience / 10)).max(Duration::from_millis(1));
        let token = session.token();
        let mut target = format!("{endpoint}{}?timeout={}ms", call.path, given.as_millis().max(1));
        let mut request_token = None;
        match call.read {
            Some(read) => {
                target = format!("{target}&{}", read.query(token.is_some()));
                request_token = token.filter(|_| read.mode == Mode::Verified);
            }
            None if is_direct => target.push_str("&forward=never"),
            None => {}
        }
        let mut request = self.http.request(call.method.clone(), target).headers(call.headers.clone());
        if let Some(token) = &request_token {
            request = request.header("raft-token", token.as_str());
        }
        let sent = tokio::time::timeout(patience, receive(request.body(call.body.clone()))).await;
        match sent {
            Ok(Ok(reply)) => {
                let surpasses = match (call.read, request_token) {
                    (_, Some(token)) => Surpasses::One(token),
                    // A verified read without a token is a linearizable one.
                    (Some(read), None) if !read.is_newest() && read.mode != Mode::Verified => Surpasses::None,
                    _ => Surpasses::All,
                };
                self.judge(session, call, endpoint, reply, &surpasses)
            }
            Ok(Err((was_sent, why))) => silent(call, was_sent, format!("{endpoint} gave no answer: {why}")),
            Err(_) => silent(call, true, format!("{endpoint} gave no answer within {} ms", patience.as_millis())),
        }
    }

    /// What an answer means.
    fn judge(&self, session: &Session, call: &Call, endpoint: &str, reply: Reply, surpasses: &Surpasses) -> Attempt {
        let problem = if reply.status.is_success() { None } else { Some(read_problem(call, endpoint, &reply)) };
        let is_absent = !call.is_write() && problem.as_ref().is_some_and(|(error, _)| error.is("key_not_found"));
        let reflects = problem.as_ref().is_none_or(|(error, _)| is_absent || error.is("precondition_failed"));
        if let (true, Some(token), Some(revision)) = (reflects, reply.token(), reply.number("raft-revision")) {
            session.note(token, revision, surpasses);
        }
        match problem {
            None => Attempt::Done(reply),
            Some(_) if is_absent => Attempt::Done(reply),
            Some((error, again)) => {
                let location = reply.header(LOCATION.as_str()).unwrap_or_default();
                if error.is("not_leader") && self.endpoints.leads(endpoint, location) {
                    return Attempt::Redirected(error);
                }
                Attempt::Failed { error, again }
            }
        }
    }
}

/// Sends a request and takes its whole answer; else why not, and whether the request may have arrived.
async fn receive(request: reqwest::RequestBuilder) -> Result<Reply, (bool, String)> {
    let failed = |error: reqwest::Error| (!error.is_connect() && !error.is_builder(), innermost(&error));
    let mut response = request.send().await.map_err(failed)?;
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err((true, format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Reply { status: response.status(), headers, body: body.freeze() })
}

/// The cause that says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// No answer: a write that may have arrived is in doubt.
fn silent(call: &Call, was_sent: bool, detail: String) -> Attempt {
    let kind = if was_sent { ErrorKind::Deadline } else { ErrorKind::Unavailable };
    let outcome = if was_sent { Outcome::Unknown } else { Outcome::NotApplied };
    let outcome = call.is_write().then_some(outcome);
    let error = Error::new(kind, detail).with(|about| about.outcome = outcome);
    Attempt::Failed { error, again: Again::Elsewhere }
}

/// What a node's refusal means, and whether to try again.
fn read_problem(call: &Call, endpoint: &str, reply: &Reply) -> (Error, Again) {
    let Ok(problem) = serde_json::from_slice::<ProblemBody>(&reply.body) else {
        let detail = format!("{endpoint} answered {}, which is no answer of a node", reply.status);
        let outcome = call.is_write().then_some(Outcome::Unknown);
        return (Error::new(ErrorKind::Fault, detail).with(|about| about.outcome = outcome), Again::Elsewhere);
    };
    let after = Duration::from_millis(problem.retry_after_ms.unwrap_or(0));
    let (kind, again) = match reply.status.as_u16() {
        _ if problem.code == "token_diverged" => (ErrorKind::Conflict, Again::Never),
        307 => (ErrorKind::Unavailable, Again::After(Duration::ZERO)),
        410 => (ErrorKind::Compacted, Again::Never),
        412 => (ErrorKind::Precondition, Again::Never),
        429 => (ErrorKind::Overloaded, Again::After(after)),
        503 => (ErrorKind::Unavailable, Again::Elsewhere),
        504 => (ErrorKind::Deadline, Again::Elsewhere),
        500.. => (ErrorKind::Fault, Again::Elsewhere),
        _ => (ErrorKind::Refused, Again::Never),
    };
    let outcome = match problem.outcome {
        Some(OutcomeBody::NotApplied) => Outcome::NotApplied,
        Some(OutcomeBody::Unknown) | None => Outcome::Unknown,
    };
    let error = Error::new(kind, problem.detail).with(|about| {
        about.outcome = call.is_write().then_some(outcome);
        about.code = Some(problem.code);
        about.leader = problem.leader;
        about.asks_with = problem.token.map(Token::new);
    });
    (error, again)
}
