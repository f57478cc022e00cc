//! Read leases: linearizable reads without a message. Thesis 6.4, ADR 20.
//!
//! A leader that a quorum has heard may answer reads by itself for some time, since nobody else can have committed anything
//! meanwhile; and it may lend a follower a part of that time (a *grant*), since it commits nothing that a holder does not
//! have until the holder's lease has run out. That is all that is added to Raft:
//!
//! > A leader commits an entry when a quorum has it durably **and every holder has it or that holder's lease is over**.
//!
//! Nothing rests on synchronized clocks, only on their rates: each is within a factor of 1 + drift of true time. A holder
//! counts from the time when it **sent** what the lease rests on, on a clock that goes on while the machine sleeps, and uses
//! 1 / (1 + drift) of what it was promised. A giver, a voter and a new leader count on a clock that never runs ahead of that
//! one, and honour 1 + drift times the promise.
//!
//! - `holder`: a follower that holds a lease, or asks for one.
//! - `giver`: a leader's own lease, the grants that it gave, and the wait of a new leader for those of its predecessors.

use std::time::Duration;

use crate::mutant::{Mutant, broken};

pub(crate) mod giver;
pub(crate) mod holder;
mod raft;
mod status;

pub use status::{HolderStatus, LeaseStatus};

/// What all members agree on about read leases: part of the [`Configuration`](crate::membership::Configuration), since the
/// proof rests on it. Changed by [`Change::Leases`](crate::membership::Change::Leases).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseSettings {
    /// D: the longest promise of a lease. Zero turns leases off: the commit rule is Raft's then. A dead holder delays
    /// commits by this much, once; and a new leader that was elected sooner than this after the last word of the one before
    /// waits for the rest. 10 ms to 60 s.
    pub duration: Duration,
    /// How much faster or slower than true time any clock may run, in thousandths. 1 to 500.
    pub drift_permille: u16,
    /// How many followers are to hold a lease at any time, whether anybody reads there or not. At most
    /// [`LeaseSettings::MIN_HOLDERS_MAX`].
    pub min_holders: u16,
}

/// Settings that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be {value}; set {remedy}")]
pub struct LeaseSettingsError {
    /// Which field.
    pub field: &'static str,
    /// Its value, in the unit of the field (milliseconds, thousandths, holders).
    pub value: u64,
    /// What to set instead.
    pub remedy: &'static str,
}

impl LeaseSettings {
    /// No leases.
    pub const OFF: Self = Self { duration: Duration::ZERO, drift_permille: 100, min_holders: 0 };
    /// The greatest [`LeaseSettings::min_holders`]: each of them has to have what is committed.
    pub const MIN_HOLDERS_MAX: u16 = 16;
    /// The shortest lease that is worth its messages.
    pub const SHORTEST: Duration = Duration::from_millis(10);
    /// The longest: a dead holder stops all commits for so long.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// Whether there are leases.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.duration.is_zero()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first field that cannot work, and the remedy.
    pub fn check(&self) -> Result<(), LeaseSettingsError> {
        let Self { duration, drift_permille, min_holders } = *self;
        let refuse = |field, value, remedy| Err(LeaseSettingsError { field, value, remedy });
        if self.is_on() && !(Self::SHORTEST..=Self::LONGEST).contains(&duration) {
            let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            return refuse("read_lease.duration", millis, "0, or 10 ms to 60 s");
        }
        if !(1..=500).contains(&drift_permille) {
            return refuse("read_lease.clock_drift_max", drift_permille.into(), "0.001 to 0.5 (1 to 500 thousandths)");
        }
        if min_holders > Self::MIN_HOLDERS_MAX {
            return refuse("read_lease.min_holders", min_holders.into(), "0 to 16");
        }
        Ok(())
    }

    /// How long a holder uses a promise of `promise`, by its own clock; rounded down.
    #[must_use]
    pub fn usable(&self, promise: Duration) -> Duration {
        if broken(Mutant::DriftIgnored) {
            return promise;
        }
        nanos(promise.as_nanos() * 1000 / (1000 + u128::from(self.drift_permille)))
    }

    /// How long a giver honours a promise of `promise`, by its own clock; rounded up.
    #[must_use]
    pub fn honoured(&self, promise: Duration) -> Duration {
        if broken(Mutant::DriftIgnored) {
            return promise;
        }
        nanos((promise.as_nanos() * (1000 + u128::from(self.drift_permille))).div_ceil(1000))
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The lease settings of a configuration, and what earlier ones leave behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    /// What was set; `None` when nobody ever did, which is the same as [`LeaseSettings::OFF`].
    pub(crate) set: Option<LeaseSettings>,
    /// Leases of earlier, longer settings may run: waits count at least so long. A second entry ends it, once they are
    /// surely over.
    pub(crate) outlives: Duration,
}

impl Leases {
    pub(crate) fn settings(&self) -> LeaseSettings {
        self.set.unwrap_or(LeaseSettings::OFF)
    }

    /// How long after the last word of a leader leases that rest on it may run, at most.
    pub(crate) fn wait(&self) -> Duration {
        let settings = self.settings();
        settings.honoured(settings.duration).max(self.outlives)
    }

    /// After a change to `settings`.
    pub(crate) fn changed(&self, settings: LeaseSettings) -> Self {
        let next = settings.honoured(settings.duration);
        let outlives =
            if self.wait() > next && !broken(Mutant::ShorterLeaseAtOnce) { self.wait() } else { Duration::ZERO };
        Self { set: Some(settings), outlives }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_rounded_against_the_lease() {
        let settings = LeaseSettings { duration: Duration::from_nanos(1001), drift_permille: 100, min_holders: 0 };
        assert_eq!(settings.usable(settings.duration), Duration::from_nanos(910));
        assert_eq!(settings.honoured(settings.duration), Duration::from_nanos(1102));
    }

    #[test]
    fn a_shorter_lease_leaves_the_longer_wait_behind_until_a_second_entry() {
        let of = |millis| LeaseSettings { duration: Duration::from_millis(millis), ..LeaseSettings::OFF };
        let long = Leases::default().changed(of(200));
        assert_eq!((long.wait(), long.outlives), (Duration::from_millis(220), Duration::ZERO));
        let short = long.changed(of(50));
        assert_eq!((short.wait(), short.settings()), (Duration::from_millis(220), of(50)));
        let off = short.changed(LeaseSettings::OFF);
        assert_eq!(off.wait(), Duration::from_millis(220));
        let longer = off.changed(of(300));
        assert_eq!((longer.wait(), longer.outlives), (Duration::from_millis(330), Duration::ZERO));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let check = |duration, drift_permille, min_holders| {
            let settings = LeaseSettings { duration: Duration::from_millis(duration), drift_permille, min_holders };
            settings.check().map_err(|error| error.field)
        };
        assert_eq!(check(0, 100, 0), Ok(()));
        assert_eq!(check(200, 100, 16), Ok(()));
        assert_eq!(check(9, 100, 0), Err("read_lease.duration"));
        assert_eq!(check(60_001, 100, 0), Err("read_lease.duration"));
        assert_eq!(check(200, 0, 0), Err("read_lease.clock_drift_max"));
        assert_eq!(check(200, 501, 0), Err("read_lease.clock_drift_max"));
        assert_eq!(check(200, 100, 17), Err("read_lease.min_holders"));
    }
}
