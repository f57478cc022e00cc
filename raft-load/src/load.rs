//! What a load is.

use std::time::Duration;
use std::{fmt, io};

use crate::work::{Keys, Work};

/// A load, in all its settings.
#[derive(Clone, Debug)]
pub struct Load {
    /// `host:port` of each node; clients are spread over them in turn.
    pub hosts: Vec<String>,
    /// What is asked for.
    pub work: Work,
    /// Of which keys.
    pub keys: Keys,
    /// Bytes of each value that is put.
    pub value_bytes: usize,
    /// Connections; each has at most one request under way.
    pub clients: usize,
    /// Who decides when the next request leaves.
    pub pace: Pace,
    /// When it ends.
    pub end: End,
    /// What happens in this time at the beginning is not counted.
    pub warm_up: Duration,
    /// A request that is not answered within this time has failed.
    pub timeout: Duration,
    /// Headers of every request: who asks, or since when.
    pub headers: Headers,
    /// The number of the first request, which decides its key and value.
    pub first: u64,
}

/// Headers, of which nothing but the names is ever shown: a value may be a secret.
#[derive(Clone, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds one.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// Who decides when the next request leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The answer to the one before.
    Closed,
    /// The clock: so many a second over all clients.
    Open {
        /// Requests a second.
        per_second: f64,
    },
}

/// When a load ends. What is under way then is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this time, warm-up apart.
    After(Duration),
    /// After this many requests.
    Requests(u64),
}

/// Most clients of one load: what one thread and the usual limit of open files are good for.
pub const CLIENTS_MAX: usize = 16_384;
/// Most keys of one load.
pub const KEYS_MAX: u64 = 1 << 31;
/// Longest value that is put.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
/// Most requests a second of an open loop.
pub const RATE_MAX: f64 = 1e7;
/// The longest duration, warm-up and timeout.
pub const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why there was no load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A setting is out of its bounds; names it, its bounds and what was found.
    #[error("{0}")]
    Setting(String),
    /// A node cannot be reached, so its share of the clients would only fail.
    #[error("{host} cannot be reached: {source}")]
    Unreachable {
        /// Which.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The machine refused something, such as another open file.
    #[error("the load cannot run: {0}")]
    Io(#[from] io::Error),
}

impl Load {
    /// A closed loop of 64 clients over 100,000 keys with values of 256 bytes, for ten seconds after one of warming up.
    #[must_use]
    pub fn new(hosts: Vec<String>, work: Work) -> Self {
        Self {
            hosts,
            work,
            keys: Keys { prefix: "bench/".into(), count: 100_000 },
            value_bytes: 256,
            clients: 64,
            pace: Pace::Closed,
            end: End::After(Duration::from_secs(10)),
            warm_up: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            headers: Headers::default(),
            first: 0,
        }
    }

    /// Whether all settings are within their bounds.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<(), LoadError> {
        let bounds = [
            ("clients", self.clients as u64, CLIENTS_MAX as u64),
            ("keys", self.keys.count, KEYS_MAX),
            ("endpoints", self.hosts.len() as u64, CLIENTS_MAX as u64),
        ];
        for (name, found, most) in bounds {
            if found == 0 || found > most {
                return Err(LoadError::Setting(format!("{name} is {found}; give 1 to {most}")));
            }
        }
        if self.value_bytes > VALUE_BYTES_MAX {
            let found = self.value_bytes;
            return Err(LoadError::Setting(format!("the value has {found} bytes; give at most {VALUE_BYTES_MAX}")));
        }
        if let Pace::Open { per_second } = self.pace
            && !(per_second > 0.0 && per_second <= RATE_MAX)
        {
            return Err(LoadError::Setting(format!(
                "the rate is {per_second}; give more than 0 and at most {RATE_MAX}"
            )));
        }
        let time = match self.end {
            End::After(time) => time,
            End::Requests(_) => Duration::from_secs(1),
        };
        for (name, found) in [("duration", time), ("warm-up", self.warm_up), ("timeout", self.timeout)] {
            if found > TIME_MAX {
                return Err(LoadError::Setting(format!("the {name} is {found:?}; give at most {TIME_MAX:?}")));
            }
        }
        if time.is_zero() {
            return Err(LoadError::Setting("the duration is 0; give more".into()));
        }
        if self.timeout.is_zero() {
            return Err(LoadError::Setting("the timeout is 0; give more".into()));
        }
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        if !plain(&self.keys.prefix) {
            let found = &self.keys.prefix;
            return Err(LoadError::Setting(format!("the prefix is `{found}`; use letters, digits and /-_.~ alone")));
        }
        let fits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if let Some((name, _)) = self.headers.iter().find(|(name, value)| !fits(name) || !fits(value)) {
            return Err(LoadError::Setting(format!("the header {name:?} has characters that no header may have")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let good = Load::new(vec!["a:1".into()], Work::Put);
        assert!(good.check().is_ok());
        let mut headers = Headers::default();
        headers.add("A", "secret\r\nB: c");
        assert!(!format!("{headers:?}").contains("secret"));
        let bad = [
            (Load { clients: 0, ..good.clone() }, "clients is 0"),
            (Load { hosts: Vec::new(), ..good.clone() }, "endpoints is 0"),
            (Load { keys: Keys { prefix: "a b".into(), count: 1 }, ..good.clone() }, "prefix is `a b`"),
            (Load { keys: Keys { prefix: String::new(), count: 0 }, ..good.clone() }, "keys is 0"),
            (Load { value_bytes: usize::MAX, ..good.clone() }, "give at most"),
            (Load { pace: Pace::Open { per_second: f64::NAN }, ..good.clone() }, "rate is NaN"),
            (Load { pace: Pace::Open { per_second: 0.0 }, ..good.clone() }, "rate is 0"),
            (Load { timeout: Duration::ZERO, ..good.clone() }, "timeout is 0"),
            (Load { headers, ..good }, "header \"A\""),
        ];
        for (load, said) in bad {
            let error = load.check().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
