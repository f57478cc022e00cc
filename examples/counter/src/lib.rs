//! A state machine that is no key-value store: named counters that cannot fall below zero. Stock, quotas, tickets.
//!
//! [`Counter`] is all that an author writes. [`arguments`] and [`shell`] are what the programs of the examples share:
//! how they are started, and how one talks to them over standard input and output.

pub mod arguments;
mod counter;
pub mod shell;

pub use arguments::Arguments;
pub use counter::{COUNTERS_MAX, Counter, NAME_BYTES_MAX};
