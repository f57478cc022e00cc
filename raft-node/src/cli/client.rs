//! A client of the HTTP interface that knows several endpoints and tries the next one when one cannot be reached.

use std::path::Path;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::cli::credentials::Credentials;
use crate::cli::exit::{CliError, Exit};
use raft_node::access::Secret;
use raft_node::http::{ProblemBody, WriteOutcome};

/// Where a node's client listener is unless somebody says otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7080";
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a node may take longer than the deadline that it was given.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);
/// How often a request that can be repeated is sent to each endpoint before the client gives up.
const ROUNDS: usize = 3;
/// Pause between those.
const ROUND_PAUSE: Duration = Duration::from_millis(300);

/// Where the nodes are, and how to reach them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Endpoints {
    /// Nodes to ask, separated by commas; the next is tried when one cannot be reached.
    #[arg(long, env = "RAFT_ENDPOINT", value_delimiter = ',', default_value = DEFAULT_ENDPOINT, global = true)]
    endpoint: Vec<String>,
    /// Certificates (PEM) that sign the nodes' client certificates, for https endpoints.
    #[arg(long, env = "RAFT_CA", value_name = "FILE", global = true)]
    ca: Option<std::path::PathBuf>,
    #[command(flatten)]
    credentials: Credentials,
    /// How long to wait for an answer.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s", value_name = "TIME", global = true)]
    timeout: Duration,
}

impl Endpoints {
    /// These settings for one other address.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { endpoint: vec![url.to_owned()], ..self.clone() }
    }

    /// The addresses as they were given.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.endpoint.clone()
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The token that says who asks, if there is one.
    pub(crate) fn token(&self) -> Result<Option<Secret>, CliError> {
        self.credentials.token()
    }

    /// Whether nobody said where the nodes are.
    pub(crate) fn is_default(&self) -> bool {
        self.endpoint == [DEFAULT_ENDPOINT]
    }

    /// These, but with the token of this file while it is there.
    pub(crate) fn with_local_token(&self, local: Option<&Path>) -> Self {
        Self { credentials: self.credentials.or_local(local), ..self.clone() }
    }
}

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Call {
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self { method: Method::GET, target: target.into(), headers: HeaderMap::new(), body: Vec::new() }
    }
}

/// An answer that is no error.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| CliError::failed(format!("the node's answer cannot be read: {error}")))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    pub(crate) timeout: Duration,
}

/// What came of one attempt.
enum Attempt {
    Reply(Reply),
    /// Another endpoint or another time may do better.
    Again(CliError),
    Final(CliError),
}

/// What the attempts so far came to.
#[derive(Default)]
struct Doubt {
    last: Option<CliError>,
    unknown: bool,
}

impl Doubt {
    fn note(&mut self, error: CliError) {
        self.unknown |= error.exit == Exit::Unknown;
        self.last = Some(error);
    }

    /// One attempt in doubt leaves the whole in doubt, whatever the later ones came to.
    fn error(self) -> CliError {
        let last = self
            .last
            .unwrap_or_else(|| CliError::new(Exit::Usage, "no endpoint is given; use --endpoint or RAFT_ENDPOINT"));
        if self.unknown { CliError { exit: Exit::Unknown, ..last } } else { last }
    }
}

impl Client {
    pub(crate) fn new(endpoints: &Endpoints) -> Result<Self, CliError> {
        Self::with(endpoints, |builder| endpoints.credentials.add_to(builder))
    }

    fn with(
        endpoints: &Endpoints,
        credentials: impl FnOnce(reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, CliError>,
    ) -> Result<Self, CliError> {
        let usage = |message: String| CliError::new(Exit::Usage, message);
        // A second installation is refused and harmless: the first one stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut urls = Vec::new();
        for endpoint in endpoints.endpoint.iter().map(|endpoint| endpoint.trim().trim_end_matches('/')) {
            let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
            reqwest::Url::parse(&url).map_err(|error| {
                usage(format!("the endpoint `{endpoint}` is no address: {error}; write host:port or a URL"))
            })?;
            urls.push(url);
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(endpoints.timeout + TIMEOUT_SLACK)
            .no_proxy();
        if let Some(path) = &endpoints.ca {
            let pem = std::fs::read(path)
                .map_err(|error| usage(format!("--ca {} cannot be read: {error}", path.display())))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| usage(format!("--ca {} holds no certificates: {error}", path.display())))?;
            builder = builder.tls_certs_only(certificates);
        } else if urls.iter().all(|url| url.starts_with("http://")) {
            // Nobody is asked over TLS: an image made from nothing has no authorities, and needs none.
            builder = builder.tls_certs_only([]);
        }
        let http = credentials(builder)?.build().map_err(|error| {
            let remedy = "give the certificates of the nodes' authority with --ca, where the system has none";
            CliError::failed(format!("no client can be made: {}; {remedy}", chain(&error)))
        })?;
        Ok(Self { http, endpoints: urls, timeout: endpoints.timeout })
    }

    /// A client of these plain endpoints. It shows nobody a token: probes need none.
    pub(crate) fn to(urls: Vec<String>, timeout: Duration) -> Result<Self, CliError> {
        let endpoints = Endpoints { endpoint: urls, ca: None, credentials: Credentials::default(), timeout };
        Self::with(&endpoints, Ok)
    }

    /// Sends a request to one endpoint after the other, once.
    pub(crate) async fn once(&self, call: &Call) -> Result<Reply, CliError> {
        let mut doubt = Doubt::default();
        let result = self.round(call, &mut doubt).await;
        result.unwrap_or_else(|| Err(doubt.error()))
    }

    /// Sends a request to one endpoint after the other. It must be one that may be applied twice: a read, or a write
    /// with an idempotency key.
    pub(crate) async fn call(&self, call: &Call) -> Result<Reply, CliError> {
        let mut doubt = Doubt::default();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
            if let Some(result) = self.round(call, &mut doubt).await {
                return result;
            }
        }
        Err(doubt.error())
    }

    /// What the first endpoint answers, whatever its status: probes are no problem details.
    pub(crate) async fn plain(&self, target: &str) -> Result<(StatusCode, String), CliError> {
        let (status, reply) = self.answer(target).await?;
        Ok((status, String::from_utf8_lossy(&reply.body).into_owned()))
    }

    /// The same with its headers.
    pub(crate) async fn answer(&self, target: &str) -> Result<(StatusCode, Reply), CliError> {
        let endpoint = self.endpoints.first().ok_or_else(|| CliError::new(Exit::Usage, "no address is given"))?;
        // Whether nobody listens there, or somebody who is slow.
        let unavailable = |error: reqwest::Error| {
            let exit = if nobody_listens(&error) { Exit::Unavailable } else { Exit::Failed };
            CliError::new(exit, format!("{endpoint} gave no answer: {}", chain(&error)))
        };
        let response = self.http.get(format!("{endpoint}{target}")).send().await.map_err(unavailable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok((status, Reply { headers, body: response.bytes().await.map_err(unavailable)?.to_vec() }))
    }

    /// Asks each endpoint in turn; `None` when none had a final answer.
    async fn round(&self, call: &Call, doubt: &mut Doubt) -> Option<Result<Reply, CliError>> {
        for endpoint in &self.endpoints {
            match self.attempt(endpoint, call).await {
                Attempt::Reply(reply) => return Some(Ok(reply)),
                Attempt::Final(error) => return Some(Err(error)),
                Attempt::Again(error) => doubt.note(error),
            }
        }
        None
    }

    async fn attempt(&self, endpoint: &str, call: &Call) -> Attempt {
        let request = self
            .http
            .request(call.method.clone(), format!("{endpoint}{}", call.target))
            .headers(call.headers.clone())
            .body(call.body.clone());
        let result = match request.send().await {
            Ok(response) => {
                let (status, headers) = (response.status(), response.headers().clone());
                response.bytes().await.map(|body| (status, Reply { headers, body: body.to_vec() }))
            }
            Err(error) => Err(error),
        };
        match result {
            Ok((status, reply)) if status.is_success() => Attempt::Reply(reply),
            Ok((status, reply)) => judge(endpoint, status, &reply),
            Err(error) => {
                let read = call.method == Method::GET;
                let exit = if error.is_connect() || read { Exit::Unavailable } else { Exit::Unknown };
                Attempt::Again(CliError::new(exit, format!("{endpoint} gave no answer: {}", chain(&error))))
            }
        }
    }
}

/// Whether there is nobody at the address, by the system's own word. A handshake that fails is no such word: somebody is
/// there who speaks another protocol, or whose certificate does not hold.
fn nobody_listens(error: &reqwest::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// An error with everything that it says about its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string(); // the innermost one says what happened
        cause = error.source();
    }
    text
}

/// What a problem means for the caller.
fn judge(endpoint: &str, status: StatusCode, reply: &Reply) -> Attempt {
    let Ok(problem) = serde_json::from_slice::<ProblemBody>(&reply.body) else {
        return Attempt::Final(CliError::failed(format!("{endpoint} answered {status}, which is no answer of a node")));
    };
    let mut message = format!("{} ({}, {endpoint})", problem.detail, problem.code);
    if let Some(token) = &problem.token {
        message.push_str(&format!("\n  token: {token}"));
    }
    let exit = match (status.as_u16(), problem.outcome) {
        (504, Some(WriteOutcome::Unknown)) => return Attempt::Again(CliError::new(Exit::Unknown, message)),
        (_, Some(WriteOutcome::Unknown)) => Exit::Unknown,
        (429 | 503 | 504, _) => return Attempt::Again(CliError::new(Exit::Unavailable, message)),
        (404, _) if problem.code == "key_not_found" => Exit::NotFound,
        (400..=499, _) => Exit::Refused,
        _ => Exit::Failed,
    };
    Attempt::Final(CliError::new(exit, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(status: u16, code: &str, outcome: Option<WriteOutcome>) -> (Exit, bool) {
        let body = ProblemBody {
            kind: String::new(),
            title: String::new(),
            status,
            detail: String::new(),
            code: code.into(),
            leader: None,
            retry_after_ms: None,
            outcome,
            token: None,
        };
        let reply = Reply { headers: HeaderMap::new(), body: serde_json::to_vec(&body).unwrap_or_default() };
        match judge("http://n1", StatusCode::from_u16(status).unwrap_or_default(), &reply) {
            Attempt::Again(error) => (error.exit, true),
            Attempt::Final(error) => (error.exit, false),
            Attempt::Reply(_) => panic!("{status} is no success"),
        }
    }

    #[test]
    fn problems_have_stable_exit_codes() {
        let (not_applied, unknown) = (Some(WriteOutcome::NotApplied), Some(WriteOutcome::Unknown));
        for (status, code, outcome, exit, again) in [
            (404, "key_not_found", None, Exit::NotFound, false),
            (404, "route_not_found", None, Exit::Refused, false),
            (412, "precondition_failed", not_applied, Exit::Refused, false),
            (413, "value_too_large", not_applied, Exit::Refused, false),
            (429, "overloaded", not_applied, Exit::Unavailable, true),
            (503, "no_leader", not_applied, Exit::Unavailable, true),
            (504, "deadline", not_applied, Exit::Unavailable, true),
            (504, "deadline", unknown, Exit::Unknown, true),
            (409, "idempotency_key_expired", unknown, Exit::Unknown, false),
            (500, "internal", None, Exit::Failed, false),
        ] {
            assert_eq!(exit_of(status, code, outcome), (exit, again), "{status} {code}");
        }
    }
}
