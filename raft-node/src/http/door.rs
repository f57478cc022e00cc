//! The door: who may come in, and to which route.
//!
//! It stands before every handler, also at a node that passes the request on: what is forwarded was judged already.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};

use crate::access::{Access, Caller, Need, PeerNames, Role, Shown, Unnamed};
use crate::http::problem::{Code, Problem};
use crate::http::{key, kv};
use crate::http::{no_method, no_route};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a route is for: who may come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Reads the key in the path.
    ReadKey,
    /// Writes the key in the path.
    WriteKey,
    /// Writes keys that the body names: the handler judges each.
    WriteBatch,
    /// Says that the key is empty; reads and writes nothing.
    NoKey,
    /// Tells of this node, and nothing of keys and values. For any identity, and for the local token.
    NodeStatus,
    /// Tells of the cluster, and nothing of keys and values. For any identity.
    Status,
    /// Has this node prepare for its stop. For administrators, and for the local token.
    Stop,
    /// Changes the cluster or the node, or shows the log. For administrators.
    Admin,
}

/// One method of one route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// In lower case.
    pub method: &'static str,
    /// As axum writes it.
    pub path: &'static str,
    /// Who may come.
    pub class: Class,
}

/// Under which names the client listener is reached.
#[derive(Clone, Debug, Default)]
pub struct Doorplate {
    /// `host:port` as others know it.
    pub advertise: String,
    /// Whether it listens on loopback only.
    pub is_loopback: bool,
}

/// Judges requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door {
    pub(crate) access: Access,
    pub(crate) plate: Doorplate,
}

impl Door {
    /// Lets a request to the route with this path in, or says why not. Handlers that judge for themselves find the
    /// [`Caller`] in its extensions.
    pub(crate) fn admit(&self, routes: &[Route], path: Option<&str>, request: &mut Request) -> Result<(), Problem> {
        let problem = match self.judge(routes, path, request) {
            Ok((caller, Class::WriteBatch)) => {
                request.extensions_mut().insert(caller);
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(problem) => problem,
        };
        Err(if request.method().is_safe() { problem } else { problem.of_write() })
    }

    fn judge(&self, routes: &[Route], path: Option<&str>, request: &Request) -> Result<(Caller, Class), Problem> {
        self.refuse_foreign_pages(request.uri(), request.headers())?;
        let authorization = request.headers().get_all(header::AUTHORIZATION).iter().map(|value| value.as_bytes());
        let caller = self.access.caller(Shown::read(authorization), request.extensions().get::<PeerNames>());
        let caller = caller.map_err(|Unnamed(why)| Problem::new(Code::Unauthenticated, why))?;
        let Some(path) = path else {
            return Err(no_route(request.uri()));
        };
        // Whoever may GET may ask for the head of the same.
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let route =
            routes.iter().find(|route| route.path == path && route.method.eq_ignore_ascii_case(method.as_str()));
        // A route that is not in the table is none, whoever asks.
        let route = route.ok_or_else(|| no_method(request.method(), request.uri()))?;
        let key;
        let need = match route.class {
            Class::ReadKey | Class::WriteKey => {
                let raw = request.uri().path().strip_prefix(kv::PREFIX).unwrap_or_default();
                key = key::decode(raw).map_err(|error| Problem::new(Code::MalformedKey, error.to_string()))?;
                Need::Key(if route.class == Class::ReadKey { Role::Read } else { Role::Write }, &key)
            }
            Class::WriteBatch => Need::SomeWrite,
            Class::NoKey | Class::Status => Need::Status,
            Class::NodeStatus => Need::NodeStatus,
            Class::Stop => Need::Stop,
            Class::Admin => Need::Admin,
        };
        demand(&caller, need, "")?;
        Ok((caller, route.class))
    }

    /// A page of another site must not reach this node through its reader's browser: browsers say where a request comes
    /// from (Fetch, 3.2), and by which name they have found the node.
    fn refuse_foreign_pages(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let refuse = |detail: String| Err(Problem::new(Code::CrossOrigin, detail));
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(headers, &header::HOST));
        if headers.get(SEC_FETCH_SITE).is_some_and(|site| site.as_bytes() == b"cross-site") {
            return refuse("the request comes from a page of another site (Sec-Fetch-Site)".into());
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            let ours = origin.is_some_and(|(scheme, from)| {
                let same = |ours: &str| same_place(scheme, from, ours);
                host.is_some_and(same) || same(&self.plate.advertise)
            });
            if !ours {
                return refuse("the request comes from a page of another origin (Origin), not from this node".into());
            }
        }
        // Who controls a name may have it resolve to the loopback address of whoever looks at their page. Where access is
        // controlled, such a page has no token.
        let rebound = self.plate.is_loopback && !self.access.is_controlled();
        match host {
            Some(host) if rebound && !self.is_local(host) => {
                let remedy = "ask by an IP address or localhost, or set client.advertise to that name";
                refuse(format!("this node listens on loopback, and the request is for another host (Host); {remedy}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether this is a name that nobody else can have given to a loopback address.
    fn is_local(&self, host: &str) -> bool {
        let name = |host: &str| host_of(host).to_ascii_lowercase();
        let asked = name(host);
        let literal = asked.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        literal || asked == "localhost" || asked.ends_with(".localhost") || asked == name(&self.plate.advertise)
    }
}

/// What a route takes, for a request with a method that it does not (RFC 9110, 15.5.6).
pub(crate) fn allowed(routes: &[Route], path: &str) -> String {
    let methods = routes.iter().filter(|route| route.path == path).map(|route| route.method.to_ascii_uppercase());
    methods.collect::<Vec<_>>().join(", ")
}

/// Refuses what the caller may not do; `place` says where in the request it is asked for. Nothing is said of whether a key
/// exists: it was not looked at.
pub(crate) fn demand(caller: &Caller, need: Need<'_>, place: &str) -> Result<(), Problem> {
    if caller.may(need) {
        return Ok(());
    }
    let wanted = match need {
        Need::Key(Role::Read, _) => "reads a key",
        Need::Key(Role::Write, _) => "writes a key",
        Need::SomeWrite => "writes keys",
        Need::NodeStatus | Need::Status => "looks at the cluster",
        Need::Stop | Need::Admin => "needs an administrator",
    };
    let beyond = match need {
        Need::Key(..) => " outside of what the caller was granted",
        _ => "",
    };
    let detail = format!("{place}the request {wanted}{beyond}, and {}", caller.described());
    Err(Problem::new(Code::Forbidden, detail))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `host` of `host:port`; a literal IPv6 address keeps its brackets.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether two authorities are one, where a port that is left out is that of the scheme.
fn same_place(scheme: &str, left: &str, right: &str) -> bool {
    let default = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        authority.strip_suffix(default).map_or_else(|| authority.clone(), str::to_owned)
    };
    !left.is_empty() && bare(left) == bare(right)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    fn door(is_loopback: bool) -> Door {
        let plate = Doorplate { advertise: "raft.example:7080".into(), is_loopback };
        Door { access: Access::open_to_all(), plate }
    }

    fn passes(door: &Door, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        match door.refuse_foreign_pages(&Uri::from_static("/v1/cluster"), &map) {
            Ok(()) => true,
            Err(problem) => {
                assert_eq!(problem.code(), Code::CrossOrigin);
                false
            }
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let door = door(false);
        for (host, origin) in [
            ("n1:7080", "http://n1:7080"),
            ("N1:7080", "http://n1:7080"),
            ("n1", "http://n1:80"),
            ("n1:443", "https://n1"),
            ("10.0.0.1:9", "https://raft.example:7080"),
        ] {
            assert!(passes(&door, &[("host", host), ("origin", origin)]), "{host} {origin}");
        }
        for (host, origin) in [
            ("n1:7080", "http://evil.example"),
            ("n1:7080", "http://n1:3000"),
            ("n1:7080", "null"),
            ("n1:7080", ""),
            ("n1:7080", "http://"),
            ("n1:7080", "http://n1:7080.evil.example"),
            ("n1:7080", "http://evil.example/n1:7080"),
        ] {
            assert!(!passes(&door, &[("host", host), ("origin", origin)]), "{host} {origin}");
        }
        assert!(!passes(&door, &[("origin", "http://n1:7080")]), "there is no host to be the same as");
        assert!(!passes(&door, &[("host", "n1:7080"), ("sec-fetch-site", "cross-site")]));
        assert!(passes(&door, &[("host", "n1:7080"), ("sec-fetch-site", "same-origin")]));
    }

    #[test]
    fn on_loopback_only_local_names_are_served() {
        let local = door(true);
        for host in ["127.0.0.1:7080", "[::1]:7080", "localhost:7080", "LOCALHOST", "raft.example:1", "10.0.0.1"] {
            assert!(passes(&local, &[("host", host)]), "{host}");
        }
        for host in ["evil.example:7080", "localhost.evil.example", "127.0.0.1.evil.example", "", "raft.example.evil"] {
            assert!(!passes(&local, &[("host", host)]), "{host}");
        }
        assert!(passes(&local, &[]), "a browser always says");
        assert!(passes(&door(false), &[("host", "evil.example:7080")]));
    }
}
