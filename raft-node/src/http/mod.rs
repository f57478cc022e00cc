//! The product's HTTP: a router for clients, a router for probes and metrics, and the server for both.
//!
//! `docs/http.md` is the reference, `docs/errors.md` explains every error. The routers know a node only by its
//! [`NodeHandle`].

mod cluster;
mod door;
mod events;
mod handovers;
mod head_timer;
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

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use hyper::Request;
use hyper::body::Incoming;

use crate::handle::NodeHandle;

pub use door::{Class, Doorplate, Route};
pub use ops::ops_router;
pub use problem::{Code, PROBLEM_BASE, Problem, ProblemBody, WriteOutcome};
pub use serve::{Listener, Routes, ServeError};
pub use shared::HttpOptions;
pub use tls::{Tls, TlsError};
pub use token::{Token, TokenError};

/// Writes the routes and their classes down once: a route without a class does not compile.
macro_rules! routes {
    ($($path:literal { $($method:ident $class:ident $handler:path,)+ })+) => {
        /// Every route of the client listener, and who may come to it.
        pub const ROUTES: &[Route] = &[
            $($(Route { method: stringify!($method), path: $path, class: Class::$class },)+)+
        ];

        fn routes() -> Router<Arc<shared::Shared>> {
            Router::new()$(.route($path, MethodRouter::new()$(.$method($handler))+))+
        }
    };
}

routes! {
    "/v1/kv/{*key}" { get ReadKey kv::key, put WriteKey kv::key, delete WriteKey kv::key, }
    "/v1/kv/batch" {
        get ReadKey kv::key, put WriteKey kv::key, delete WriteKey kv::key, post WriteBatch kv::batch,
    }
    "/v1/kv/" {
        get NoKey kv::empty_key, put NoKey kv::empty_key, delete NoKey kv::empty_key, post NoKey kv::empty_key,
    }
    "/v1/outcomes/{token}" { get Status cluster::outcome, }
    "/v1/cluster" { get Status cluster::cluster, }
    "/v1/cluster/members" { post Admin members::add, put Admin members::set, }
    "/v1/cluster/members/{name}" { delete Admin members::remove, }
    "/v1/cluster/members/{name}/promote" { post Admin members::promote, }
    "/v1/cluster/members/{name}/demote" { post Admin members::demote, }
    "/v1/cluster/members/{name}/replace" { post Admin members::replace, }
    "/v1/cluster/change" { delete Admin members::cancel, }
    "/v1/cluster/settings" { get Status cluster::settings, put Admin cluster::change_settings, }
    "/v1/cluster/mark" { post Admin marks::mark, }
    "/v1/cluster/leader" { post Admin handovers::hand_over, }
    "/v1/node" { get NodeStatus cluster::node, }
    "/v1/node/drain" { post Stop handovers::drain, delete Stop handovers::end_drain, }
    "/v1/node/restart-safe" { get NodeStatus handovers::restart_safe, post Stop handovers::clear_to_stop, }
    "/v1/node/rebuild" { post Admin marks::rebuild, }
    "/v1/node/log" { get Admin cluster::log, }
    "/v1/node/snapshot" { post Admin snapshots::take, }
    "/v1/events" { get Status events::events, }
    "/v1/limits" { get Status cluster::limits, }
}

/// The routes for clients: `/v1/*`, behind their door.
#[derive(Clone, Debug)]
pub struct ClientRoutes {
    shared: Arc<shared::Shared>,
    router: Router,
}

impl ClientRoutes {
    /// The routes of one node, within the limits that the options set.
    ///
    /// # Errors
    /// When the metrics of HTTP are registered already: a node has them once.
    pub fn new(node: NodeHandle, options: HttpOptions) -> Result<Self, prometheus::Error> {
        let shared = shared::Shared::new(node, options)?;
        let router = routes()
            .fallback(route_not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), shared::around))
            .with_state(Arc::clone(&shared));
        Ok(Self { shared, router })
    }
}

impl Routes for ClientRoutes {
    /// Keys are nearly all that clients ask for, and a router on the way is a sixth of what HTTP costs: they get past it.
    async fn answer(&self, request: Request<Incoming>) -> Response {
        if !is_of_a_key(request.method(), request.uri().path()) {
            return self.router.answer(request).await;
        }
        let answer = async |request| match kv::one_key(&self.shared, request).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        };
        self.shared.guard(Some(KEY_ROUTE), request.map(Body::new), answer).await
    }
}

/// The route of one key; see [`ROUTES`].
const KEY_ROUTE: &str = "/v1/kv/{*key}";

/// Whether the router would find a handler of [`KEY_ROUTE`] for this request, and find it in [`kv::one_key`].
fn is_of_a_key(method: &Method, path: &str) -> bool {
    let key = path.strip_prefix(kv::PREFIX).filter(|key| !key.is_empty() && *key != "batch");
    key.is_some() && [Method::GET, Method::PUT, Method::DELETE].contains(method)
}

async fn route_not_found(uri: Uri) -> Problem {
    no_route(&uri)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    no_method(&method, &uri)
}

fn no_route(uri: &Uri) -> Problem {
    Problem::new(Code::RouteNotFound, format!("there is no route {}; docs/http.md lists them", uri.path()))
}

fn no_method(method: &Method, uri: &Uri) -> Problem {
    let detail = format!("{} does not take {method}; docs/http.md lists the routes", uri.path());
    Problem::new(Code::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_past_the_router_is_what_it_would_find_there() {
        let route =
            ROUTES.iter().filter(|route| route.path == KEY_ROUTE).map(|route| route.method.to_ascii_uppercase());
        let methods: Vec<String> = route.collect();
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD, Method::POST, Method::PATCH] {
            assert_eq!(is_of_a_key(&method, "/v1/kv/k"), methods.contains(&method.to_string()), "{method}");
        }
        for (path, expected) in [
            ("/v1/kv/a/b", true),
            ("/v1/kv//", true),
            ("/v1/kv/batch/", true),
            ("/v1/kv/%62atch", true),
            ("/v1/kv/batch", false),
            ("/v1/kv/", false),
            ("/v1/kv", false),
            ("/v1/kvs/a", false),
            ("/V1/kv/a", false),
            ("*", false),
        ] {
            assert_eq!(is_of_a_key(&Method::GET, path), expected, "{path}");
        }
    }
}
