//! Reading one line of a script.

use std::collections::VecDeque;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use super::ScriptError;
use crate::types::{Index, LogId, NodeId, Term};

/// The words of a command after its name: some by position, some as `key=value`.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) name: String,
    positional: VecDeque<String>,
    keys: Vec<(String, String)>,
}

impl Arguments {
    /// Splits a line at blanks; what stands in double quotes stays together.
    pub(super) fn parse(line: &str) -> Result<Self, ScriptError> {
        let mut words = split(line)?.into_iter();
        let name = words.next().ok_or("an empty command")?;
        let mut arguments = Self { name, positional: VecDeque::new(), keys: Vec::new() };
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => arguments.keys.push((key.into(), value.into())),
                None => arguments.positional.push_back(word),
            }
        }
        Ok(arguments)
    }

    /// The next word by position, if there is one.
    pub(super) fn word(&mut self) -> Option<String> {
        self.positional.pop_front()
    }

    /// All words by position that are left.
    pub(super) fn words(&mut self) -> Vec<String> {
        self.positional.drain(..).collect()
    }

    /// Whether this word stands among those by position; it is taken out.
    pub(super) fn flag(&mut self, flag: &str) -> bool {
        let found = self.positional.iter().position(|word| word == flag);
        found.and_then(|at| self.positional.remove(at)).is_some()
    }

    /// The next word by position, which has to be a node.
    pub(super) fn node(&mut self) -> Result<NodeId, ScriptError> {
        let word = self.word().ok_or_else(|| format!("`{}` wants a node", self.name))?;
        node(&word)
    }

    /// All words by position that are left, which have to be nodes.
    pub(super) fn nodes(&mut self) -> Result<Vec<NodeId>, ScriptError> {
        self.words().iter().map(|word| node(word)).collect()
    }

    /// The value of a key, if it is given.
    pub(super) fn key(&mut self, key: &str) -> Option<String> {
        let at = self.keys.iter().position(|(found, _)| found == key)?;
        Some(self.keys.remove(at).1)
    }

    /// The number under a key.
    pub(super) fn number(&mut self, key: &str) -> Result<Option<u64>, ScriptError> {
        self.key(key).map(|text| number(&text)).transpose()
    }

    /// The node under a key.
    pub(super) fn node_key(&mut self, key: &str) -> Result<Option<NodeId>, ScriptError> {
        self.key(key).map(|text| node(&text)).transpose()
    }

    /// The log id under a key.
    pub(super) fn log_id(&mut self, key: &str) -> Result<Option<LogId>, ScriptError> {
        self.key(key).map(|text| log_id(&text)).transpose()
    }

    /// The duration under a key.
    pub(super) fn duration(&mut self, key: &str) -> Result<Option<Duration>, ScriptError> {
        self.key(key).map(|text| duration(&text)).transpose()
    }

    /// All keys that are left.
    pub(super) fn keys_left(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.keys)
    }

    /// Refuses what nobody asked for: a misspelt word must not pass as no word.
    pub(super) fn finish(self) -> Result<(), ScriptError> {
        let left =
            self.positional.into_iter().chain(self.keys.into_iter().map(|(key, value)| format!("{key}={value}")));
        match left.collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            left => Err(format!("`{}` does not know what to do with `{}`", self.name, left.join(" ")).into()),
        }
    }
}

fn split(line: &str) -> Result<Vec<String>, ScriptError> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in `{line}`").into());
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

fn parse<T: FromStr<Err: Display>>(text: &str, what: &str) -> Result<T, ScriptError> {
    text.parse().map_err(|error| format!("`{text}` is no {what}: {error}").into())
}

pub(super) fn number(text: &str) -> Result<u64, ScriptError> {
    parse(text, "number")
}

pub(super) fn node(text: &str) -> Result<NodeId, ScriptError> {
    number(text.strip_prefix('n').unwrap_or(text)).map(NodeId)
}

pub(super) fn log_id(text: &str) -> Result<LogId, ScriptError> {
    let (index, term) = text.split_once('@').ok_or_else(|| format!("`{text}` is no log id such as 5@1"))?;
    Ok(LogId::new(Index(number(index)?), Term(number(term)?)))
}

/// `5@1` is one entry, `5-9@1` are five.
pub(super) fn log_ids(text: &str) -> Result<Vec<LogId>, ScriptError> {
    let Some((first, last)) = text.split_once('-') else { return Ok(vec![log_id(text)?]) };
    let last = log_id(last)?;
    Ok((number(first)?..=last.index.0).map(|index| LogId::new(Index(index), last.term)).collect())
}

pub(super) fn duration(text: &str) -> Result<Duration, ScriptError> {
    if let Some(text) = text.strip_suffix("ms") {
        return number(text).map(Duration::from_millis);
    }
    let seconds = text.strip_suffix('s').ok_or_else(|| format!("`{text}` is no duration such as 200ms or 2s"))?;
    number(seconds).map(Duration::from_secs)
}
