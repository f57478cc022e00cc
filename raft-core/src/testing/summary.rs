//! What a run of a suite did, and what it could not do.

use std::fmt;

/// How much a case or a whole suite did.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Calls of the port that change something: writes, entries applied, messages sent.
    pub operations: u64,
    /// How often the power was cut or a link was.
    pub cuts: u64,
    /// How often the lab was asked for another fault and caused it.
    pub faults: u64,
}

impl Work {
    pub(super) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.cuts += other.cuts;
        self.faults += other.faults;
    }
}

/// How a case ended; a broken rule panics instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule held.
    Held(Work),
    /// The lab lacks something that the case needs.
    NotRun {
        /// What the lab would have to offer.
        lacks: &'static str,
    },
}

/// What a run of a suite did: which cases held, and which were not run because the lab cannot cause their fault. Nothing
/// is left out silently: [`Summary::demand_all`] refuses a run that has left anything out, and the text names all of it.
#[must_use = "cases that the lab cannot run are named here only: call `demand_all`, or look at `not_run`"]
#[derive(Clone, Debug)]
pub struct Summary {
    suite: &'static str,
    held: Vec<&'static str>,
    not_run: Vec<(&'static str, &'static str)>,
    work: Work,
}

impl Summary {
    pub(super) fn new(suite: &'static str) -> Self {
        Self { suite, held: Vec::new(), not_run: Vec::new(), work: Work::default() }
    }

    pub(super) fn note(&mut self, rule: &'static str, outcome: Outcome) {
        match outcome {
            Outcome::Held(work) => {
                self.held.push(rule);
                self.work.add(work);
            }
            Outcome::NotRun { lacks } => self.not_run.push((rule, lacks)),
        }
    }

    /// The names of the rules that held.
    #[must_use]
    pub fn held(&self) -> &[&'static str] {
        &self.held
    }

    /// The names of the rules that were not tested, each with what the lab would have to offer.
    #[must_use]
    pub fn not_run(&self) -> &[(&'static str, &'static str)] {
        &self.not_run
    }

    /// How much was done.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// Demands that every case was run.
    ///
    /// # Panics
    /// Names the cases that were not, and what the lab lacks for them.
    pub fn demand_all(self) -> Self {
        assert!(self.not_run.is_empty(), "{self}");
        self
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Work { operations, cuts, faults } = self.work;
        let (suite, held) = (self.suite, self.held.len());
        write!(f, "{suite}: {held} rules held ({operations} operations, {cuts} cuts, {faults} other faults)")?;
        if !self.not_run.is_empty() {
            write!(f, "; {} were not tested:", self.not_run.len())?;
        }
        for (rule, lacks) in &self.not_run {
            write!(f, "\n  `{rule}`: the lab lacks {lacks}")?;
        }
        Ok(())
    }
}
