//! What is true of the whole cluster, which no node can see: the committed log, and what a twin of the author's state
//! machine makes of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rules::{
    ACKNOWLEDGED_SURVIVES, APPLIED_MOVES, FRESH_READS, MACHINE_WORKS, ONE_LEADER, QUERIES_AGREE, REAL_TIME_ORDER,
    SAME_ANSWERS, SAME_ENTRY, SAME_STATE,
};
use crate::ports::{QueryAnswer, StateMachine, StateReader};
use crate::testing::state_machine_suite::StateMachineLab;
use crate::types::{Entry, Index, LogId, NodeId, Term};

/// The committed log with what each entry has to give.
pub(super) struct Judge {
    lab: Box<dyn StateMachineLab>,
    /// Applies every committed entry once, and never goes down.
    twin: Box<dyn StateMachine>,
    reader: std::sync::Arc<dyn StateReader>,
    query: Bytes,
    log: Vec<Entry>,
    answers: Vec<Bytes>,
    /// The whole state after so many entries, and the answer to the query then.
    states: Vec<(Bytes, Bytes)>,
    leaders: BTreeMap<Term, (NodeId, u32)>,
    acknowledged: BTreeMap<Index, u64>,
    /// What every read and write that begins now must come after.
    floor: Index,
}

impl Judge {
    pub(super) fn new(mut lab: Box<dyn StateMachineLab>) -> Self {
        let twin = lab.fresh();
        let (reader, query) = (twin.reader(), lab.query());
        let mut judge = Self {
            lab,
            twin,
            reader,
            query,
            log: Vec::new(),
            answers: Vec::new(),
            states: Vec::new(),
            leaders: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            floor: Index::ZERO,
        };
        judge.look_at_the_twin();
        judge
    }

    /// Draws a command.
    pub(super) fn command(&mut self, random: &mut crate::random::Random) -> Bytes {
        self.lab.command(random)
    }

    pub(super) fn query(&self) -> &Bytes {
        &self.query
    }

    /// The last entry that is known committed.
    pub(super) fn last(&self) -> LogId {
        self.log.last().map_or(LogId::ZERO, |entry| entry.id)
    }

    pub(super) fn floor(&self) -> Index {
        self.floor
    }

    fn look_at_the_twin(&mut self) {
        let state = self.lab.fingerprint(&*self.reader);
        let answer = self.reader.query(&self.query);
        match (state, answer) {
            (Ok(state), Ok(answer)) => self.states.push((state, answer.bytes)),
            (Err(error), _) | (_, Err(error)) => {
                QUERIES_AGREE.fail(format!("the twin, whose disk works, does not answer the lab's query: {error}"))
            }
        }
    }

    /// A node leads.
    pub(super) fn leads(&mut self, term: Term, node: NodeId, life: u32) -> bool {
        let known = self.leaders.len();
        let leader = *self.leaders.entry(term).or_insert((node, life));
        ONE_LEADER.demand(leader == (node, life), || {
            format!("{node} (start {life}) and {} (start {}) both lead in {term}", leader.0, leader.1)
        });
        self.leaders.len() > known
    }

    /// A node is about to apply this entry: it is committed.
    pub(super) fn committed(&mut self, node: NodeId, entry: &Entry) {
        let at = entry.id.index.prev().0 as usize;
        if let Some(known) = self.log.get(at) {
            if known == entry {
                return;
            }
            let seen = format!(
                "{node} applies {} ({} bytes) where another replica has applied {} ({} bytes)",
                entry.id,
                entry.payload.bytes().len(),
                known.id,
                known.payload.bytes().len()
            );
            if self.acknowledged.contains_key(&entry.id.index) {
                ACKNOWLEDGED_SURVIVES.fail(format!("{seen}, and that one was acknowledged to its caller"));
            }
            SAME_ENTRY.fail(seen);
        }
        let last = self.last();
        SAME_ENTRY.demand(entry.id.index == last.index.next() && entry.id.term >= last.term, || {
            format!("{node} applies {}, and the last entry that was ever applied is {last}", entry.id)
        });
        self.log.push(entry.clone());
        let mut answers = Vec::new();
        if let Err(error) = self.twin.apply(std::slice::from_ref(entry), &mut answers) {
            MACHINE_WORKS.fail(format!("the twin, whose disk works, does not apply {}: {error}", entry.id));
        }
        APPLIED_MOVES.demand(answers.len() == 1 && self.twin.applied() == entry.id, || {
            let (count, applied) = (answers.len(), self.twin.applied());
            format!("after one entry, {}, the twin says that it has applied {applied}, with {count} answers", entry.id)
        });
        self.answers.append(&mut answers);
        self.look_at_the_twin();
    }

    /// What a node's state machine answers to an entry.
    pub(super) fn answered(&self, node: NodeId, id: LogId, answer: &Bytes) {
        let wanted = &self.answers[id.index.prev().0 as usize];
        SAME_ANSWERS.demand(answer == wanted, || {
            let (answer, wanted) = (show(answer), show(wanted));
            format!("{node} answers {answer} to entry {id}; a fresh machine that applies the log once answers {wanted}")
        });
    }

    /// The state of a node that has applied `applied`; `when` says where it was looked at.
    pub(super) fn state(&self, node: NodeId, applied: LogId, state: &Bytes, rule: super::ClusterRule, when: &str) {
        self.knows(node, applied, when);
        let wanted = &self.states[applied.index.0 as usize].0;
        rule.demand(state == wanted, || {
            let (state, wanted) = (show(state), show(wanted));
            format!(
                "{when} {node} has applied {applied} and holds {state}; a fresh machine that applies the log once holds \
                 {wanted}"
            )
        });
    }

    /// What a node says it has applied is a committed entry.
    pub(super) fn knows(&self, node: NodeId, applied: LogId, when: &str) {
        let at = applied.index.0 as usize;
        let known = if at == 0 { Some(LogId::ZERO) } else { self.log.get(at - 1).map(|entry| entry.id) };
        SAME_STATE.demand(known == Some(applied), || {
            let last = self.last();
            format!("{when} {node} says that it has applied {applied}; there is {known:?}, and nothing after {last}")
        });
    }

    /// A caller is told that its write is entry `index`; it began when `floor` was the floor.
    pub(super) fn acknowledge(&mut self, node: NodeId, call: u64, index: Index, floor: Index) {
        REAL_TIME_ORDER.demand(index > floor, || {
            format!("{node} tells a caller that its write is entry {index}; entry {floor} was known before it began")
        });
        self.acknowledged.insert(index, call);
        self.floor = self.floor.max(index);
    }

    /// A read that was confirmed for `index`, and began when `floor` was the floor, is served with this.
    pub(super) fn read(&mut self, node: NodeId, index: Index, floor: Index, answer: &QueryAnswer) {
        let applied = answer.applied;
        self.knows(node, applied, "in an answer to a query");
        FRESH_READS.demand(applied.index >= index && applied.index >= floor, || {
            format!(
                "{node} answers a linearizable read from a state that has applied {applied}; the read was confirmed for \
                 entry {index}, and entry {floor} was acknowledged before it began"
            )
        });
        let wanted = &self.states[applied.index.0 as usize].1;
        QUERIES_AGREE.demand(answer.bytes == *wanted, || {
            let (found, wanted) = (show(&answer.bytes), show(wanted));
            format!("{node} answers {found} from a state that has applied {applied}; a fresh machine answers {wanted}")
        });
        self.floor = self.floor.max(applied.index);
    }

    /// In the end every member has applied all that was acknowledged.
    pub(super) fn holds_all(&self, node: NodeId, applied: Index) {
        let newest = self.acknowledged.last_key_value().map_or(Index::ZERO, |(index, _)| *index);
        ACKNOWLEDGED_SURVIVES.demand(applied >= newest, || {
            format!(
                "after healing {node} has all that there is, up to entry {applied}; entry {newest} was acknowledged"
            )
        });
    }
}

/// Bytes for people: as text if they are one, and not too many.
fn show(bytes: &Bytes) -> String {
    const BYTES_MAX: usize = 80;
    let shown = &bytes[..bytes.len().min(BYTES_MAX)];
    let more = if bytes.len() > BYTES_MAX { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::rules::{Broken, REPLICAS_AGREE};
    use super::super::{ClusterRule, MemStateLab};
    use super::*;
    use crate::testing::{entry_of, noop};

    const NODE: NodeId = NodeId(2);

    fn after_three() -> Judge {
        let mut judge = Judge::new(Box::<MemStateLab>::default());
        for entry in [noop(1, 1), entry_of(2, 1, "a=1"), entry_of(3, 1, "a=2")] {
            judge.committed(NODE, &entry);
        }
        judge.acknowledge(NODE, 7, Index(2), Index(1));
        judge
    }

    fn assert_broken(rule: ClusterRule, judged: impl FnOnce(&mut Judge)) {
        let mut judge = after_three();
        let panic = catch_unwind(AssertUnwindSafe(|| judged(&mut judge))).expect_err("nothing was found");
        assert_eq!(panic.downcast::<Broken>().expect("a rule").rule.name, rule.name);
    }

    #[test]
    fn what_holds_is_accepted() {
        let mut judge = after_three();
        judge.committed(NODE, &entry_of(2, 1, "a=1"));
        judge.answered(NODE, entry_of(3, 1, "").id, &Bytes::from("3 was 1"));
        judge.acknowledge(NODE, 8, Index(3), Index(2));
        assert!(judge.leads(Term(1), NODE, 1) && !judge.leads(Term(1), NODE, 1));
        judge.holds_all(NODE, Index(3));
    }

    #[test]
    fn each_rule_of_the_cluster_can_be_broken() {
        assert_broken(ONE_LEADER, |judge| {
            judge.leads(Term(1), NODE, 1);
            judge.leads(Term(1), NodeId(3), 1);
        });
        assert_broken(SAME_ENTRY, |judge| judge.committed(NODE, &entry_of(3, 2, "a=2")));
        assert_broken(SAME_ENTRY, |judge| judge.committed(NODE, &entry_of(5, 2, "a=2")));
        assert_broken(ACKNOWLEDGED_SURVIVES, |judge| judge.committed(NODE, &entry_of(2, 1, "a=3")));
        assert_broken(ACKNOWLEDGED_SURVIVES, |judge| judge.holds_all(NODE, Index(1)));
        assert_broken(REAL_TIME_ORDER, |judge| judge.acknowledge(NODE, 8, Index(2), Index(2)));
        assert_broken(SAME_ANSWERS, |judge| judge.answered(NODE, entry_of(3, 1, "").id, &Bytes::from("3 was 2")));
        let id = |index| LogId::new(Index(index), Term(1));
        assert_broken(REPLICAS_AGREE, |judge| {
            judge.state(NODE, id(3), &Bytes::from("?"), REPLICAS_AGREE, "at the end")
        });
        assert_broken(SAME_STATE, |judge| judge.knows(NODE, id(4), "after a start"));
    }

    #[test]
    fn reads_are_judged_by_time_and_by_the_twin() {
        let digest = |judge: &Judge, index: usize| judge.states[index].1.clone();
        let id = |index| LogId::new(Index(index), Term(1));
        let mut judge = after_three();
        let bytes = digest(&judge, 3);
        judge.read(NODE, Index(3), Index(2), &QueryAnswer { bytes, applied: id(3) });
        assert_eq!(judge.floor(), Index(3), "what was seen must be seen by later reads");
        assert_broken(FRESH_READS, |judge| {
            let bytes = digest(judge, 1);
            judge.read(NODE, Index(1), Index(2), &QueryAnswer { bytes, applied: id(1) });
        });
        assert_broken(FRESH_READS, |judge| {
            let bytes = digest(judge, 2);
            judge.read(NODE, Index(3), Index(2), &QueryAnswer { bytes, applied: id(2) });
        });
        assert_broken(QUERIES_AGREE, |judge| {
            let bytes = digest(judge, 2);
            judge.read(NODE, Index(3), Index(2), &QueryAnswer { bytes, applied: id(3) });
        });
    }
}
