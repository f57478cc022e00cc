//! Query parameters and headers of requests. What a route does not know is refused, so that a typing error in
//! `consistency` is never a weaker read.

use std::time::Duration;

use axum::http::{HeaderMap, Uri};

use raft_core::types::{Index, LogId};

use crate::config::{Limits, parse_duration};
use crate::handle::Consistency;
use crate::http::problem::{Code, Problem};

/// The modes of reading that this version serves.
pub(crate) const CONSISTENCIES: [&str; 5] = ["linearizable", "lease", "verified", SNAPSHOT, "local"];
const SNAPSHOT: &str = "snapshot";
/// Parameters that name a point in the past.
const PAST: [&str; 2] = ["at_mark", "at_revision"];

/// Which point in the past is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The newest mark that this node has passed.
    NewestMark,
    /// The state right after this mark.
    Mark(Index),
    /// The state right after this entry.
    Revision(Index),
}

/// The decoded query of a request.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pairs: Vec<(String, String)>,
}

impl Parameters {
    /// Reads the query of `uri`, which may hold the `known` parameters, each once.
    pub(crate) fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters = Self::default();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                let detail = match known {
                    [] => format!("`{name}` is unknown here; this route takes no parameters"),
                    _ => format!("`{name}` is unknown here; this route takes {}", known.join(", ")),
                };
                return Err(Problem::new(Code::MalformedParameter, detail));
            }
            if parameters.text(&name).is_some() {
                return Err(malformed(&name, "is given twice", "give it once"));
            }
            parameters.pairs.push((name, value));
        }
        Ok(parameters)
    }

    /// The text of a parameter, if given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is given, as `?verbose`, `?verbose=true` or `?verbose=1`.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(malformed(name, &format!("is `{other}`"), "write true or false")),
        }
    }

    /// A whole number, if given.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| malformed(name, &format!("is `{text}`"), "write a whole number")))
            .transpose()
    }

    /// A time, if given.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.text(name)
            .map(|text| parse_duration(text).map_err(|problem| malformed(name, &problem, "write it like 500ms or 2s")))
            .transpose()
    }

    /// How long the client waits.
    pub(crate) fn timeout(&self, limits: &Limits) -> Result<Duration, Problem> {
        let Some(timeout) = self.duration("timeout")? else { return Ok(limits.request_timeout) };
        if timeout.is_zero() || timeout > limits.request_timeout_max {
            let most = humantime::format_duration(limits.request_timeout_max);
            let problem = format!("is {}", humantime::format_duration(timeout));
            let remedy = format!("set more than zero and at most {most} (limits.request_timeout_max)");
            return Err(malformed("timeout", &problem, &remedy));
        }
        Ok(timeout)
    }

    /// Which point in the past is to be read, if any.
    pub(crate) fn at(&self) -> Result<Option<At>, Problem> {
        let given = PAST.iter().find(|name| self.text(name).is_some());
        match (self.text("consistency"), given) {
            (Some(SNAPSHOT) | None, _) => {}
            (Some(other), Some(name)) if CONSISTENCIES.contains(&other) => {
                let problem = format!("excludes consistency={other}, which reads what is newest");
                return Err(malformed(name, &problem, "write consistency=snapshot, or leave one of them out"));
            }
            // What is none that exists is refused as such.
            (Some(_), _) => return Ok(None),
        }
        let index = |name: &str| match self.number(name)? {
            Some(0) => Err(malformed(name, "is 0", "write the index of an entry, from 1 on")),
            number => Ok(number.map(Index)),
        };
        match (index("at_mark")?, index("at_revision")?) {
            (Some(_), Some(_)) => Err(malformed("at_mark", "excludes at_revision", "give one of them")),
            (Some(mark), None) => Ok(Some(At::Mark(mark))),
            (None, Some(revision)) => Ok(Some(At::Revision(revision))),
            (None, None) => Ok(self.text("consistency").map(|_| At::NewestMark)),
        }
    }

    /// What a read of the present may be behind. `seen` reads the token of the request.
    pub(crate) fn consistency(&self, seen: impl FnOnce() -> Result<LogId, Problem>) -> Result<Consistency, Problem> {
        match self.text("consistency") {
            None | Some("linearizable") => Ok(Consistency::Linearizable),
            Some("lease") => Ok(Consistency::Lease),
            Some("verified") => seen().map(Consistency::Verified),
            Some("local") => Ok(Consistency::Local),
            Some(SNAPSHOT) => Err(malformed("consistency", "is snapshot, and this has no past", "leave it out")),
            Some(other) => Err(Problem::new(
                Code::UnknownConsistency,
                format!("`{other}` is no consistency; choose one of {}", CONSISTENCIES.join(", ")),
            )),
        }
    }

    /// How old the answer to a local read may be, as parameter or as header, if either is given.
    pub(crate) fn staleness_max(&self, headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
        const NAME: &str = "max_staleness";
        let max = match (self.text(NAME), header(headers, NAME)?) {
            (Some(_), Some(_)) => return Err(malformed(NAME, "is given as parameter and as header", "give it once")),
            (text, given) => text.or(given),
        };
        let Some(max) = max else { return Ok(None) };
        let other = self.text("consistency").unwrap_or(CONSISTENCIES[0]);
        if other != "local" && CONSISTENCIES.contains(&other) {
            let problem = format!("bounds consistency=local and excludes {other}");
            return Err(malformed(NAME, &problem, "write consistency=local, or leave it out"));
        }
        let max = parse_duration(max).map_err(|problem| malformed(NAME, &problem, "write it like 500ms or 2s"))?;
        Ok(Some(max))
    }

    /// Whether a node that does not lead may pass the request on.
    pub(crate) fn forward(&self) -> Result<bool, Problem> {
        match self.text("forward") {
            None | Some("auto") => Ok(true),
            Some("never") => Ok(false),
            Some(other) => Err(malformed("forward", &format!("is `{other}`"), "write never, or leave it out")),
        }
    }
}

/// The name of a consistency in parameters and headers.
pub(crate) fn consistency_name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Lease => "lease",
        Consistency::Verified(_) => "verified",
        Consistency::Local | Consistency::LocalWithin(_) => "local",
        Consistency::Snapshot => SNAPSHOT,
    }
}

/// The text of a header, if given.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    headers
        .get(name)
        .map(|value| {
            value.to_str().map_err(|_| malformed(name, "holds other bytes than printable ASCII", "write text"))
        })
        .transpose()
}

pub(crate) fn malformed(name: &str, problem: &str, remedy: &str) -> Problem {
    Problem::new(Code::MalformedParameter, format!("`{name}` {problem}; {remedy}"))
}

/// Decodes one part of a query: `+` is a space here, unlike in a path.
fn decode(part: &str) -> Result<String, Problem> {
    if !part.contains(['%', '+']) {
        return Ok(part.into());
    }
    let wrong = || Problem::new(Code::MalformedParameter, format!("`{part}` is not percent-encoded text"));
    let bytes = super::key::decode(&part.replace('+', " ")).map_err(|_| wrong())?;
    String::from_utf8(bytes.into()).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use axum::http::{HeaderName, HeaderValue};
    use raft_core::types::Term;

    use super::*;

    fn read(query: &str) -> Result<Parameters, Problem> {
        let known = ["consistency", "timeout", "verbose", "forward", "max_staleness"];
        Parameters::read(&format!("/?{query}").parse().unwrap(), &known)
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_those_that_exist() {
        let problem = read("consistancy=local").unwrap_err();
        assert_eq!(problem.code(), Code::MalformedParameter);
        assert!(problem.body().detail.contains("consistency, timeout"), "{}", problem.body().detail);
        assert!(read("timeout=1s&timeout=2s").is_err());
        assert!(read("timeout=%zz").is_err());
    }

    fn consistency(query: &str) -> Result<Consistency, Problem> {
        read(query).unwrap().consistency(|| Ok(LogId::new(Index(7), Term(2))))
    }

    #[test]
    fn an_unknown_consistency_is_refused_with_those_that_exist() {
        let problem = consistency("consistency=eventual").unwrap_err();
        assert_eq!(problem.code(), Code::UnknownConsistency);
        assert!(
            problem.body().detail.contains("linearizable, lease, verified, snapshot, local"),
            "{}",
            problem.body().detail
        );
        assert_eq!(consistency("consistency=local").unwrap(), Consistency::Local);
        assert_eq!(consistency("").unwrap(), Consistency::Linearizable);
        let verified = Consistency::Verified(LogId::new(Index(7), Term(2)));
        assert_eq!(consistency("consistency=verified").unwrap(), verified);
    }

    #[test]
    fn a_point_in_the_past_is_read_only_where_that_makes_sense() {
        let at = |query: &str| {
            let uri = format!("/?{query}").parse().unwrap();
            Parameters::read(&uri, &["consistency", "at_mark", "at_revision"]).unwrap().at()
        };
        assert_eq!(at("").unwrap(), None);
        assert_eq!(at("consistency=local").unwrap(), None);
        assert_eq!(at("consistency=snapshot").unwrap(), Some(At::NewestMark));
        assert_eq!(at("at_mark=7").unwrap(), Some(At::Mark(Index(7))));
        assert_eq!(at("consistency=snapshot&at_revision=7").unwrap(), Some(At::Revision(Index(7))));
        for (query, named) in [
            ("at_mark=7&at_revision=7", "at_revision"),
            ("consistency=linearizable&at_mark=7", "consistency=linearizable"),
            ("consistency=local&at_revision=7", "consistency=local"),
            ("at_mark=0", "`at_mark` is 0"),
            ("at_revision=x", "`at_revision` is `x`"),
        ] {
            let problem = at(query).unwrap_err();
            assert_eq!(problem.code(), Code::MalformedParameter, "{query}");
            assert!(problem.body().detail.contains(named), "{query}: {}", problem.body().detail);
        }
        // The error is that of an unknown consistency.
        assert_eq!(at("consistency=eventual").unwrap(), None);
    }

    #[test]
    fn only_a_local_read_may_be_bounded_in_its_age() {
        let bound = |query: &str, header: Option<&'static str>| {
            let header = header.map(|text| (HeaderName::from_static("max_staleness"), HeaderValue::from_static(text)));
            read(query).unwrap().staleness_max(&header.into_iter().collect())
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(bound("consistency=local&max_staleness=1s", None).unwrap(), second);
        assert_eq!(bound("consistency=local", Some("1s")).unwrap(), second);
        assert_eq!(bound("consistency=linearizable", None).unwrap(), None);
        for (query, header, named) in [
            ("max_staleness=1s", None, "linearizable"),
            ("consistency=verified&max_staleness=1s", None, "verified"),
            ("consistency=snapshot", Some("1s"), "snapshot"),
            ("consistency=local&max_staleness=1s", Some("1s"), "header"),
            ("consistency=local&max_staleness=5", None, "500ms"),
        ] {
            let problem = bound(query, header).unwrap_err();
            assert_eq!(problem.code(), Code::MalformedParameter, "{query}");
            assert!(problem.body().detail.contains(named), "{query}: {}", problem.body().detail);
        }
    }

    #[test]
    fn values_are_decoded_and_checked() {
        let parameters = read("timeout=1%73&verbose&forward=never").unwrap();
        assert_eq!(parameters.duration("timeout").unwrap(), Some(Duration::from_secs(1)));
        assert!(parameters.switch("verbose").unwrap());
        assert!(!parameters.forward().unwrap());
        assert!(read("timeout=5").unwrap().duration("timeout").is_err());
        assert!(read("forward=sometimes").unwrap().forward().is_err());
    }
}
