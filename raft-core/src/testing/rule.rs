//! How a suite says what is broken.

use std::fmt::Debug;

/// A rule that a port's author must keep, and why.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A short name, to find the case and to run it alone.
    pub name: &'static str,
    /// What goes wrong in a cluster when it is broken.
    pub why: &'static str,
    /// What the author of a part that breaks it usually has to do.
    pub fix: &'static str,
    /// Where the rule comes from: a section of the Raft paper or thesis, an id of `docs/rules.md`, or the port's doc.
    pub source: &'static str,
}

impl Rule {
    /// Panics unless `holds`, naming the rule, what was seen, why it matters, what to fix and where it is written.
    pub(super) fn demand(&self, holds: bool, seen: impl FnOnce() -> String) {
        if !holds {
            self.fail(&seen());
        }
    }

    /// Like [`Rule::demand`] for two values that must be equal.
    pub(super) fn demand_eq<T: PartialEq + Debug>(&self, found: &T, wanted: &T, what: impl FnOnce() -> String) {
        if found != wanted {
            self.fail(&format!("{}: found {}, wanted {}", what(), shorten(found), shorten(wanted)));
        }
    }

    /// Takes the value of a call that has to succeed.
    pub(super) fn expect<T, E: Debug>(&self, result: Result<T, E>, what: &str) -> T {
        match result {
            Ok(value) => value,
            Err(error) => self.fail(&format!("{what} failed: {error:?}")),
        }
    }

    pub(super) fn fail(&self, seen: &str) -> ! {
        let Self { name, why, fix, source } = self;
        panic!("rule `{name}` is broken: {seen}\n  why it matters: {why}\n  what to fix: {fix}\n  see: {source}")
    }
}

/// A debug text of bounded length: a log of a thousand entries helps nobody.
fn shorten(value: &impl Debug) -> String {
    const CHARS_MAX: usize = 600;
    let text = format!("{value:?}");
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes in all)", &text[..end], text.len()),
        None => text,
    }
}
