//! What one run does: drawn from a seed, printed as one line, read back from it.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// Declares the plan with its text form, so that a field cannot be forgotten in either direction.
macro_rules! plan {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// One run, in numbers. Times are in microseconds, probabilities in thousandths, weights relative to each other;
        /// zero switches a fault off.
        ///
        /// [`Plan::draw`] makes one from a seed, [`Display`](fmt::Display) prints it, [`FromStr`] reads it back: a
        /// failure is kept as the line that it printed.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Plan {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl fmt::Display for Plan {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut gap = "";
                $(if self.$field != 0 {
                    write!(f, "{gap}{}={}", stringify!($field), self.$field)?;
                    gap = " ";
                })*
                Ok(())
            }
        }

        impl Plan {
            fn field(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

plan! {
    /// Every random decision of the run comes from it.
    seed,
    /// Founders.
    nodes,
    /// Callers, each with one operation at a time.
    clients,
    /// Keys that they use.
    keys,
    /// Events of the phase with changing faults.
    events,
    /// Mean pause of a caller between two operations.
    think,
    /// How long a caller lets a node try.
    patience,
    /// Writes without an idempotency key: they are never sent again.
    unkeyed,
    /// Least time of a message on its way.
    latency,
    /// What may come on top.
    latency_spread,
    /// Messages that are lost.
    loss,
    /// Messages that arrive twice.
    duplicate,
    /// Messages that are followed by one from long ago.
    replay,
    /// 1: a later message never overtakes an earlier one of the same link.
    in_order,
    /// Least time of a sync.
    sync,
    /// What may come on top.
    sync_spread,
    /// Greatest time until the replica hears of a completed sync.
    hear,
    /// Greatest time of applying a batch.
    apply,
    /// Greatest time of reading entries for a lagging follower.
    fill,
    /// Applied batches after which the state machine becomes durable.
    flush,
    /// Mean time between two changes of the faults.
    fault_every,
    /// Mean time that a node stays down.
    down,
    /// Faults that hit the leader, if there is one.
    aim_at_leader,
    /// Weight: a process dies.
    crash,
    /// Weight: a process dies between two of its next effects.
    crash_between,
    /// Weight: all processes die.
    crash_all,
    /// Weight: messages of one direction between two nodes are lost.
    cut_one_way,
    /// Weight: messages between two nodes are lost.
    cut_pair,
    /// Weight: one node hears nobody and is heard by nobody.
    isolate,
    /// Weight: the nodes fall into two groups.
    split,
    /// Weight: all links work again.
    heal,
    /// Weight: a process stands still for a while.
    freeze,
    /// Weight: a sync takes longer than an election.
    stall,
    /// Weight: a sync fails, and what was dirty is dropped.
    sync_error,
    /// Weight: a disk forgets what it had acknowledged, which its evidence tells.
    lose_disk,
    /// Weight: a transport reports a peer as unreachable that is not.
    unreachable,
    /// Reads of the log for a follower that fail.
    fill_error,
    /// Greatest deviation of a node's clock rate.
    drift,
    /// 1: a rejected append moves one entry back, as in the paper's Figure 2.
    step_back,
    /// 1: hardly anything varies in time, and at last power returns to all nodes at once.
    lockstep,
    /// 1: bounds so small that they are reached.
    tight,
    /// Bytes of entries that are kept in memory.
    cache,
    /// Entries that a log keeps; zero: all.
    retain,
    /// Chunks of a snapshot.
    chunks,
    /// Mean time of a chunk on its way, beside the latency.
    chunk_time,
    /// Transfers that break at a chunk.
    chunk_loss,
    /// Chunks that arrive damaged.
    chunk_damage,
    /// Weight: a state is found to differ and is replaced.
    rebuild,
    /// Weight: somebody asks for other members.
    change,
    /// How long learners lack little before they vote, in milliseconds.
    catch_up,
    /// Weight: somebody asks for another leader.
    handover,
    /// Weight: a node is drained, or not any more.
    drain,
    /// 1: some nodes are wanted more as leaders than others.
    priorities,
    /// The longest read lease, in milliseconds; zero: no read leases.
    lease,
    /// The bound on the drift of clocks that leases rest on; clocks run at rates within it.
    lease_drift,
    /// Followers that are to hold a lease at any time.
    holders,
    /// Reads that may be served under a lease.
    lease_reads,
    /// Weight: somebody asks for other settings of leases.
    lease_change,
    /// Clocks drift by so much instead, which is more than leases bear, and stand still where machines do.
    beyond,
    /// 1: of leases only that is checked which callers see.
    blind,
}

/// Why a line is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not part of a plan: write field=number, with the fields of raft_core::testing::sim::Plan")]
pub struct PlanError(String);

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(line: &str) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for word in line.split_whitespace() {
            let wrong = || PlanError(word.to_owned());
            let (name, value) = word.split_once('=').ok_or_else(wrong)?;
            *plan.field(name).ok_or_else(wrong)? = value.parse().map_err(|_| wrong())?;
        }
        Ok(plan)
    }
}

/// Draws with the words that a plan needs.
struct Draw(Random);

impl Draw {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low + 1)
    }

    /// Small values as often as large ones.
    fn spread(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low).ilog2();
        let at = low << self.0.below(u64::from(doublings) + 1);
        self.between(at, (at * 2).min(high).max(at))
    }

    /// `value` for one run in `every`, else zero.
    fn sometimes(&mut self, every: u64, value: u64) -> u64 {
        if self.0.below(every) == 0 { value } else { 0 }
    }

    /// A kind of fault belongs to the run or not, and more or less often: runs with few kinds reach what runs with all
    /// of them hide.
    fn weight(&mut self) -> u64 {
        let weight = self.between(1, 6);
        self.sometimes(2, weight)
    }
}

impl Plan {
    /// What the run of this seed does.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw(Random::new(Random::new(seed).next_u64()));
        let nodes = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 7][usize::try_from(draw.0.below(13)).unwrap_or(0)];
        let mut plan = Self {
            seed,
            nodes,
            clients: draw.between(1, 12),
            keys: draw.between(1, 5),
            events: 40_000,
            think: draw.spread(500, 64_000),
            patience: draw.spread(50_000, 1_600_000),
            ..Self::default()
        };
        plan.draw_network(&mut draw);
        plan.draw_disks(&mut draw);
        plan.draw_faults(&mut draw);
        plan.drift = draw.sometimes(3, 200);
        plan.lockstep = draw.sometimes(12, 1);
        if plan.lockstep != 0 {
            plan.be_regular(&mut draw);
        }
        plan.step_back = draw.sometimes(4, 1);
        plan.tight = draw.sometimes(2, 1);
        plan.cache = draw.sometimes(2, 600);
        plan.draw_snapshots(&mut draw);
        let change = draw.spread(2, 32);
        plan.change = if draw.0.below(3) == 0 { 0 } else { change };
        plan.catch_up = draw.spread(1, 256) - 1;
        plan.handover = draw.weight();
        plan.drain = draw.weight();
        plan.drain = draw.sometimes(3, plan.drain);
        plan.priorities = draw.sometimes(3, 1);
        plan.draw_leases(&mut draw);
        plan
    }

    /// What the run of this seed does, with read leases in any case.
    #[must_use]
    pub fn with_leases(seed: u64) -> Self {
        let drawn = (0..).map(|nth| Self::draw(seed.wrapping_mul(64).wrapping_add(nth)));
        drawn.into_iter().find(|plan| plan.lease != 0).unwrap_or_default()
    }

    /// Leases of up to two election timeouts, in every second run.
    fn draw_leases(&mut self, draw: &mut Draw) {
        let (long, short) = (draw.between(1, 8) * 50, draw.between(10, 50));
        let lease = if draw.0.below(6) == 0 { short } else { long };
        self.lease = draw.sometimes(2, lease);
        if self.lease == 0 {
            return;
        }
        let drift = draw.between(1, 150);
        // What is a fifth slower than true time is within a quarter of it.
        self.lease_drift = if self.drift == 0 { drift } else { 250 };
        self.holders = draw.between(0, 2);
        self.lease_reads = draw.between(100, 900);
        let change = draw.between(1, 12);
        self.lease_change = draw.sometimes(3, change);
    }

    /// Nodes that time out together stay together unless they draw different timeouts: a message is on its way for
    /// longer than all that tells them apart.
    fn be_regular(&mut self, draw: &mut Draw) {
        self.latency = draw.between(2_000, 4_000);
        (self.latency_spread, self.sync, self.sync_spread) = (100, 100, 100);
        (self.hear, self.drift) = (0, 0);
    }

    fn draw_network(&mut self, draw: &mut Draw) {
        let (loss, duplicate, replay) = (draw.between(1, 150), draw.between(1, 200), draw.between(1, 60));
        self.unkeyed = draw.sometimes(2, 500);
        self.latency = draw.spread(20, 4_000);
        self.latency_spread = draw.spread(20, 16_000);
        self.loss = draw.sometimes(2, loss);
        self.duplicate = draw.sometimes(2, duplicate);
        self.replay = draw.sometimes(2, replay);
        self.in_order = draw.sometimes(3, 1);
        self.unreachable = draw.weight();
    }

    fn draw_disks(&mut self, draw: &mut Draw) {
        let slow_to_hear = draw.spread(100, 30_000);
        let fill_error = draw.between(1, 200);
        self.sync = draw.spread(20, 4_000);
        self.sync_spread = draw.spread(20, 16_000);
        self.hear = draw.sometimes(2, slow_to_hear);
        self.apply = draw.spread(10, 10_000);
        self.fill = draw.spread(10, 80_000);
        self.fill_error = draw.sometimes(4, fill_error);
        self.flush = draw.spread(1, 64);
        self.stall = draw.weight();
        self.sync_error = draw.weight();
        self.lose_disk = draw.weight();
        self.lose_disk = draw.sometimes(3, self.lose_disk);
    }

    fn draw_snapshots(&mut self, draw: &mut Draw) {
        let retain = draw.spread(4, 512);
        self.retain = if draw.0.below(4) == 0 { 0 } else { retain };
        self.chunks = draw.spread(1, 16);
        self.chunk_time = draw.spread(10, 20_000);
        let (loss, damage) = (draw.between(1, 200), draw.between(1, 200));
        self.chunk_loss = draw.sometimes(2, loss);
        self.chunk_damage = draw.sometimes(2, damage);
        let rebuild = draw.between(1, 3);
        self.rebuild = draw.sometimes(4, rebuild);
    }

    fn draw_faults(&mut self, draw: &mut Draw) {
        self.fault_every = draw.spread(10_000, 640_000);
        self.down = draw.spread(1_000, 500_000);
        self.aim_at_leader = draw.between(0, 1_000);
        self.crash = draw.weight();
        self.crash_between = draw.weight();
        self.crash_all = draw.weight();
        self.cut_one_way = draw.weight();
        self.cut_pair = draw.weight();
        self.isolate = draw.weight();
        self.split = draw.weight();
        self.heal = draw.between(1, 12);
        self.freeze = draw.weight();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_back_from_its_line() {
        for seed in 0..200 {
            let plan = Plan::draw(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        assert!("nodes=3 moon=1".parse::<Plan>().is_err());
        assert!("nodes".parse::<Plan>().is_err());
    }
}
