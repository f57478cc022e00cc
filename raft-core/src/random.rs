//! Randomness from a seed: the core asks nobody else, so a run can be repeated.

/// A small generator (splitmix64). Good enough to spread election timeouts and to drive tests; not for secrets.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts from `seed`; equal seeds give equal sequences.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; zero when the bound is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use crate::config::Config;
    use crate::event::Now;
    use crate::member::Member;
    use crate::membership::Configuration;
    use crate::ports::Recovered;
    use crate::types::{Index, NodeId};

    /// Members of one cluster with one seed: were one's timeouts another's a draw later, they would collide for ever.
    #[test]
    fn members_with_one_seed_draw_timeouts_that_have_nothing_in_common() {
        let mut drawn = BTreeSet::new();
        for id in 1..=9 {
            let founders = Configuration::new((1..=9).map(NodeId));
            let now = Now::default().monotonic;
            let mut member =
                Member::new(Config::new(NodeId(id), founders), Recovered::default(), Index::ZERO, Now::at(now));
            for _ in 0..50 {
                let deadline: Duration = member.election_deadline();
                assert!(drawn.insert(deadline), "n{id} draws {deadline:?}, which another member drew");
            }
        }
    }
}
