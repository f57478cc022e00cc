//! What is true of the whole cluster over all its history, and the properties that it must keep. Every failure names
//! its property in brackets.

use crate::testing::sim::disk::{Mark, Marks};
use crate::types::{Entry, Index};

/// An entry that some node took for committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Committed {
    pub(super) mark: Mark,
    /// The term of the node that said so first.
    pub(super) in_term: u64,
    /// When, by the clock of the history: each entry at an instant of its own.
    pub(super) tick: u64,
}

/// Terms that one run may reach: more means that elections never end.
const TERMS_MAX: u64 = 100_000;

/// The history that no node can see.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// By term.
    leaders: Vec<Option<usize>>,
    /// Per node, by term: whom it voted for.
    votes: Vec<Vec<u64>>,
    pub(super) committed: Vec<Committed>,
    /// Per index: the chain of each (term, entry) that ever stood there. Log matching is that a term has one.
    names: Vec<Vec<(u64, u64)>>,
    /// By index: what a state machine that has applied up to there looks like.
    digests: Vec<Option<u64>>,
    /// The newest write that was acknowledged.
    pub(super) acknowledged: Index,
}

impl Ghost {
    pub(super) fn new(nodes: usize) -> Self {
        Self { votes: vec![Vec::new(); nodes], ..Self::default() }
    }

    pub(super) fn last(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Election safety (Raft §5.2) and leader completeness (§5.4.3). Returns whether the term had no leader before.
    pub(super) fn elected(&mut self, node: usize, term: u64, log: &Marks) -> bool {
        assert!(term < TERMS_MAX, "[bounded terms] term {term}");
        let term_at = usize::try_from(term).expect("a small term");
        if self.leaders.len() <= term_at {
            self.leaders.resize(term_at + 1, None);
        }
        if let Some(leader) = self.leaders[term_at] {
            assert_eq!(leader, node, "[election safety] two leaders in term {term}: places {leader} and {node}");
            return false;
        }
        self.leaders[term_at] = Some(node);
        let before = self.committed.partition_point(|committed| committed.in_term < term);
        if before > 0 {
            let (held, known) = (log.at(Index(before as u64)), &self.committed[before - 1].mark);
            assert_eq!(held, Some(known), "[leader completeness] the leader of term {term} lacks entry {before}");
        }
        true
    }

    /// Whom a node voted for.
    pub(super) fn voted_for(&self, voter: usize, term: u64) -> Option<u64> {
        let term = usize::try_from(term).ok()?;
        self.votes.get(voter)?.get(term).copied()
    }

    /// One node more.
    pub(super) fn add_node(&mut self) {
        self.votes.push(Vec::new());
    }

    pub(super) fn leader_of(&self, term: u64) -> Option<usize> {
        usize::try_from(term).ok().and_then(|term| self.leaders.get(term).copied().flatten())
    }

    /// One vote per node and term, over all its lives. Returns whether it was given before.
    pub(super) fn voted(&mut self, node: usize, term: u64, candidate: u64) -> bool {
        assert!(term < TERMS_MAX, "[bounded terms] term {term}");
        let term = usize::try_from(term).expect("a small term");
        let votes = &mut self.votes[node];
        if votes.len() <= term {
            votes.resize(term + 1, 0);
        }
        let before = votes[term];
        assert!(
            before == 0 || before == candidate,
            "[one vote] node {} voted for n{before} and for n{candidate} in term {term}",
            node + 1
        );
        votes[term] = candidate;
        before != 0
    }

    /// Log matching (Raft §5.3): the same index and term means the same entry and the same entries before it.
    pub(super) fn appended(&mut self, index: Index, mark: &Mark) {
        let at = usize::try_from(index.0).expect("a small index");
        if self.names.len() <= at {
            self.names.resize(at + 1, Vec::new());
        }
        let names = &mut self.names[at];
        match names.iter().find(|(term, _)| *term == mark.term) {
            Some((_, chain)) => {
                assert_eq!(*chain, mark.chain, "[log matching] two logs hold entry {index}@{} and differ", mark.term);
            }
            None => names.push((mark.term, mark.chain)),
        }
    }

    /// State machine safety (Raft §5.4.3), for all that `log` holds up to `commit`. Returns the indexes that nobody
    /// knew committed before.
    pub(super) fn committed(&mut self, commit: Index, term: u64, ticks: &mut u64, log: &Marks) -> Option<Index> {
        assert!(commit <= log.last(), "[commit within the log] {commit} of {}", log.last());
        let known = self.last().min(commit);
        if known > Index::ZERO {
            let at = usize::try_from(known.prev().0).expect("a small index");
            assert_eq!(
                log.at(known),
                Some(&self.committed[at].mark),
                "[state machine safety] different entries are committed at or before {known}"
            );
        }
        if commit <= known {
            return None;
        }
        let news = &log.0[self.committed.len()..usize::try_from(commit.0).expect("a small index")];
        self.committed.extend(news.iter().map(|mark| {
            *ticks += 2;
            Committed { mark: *mark, in_term: term, tick: *ticks }
        }));
        Some(known.next())
    }

    /// Nothing is applied but what is committed. Returns whether this node is the first to apply it.
    pub(super) fn applied(&mut self, entry: &Entry, digest: u64) -> bool {
        let at = usize::try_from(entry.id.index.0).expect("a small index");
        let Some(committed) = self.committed.get(at - 1) else {
            panic!("[apply after commit] {} is applied, and nobody knows it committed", entry.id);
        };
        let is = (entry.id.term.0, entry.payload.checksum());
        assert_eq!(
            is,
            (committed.mark.term, committed.mark.checksum),
            "[state machine safety] {} is applied",
            entry.id
        );
        if self.digests.len() <= at {
            self.digests.resize(at + 1, None);
        }
        let first = self.digests[at].is_none();
        let known = *self.digests[at].get_or_insert(digest);
        assert_eq!(known, digest, "[equal state] two replicas that applied {} differ", entry.id);
        first
    }
}
