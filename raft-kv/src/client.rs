//! A client of the product's HTTP interface (feature `client`).
//!
//! It knows the nodes' addresses and hops to the next one when one fails; writes go to the leader that the nodes
//! name. A call is tried again, with growing pauses, until its deadline or the bound on tries: reads freely, writes
//! under one [idempotency key](Write::idempotency_key), so that they have their effect once. What a write came to is
//! never guessed: [`Error::outcome`] says whether it was surely not applied, or whether that is unknown.
//!
//! The client carries the newest log position of all its answers ([`Client::token`]): a [verified](Read::verified)
//! read never sees anything older, whichever node answers. Clones share that position; [`Client::with_token`] goes on
//! from one of another process.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use raft_core::types::Index;
//! use raft_kv::Precondition;
//! use raft_kv::client::{Client, ErrorKind, Read, Write};
//!
//! # async fn guide() -> Result<(), raft_kv::client::Error> {
//! let client = Client::new(["http://127.0.0.1:7080", "http://127.0.0.1:7090", "http://127.0.0.1:7100"])?;
//! let written = client.put("colour", "green", Write::default()).await?;
//!
//! // Never older than what was written, from whichever node; no word to the leader, unless that node is behind.
//! let got = client.get("colour", Read::verified().within(Duration::from_secs(1))).await?;
//! assert_eq!(got.value.map(|value| value.bytes), Some("green".into()));
//!
//! // Compare and set.
//! let only_then = Write::default().only_if(Precondition::Revision(Index(written.revision)));
//! match client.put("colour", "blue", only_then).await {
//!     Ok(_) => {}
//!     Err(error) if error.kind() == ErrorKind::Precondition => {} // somebody else was faster: read it again
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//! `raft-kv/examples/client.rs` is a whole program. It needs a Tokio runtime with time and I/O.

mod attempts;
mod endpoints;
mod error;
mod options;
mod session;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use crate::{CHANGES_MAX, Change, Precondition};
use attempts::{Bounds, Call, Caller, Reply};
use endpoints::Endpoints;
use session::Session;

pub use error::{Error, ErrorKind, Outcome};
pub use options::{Got, Read, Stored, Write, Written};
pub use session::Token;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a [`Client`] is made.
#[derive(Debug)]
pub struct Builder {
    endpoints: Result<Endpoints, Error>,
    bounds: Bounds,
    authorities: Option<Vec<u8>>,
    token: Option<Hidden<String>>,
    certificate: Option<Hidden<Vec<u8>>>,
}

/// What no `Debug` shows.
struct Hidden<T>(T);

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

impl Builder {
    /// How long a call may take, over all its tries, unless it says so itself. 10 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.bounds.deadline = deadline;
        self
    }

    /// How long one node may take before the next is tried. 2 s by default.
    #[must_use]
    pub fn try_timeout(mut self, try_timeout: Duration) -> Self {
        self.bounds.try_timeout = try_timeout;
        self
    }

    /// How often a call is tried at most; at least once. 20 by default.
    #[must_use]
    pub fn tries_max(mut self, tries_max: u32) -> Self {
        self.bounds.tries_max = tries_max.max(1);
        self
    }

    /// The certificates (PEM) that sign the nodes' client certificates; without it `https` endpoints are checked as the
    /// platform does.
    #[must_use]
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// The bearer token that says who asks, where access is controlled (`docs/access.md`). It goes to every endpoint, and to
    /// the leader that one of them names: give it to `https` endpoints only, unless the network is trusted. Nothing shows it.
    #[must_use]
    pub fn access_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Hidden(token.into()));
        self
    }

    /// The client certificate and its private key (PEM, one after the other) that say who asks.
    #[must_use]
    pub fn certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some(Hidden(pem.into()));
        self
    }

    /// Makes the client. Connects nowhere yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: an endpoint, a token or a certificate cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let usage = |error: reqwest::Error| Error::new(ErrorKind::Usage, error.to_string());
        // A second installation is refused and harmless: the first one stands.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(self.bounds.try_timeout))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let endpoints = self.endpoints?;
        if let Some(pem) = &self.authorities {
            http = http.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).map_err(usage)?);
        } else if endpoints.are_plain() {
            // Nobody is asked over TLS: an image made from nothing has no authorities, and needs none.
            http = http.tls_certs_only([]);
        }
        if let Some(Hidden(token)) = &self.token {
            http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer(token)?)]));
        }
        if let Some(Hidden(pem)) = &self.certificate {
            // What the error shows of it may be the key itself.
            let identity = reqwest::Identity::from_pem(pem).map_err(|_| {
                Error::new(ErrorKind::Usage, "the client certificate is no certificate and private key in PEM")
            })?;
            http = http.identity(identity);
        }
        let caller = Caller { http: http.build().map_err(usage)?, endpoints, bounds: self.bounds };
        Ok(Client { caller: Arc::new(caller), session: Arc::default() })
    }
}

/// A client. Clones share connections, what was learned of the nodes, and the position that was seen.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Arc<Caller>,
    session: Arc<Session>,
}

impl Client {
    /// A client of these nodes, as `host:port` or URLs, with the default bounds.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: an endpoint cannot be used.
    pub fn new<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        Self::builder(endpoints).build()
    }

    /// The same, with bounds of its own.
    pub fn builder<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>) -> Builder {
        let bounds = Bounds { deadline: Duration::from_secs(10), try_timeout: Duration::from_secs(2), tries_max: 20 };
        Builder { endpoints: Endpoints::new(endpoints), bounds, authorities: None, token: None, certificate: None }
    }

    /// The newest position that this client and its clones have seen, if any.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.session.token()
    }

    /// A client over the same connections that has seen just this position: to go on where another process was, or with
    /// `None` to forget what was seen, after [`ErrorKind::Conflict`].
    #[must_use]
    pub fn with_token(&self, token: impl Into<Option<Token>>) -> Self {
        Self { caller: self.caller.clone(), session: Arc::new(Session::starting_with(token.into())) }
    }

    /// Reads the value of a key.
    ///
    /// # Errors
    /// When no node could answer within the deadline, or what was asked for cannot be had.
    pub async fn get(&self, key: impl AsRef<[u8]>, read: Read) -> Result<Got, Error> {
        let call = Call {
            method: Method::GET,
            path: wire::path(key.as_ref())?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            read: Some(read),
        };
        let reply = self.caller.run(&self.session, &call, read.within).await?;
        got(reply)
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// Says whether it was surely not applied, or whether that is unknown.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, write: Write) -> Result<Written, Error> {
        self.write(Method::PUT, wire::path(key.as_ref())?, value.into(), write).await
    }

    /// Gives a key a value if it still has this revision, or with `None` if it does not exist. An answer that is lost
    /// is asked for again: [`ErrorKind::Precondition`] means that somebody else has changed the key.
    ///
    /// # Errors
    /// Says whether it was surely not applied, or whether that is unknown.
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        revision: Option<u64>,
        value: impl Into<Bytes>,
        write: Write,
    ) -> Result<Written, Error> {
        let revision = revision.map(|revision| Precondition::Revision(raft_core::types::Index(revision)));
        self.put(key, value, write.only_if(revision.unwrap_or(Precondition::Absent))).await
    }

    /// Removes a key. `existed` of the answer says whether it was there.
    ///
    /// # Errors
    /// Says whether it was surely not applied, or whether that is unknown.
    pub async fn delete(&self, key: impl AsRef<[u8]>, write: Write) -> Result<Written, Error> {
        self.write(Method::DELETE, wire::path(key.as_ref())?, Bytes::new(), write).await
    }

    /// Makes several changes, all or none, at one revision. Preconditions are judged against the state before all of
    /// them.
    ///
    /// # Errors
    /// Says whether they were surely not applied, or whether that is unknown.
    pub async fn batch(&self, changes: &[Change], write: Write) -> Result<Written, Error> {
        if changes.is_empty() || changes.len() > CHANGES_MAX {
            let detail = format!("a batch of {} changes; give it 1 to {CHANGES_MAX}", changes.len());
            return Err(Error::new(ErrorKind::Usage, detail));
        }
        let body = wire::batch(changes)?;
        self.write(
            Method::POST,
            "/v1/kv/batch".into(),
            body.into(),
            Write { precondition: Precondition::None, ..write },
        )
        .await
    }

    async fn write(&self, method: Method, path: String, body: Bytes, write: Write) -> Result<Written, Error> {
        let key = write.idempotency_key.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("idempotency-key"), header(&key)?);
        match write.precondition {
            Precondition::None => {}
            Precondition::Absent => drop(headers.insert("if-none-match", HeaderValue::from_static("*"))),
            Precondition::Revision(revision) => {
                headers.insert("if-match", header(&format!("\"{revision}\""))?);
            }
        }
        let call = Call { method, path, headers, body, read: None };
        let replied = self.caller.run(&self.session, &call, write.within).await.and_then(|reply| written(&reply));
        replied.map_err(|error| error.with(|about| about.idempotency_key = Some(key)))
    }
}

/// The header that shows a token. Nothing of it is in an error or in `Debug`.
fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| {
        Error::new(
            ErrorKind::Usage,
            "the access token cannot stand in a header; give it as raft-node token new printed it",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("`{text}` cannot stand in a header; use 1 to 128 printable characters"))
    })
}

fn got(reply: Reply) -> Result<Got, Error> {
    let (token, mark) = (reply.token(), reply.number("raft-mark"));
    let staleness = reply.number("raft-staleness-ms").map(Duration::from_millis);
    let served_by = reply.header("raft-served-by").map(str::to_owned);
    let value = if reply.status == StatusCode::NOT_FOUND {
        None
    } else {
        let revision = reply.header("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
        let revision =
            revision.ok_or_else(|| Error::new(ErrorKind::Fault, "the answer names no revision of the value (ETag)"))?;
        Some(Stored { bytes: reply.body, revision })
    };
    Ok(Got { value, token, served_by, mark, staleness })
}

fn written(reply: &Reply) -> Result<Written, Error> {
    let body: wire::WriteBody = serde_json::from_slice(&reply.body).map_err(|error| {
        // The status says that it was applied; what more was said is lost.
        let detail = format!("the write was answered {}, and that cannot be read: {error}", reply.status);
        Error::new(ErrorKind::Fault, detail).with(|about| about.outcome = Some(Outcome::Unknown))
    })?;
    let results = body.results.unwrap_or_default().into_iter().map(|result| result.existed);
    Ok(Written {
        revision: body.revision,
        term: body.term,
        replayed: body.replayed,
        existed: body.deleted.into_iter().chain(results).collect(),
        token: reply.token(),
    })
}
