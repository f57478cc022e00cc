//! Calls of gRPC over plain HTTP/2, many at a time on one connection.

use std::io;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version, header};
use tokio::net::TcpStream;

use super::proto::unframed;

/// What is asked of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `etcdserverpb.KV/Put`
    Put,
    /// `etcdserverpb.KV/Range`
    Range,
    /// `etcdserverpb.Maintenance/Status`
    Status,
}

/// A connection. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest<Bytes>,
    /// By [`Method`]; made once, so that a call only takes references.
    uris: [Uri; 3],
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("uris", &self.uris).finish_non_exhaustive()
    }
}

impl Channel {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there who speaks HTTP/2.
    pub async fn connect(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        // Windows that no answer fills: flow control is not what is measured.
        builder.initial_window_size(8 << 20).initial_connection_window_size(64 << 20);
        let (send, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // What breaks it, every call on it is told.
            let _ = connection.await;
        });
        let uri = |path: &str| format!("http://{host}/{path}").parse::<Uri>().map_err(io::Error::other);
        let uris =
            [uri("etcdserverpb.KV/Put")?, uri("etcdserverpb.KV/Range")?, uri("etcdserverpb.Maintenance/Status")?];
        Ok(Self { send, uris })
    }

    /// Calls a method and gives the message of its answer.
    ///
    /// # Errors
    /// When the connection breaks, or, as [`io::ErrorKind::InvalidData`], when the call's own status is not 0.
    pub async fn call(&self, method: Method, message: Bytes) -> io::Result<Bytes> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uris[method as usize].clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let mut send = self.send.clone().ready().await.map_err(io::Error::other)?;
        let (response, mut body) = send.send_request(request, false).map_err(io::Error::other)?;
        body.send_data(message, true).map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(format!("HTTP status {}", response.status())));
        }
        // A call that fails at once has its status beside the head of the answer.
        let at_once = response.headers().contains_key("grpc-status").then(|| response.headers().clone());
        let mut stream = response.into_body();
        let mut whole: Option<BytesMut> = None;
        let mut first = Bytes::new();
        while let Some(part) = stream.data().await {
            let part = part.map_err(io::Error::other)?;
            stream.flow_control().release_capacity(part.len()).map_err(io::Error::other)?;
            match &mut whole {
                Some(whole) => whole.extend_from_slice(&part),
                None if first.is_empty() => first = part,
                None => whole = Some(BytesMut::from_iter(first.iter().chain(&part).copied())),
            }
        }
        let trailers = match at_once {
            Some(headers) => headers,
            None => stream.trailers().await.map_err(io::Error::other)?.unwrap_or_default(),
        };
        check_status(&trailers)?;
        let answer = whole.map_or(first, BytesMut::freeze);
        let message = unframed(&answer)?;
        Ok(answer.slice_ref(message))
    }
}

/// Whether the status of a call is 0, which is success.
fn check_status(headers: &HeaderMap) -> io::Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(status) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("grpc status {status} {message}")))
        }
        None => Err(io::Error::other("an answer without a grpc status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_succeeds_only_with_status_zero() {
        let mut headers = HeaderMap::new();
        assert!(check_status(&headers).is_err(), "nothing is no success");
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_status(&headers).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("etcdserver: leader changed"));
        let error = check_status(&headers).unwrap_err().to_string();
        assert_eq!(error, "grpc status 14 etcdserver: leader changed");
    }
}
