//! What clients asked and were told, and the checks that need no search: what the log of the cluster says about it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A value and the revision that wrote it.
pub type Seen = (String, u64);

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Put(String),
    Delete,
    /// Puts the value if the key still is what the client saw: absent, or of that revision.
    Swap(Option<Seen>, String),
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Found(Option<Seen>),
    /// A put or swap has its effect, at this revision and term.
    Written {
        revision: u64,
        term: u64,
    },
    Deleted {
        existed: bool,
        revision: u64,
        term: u64,
    },
    /// The precondition did not hold.
    Refused,
    /// It may have had its effect, or may still. The token, if there was one.
    Unknown(Option<String>),
}

/// One operation, however many attempts it took. Those that surely had no effect are left out.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    pub key: String,
    pub action: Action,
    /// Nanoseconds since the begin of the run.
    pub called: u64,
    pub returned: u64,
    pub outcome: Outcome,
}

impl Operation {
    /// The position in the log that the client was told.
    fn position(&self) -> Option<(u64, u64)> {
        match self.outcome {
            Outcome::Written { revision, term } | Outcome::Deleted { revision, term, .. } => Some((revision, term)),
            Outcome::Found(_) | Outcome::Refused | Outcome::Unknown(_) => None,
        }
    }

    /// What it puts.
    fn value(&self) -> Option<&String> {
        match &self.action {
            Action::Put(value) | Action::Swap(_, value) => Some(value),
            Action::Get | Action::Delete => None,
        }
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }
}

/// One entry that changes a key, as the log shows it.
#[derive(Clone, Debug)]
struct Applied {
    term: u64,
    key: String,
    /// The value put; none for a delete.
    value: Option<String>,
    existed: bool,
}

/// The whole log of a node, applied by a state machine of ten lines that shares no code with the product's.
#[derive(Debug, Default)]
pub struct Replay {
    /// The index of the last entry.
    pub last: u64,
    applied: BTreeMap<u64, Applied>,
    /// All keys that exist at the end.
    pub state: BTreeMap<String, Seen>,
    keys_used: BTreeSet<String>,
    /// Commands under an idempotency key that had been used before.
    pub repeated: u64,
}

impl Replay {
    /// Applies the next entries of `/v1/node/log`.
    pub fn extend(&mut self, log: &[Value]) {
        for entry in log {
            self.last += 1;
            assert_eq!(entry["index"], self.last, "the log has a gap");
            if entry["kind"] == "command" {
                self.apply(self.last, entry);
            }
        }
    }

    fn apply(&mut self, index: u64, entry: &Value) {
        let command = &entry["command"];
        if let Some(key) = command["idempotency_key"].as_str()
            && !self.keys_used.insert(key.to_owned())
        {
            self.repeated += 1;
            return;
        }
        let [change] = command["changes"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            panic!("entry {index} is no single change: {entry}");
        };
        let text = |field: &str| {
            let bytes = STANDARD.decode(change[field].as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let key = text("key");
        let revision = self.state.get(&key).map(|(_, revision)| *revision);
        if change["if_absent"] == true && revision.is_some()
            || change["if_match"].is_u64() && change["if_match"].as_u64() != revision
        {
            return;
        }
        let value = (change["op"] == "put").then(|| text("value"));
        match &value {
            Some(value) => self.state.insert(key.clone(), (value.clone(), index)),
            None => self.state.remove(&key),
        };
        let term = entry["term"].as_u64().unwrap();
        self.applied.insert(index, Applied { term, key, value, existed: revision.is_some() });
    }

    /// What a key was right after this entry.
    pub fn at(&self, key: &str, index: u64) -> Option<Seen> {
        let (revision, newest) = self.applied.range(..=index).rfind(|(_, applied)| applied.key == key)?;
        newest.value.as_ref().map(|value| (value.clone(), *revision))
    }

    /// Compares every acknowledged write with the entry that it was said to be.
    pub fn check(&self, operations: &[Operation]) -> Vec<String> {
        let mut wrong = Vec::new();
        for operation in operations {
            let Some((revision, term)) = operation.position() else { continue };
            let found = self.applied.get(&revision);
            let is_it = found.is_some_and(|applied| {
                let told = match operation.outcome {
                    Outcome::Deleted { existed, .. } => existed,
                    _ => applied.existed,
                };
                let found = (applied.term, &applied.key, applied.value.as_ref(), applied.existed);
                found == (term, &operation.key, operation.value(), told)
            });
            if !is_it {
                wrong.push(format!("{operation:?} was acknowledged, and its entry in the log is {found:?}"));
            }
        }
        wrong.extend(self.unaccounted(operations));
        wrong
    }

    /// Values in the log that nobody wrote, or whose writer was told that they were not applied.
    fn unaccounted(&self, operations: &[Operation]) -> Vec<String> {
        let may_be_there = |operation: &&Operation| operation.is_unknown() || operation.position().is_some();
        let written: BTreeSet<&String> = operations.iter().filter(may_be_there).filter_map(Operation::value).collect();
        let keys: BTreeSet<&String> = operations.iter().map(|operation| &operation.key).collect();
        let in_log = self.applied.iter().filter(|(_, applied)| keys.contains(&applied.key));
        let unaccounted = in_log.filter(|(_, one)| one.value.as_ref().is_some_and(|value| !written.contains(value)));
        unaccounted.map(|(index, one)| format!("nobody knows to have written entry {index}: {one:?}")).collect()
    }
}

/// Checks that revisions go forward: a write that begins after another one was acknowledged has a higher revision, and
/// nobody reads two values under one revision.
pub fn check_revisions(operations: &[Operation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_return: Vec<_> = operations.iter().filter(|operation| operation.position().is_some()).collect();
    let mut by_call = by_return.clone();
    by_return.sort_by_key(|operation| operation.returned);
    by_call.sort_by_key(|operation| operation.called);
    let mut returned = by_return.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in by_call {
        while let Some(earlier) = returned.next_if(|earlier| earlier.returned < operation.called) {
            if newest.is_none_or(|newest| newest.position() < earlier.position()) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest.filter(|earlier| earlier.position() >= operation.position()) {
            wrong.push(format!("{operation:?} began after {earlier:?} had ended, with a lower revision"));
        }
    }
    let mut values = BTreeMap::new();
    for operation in operations {
        let seen = match (&operation.action, &operation.outcome) {
            (_, Outcome::Found(Some((value, revision)))) => (value, *revision),
            (Action::Put(value) | Action::Swap(_, value), Outcome::Written { revision, .. }) => (value, *revision),
            _ => continue,
        };
        let first = values.entry(seen.1).or_insert((seen.0, operation));
        if first.0 != seen.0 {
            wrong.push(format!("revision {} is two values: {operation:?} and {:?}", seen.1, first.1));
        }
    }
    wrong
}
