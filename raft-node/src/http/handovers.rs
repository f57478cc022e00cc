//! `/v1/cluster/leader`, `/v1/node/drain` and `/v1/node/restart-safe`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use raft_core::types::NodeName;

use crate::handle::HandOverError;
use crate::http::parameters::Parameters;
use crate::http::problem::{Code, Problem};
use crate::http::shared::{Shared, json, remaining};
use crate::http::view::{DrainView, HandOverWish, LeaderMovedView, RestartView};

/// The longest body of `POST /v1/cluster/leader`.
const WISH_BODY_MAX: usize = 4096;

/// `POST /v1/cluster/leader`.
pub(crate) async fn hand_over(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let deadline = Instant::now() + Parameters::read(&parts.uri, &["timeout"])?.timeout(shared.limits())?;
    let too_large = || Problem::new(Code::BatchTooLarge, format!("the body is longer than {WISH_BODY_MAX} bytes"));
    let (body, _permit) = shared.body(body, WISH_BODY_MAX, too_large, deadline).await?;
    let wish: HandOverWish = if body.is_empty() {
        HandOverWish::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Problem::new(Code::MalformedBody, format!("the body is not {{\"to\": \"name\"}}, nor empty: {error}"))
        })?
    };
    let to = wish.to.map(NodeName::new);
    let leader = || shared.node.position().leader.map(|leader| leader.to_string());
    match shared.node.hand_over(to.as_ref(), remaining(deadline)).await {
        Ok(moved) => {
            Ok(json(&LeaderMovedView { from: moved.from.to_string(), to: moved.to.to_string(), term: moved.term.0 }))
        }
        Err(error) => {
            let code = match &error {
                HandOverError::NotLeader | HandOverError::NoLeader(_) => Code::NoLeader,
                HandOverError::Refused(_) => Code::HandoverRefused,
                HandOverError::Failed(_) => Code::HandoverFailed,
                HandOverError::NoAnswer(_) => Code::NoAnswer,
                HandOverError::Stopping => Code::Stopping,
            };
            Err(Problem::new(code, error.to_string()).leader(leader()))
        }
    }
}

/// `POST /v1/node/drain`.
pub(crate) async fn drain(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    Parameters::read(&uri, &[])?;
    let handed_over = shared.node.drain().await;
    Ok(json(&drain_view(&shared, handed_over)))
}

/// `DELETE /v1/node/drain`.
pub(crate) async fn end_drain(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    Parameters::read(&uri, &[])?;
    shared.node.end_drain().await;
    Ok(json(&drain_view(&shared, false)))
}

/// `GET /v1/node/restart-safe`.
pub(crate) async fn restart_safe(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let timeout = Parameters::read(&uri, &["timeout"])?.timeout(shared.limits())?;
    restart_view(shared.node.stop_reasons(timeout).await)
}

/// `POST /v1/node/restart-safe`.
pub(crate) async fn clear_to_stop(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let timeout = Parameters::read(&uri, &["timeout"])?.timeout(shared.limits())?;
    restart_view(shared.node.clear_to_stop(timeout).await)
}

fn restart_view(reasons: Vec<String>) -> Result<Response, Problem> {
    if reasons.is_empty() {
        Ok(json(&RestartView { safe: true }))
    } else {
        Err(Problem::new(Code::StopUnsafe, reasons.join("; ")))
    }
}

fn drain_view(shared: &Shared, handed_over: bool) -> DrainView {
    let status = shared.node.status();
    let leads = status.raft.role == raft_core::status::Role::Leader;
    let leader = status.leader().map(|leader| leader.name.to_string());
    DrainView { draining: status.draining, leads, leader, handed_over }
}
