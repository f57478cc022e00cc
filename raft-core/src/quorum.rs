//! What a majority agrees on. Pure.

/// The highest value that at least `quorum` of `values` have reached. Reorders `values`.
///
/// Used for the commit index (Raft §5.3, §5.4.2 \[F2-LEADER-COMMIT\]) and for confirmed rounds (thesis 6.4).
pub(crate) fn reached_by_quorum<T: Copy + Ord>(values: &mut [T], quorum: usize) -> T {
    assert!(quorum >= 1 && quorum <= values.len(), "a quorum of {quorum} out of {} voters", values.len());
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[quorum - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Counts voters for every candidate value: slow and obvious.
    fn brute_force(values: &[u64], quorum: usize) -> u64 {
        (0..=*values.iter().max().expect("voters"))
            .filter(|candidate| values.iter().filter(|value| *value >= candidate).count() >= quorum)
            .max()
            .expect("zero is always reached")
    }

    #[test]
    fn agrees_with_counting_voter_by_voter() {
        let mut random = Random::new(7);
        for voters in 1..=9usize {
            for _ in 0..500 {
                let mut values: Vec<u64> = (0..voters).map(|_| random.below(12)).collect();
                let quorum = voters / 2 + 1;
                let expected = brute_force(&values, quorum);
                assert_eq!(reached_by_quorum(&mut values, quorum), expected, "{values:?}");
            }
        }
    }
}
