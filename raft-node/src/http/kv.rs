//! `/v1/kv`: put, get, delete, batch.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use raft_core::types::Index;
use raft_kv::{Change, Command, Found, Precondition, Query, Value};

use crate::access::{Caller, Need, Role};
use crate::handle::{Consistency, ReadAnswer};
use crate::http::door::demand;
use crate::http::key;
use crate::http::parameters::{Parameters, header as header_text, malformed};
use crate::http::past;
use crate::http::problem::{Code, Problem};
use crate::http::reading;
use crate::http::shared::{Shared, remaining};
use crate::http::view::{BatchOperation, BatchRequest};
use crate::http::write::{Asked, carry_out, revision};

/// What stands before a key in a path.
pub(crate) const PREFIX: &str = "/v1/kv/";
const READ_PARAMETERS: [&str; 5] = ["consistency", "timeout", "at_mark", "at_revision", "max_staleness"];

/// `GET`, `PUT` and `DELETE /v1/kv/{key}`.
pub(crate) async fn key(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    one_key(&shared, request).await
}

/// Does with one key what the method says.
pub(crate) async fn one_key(shared: &Shared, request: Request) -> Result<Response, Problem> {
    let (Parts { method, uri, headers, .. }, body) = request.into_parts();
    match method {
        Method::PUT => put_value(shared, &uri, &headers, body).await.map_err(Problem::of_write),
        Method::DELETE => delete_key(shared, &uri, &headers).await.map_err(Problem::of_write),
        // GET, and HEAD: whose answer is cut off on its way.
        _ => get(shared, &uri, &headers).await,
    }
}

async fn put_value(shared: &Shared, uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let key = key_of(shared, uri)?;
    let asked = Asked::read(shared, uri, headers)?;
    let precondition = precondition(headers)?;
    let max = shared.limits().value_bytes_max;
    let too_large = || too_large(Code::ValueTooLarge, "the value", max, "limits.value_bytes_max");
    let (value, _permit) = shared.body(body, max, too_large, asked.deadline).await?;
    let command = Command::batch(vec![Change::put(key, value).only_if(precondition)]);
    let mut done = carry_out(shared, &asked, command).await?;
    done.view.results = None;
    Ok(done.respond(shared))
}

async fn delete_key(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Result<Response, Problem> {
    let key = key_of(shared, uri)?;
    let asked = Asked::read(shared, uri, headers)?;
    let command = Command::batch(vec![Change::delete(key).only_if(precondition(headers)?)]);
    let mut done = carry_out(shared, &asked, command).await?;
    let results = done.view.results.take().unwrap_or_default();
    done.view.deleted = Some(results.first().is_some_and(|result| result.existed));
    Ok(done.respond(shared))
}

async fn get(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Result<Response, Problem> {
    let key = key_of(shared, uri)?;
    let parameters = Parameters::read(uri, &READ_PARAMETERS)?;
    let deadline = Instant::now() + parameters.timeout(shared.limits())?;
    parameters.staleness_max(headers)?;
    if let Some(at) = parameters.at()? {
        return past::get(shared, key, at, deadline).await;
    }
    let consistency = reading::consistency(shared, &parameters, headers)?;
    let answer = shared.node.read(Query::get(key).encode(), consistency, remaining(deadline)).await;
    let answer = answer.map_err(|failure| reading::refused(shared, consistency, failure))?;
    found(shared, consistency, answer)
}

fn found(shared: &Shared, consistency: Consistency, answer: ReadAnswer) -> Result<Response, Problem> {
    let Found(found) =
        Found::decode(answer.bytes.clone()).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let mut response = value_response(shared, found)?;
    reading::set_headers(shared, response.headers_mut(), consistency, &answer);
    Ok(response)
}

/// A value as it is, or that there is none.
pub(crate) fn value_response(shared: &Shared, found: Option<Value>) -> Result<Response, Problem> {
    match found {
        Some(value) => {
            let mut response = Body::from(shared.hold(value.bytes)?).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", value.revision)) {
                headers.insert(header::ETAG, tag);
            }
            Ok(response)
        }
        // No failure: its answer has the headers of a read.
        None => Ok(Problem::new(Code::KeyNotFound, "no value stands under this key").into_response()),
    }
}

/// `POST /v1/kv/batch`.
pub(crate) async fn batch(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    write_batch(&shared, &parts, body).await.map_err(Problem::of_write)
}

async fn write_batch(shared: &Shared, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let Parts { uri, headers, extensions, .. } = parts;
    let caller = extensions.get::<Caller>().ok_or_else(|| Problem::new(Code::Internal, "the door was passed by"))?;
    let asked = Asked::read(shared, uri, headers)?;
    let limits = shared.limits();
    // Base64 makes 4 of 3; the rest of an operation's JSON is small.
    let body_max = limits.batch_bytes_max / 3 * 4 + limits.batch_operations_max * 128 + 1024;
    let body_max = body_max.min(limits.bytes_in_flight_max);
    let setting = "limits.batch_bytes_max";
    let too_large = || too_large(Code::BatchTooLarge, "the batch's body", body_max, setting);
    let (body, _permit) = shared.body(body, body_max, too_large, asked.deadline).await?;
    // Otherwise an array would be taken for the fields in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::MalformedBody, "the body is not a batch: send an object with `operations`"));
    }
    let request: BatchRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Code::MalformedBody, format!("the body is not a batch: {error}")))?;
    let changes = changes_of(shared, request)?;
    for (position, change) in changes.iter().enumerate() {
        demand(caller, Need::Key(Role::Write, &change.key), &format!("operation {position}: "))?;
    }
    Ok(carry_out(shared, &asked, Command::batch(changes)).await?.respond(shared))
}

fn changes_of(shared: &Shared, request: BatchRequest) -> Result<Vec<Change>, Problem> {
    let limits = shared.limits();
    let count = request.operations.len();
    if count == 0 {
        return Err(Problem::new(Code::MalformedBody, "the batch holds no operations"));
    }
    let operations_max = limits.batch_operations_max.min(raft_kv::CHANGES_MAX);
    if count > operations_max {
        let detail =
            format!("{count} operations, and limits.batch_operations_max is {operations_max}; split the batch");
        return Err(Problem::new(Code::BatchTooLarge, detail));
    }
    let mut bytes = 0;
    let mut changes = Vec::with_capacity(count);
    for (position, operation) in request.operations.into_iter().enumerate() {
        let (change, length) = change_of(shared, position, operation)?;
        bytes += length;
        changes.push(change);
    }
    if bytes > limits.batch_bytes_max {
        return Err(too_large(Code::BatchTooLarge, "the batch", limits.batch_bytes_max, "limits.batch_bytes_max"));
    }
    Ok(changes)
}

/// One change, and the length of its key and value.
fn change_of(shared: &Shared, position: usize, operation: BatchOperation) -> Result<(Change, usize), Problem> {
    let decode = |name: &str, text: String| -> Result<Bytes, Problem> {
        STANDARD.decode(&text).map(Bytes::from).map_err(|error| {
            Problem::new(Code::MalformedBody, format!("operation {position}: `{name}` is not base64: {error}"))
        })
    };
    let matching = |revision: Option<u64>| match revision {
        Some(revision) => Precondition::Revision(Index(revision)),
        None => Precondition::None,
    };
    let (change, key_length, value_length) = match operation {
        BatchOperation::Put { key, value, if_match, if_absent } => {
            if if_absent && if_match.is_some() {
                let detail = format!("operation {position}: `if_match` and `if_absent` exclude each other");
                return Err(Problem::new(Code::MalformedBody, detail));
            }
            let (key, value) = (decode("key", key)?, decode("value", value)?);
            let precondition = if if_absent { Precondition::Absent } else { matching(if_match) };
            let lengths = (key.len(), value.len());
            (Change::put(key, value).only_if(precondition), lengths.0, lengths.1)
        }
        BatchOperation::Delete { key, if_match } => {
            let key = decode("key", key)?;
            let length = key.len();
            (Change::delete(key).only_if(matching(if_match)), length, 0)
        }
    };
    check_key_length(shared, key_length)?;
    let value_max = shared.limits().value_bytes_max;
    if value_length > value_max {
        return Err(too_large(Code::ValueTooLarge, "a value", value_max, "limits.value_bytes_max"));
    }
    Ok((change, key_length + value_length))
}

/// The key in the raw path.
fn key_of(shared: &Shared, uri: &Uri) -> Result<Bytes, Problem> {
    let raw = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let key = key::decode(raw).map_err(|error| Problem::new(Code::MalformedKey, error.to_string()))?;
    check_key_length(shared, key.len())?;
    Ok(key)
}

fn check_key_length(shared: &Shared, length: usize) -> Result<(), Problem> {
    let max = shared.limits().key_bytes_max;
    match length {
        0 => Err(Problem::new(Code::MalformedKey, key::KeyError::Empty.to_string())),
        _ if length > max => {
            Err(too_large(Code::KeyTooLarge, &format!("the key of {length} bytes"), max, "limits.key_bytes_max"))
        }
        _ => Ok(()),
    }
}

/// `/v1/kv/`: the key is empty.
pub(crate) async fn empty_key(method: Method) -> Problem {
    let problem = Problem::new(Code::MalformedKey, key::KeyError::Empty.to_string());
    if method.is_safe() { problem } else { problem.of_write() }
}

fn too_large(code: Code, what: &str, max: usize, setting: &str) -> Problem {
    Problem::new(code, format!("{what} is longer than {max} bytes; make it shorter, or raise {setting}"))
}

/// `If-Match` and `If-None-Match` of a write.
fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    match (header_text(headers, "if-match")?, header_text(headers, "if-none-match")?) {
        (None, None) => Ok(Precondition::None),
        (Some(tag), None) => Ok(Precondition::Revision(Index(revision(tag)?))),
        (None, Some("*")) => Ok(Precondition::Absent),
        (None, Some(other)) => Err(malformed("If-None-Match", &format!("is `{other}`"), "write *")),
        (Some(_), Some(_)) => Err(malformed("If-Match", "excludes If-None-Match", "send one of them")),
    }
}
