//! Mutants: rules of the protocol broken one at a time, to test the tests. A safety net that lets one of them pass has
//! a hole, and what it says of the unbroken code is worth less.
//!
//! ```
//! use raft_core::testing::mutants::Mutant;
//!
//! for mutant in Mutant::ALL {
//!     let broken = mutant.switch_on();
//!     // ... run a test that must fail now, on this thread ...
//!     drop(broken);
//!     println!("{}: {} ({})", mutant.name(), mutant.description(), mutant.source());
//! }
//! ```
//!
//! The switch belongs to a thread. A cluster that lives on one thread (the simulator, the script harness) breaks the
//! rule on all its nodes; other threads know nothing of it.

use std::rc::Weak;

pub use crate::mutant::{Group, Mutant};
use crate::mutant::{break_only, broken};

/// While it lives, a rule is broken on this thread.
#[derive(Debug)]
#[must_use = "the rule holds again when this is dropped"]
pub struct Broken {
    /// Empty; of a type that cannot leave this thread, whose switch it is.
    _of_this_thread: Weak<()>,
}

impl Mutant {
    /// Breaks the rule on this thread until the guard is dropped.
    ///
    /// # Panics
    /// When another one is broken already: what is found could not be told apart.
    pub fn switch_on(self) -> Broken {
        let other = Self::ALL.iter().find(|mutant| broken(**mutant));
        assert!(other.is_none(), "{other:?} is switched on already");
        break_only(Some(self));
        Broken { _of_this_thread: Weak::new() }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        break_only(None);
    }
}
