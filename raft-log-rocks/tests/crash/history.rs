//! What a child has told about itself, and what may therefore be found after a crash.

use raft_core::types::{GroupId, Index};

use super::state::{State, told};

/// One life's start, as it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) incarnation: String,
    pub(crate) count: u64,
}

/// Read off the marks of a record, up to some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) start: Option<Start>,
    /// Starts that were begun since and not acknowledged.
    pub(crate) starting: u64,
    /// Acknowledged.
    pub(crate) founding: Option<String>,
    /// Begun and not acknowledged.
    pub(crate) founding_tried: Option<String>,
    /// The acknowledged state, then those of writes and compactions that were begun and not acknowledged.
    states: Vec<State>,
    /// How many writes were acknowledged.
    pub(crate) acknowledged: u64,
    /// Whether a write or an opening has failed in this life.
    pub(crate) failed: bool,
    /// What the child itself saw go wrong.
    pub(crate) violations: Vec<String>,
}

impl History {
    /// Nothing was ever done.
    pub(crate) fn new() -> Self {
        Self { states: vec![State::default()], ..Self::default() }
    }

    /// Takes over a mark. The words are those of `writer.rs`.
    pub(crate) fn mark(&mut self, text: &str) {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "starting" => {
                self.starting += 1;
                self.failed = false;
            }
            "started" => {
                let (incarnation, count) = rest.split_once(' ').unwrap();
                let start = Start { incarnation: incarnation.to_owned(), count: count.parse().unwrap() };
                if let Err(reason) = self.admits_start(&start) {
                    self.violations.push(reason);
                }
                self.start = Some(start);
                self.starting = 0;
            }
            "recovered" => match self.states.iter().find(|state| format!("{:08x}", state.digest()) == rest) {
                Some(found) => self.states = vec![found.clone()],
                None => self.violations.push(format!("a life recovered a state that nobody wrote ({rest})")),
            },
            "write" => {
                let mut state = self.states[0].clone();
                told(rest).iter().for_each(|write| state.apply(write));
                self.states.push(state);
            }
            "compact" => {
                let (group, upto) = rest.split_once(' ').unwrap();
                let mut state = self.states[0].clone();
                state.compact(GroupId(group.parse().unwrap()), Index(upto.parse().unwrap()));
                self.states.push(state);
            }
            "done" | "compacted" => {
                if self.failed {
                    self.violations.push("a write was acknowledged after one had failed".into());
                }
                self.states.drain(..self.states.len() - 1);
                self.acknowledged += u64::from(word == "done");
            }
            "founding" => self.founding_tried = Some(rest.to_owned()),
            "founded" => self.founding = self.founding_tried.take(),
            "failed" => self.failed = true,
            "violation" => self.violations.push(rest.to_owned()),
            "closed" => {}
            other => panic!("nobody marks {other}"),
        }
    }

    /// Whether a life may find itself like this.
    pub(crate) fn admits_start(&self, found: &Start) -> Result<(), String> {
        let before = self.start.as_ref().map_or(0, |start| start.count);
        if self.start.as_ref().is_some_and(|start| start.incarnation != found.incarnation) {
            return Err(format!("the directory has another incarnation: {found:?} after {:?}", self.start));
        }
        // The start that asks is one itself.
        if found.count <= before || found.count > before + self.starting + 1 {
            return Err(format!("start {} follows start {before}, with {} cut short", found.count, self.starting));
        }
        Ok(())
    }

    /// Whether this founding record may be found.
    pub(crate) fn admits_founding(&self, found: Option<&String>) -> Result<(), String> {
        let admitted = found == self.founding.as_ref() || (found.is_some() && found == self.founding_tried.as_ref());
        if admitted {
            return Ok(());
        }
        Err(format!(
            "founding record {found:?}, where {:?} was accepted and {:?} tried",
            self.founding, self.founding_tried
        ))
    }

    /// Whether this state may be found.
    pub(crate) fn admits(&self, found: &State) -> Result<(), String> {
        if self.states.contains(found) {
            return Ok(());
        }
        let expected: Vec<_> = self.states.iter().map(State::summary).collect();
        Err(format!("the log holds {}, and what was written is {}", found.summary(), expected.join(" or ")))
    }
}
