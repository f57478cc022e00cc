//! Whose state is right: a pure comparison of digests at one mark.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::types::NodeId;

/// What the digests of the members at one mark say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody differs from anybody, as far as they were heard.
    Agree,
    /// A majority of the voters agrees, and these do not.
    Differ {
        /// What the majority has.
        majority: Bytes,
        /// Who has something else.
        others: Vec<NodeId>,
    },
    /// There are differences, and no majority: nobody knows who is right. All that were heard.
    Open(Vec<NodeId>),
}

impl Verdict {
    /// The majority's digest, when `node` has another one.
    pub(super) fn against(&self, node: NodeId) -> Option<&Bytes> {
        match self {
            Self::Differ { majority, others } if others.contains(&node) => Some(majority),
            _ => None,
        }
    }
}

/// Compares. A majority is one of all voters, heard or not; others than voters may differ from it and never make it. An
/// empty digest says nothing. What stands last for a node counts.
pub(super) fn judge(voters: &[NodeId], heard: impl IntoIterator<Item = (NodeId, Bytes)>) -> Verdict {
    let heard: BTreeMap<NodeId, Bytes> = heard.into_iter().filter(|(_, digest)| !digest.is_empty()).collect();
    let distinct: BTreeSet<&Bytes> = heard.values().collect();
    if distinct.len() < 2 {
        return Verdict::Agree;
    }
    let quorum = voters.len() / 2 + 1;
    let votes = |digest: &Bytes| voters.iter().filter(|voter| heard.get(voter) == Some(digest)).count();
    match distinct.into_iter().find(|digest| votes(digest) >= quorum) {
        Some(majority) => {
            let others = heard.iter().filter(|(_, digest)| *digest != majority).map(|(node, _)| *node).collect();
            Verdict::Differ { majority: majority.clone(), others }
        }
        None => Verdict::Open(heard.keys().copied().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [NodeId; 5] = [NodeId(1), NodeId(2), NodeId(3), NodeId(4), NodeId(5)];

    fn heard(digests: &str) -> Vec<(NodeId, Bytes)> {
        let nodes = (1..).map(NodeId).zip(digests.chars());
        nodes
            .filter(|(_, digest)| *digest != '.')
            .map(|(node, digest)| (node, if digest == '-' { Bytes::new() } else { digest.to_string().into() }))
            .collect()
    }

    fn open(nodes: &[u64]) -> Verdict {
        Verdict::Open(nodes.iter().copied().map(NodeId).collect())
    }

    fn differ(nodes: &[u64]) -> Verdict {
        Verdict::Differ { majority: "a".into(), others: nodes.iter().copied().map(NodeId).collect() }
    }

    /// A digest per node: `.` was not heard, `-` cannot tell; nodes 6 and on do not vote.
    #[test]
    fn only_a_majority_of_all_voters_is_right() {
        for (digests, expected) in [
            ("", Verdict::Agree),
            ("aaaaa", Verdict::Agree),
            ("a....", Verdict::Agree),
            ("-----", Verdict::Agree),
            ("a-a--", Verdict::Agree),
            ("aaaab", differ(&[5])),
            ("aaab.", differ(&[4])),
            ("aaabc", differ(&[4, 5])),
            // Three of five, one silent: a majority of those that were heard is not enough.
            ("aab..", open(&[1, 2, 3])),
            ("aabbc", open(&[1, 2, 3, 4, 5])),
            ("ab---", open(&[1, 2])),
            // Learners may differ and do not decide.
            ("aaaaab", differ(&[6])),
            ("aabbbaaa", Verdict::Differ { majority: "b".into(), others: [1, 2, 6, 7, 8].map(NodeId).to_vec() }),
            ("aabb.aaa", open(&[1, 2, 3, 4, 6, 7, 8])),
        ] {
            assert_eq!(judge(&VOTERS, heard(digests)), expected, "{digests}");
        }
    }

    #[test]
    fn one_alone_is_never_in_the_minority() {
        assert_eq!(judge(&VOTERS[..1], heard("a")), Verdict::Agree);
        assert_eq!(judge(&[], heard("ab")), open(&[1, 2]));
        // Of two voters neither is a majority.
        assert_eq!(judge(&VOTERS[..2], heard("ab")), open(&[1, 2]));
    }

    #[test]
    fn the_minority_is_told_what_the_majority_has() {
        let verdict = judge(&VOTERS, heard("aaab"));
        assert_eq!(verdict.against(NodeId(4)), Some(&Bytes::from_static(b"a")));
        assert_eq!(verdict.against(NodeId(1)), None);
        assert_eq!(open(&[4]).against(NodeId(4)), None);
    }

    #[test]
    fn the_later_word_of_a_node_counts() {
        let both = heard("aaab").into_iter().chain([(NodeId(4), Bytes::from_static(b"a"))]);
        assert_eq!(judge(&VOTERS, both), Verdict::Agree);
    }
}
