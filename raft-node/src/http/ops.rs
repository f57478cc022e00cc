//! The ops listener: probes and metrics, no client data, no authentication, never more than this node knows by itself.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::handle::NodeHandle;
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::http::shared::json;
use crate::http::view::VersionView;
use crate::http::{method_not_allowed, route_not_found};
use crate::status::Phase;

/// `/livez /readyz /startupz /metrics /version`.
pub fn ops_router(node: NodeHandle) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(node))
}

/// One line of a probe.
type Check = (&'static str, Result<(), String>);

/// Only what a restart could mend: never leader, quorum or disk space.
async fn livez(State(node): State<Arc<NodeHandle>>, uri: Uri) -> Result<Response, Problem> {
    probe("livez", vec![("threads", node.live())], &uri)
}

async fn startupz(State(node): State<Arc<NodeHandle>>, uri: Uri) -> Result<Response, Problem> {
    let status = node.status();
    let detail = match &status.phase {
        Phase::Founding { waiting_for } => {
            waiting_for.iter().map(|(name, reason)| format!("{name} {reason}")).collect::<Vec<_>>().join("; ")
        }
        _ => format!("applied {} of {}", status.raft.applied_index, status.raft.commit_index),
    };
    let started = node.started().map_err(|why| if detail.is_empty() { why } else { format!("{why} ({detail})") });
    probe("startupz", vec![("storage", started)], &uri)
}

async fn readyz(State(node): State<Arc<NodeHandle>>, uri: Uri) -> Result<Response, Problem> {
    let status = node.status();
    let ready = node.ready();
    let checks = vec![
        ("started", node.started()),
        ("leader", status.raft.leader.map(|_| ()).ok_or_else(|| "no leader is known".to_owned())),
        ("draining", if status.draining { Err("the node is draining".to_owned()) } else { Ok(()) }),
        ("state", node.readable()),
        ("caught_up", if status.caught_up { Ok(()) } else { Err("has not caught up since its start".to_owned()) }),
        ("ready", ready),
    ];
    probe("readyz", checks, &uri)
}

/// `ok`, or which checks failed and why; with `?verbose` all checks. The last one decides when it disagrees.
fn probe(name: &str, checks: Vec<Check>, uri: &Uri) -> Result<Response, Problem> {
    let verbose = Parameters::read(uri, &["verbose"])?.switch("verbose")?;
    let passed = checks.last().is_none_or(|(_, result)| result.is_ok());
    let mut text = String::new();
    for (check, result) in &checks {
        match result {
            Ok(()) if verbose => text.push_str(&format!("[+]{check} ok\n")),
            Ok(()) => {}
            Err(why) => text.push_str(&format!("[-]{check} failed: {why}\n")),
        }
    }
    match (passed, verbose) {
        (true, true) => text.push_str(&format!("{name} check passed\n")),
        (true, false) => text = "ok\n".into(),
        (false, _) => text.push_str(&format!("{name} check failed\n")),
    }
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], text).into_response())
}

async fn metrics(State(node): State<Arc<NodeHandle>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], node.metrics_text()).into_response()
}

async fn version(State(node): State<Arc<NodeHandle>>) -> Response {
    let status = node.status();
    json(&VersionView { version: status.version.into(), name: status.name.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    async fn text(checks: Vec<Check>, uri: &str) -> (u16, String) {
        let response = probe("readyz", checks, &uri.parse().unwrap()).unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_probe_says_what_failed_and_verbose_says_all() {
        let good = || vec![("leader", Ok(())), ("ready", Ok(()))];
        let bad = || vec![("leader", Err("none".to_owned())), ("ready", Err("no leader".to_owned()))];
        assert_eq!(text(good(), "/readyz").await, (200, "ok\n".into()));
        assert_eq!(text(good(), "/readyz?verbose").await.1, "[+]leader ok\n[+]ready ok\nreadyz check passed\n");
        let (status, body) = text(bad(), "/readyz").await;
        assert_eq!(status, 503);
        assert_eq!(body, "[-]leader failed: none\n[-]ready failed: no leader\nreadyz check failed\n");
    }
}
