//! The command line of the examples' programs.

use std::net::SocketAddr;
use std::path::PathBuf;

use raft_core::types::NodeName;
use raft_node::NodeConfig;
use raft_node::parts::Founder;

/// How a program is to be called.
pub const USAGE: &str = "--name n1 --listen 127.0.0.1:7001 --founders n1=127.0.0.1:7001,n2=127.0.0.1:7002,\
                         n3=127.0.0.1:7003 --dir DIRECTORY --certs DIRECTORY [--cluster raft]";

/// What a node is told when it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Its name.
    pub name: NodeName,
    /// Where it listens for peers, and where they reach it.
    pub listen: SocketAddr,
    /// All founders, itself included.
    pub founders: Vec<Founder>,
    /// What it keeps.
    pub dir: PathBuf,
    /// The certificates, under the names that `raft-node init-certs` gives them.
    pub certs: PathBuf,
    /// The cluster's name in the certificates.
    pub cluster: String,
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// ```
    /// use counter::Arguments;
    ///
    /// let line = "--name a --listen 127.0.0.1:7001 --founders a=127.0.0.1:7001 --dir here --certs certs";
    /// let arguments = Arguments::parse(line.split(' ').map(str::to_owned)).unwrap();
    /// assert_eq!(arguments.certificate().to_str(), Some("certs/a.pem"));
    ///
    /// let error = Arguments::parse(["--name".to_owned()].into_iter()).unwrap_err();
    /// assert!(error.starts_with("--name has no value"), "{error}");
    /// ```
    ///
    /// # Errors
    /// Names the flag, what is wrong with it and what to write.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Flags::collect(words)?;
        let arguments = Self {
            name: NodeName::new(flags.take("--name")?),
            listen: flags.take("--listen")?.parse().map_err(|error| format!("--listen: {error}; write IP:PORT"))?,
            founders: founders(&flags.take("--founders")?)?,
            dir: flags.take("--dir")?.into(),
            certs: flags.take("--certs")?.into(),
            cluster: flags.take("--cluster").unwrap_or_else(|_| "raft".into()),
        };
        let Some((unknown, _)) = flags.0.first() else { return Ok(arguments) };
        Err(format!("{unknown} is no flag; write {USAGE}"))
    }

    /// The authority that certificates of peers must be signed by.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.certs.join("ca.pem")
    }

    /// This node's certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.certs.join(format!("{}.pem", self.name))
    }

    /// The key of its certificate.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.certs.join(format!("{}.key", self.name))
    }

    /// The node's settings.
    #[must_use]
    pub fn config(&self) -> NodeConfig {
        NodeConfig::new(self.listen.to_string(), self.founders.clone())
    }
}

fn founders(list: &str) -> Result<Vec<Founder>, String> {
    let founders = list.split(',').map(|founder| match founder.split_once('=') {
        Some((name, address)) if !name.is_empty() && address.contains(':') => {
            Ok(Founder { name: NodeName::new(name), address: address.into() })
        }
        _ => Err(format!("--founders: `{founder}` is no founder; write NAME=HOST:PORT, separated by commas")),
    });
    founders.collect()
}

/// Flags with their values.
struct Flags(Vec<(String, String)>);

impl Flags {
    fn collect(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags: Vec<(String, String)> = Vec::new();
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} has no value; write {USAGE}"))?;
            if flags.iter().any(|(earlier, _)| *earlier == flag) {
                return Err(format!("{flag} is there twice; write it once"));
            }
            flags.push((flag, value));
        }
        Ok(Self(flags))
    }

    fn take(&mut self, flag: &str) -> Result<String, String> {
        let place = self.0.iter().position(|(name, _)| name == flag);
        place.map(|place| self.0.remove(place).1).ok_or_else(|| format!("{flag} is missing; write {USAGE}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_wrong_is_named_with_the_flag_and_the_remedy() {
        let good = "--name a --listen 127.0.0.1:1 --founders a=h:1,b=h:2 --dir d --certs c";
        let arguments = parse(good).expect("it is right");
        assert_eq!((arguments.founders.len(), arguments.cluster.as_str()), (2, "raft"));
        for (line, wanted) in [
            ("", "--name is missing; write --name"),
            (&good.replace("127.0.0.1:1", "here"), "--listen: "),
            (&good.replace("b=h:2", "b"), "--founders: `b` is no founder; write NAME=HOST:PORT"),
            (&format!("{good} --dir e"), "--dir is there twice"),
            (&format!("{good} --colour red"), "--colour is no flag; write --name"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(wanted), "{error}");
        }
    }
}
