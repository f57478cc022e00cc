//! What entries do to the state.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use raft_core::ports::ApplyError;
use raft_core::types::{Entry, EntryKind, Index, LogId};

use crate::answer::{self, Answer, Verdict};
use crate::command::{Change, Command, CommandError, Effect, Operation, Precondition, REQUEST_OFFSET};
use crate::digest::{self, Sum};
use crate::engine::{Engine, Header, Meta, Row};
use crate::idempotency::{Fingerprint, IdempotencyKey, Remembered, Window};
use crate::machine::storage;
use crate::marks::Marks;
use crate::query::Table;
use crate::settings::{Setting, Settings};
use crate::versions;

/// One call of apply: what it has changed so far, over what the engine holds.
pub(crate) struct Step<'a, E> {
    engine: &'a E,
    meta: Meta,
    marks: Cow<'a, Marks>,
    rows: Vec<Row>,
    /// Keys that this call has changed or read; `None` for one that does not exist.
    records: HashMap<Bytes, Option<Record>>,
    /// Idempotency keys that this call has remembered or forgotten.
    remembered: HashMap<Bytes, Option<Bytes>>,
    /// Numbers of those that it has remembered.
    numbered: HashMap<u64, (Sum, Bytes)>,
    /// Stretches that have ended in this call.
    stretches: HashMap<u64, Sum>,
    scratch: &'a mut Vec<u8>,
}

/// A key as it is now.
#[derive(Clone)]
struct Record {
    header: Header,
    /// `None` when nobody has asked for it yet.
    value: Option<Bytes>,
}

/// What a call comes to.
pub(crate) struct Stepped {
    pub(crate) meta: Meta,
    /// When a mark was passed.
    pub(crate) marks: Option<Marks>,
    pub(crate) rows: Vec<Row>,
}

impl<'a, E: Engine> Step<'a, E> {
    pub(crate) fn new(engine: &'a E, meta: Meta, marks: &'a Marks, scratch: &'a mut Vec<u8>) -> Self {
        Self {
            engine,
            meta,
            marks: Cow::Borrowed(marks),
            rows: Vec::new(),
            records: HashMap::new(),
            remembered: HashMap::new(),
            numbered: HashMap::new(),
            stretches: HashMap::new(),
            scratch,
        }
    }

    pub(crate) fn finish(self) -> Stepped {
        let Self { meta, marks, mut rows, .. } = self;
        let marks = match marks {
            Cow::Borrowed(_) => None,
            Cow::Owned(marks) => Some(marks),
        };
        rows.extend(marks.as_ref().map(|marks| Row::Marks(marks.encode())));
        Stepped { meta, marks, rows }
    }

    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<Bytes, ApplyError> {
        let applied = self.meta.applied;
        if entry.id.index != applied.index.next() || entry.id.term < applied.term {
            return Err(ApplyError::OutOfOrder { id: entry.id, applied: applied.index });
        }
        if !entry.payload.verify() {
            return Err(ApplyError::Damaged { id: entry.id });
        }
        let answer = match entry.kind {
            EntryKind::Noop | EntryKind::Mark | EntryKind::Configuration => Bytes::new(),
            EntryKind::Command => self.command(entry)?,
            EntryKind::Unknown(code) => {
                return Err(ApplyError::UnknownKind { id: entry.id, kind: format!("entry kind {code}") });
            }
        };
        self.meta.applied = entry.id;
        self.forget_versions()?;
        Ok(if entry.kind == EntryKind::Mark { self.mark() } else { answer })
    }

    /// Remembers the mark that was just applied. Its answer is the digest of the state.
    fn mark(&mut self) -> Bytes {
        let marks = self.marks.to_mut();
        marks.pass(self.meta.applied.index, self.meta.oldest);
        let digest = digest::of_state(&self.meta, marks);
        marks.set_newest_digest(digest);
        Bytes::copy_from_slice(&digest)
    }

    /// Moves on what can be read of older versions, once an entry is applied.
    fn forget_versions(&mut self) -> Result<(), ApplyError> {
        let (applied, window) = (self.meta.applied.index, self.meta.settings.versions_window);
        if window == 0 {
            self.forget_all_versions(applied);
            return Ok(());
        }
        let over = versions::stretch_of(applied);
        if versions::last_of(over) == applied {
            let sum = std::mem::take(&mut self.meta.sums.stretch);
            self.stretches.insert(over, sum);
            self.rows.push(Row::EndStretch { stretch: over, sum });
        }
        for _ in 0..versions::FORGET_MAX {
            let stretch = versions::stretch_of(self.meta.oldest.next());
            let last = versions::last_of(stretch);
            if last.0 > applied.0.saturating_sub(window) {
                return Ok(());
            }
            let sum = match self.stretches.remove(&stretch) {
                Some(sum) => sum,
                None => self.engine.stretch(stretch).map_err(storage)?.ok_or_else(|| ApplyError::Storage {
                    reason: format!("the sum of the versions up to {last} is missing"),
                })?,
            };
            self.meta.sums.versions.subtract(sum);
            self.meta.oldest = last;
            self.rows.push(Row::ForgetStretches(stretch..stretch + 1));
        }
        Ok(())
    }

    /// Without a window there is the present only.
    fn forget_all_versions(&mut self, applied: Index) {
        // Else there was no window at the entry before either, and nothing is kept.
        if self.meta.oldest.next() < applied {
            let stretches = versions::stretch_of(self.meta.oldest.next())..versions::stretch_of(applied) + 1;
            self.rows.push(Row::ForgetStretches(stretches));
            self.stretches.clear();
        }
        self.meta.oldest = applied;
        self.meta.sums.versions = Sum::default();
        self.meta.sums.stretch = Sum::default();
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
        let number = self.meta.window.next;
        let record = Remembered { number, fingerprint, answer: answer.clone() }.encode();
        let sum = Sum::of_row(self.scratch, Table::Remembered, &key, &[&record]);
        self.meta.window.next += 1;
        self.meta.sums.rows.add(sum);
        self.remembered.insert(key.clone(), Some(record.clone()));
        self.numbered.insert(number, (sum, key.clone()));
        self.rows.push(Row::Remember { number, key, record, sum });
        Ok(answer)
    }

    /// Forgets what was recorded first, while more is remembered than the setting allows.
    fn forget_beyond_window(&mut self) -> Result<(), ApplyError> {
        for _ in 0..Window::FORGET_MAX {
            if self.meta.window.len() <= self.meta.settings.idempotency_window {
                return Ok(());
            }
            let number = self.meta.window.oldest;
            let (sum, key) = match self.numbered.remove(&number) {
                Some(numbered) => numbered,
                None => self.engine.numbered(number).map_err(storage)?.ok_or_else(|| ApplyError::Storage {
                    reason: format!("idempotency key number {number} is missing"),
                })?,
            };
            self.meta.window.forget(&key, self.meta.now_ms);
            self.meta.sums.rows.subtract(sum);
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
            let current = self.record(&change.key, false)?.map(|record| record.header.revision);
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
        let before = self.record(&key, self.meta.settings.versions_window > 0)?;
        let after = match effect {
            Effect::Put(value) => Some(self.put(id, &key, value, before.as_ref().map(|before| before.header))),
            Effect::Delete => None,
        };
        match (&before, &after) {
            (Some(_), None) => {
                self.rows.push(Row::Delete { key: key.clone() });
                let reason = || "a key exists where none is counted".into();
                self.meta.keys =
                    self.meta.keys.checked_sub(1).ok_or_else(|| ApplyError::Storage { reason: reason() })?;
            }
            (None, Some(_)) => self.meta.keys += 1,
            _ => {}
        }
        let existed = before.is_some();
        if let Some(before) = before {
            self.supersede(id, &key, before);
        }
        self.records.insert(key, after);
        Ok(existed)
    }

    fn put(&mut self, id: LogId, key: &Bytes, value: Bytes, before: Option<Header>) -> Record {
        let (created, version) = before.map_or((id.index, 1), |before| (before.created, before.version + 1));
        let mut header = Header { revision: id.index, created, version, sum: Sum::default() };
        header.sum = header.sum_of(self.scratch, key, &value);
        self.meta.sums.rows.add(header.sum);
        self.rows.push(Row::Put { key: key.clone(), header, value: value.clone() });
        Record { header, value: Some(value) }
    }

    /// Takes a record out of the present, and into the versions if any are kept.
    fn supersede(&mut self, id: LogId, key: &Bytes, before: Record) {
        let Record { header, value } = before;
        self.meta.sums.rows.subtract(header.sum);
        // What the same entry wrote was there at no revision.
        let (true, Some(value)) = (self.meta.settings.versions_window > 0 && header.revision < id.index, value) else {
            return;
        };
        let sum = header.sum.superseded_at(id.index);
        self.meta.sums.versions.add(sum);
        self.meta.sums.stretch.add(sum);
        self.rows.push(Row::Supersede { key: key.clone(), superseded: id.index, header, value });
    }

    fn record(&mut self, key: &Bytes, with_value: bool) -> Result<Option<Record>, ApplyError> {
        match self.records.get(key) {
            None => {}
            Some(Some(Record { value: None, .. })) if with_value => {}
            Some(record) => return Ok(record.clone()),
        }
        let found = if with_value {
            let record = self.engine.record(key).map_err(storage)?;
            record.map(|(header, value)| Record { header, value: Some(value) })
        } else {
            self.engine.header(key).map_err(storage)?.map(|header| Record { header, value: None })
        };
        self.records.insert(key.clone(), found.clone());
        Ok(found)
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
    let Remembered { fingerprint: first, answer, .. } = Remembered::decode(record).ok_or_else(damaged)?;
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
