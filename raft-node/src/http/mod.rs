//! The product's HTTP: a router for clients, a router for probes and metrics, and the server for both.
//!
//! `docs/http.md` is the reference, `docs/errors.md` explains every error. The routers know a node only by its
//! [`NodeHandle`].

mod cluster;
mod events;
mod handovers;
pub mod key;
mod kv;
mod leases;
mod lingering;
mod marks;
mod members;
mod members_view;
mod ops;
mod parameters;
mod past;
mod problem;
mod reading;
mod serve;
mod shared;
mod snapshots;
mod tls;
mod token;
pub mod view;
mod write;

use axum::Router;
use axum::extract::Request;
use axum::routing::{any, delete, get, post, put};

use crate::handle::NodeHandle;

pub use ops::ops_router;
pub use problem::{Code, PROBLEM_BASE, Problem, ProblemBody, WriteOutcome};
pub use serve::{Listener, ServeError};
pub use shared::HttpOptions;
pub use tls::{Tls, TlsError};
pub use token::{Token, TokenError};

/// The routes for clients: `/v1/*`.
///
/// # Errors
/// When the metrics of HTTP are registered already: a node has one client router.
pub fn client_router(node: NodeHandle, options: HttpOptions) -> Result<Router, prometheus::Error> {
    let shared = shared::Shared::new(node, options)?;
    let key = || put(kv::put).get(kv::get).delete(kv::delete);
    Ok(Router::new()
        .route("/v1/kv/", any(kv::empty_key))
        .route("/v1/kv/{*key}", key())
        .route("/v1/kv/batch", key().post(kv::batch))
        .route("/v1/outcomes/{token}", get(cluster::outcome))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/members", post(members::add).put(members::set))
        .route("/v1/cluster/members/{name}", delete(members::remove))
        .route("/v1/cluster/members/{name}/promote", post(members::promote))
        .route("/v1/cluster/members/{name}/demote", post(members::demote))
        .route("/v1/cluster/members/{name}/replace", post(members::replace))
        .route("/v1/cluster/change", delete(members::cancel))
        .route("/v1/cluster/settings", get(cluster::settings).put(cluster::change_settings))
        .route("/v1/cluster/mark", post(marks::mark))
        .route("/v1/cluster/leader", post(handovers::hand_over))
        .route("/v1/node", get(cluster::node))
        .route("/v1/node/drain", post(handovers::drain).delete(handovers::end_drain))
        .route("/v1/node/restart-safe", get(handovers::restart_safe).post(handovers::clear_to_stop))
        .route("/v1/node/rebuild", post(marks::rebuild))
        .route("/v1/node/log", get(cluster::log))
        .route("/v1/node/snapshot", post(snapshots::take))
        .route("/v1/events", get(events::events))
        .route("/v1/limits", get(cluster::limits))
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(shared.clone(), shared::around))
        .with_state(shared))
}

async fn route_not_found(request: Request) -> Problem {
    let detail = format!("there is no route {}; docs/http.md lists them", request.uri().path());
    Problem::new(Code::RouteNotFound, detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not take {}; docs/http.md lists the routes", request.uri().path(), request.method());
    Problem::new(Code::MethodNotAllowed, detail)
}
