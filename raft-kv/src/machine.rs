//! The one logic of the state machine, over any [`Engine`].

use std::collections::HashMap;

use bytes::Bytes;
use raft_core::ports::ApplyError;
use raft_core::types::{Entry, EntryKind, Index, LogId};

use crate::answer::{self, Answer, Verdict};
use crate::command::{Change, Command, CommandError, Effect, Operation, Precondition, REQUEST_OFFSET};
use crate::engine::{Engine, EngineError, Header, Meta, Row};
use crate::idempotency::{Fingerprint, IdempotencyKey, Remembered, Window};
use crate::settings::{Setting, Settings};

/// Applies entries to an engine.
pub(crate) struct Machine<E> {
    engine: E,
    meta: Meta,
    /// Why an earlier call failed. What the engine holds is uncertain then, so nothing more is applied.
    failed: Option<String>,
}

impl<E: Engine> Machine<E> {
    /// Goes on from what the engine holds.
    pub(crate) fn new(engine: E, meta: Meta) -> Self {
        Self { engine, meta, failed: None }
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn applied(&self) -> LogId {
        self.meta.applied
    }

    /// Applies `entries` in one write of the engine. Either all of them are applied and answered, or none is.
    pub(crate) fn apply(&mut self, entries: &[Entry], answers: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        self.check_alive()?;
        if entries.is_empty() {
            return Ok(());
        }
        let answered = answers.len();
        let mut step = Step::new(&self.engine, self.meta);
        for entry in entries {
            match step.apply(entry) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    answers.truncate(answered);
                    return Err(self.fail(error));
                }
            }
        }
        let Step { meta, rows, .. } = step;
        assert_eq!(answers.len(), answered + entries.len(), "one answer per entry");
        assert_eq!(meta.applied.index, self.meta.applied.index.plus(entries.len() as u64), "every entry counts");
        assert!(meta.now_ms >= self.meta.now_ms, "time went back from {} to {}", self.meta.now_ms, meta.now_ms);
        if let Err(error) = self.engine.write(rows, &meta) {
            answers.truncate(answered);
            return Err(self.fail(storage(error)));
        }
        self.meta = meta;
        Ok(())
    }

    /// Makes everything applied durable.
    pub(crate) fn flush(&mut self) -> Result<Index, ApplyError> {
        self.check_alive()?;
        match self.engine.flush() {
            Ok(()) => Ok(self.meta.applied.index),
            Err(error) => Err(self.fail(storage(error))),
        }
    }

    fn check_alive(&self) -> Result<(), ApplyError> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(ApplyError::Storage { reason: format!("stopped by an earlier error: {reason}") }),
        }
    }

    fn fail(&mut self, error: ApplyError) -> ApplyError {
        self.failed = Some(error.to_string());
        error
    }
}

fn storage(EngineError(reason): EngineError) -> ApplyError {
    ApplyError::Storage { reason }
}

/// One call of apply: what it has changed so far, over what the engine holds.
struct Step<'a, E> {
    engine: &'a E,
    meta: Meta,
    rows: Vec<Row>,
    /// Keys that this call has changed or read; `None` for one that does not exist.
    headers: HashMap<Bytes, Option<Header>>,
    /// Idempotency keys that this call has remembered or forgotten.
    remembered: HashMap<Bytes, Option<Bytes>>,
    /// Numbers of those that it has remembered.
    numbered: HashMap<u64, Bytes>,
}

impl<'a, E: Engine> Step<'a, E> {
    fn new(engine: &'a E, meta: Meta) -> Self {
        Self {
            engine,
            meta,
            rows: Vec::new(),
            headers: HashMap::new(),
            remembered: HashMap::new(),
            numbered: HashMap::new(),
        }
    }

    fn apply(&mut self, entry: &Entry) -> Result<Bytes, ApplyError> {
        let applied = self.meta.applied;
        if entry.id.index != applied.index.next() || entry.id.term < applied.term {
            return Err(ApplyError::OutOfOrder { id: entry.id, applied: applied.index });
        }
        if !entry.payload.verify() {
            return Err(ApplyError::Damaged { id: entry.id });
        }
        let answer = match entry.kind {
            EntryKind::Noop | EntryKind::Mark => Bytes::new(),
            EntryKind::Command => self.command(entry)?,
            EntryKind::Unknown(code) => {
                return Err(ApplyError::UnknownKind { id: entry.id, kind: format!("entry kind {code}") });
            }
        };
        self.meta.applied = entry.id;
        Ok(answer)
    }

    fn command(&mut self, entry: &Entry) -> Result<Bytes, ApplyError> {
        let bytes = entry.payload.bytes();
        let command = match Command::decode(bytes.clone()) {
            Ok(command) => command,
            // Every version calls these bytes malformed, so every replica gives this answer.
            Err(CommandError::Malformed(reason)) => {
                return Ok(Answer::new(entry.id, Verdict::Malformed(reason)).encode());
            }
            // Another version may do something here: skipping it would make the replicas differ.
            Err(error @ CommandError::Unknown { .. }) => {
                return Err(ApplyError::UnknownKind { id: entry.id, kind: error.to_string() });
            }
        };
        self.meta.now_ms = self.meta.now_ms.max(command.stamp_ms);
        let answer = match command.idempotency {
            None => self.decide(entry.id, command.operation)?.encode(),
            Some(key) => self.once(entry.id, key, &bytes[REQUEST_OFFSET..], command.operation)?,
        };
        self.forget_beyond_window()?;
        Ok(answer)
    }

    /// Decides a request once, however often it comes.
    fn once(
        &mut self,
        id: LogId,
        key: IdempotencyKey,
        request: &[u8],
        operation: Operation,
    ) -> Result<Bytes, ApplyError> {
        let fingerprint = Fingerprint::of(request);
        if let Some(record) = self.remembered(key.bytes())? {
            return replay(id, fingerprint, record);
        }
        if self.meta.window.may_be_forgotten(&key) {
            let horizon_ms = self.meta.window.horizon_ms;
            return Ok(Answer::new(id, Verdict::IdempotencyForgotten { horizon_ms }).encode());
        }
        let answer = self.decide(id, operation)?.encode();
        // Copied: a slice of the request would keep all of its bytes, and its neighbours' in the log, in memory.
        let key = Bytes::copy_from_slice(key.as_bytes());
        let record = Remembered { fingerprint, answer: answer.clone() }.encode();
        let number = self.meta.window.next;
        self.meta.window.next += 1;
        self.remembered.insert(key.clone(), Some(record.clone()));
        self.numbered.insert(number, key.clone());
        self.rows.push(Row::Remember { number, key, record });
        Ok(answer)
    }

    /// Forgets what was recorded first, while more is remembered than the setting allows.
    fn forget_beyond_window(&mut self) -> Result<(), ApplyError> {
        for _ in 0..Window::FORGET_MAX {
            if self.meta.window.len() <= self.meta.settings.idempotency_window {
                return Ok(());
            }
            let number = self.meta.window.oldest;
            let key = match self.numbered.remove(&number) {
                Some(key) => key,
                None => self.engine.numbered(number).map_err(storage)?.ok_or_else(|| ApplyError::Storage {
                    reason: format!("idempotency key number {number} is missing"),
                })?,
            };
            self.meta.window.forget(&key, self.meta.now_ms);
            self.remembered.insert(key.clone(), None);
            self.rows.push(Row::Forget { number, key });
        }
        Ok(())
    }

    fn decide(&mut self, id: LogId, operation: Operation) -> Result<Answer, ApplyError> {
        let verdict = match operation {
            Operation::Write(changes) => self.write(id, changes)?,
            Operation::Settings(changes) => change_settings(&mut self.meta.settings, &changes),
        };
        Ok(Answer::new(id, verdict))
    }

    fn write(&mut self, id: LogId, changes: Vec<Change>) -> Result<Verdict, ApplyError> {
        if let Some(verdict) = too_large(&self.meta.settings, &changes) {
            return Ok(verdict);
        }
        for (position, change) in changes.iter().enumerate() {
            if change.precondition == Precondition::None {
                continue;
            }
            let current = self.header(&change.key)?.map(|header| header.revision);
            let holds = match change.precondition {
                Precondition::None => true,
                Precondition::Revision(revision) => current == Some(revision),
                Precondition::Absent => current.is_none(),
            };
            if !holds {
                return Ok(Verdict::PreconditionFailed { change: position, current });
            }
        }
        let mut existed = Vec::with_capacity(changes.len());
        for change in changes {
            existed.push(self.change(id, change)?);
        }
        Ok(Verdict::Written { existed })
    }

    /// Makes one change; says whether its key existed.
    fn change(&mut self, id: LogId, change: Change) -> Result<bool, ApplyError> {
        let Change { key, effect, precondition: _ } = change;
        let before = self.header(&key)?;
        let after = match effect {
            Effect::Put(value) => {
                let header = match before {
                    Some(before) => Header { revision: id.index, version: before.version + 1, ..before },
                    None => Header { revision: id.index, created: id.index, version: 1 },
                };
                self.rows.push(Row::Put { key: key.clone(), header, value });
                Some(header)
            }
            Effect::Delete => {
                if before.is_some() {
                    self.rows.push(Row::Delete { key: key.clone() });
                }
                None
            }
        };
        match (before, after) {
            (None, Some(_)) => self.meta.keys += 1,
            (Some(_), None) => {
                let reason = || "a key exists where none is counted".into();
                self.meta.keys =
                    self.meta.keys.checked_sub(1).ok_or_else(|| ApplyError::Storage { reason: reason() })?;
            }
            _ => {}
        }
        self.headers.insert(key, after);
        Ok(before.is_some())
    }

    fn header(&self, key: &Bytes) -> Result<Option<Header>, ApplyError> {
        if let Some(header) = self.headers.get(key) {
            return Ok(*header);
        }
        self.engine.header(key).map_err(storage)
    }

    fn remembered(&self, key: &Bytes) -> Result<Option<Bytes>, ApplyError> {
        match self.remembered.get(key) {
            Some(record) => Ok(record.clone()),
            None => self.engine.remembered(key).map_err(storage),
        }
    }
}

/// The answer to a request whose key is remembered.
fn replay(id: LogId, fingerprint: Fingerprint, record: Bytes) -> Result<Bytes, ApplyError> {
    let damaged = || ApplyError::Storage { reason: "the record of an idempotency key is damaged".into() };
    let Remembered { fingerprint: first, answer } = Remembered::decode(record).ok_or_else(damaged)?;
    if fingerprint == first {
        return Ok(answer::replayed(&answer));
    }
    let original = Answer::decode(answer).map_err(|_| damaged())?.decided;
    Ok(Answer::new(id, Verdict::IdempotencyConflict { original }).encode())
}

fn too_large(settings: &Settings, changes: &[Change]) -> Option<Verdict> {
    changes.iter().enumerate().find_map(|(change, Change { key, effect, .. })| {
        let value = match effect {
            Effect::Put(value) => value.len(),
            Effect::Delete => 0,
        };
        [(Setting::KeyBytesMax, key.len()), (Setting::ValueBytesMax, value)].into_iter().find_map(|(setting, size)| {
            let (limit, size) = (settings.value(setting), size as u64);
            (size > limit).then_some(Verdict::TooLarge { change, setting, limit, size })
        })
    })
}

fn change_settings(settings: &mut Settings, changes: &[(Setting, u64)]) -> Verdict {
    let mut changed = *settings;
    for (setting, value) in changes {
        if changed.set(*setting, *value).is_err() {
            return Verdict::SettingRefused { setting: *setting, value: *value };
        }
    }
    *settings = changed;
    Verdict::SettingsChanged
}
