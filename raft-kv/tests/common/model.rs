//! The rules of the store once more, as plainly as they can be said: no batches, no overlay, nothing stored apart.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::types::{Entry, EntryKind, Index, LogId};
use raft_kv::{Answer, Command, Effect, IdempotencyKey, Operation, Precondition, Setting, Settings, Value, Verdict};

struct Request {
    key: IdempotencyKey,
    operation: Operation,
    answer: Answer,
}

/// What a store must hold and answer.
pub(crate) struct Model {
    pub(crate) values: BTreeMap<Bytes, Value>,
    pub(crate) settings: Settings,
    /// The oldest revision that can be read.
    pub(crate) oldest: Index,
    /// What the marks were answered, by their indexes; those that are remembered.
    pub(crate) marks: BTreeMap<Index, Bytes>,
    /// All values after every entry.
    history: Vec<BTreeMap<Bytes, Value>>,
    requests: Vec<Request>,
    horizon_ms: u64,
    now_ms: u64,
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            values: BTreeMap::new(),
            settings,
            oldest: Index::ZERO,
            marks: BTreeMap::new(),
            history: vec![BTreeMap::new()],
            requests: Vec::new(),
            horizon_ms: 0,
            now_ms: 0,
        }
    }

    /// The value of a key after an entry.
    pub(crate) fn value_at(&self, key: &[u8], revision: Index) -> Option<&Value> {
        self.history[revision.0 as usize].get(key)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The answer to an entry; `None` for a no-op, and for a mark, whose answer was `given`.
    pub(crate) fn apply(&mut self, entry: &Entry, given: &Bytes) -> Option<Answer> {
        let answer = self.effect(entry);
        self.history.push(self.values.clone());
        let (applied, window) = (entry.id.index, self.settings.versions_window);
        self.oldest = match window {
            0 => applied,
            // 64 entries at a time.
            _ => self.oldest.max(Index(applied.0.saturating_sub(window) / 64 * 64)),
        };
        if entry.kind == EntryKind::Mark {
            self.marks.retain(|index, _| *index >= self.oldest);
            self.marks.insert(applied, given.clone());
        }
        answer
    }

    fn effect(&mut self, entry: &Entry) -> Option<Answer> {
        if entry.kind != EntryKind::Command {
            return None;
        }
        let decided = |verdict| Answer { decided: entry.id, replayed: false, verdict };
        let command = match Command::decode(entry.payload.bytes().clone()) {
            Ok(command) => command,
            Err(raft_kv::CommandError::Malformed(reason)) => return Some(decided(Verdict::Malformed(reason))),
            Err(error) => panic!("no test sends this: {error}"),
        };
        self.now_ms = self.now_ms.max(command.stamp_ms);
        let answer = match &command.idempotency {
            None => decided(self.decide(entry.id, &command.operation)),
            Some(key) => self.once(entry.id, key, &command.operation),
        };
        for _ in 0..64 {
            if self.requests.len() as u64 > self.settings.idempotency_window {
                let made_ms = self.requests.remove(0).key.uuid_v7_ms().unwrap_or(0);
                if made_ms <= self.now_ms + 10_000 {
                    self.horizon_ms = self.horizon_ms.max(made_ms);
                }
            }
        }
        Some(answer)
    }

    fn once(&mut self, id: LogId, key: &IdempotencyKey, operation: &Operation) -> Answer {
        let decided = |verdict| Answer { decided: id, replayed: false, verdict };
        if let Some(request) = self.requests.iter().find(|request| request.key == *key) {
            return if request.operation == *operation {
                Answer { replayed: true, ..request.answer.clone() }
            } else {
                decided(Verdict::IdempotencyConflict { original: request.answer.decided })
            };
        }
        if key.uuid_v7_ms().is_some_and(|made_ms| made_ms <= self.horizon_ms) {
            return decided(Verdict::IdempotencyForgotten { horizon_ms: self.horizon_ms });
        }
        let answer = decided(self.decide(id, operation));
        self.requests.push(Request { key: key.clone(), operation: operation.clone(), answer: answer.clone() });
        answer
    }

    fn decide(&mut self, id: LogId, operation: &Operation) -> Verdict {
        match operation {
            Operation::Settings(changes) => {
                let before = self.settings;
                for (setting, value) in changes {
                    if self.settings.set(*setting, *value).is_err() {
                        self.settings = before;
                        return Verdict::SettingRefused { setting: *setting, value: *value };
                    }
                }
                Verdict::SettingsChanged
            }
            Operation::Write(changes) => {
                for (change, asked) in changes.iter().enumerate() {
                    let value = if let Effect::Put(value) = &asked.effect { value.len() } else { 0 };
                    for (setting, size) in [(Setting::KeyBytesMax, asked.key.len()), (Setting::ValueBytesMax, value)] {
                        let (limit, size) = (self.settings.value(setting), size as u64);
                        if size > limit {
                            return Verdict::TooLarge { change, setting, limit, size };
                        }
                    }
                }
                for (change, asked) in changes.iter().enumerate() {
                    let current = self.values.get(&asked.key).map(|value| value.revision);
                    match asked.precondition {
                        Precondition::Revision(revision) if current != Some(revision) => {}
                        Precondition::Absent if current.is_some() => {}
                        _ => continue,
                    }
                    return Verdict::PreconditionFailed { change, current };
                }
                let existed = changes.iter().map(|change| self.change(id.index, &change.key, &change.effect));
                Verdict::Written { existed: existed.collect() }
            }
        }
    }

    fn change(&mut self, revision: Index, key: &Bytes, effect: &Effect) -> bool {
        let before = self.values.remove(key);
        if let Effect::Put(bytes) = effect {
            let (created, version) = before.as_ref().map_or((revision, 1), |value| (value.created, value.version + 1));
            self.values.insert(key.clone(), Value { revision, created, version, bytes: bytes.clone() });
        }
        before.is_some()
    }
}
