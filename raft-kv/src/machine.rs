//! The one logic of the state machine, over any [`Engine`].

use bytes::Bytes;
use raft_core::ports::ApplyError;
use raft_core::types::{Entry, Index, LogId};

use crate::engine::{Engine, EngineError, Meta};
use crate::marks::Marks;
use crate::step::{Step, Stepped};

/// Applies entries to an engine.
pub(crate) struct Machine<E> {
    engine: E,
    meta: Meta,
    marks: Marks,
    /// For sums of rows.
    scratch: Vec<u8>,
    /// Why an earlier call failed. What the engine holds is uncertain then, so nothing more is applied.
    failed: Option<String>,
}

impl<E: Engine> Machine<E> {
    /// Goes on from what the engine holds.
    pub(crate) fn new(engine: E, meta: Meta, marks: Marks) -> Self {
        Self { engine, meta, marks, scratch: Vec::new(), failed: None }
    }

    /// Goes on from what another engine, or this one by now, holds.
    pub(crate) fn resume(&mut self, engine: E, meta: Meta, marks: Marks) {
        *self = Self::new(engine, meta, marks);
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
        let mut step = Step::new(&self.engine, self.meta, &self.marks, &mut self.scratch);
        for entry in entries {
            match step.apply(entry) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    answers.truncate(answered);
                    return Err(self.fail(error));
                }
            }
        }
        let Stepped { meta, marks, rows } = step.finish();
        assert_eq!(answers.len(), answered + entries.len(), "one answer per entry");
        assert_eq!(meta.applied.index, self.meta.applied.index.plus(entries.len() as u64), "every entry counts");
        assert!(meta.now_ms >= self.meta.now_ms, "time went back from {} to {}", self.meta.now_ms, meta.now_ms);
        if let Err(error) = self.engine.write(rows, &meta) {
            answers.truncate(answered);
            return Err(self.fail(storage(error)));
        }
        self.meta = meta;
        if let Some(marks) = marks {
            self.marks = marks;
        }
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

    /// Up to which entry the state is durable.
    pub(crate) fn durable(&mut self) -> Result<Index, ApplyError> {
        self.check_alive()?;
        self.engine.durable().map_err(|error| self.fail(storage(error)))
    }

    /// Nothing is done any more after an error.
    pub(crate) fn check_alive(&self) -> Result<(), ApplyError> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(ApplyError::Storage { reason: format!("stopped by an earlier error: {reason}") }),
        }
    }

    /// Takes note of an error after which nothing more is applied.
    pub(crate) fn fail(&mut self, error: ApplyError) -> ApplyError {
        self.failed = Some(error.to_string());
        error
    }
}

pub(crate) fn storage(EngineError(reason): EngineError) -> ApplyError {
    ApplyError::Storage { reason }
}
