//! The parts that are used where an author has none: the log and the state machine in memory.

use bytes::Bytes;

use crate::ports::{LogStore, StateMachine};
use crate::testing::log_store_suite::LogStoreLab;
use crate::testing::state_machine_suite::StateMachineLab;
use crate::testing::{DiskFault, MemDisk, MemStateDisk, PowerCut, Random};

/// A lab of logs in memory, whose disk can do all that a lab is asked for.
#[derive(Clone, Debug, Default)]
pub struct MemLogLab(MemDisk);

impl LogStoreLab for MemLogLab {
    fn fresh(&mut self) -> Box<dyn LogStore> {
        self.0 = MemDisk::new();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn LogStore> {
        Box::new(self.0.open())
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.0.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.0.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.0.mend();
    }
}

/// A lab of [`MemState`](crate::testing::MemState)s: nine keys that are written again and again.
#[derive(Clone, Debug, Default)]
pub struct MemStateLab(MemStateDisk);

impl StateMachineLab for MemStateLab {
    fn fresh(&mut self) -> Box<dyn StateMachine> {
        self.0 = MemStateDisk::default();
        self.reopen()
    }

    fn reopen(&mut self) -> Box<dyn StateMachine> {
        Box::new(self.0.open())
    }

    fn command(&mut self, random: &mut Random) -> Bytes {
        Bytes::from(format!("key{}={}", random.below(9), random.below(1_000)))
    }

    fn query(&mut self) -> Bytes {
        Bytes::from_static(b"digest")
    }

    fn cut_power(&mut self, when: PowerCut, random: &mut Random) -> bool {
        self.0.cut_power(when, random);
        true
    }

    fn inject(&mut self, fault: DiskFault) -> bool {
        self.0.inject(fault);
        true
    }

    fn mend(&mut self) {
        self.0.mend();
    }
}
