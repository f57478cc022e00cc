//! What can go wrong with a disk, as the labs of stores and state machines are asked for it.

/// A fault that lasts from the moment it is asked for until the lab is told to mend the disk. Others may come: a lab says
/// that it cannot cause those that it does not know.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Every sync (`fsync`, `fdatasync`, `msync`) fails with `EIO`. As on Linux the system then takes the dirty pages
    /// for clean: what was not synced may still be read, and is gone after a loss of power, whatever later syncs say.
    SyncFails,
    /// Every write that needs space fails with `ENOSPC`.
    Full,
    /// Syncs do not return, and nothing of what they are to save is safe.
    SyncStalls,
    /// Every read of a file fails with `EIO`.
    ReadFails,
}

impl DiskFault {
    /// What a lab lacks that cannot cause the fault.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SyncFails => "syncs that fail (`inject(DiskFault::SyncFails)`)",
            Self::Full => "a full disk (`inject(DiskFault::Full)`)",
            Self::SyncStalls => "syncs that stall (`inject(DiskFault::SyncStalls)`)",
            Self::ReadFails => "reads that fail (`inject(DiskFault::ReadFails)`)",
        }
    }
}

/// When the power goes. What was synced before that stays. Of what was written and not synced any part may stay: each
/// byte of a file's growth or none, and a later file without an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// At once. The suite still holds what it opened; what that does from now on is lost.
    Now,
    /// At any moment inside the next call that changes something, which may return what it likes.
    InsideTheNextCall,
}

/// What a lab lacks that cannot cut the power.
pub(super) const POWER_CUTS: &str = "power cuts (`cut_power`)";

/// How long the random cases of a suite run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    /// One run for each of these seeds. A failure names its seed.
    pub seeds: std::ops::Range<u64>,
    /// Steps of each run: a batch each.
    pub steps: u64,
    /// Rounds of each case about power cuts, a cut or a few each; fewer for what opens slowly.
    pub rounds: u64,
}

impl Default for Effort {
    /// Enough to find most faults; a second or so in memory.
    fn default() -> Self {
        Self { seeds: 0..4, steps: 500, rounds: 25 }
    }
}
