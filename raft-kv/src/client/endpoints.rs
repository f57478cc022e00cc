//! Which node is asked next.

use parking_lot::Mutex;
use reqwest::Url;

use crate::client::error::{Error, ErrorKind};

#[derive(Debug, Default)]
struct Choice {
    /// Who is asked until it fails.
    current: usize,
    /// Who leads, by a node's word; perhaps none of those that were given.
    leader: Option<String>,
}

/// The nodes' addresses, and what was learned of them.
#[derive(Debug)]
pub(super) struct Endpoints {
    urls: Vec<String>,
    choice: Mutex<Choice>,
}

impl Endpoints {
    /// Reads addresses: `host:port`, or URLs.
    pub(super) fn new<S: AsRef<str>>(addresses: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let urls: Vec<String> =
            addresses.into_iter().map(|address| read(address.as_ref())).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "no endpoint is given; name at least one node"));
        }
        Ok(Self { urls, choice: Mutex::default() })
    }

    /// Whether none of them is asked over TLS.
    pub(super) fn are_plain(&self) -> bool {
        self.urls.iter().all(|url| url.starts_with("http://"))
    }

    pub(super) fn count(&self) -> usize {
        self.urls.len()
    }

    /// Whom to ask. `leader`: who leads, if that is known.
    pub(super) fn next(&self, leader: bool) -> String {
        let choice = self.choice.lock();
        let leader = choice.leader.as_ref().filter(|_| leader);
        leader.unwrap_or(&self.urls[choice.current]).clone()
    }

    /// This one failed: the next is asked from now on, unless somebody else has said so already.
    pub(super) fn failed(&self, url: &str) {
        let mut choice = self.choice.lock();
        if choice.leader.as_deref() == Some(url) {
            choice.leader = None;
        }
        if self.urls[choice.current] == url {
            choice.current = (choice.current + 1) % self.urls.len();
        }
    }

    /// A node says where the leader is. False when that is no address to go to: another scheme than that of the node
    /// that says so would give up encryption.
    pub(super) fn leads(&self, said_by: &str, location: &str) -> bool {
        let (Ok(location), Ok(node)) = (Url::parse(location), Url::parse(said_by)) else { return false };
        if location.scheme() != node.scheme() || location.host_str().is_none() {
            return false;
        }
        let leader = location.origin().ascii_serialization();
        if leader == said_by {
            return false;
        }
        self.choice.lock().leader = Some(leader);
        true
    }
}

fn read(address: &str) -> Result<String, Error> {
    let unusable = |why: String| {
        Error::new(ErrorKind::Usage, format!("the endpoint `{address}` is no address: {why}; write host:port or a URL"))
    };
    let trimmed = address.trim();
    let text = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let url = Url::parse(&text).map_err(|error| unusable(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable(format!("its scheme is {}", url.scheme())));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(unusable("it has a path".into()));
    }
    Ok(url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_refused_by_name() {
        let endpoints = Endpoints::new(["127.0.0.1:7080", " https://n2.example:1/ "]).unwrap();
        assert_eq!(endpoints.urls, ["http://127.0.0.1:7080", "https://n2.example:1"]);
        assert!(!endpoints.are_plain() && Endpoints::new(["n1:7080"]).unwrap().are_plain());
        for (wrong, named) in [("ftp://n1", "ftp"), ("http://n1/v1", "path"), ("http://", "http://"), ("n1:x", "n1:x")]
        {
            let error = Endpoints::new([wrong]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{wrong}");
            assert!(error.detail().contains(named), "{error}");
        }
        assert_eq!(Endpoints::new::<&str>([]).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_failed_node_is_left_once_and_a_leader_is_followed() {
        let endpoints = Endpoints::new(["http://a", "http://b", "http://c"]).unwrap();
        assert_eq!(endpoints.next(true), "http://a");
        endpoints.failed("http://a");
        endpoints.failed("http://a"); // a call that failed there at the same time
        assert_eq!(endpoints.next(false), "http://b");
        assert!(endpoints.leads("http://b", "http://c/v1/kv/k?timeout=1s"));
        assert_eq!((endpoints.next(true), endpoints.next(false)), ("http://c".into(), "http://b".into()));
        endpoints.failed("http://c");
        assert_eq!(endpoints.next(true), "http://b");
        assert!(endpoints.leads("http://b", "http://elsewhere:7080/v1/kv/k"));
        assert_eq!(endpoints.next(true), "http://elsewhere:7080");
        for nowhere in ["https://c/v1", "/v1/kv/k", "http://b/v1"] {
            assert!(!endpoints.leads("http://b", nowhere), "{nowhere}");
        }
    }
}
