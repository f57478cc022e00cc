//! What callers do, and what they are told.

use std::time::Duration;

use crate::replica::{Input, Outcome, Proposal, ReadMode, Rejection};
use crate::testing::sim::clients::{Ending, Next, Want};
use crate::testing::sim::goals::Goal;
use crate::testing::sim::machine::{Answer, Command};
use crate::testing::sim::network::place;
use crate::testing::sim::node::Waiter;
use crate::testing::sim::world::{What, World, small};
use crate::types::{Entry, EntryKind, Index, LogId, NodeId, Term};

/// A healed cluster must serve a read within this long, wherever it is asked.
const HEALED_SERVES_WITHIN: Duration = Duration::from_secs(10);

impl World {
    /// A caller begins an operation, or tries the one that it has once more.
    pub(super) fn call(&mut self, client: usize) {
        let Some(operation) = self.clients.begin(client, &mut self.random) else { return };
        let draw = self.random.next_u64();
        // Where followers may serve under leases they are asked more often.
        let reads = self.plan.lease != 0 && self.clients.operations[operation as usize].want == Want::Read;
        let node = if draw % 10 < if reads { 2 } else { 6 } {
            self.clients.hint(client)
        } else {
            usize::try_from((draw >> 8) % self.nodes.len() as u64).unwrap_or(0)
        };
        let left = !self.faults_change && !self.is_member(node);
        if self.nodes[node].replica.is_none() || self.nodes[node].frozen_until > self.now || left {
            // Nobody listens there, or it is known by now that it has left: nothing was sent.
            self.clients.set_hint(u32::try_from(client).unwrap_or(0), (node + 1) % self.nodes.len());
            return self.call_again(client);
        }
        self.check_token(client, node);
        let term = self.nodes[node].seen.term.0;
        let attempt = self.clients.attempt(operation, (node, self.nodes[node].life), self.ghost.acknowledged, term);
        let wait = self.patience / 2 + self.random.below(self.patience);
        self.after(2 * self.patience + 1_000_000, What::GiveUp { attempt });
        let deadline = self.nodes[node].clock.read(self.now).monotonic + Duration::from_nanos(wait);
        let wanted = self.clients.operations[operation as usize];
        match wanted.want {
            Want::Read => {
                let patient = self.nodes[node].clock.read(self.now).monotonic + HEALED_SERVES_WITHIN;
                let deadline = if self.healed_at.is_some() { patient } else { deadline };
                let under_lease = (draw >> 20) % 1_000 < self.plan.lease_reads;
                let mode = if under_lease { ReadMode::Lease } else { ReadMode::Round };
                self.clients.attempts[attempt as usize].mode = mode;
                self.step(node, Input::Read { mode, deadline, waiter: attempt });
            }
            Want::Write(action) => {
                let command =
                    Command { attempt, client: wanted.client, number: wanted.number, key: wanted.key, action };
                let payload = command.payload(usize::try_from((draw >> 16) % 120).unwrap_or(0));
                let entry = &mut self.nodes[node];
                entry.inbox.push(Proposal { payload, deadline, waiter: attempt });
                if entry.inbox.len() == 1 {
                    let (node, life) = (small(node), entry.life);
                    // Now and then a command is on its way for so long that its caller has gone on.
                    let on_its_way = if (draw >> 56) & 31 == 0 { 4 * self.patience } else { 2_000_000 };
                    self.after(1 + (draw >> 32) % on_its_way, What::Propose { node, life });
                }
            }
        }
    }

    /// A replica that has applied as much as a caller's token names holds just that entry there: a read of it is no
    /// older than anything that the caller has seen. (That it is the same state everywhere is checked when entries are
    /// applied.)
    fn check_token(&mut self, client: usize, node: usize) {
        let token = self.clients.token(client);
        let Some(replica) = self.nodes[node].replica.as_ref().filter(|_| token.index > Index::ZERO) else { return };
        let outcome = replica.outcome(token);
        assert!(outcome != Outcome::NotApplied, "[tokens hold] n{} holds another entry at {token}", node + 1);
        let reached = outcome == Outcome::Applied;
        self.goals.reach(if reached { Goal::TokenReached } else { Goal::TokenAhead });
    }

    fn call_again(&mut self, client: usize) {
        let wait = self.about(self.plan.think);
        self.after(wait, What::Call { client: u32::try_from(client).unwrap_or(0) });
    }

    fn follow_up(&mut self, client: u32, next: Next) {
        if next != Next::Ignored {
            self.call_again(client as usize);
        }
    }

    fn client_of(&self, attempt: u32) -> u32 {
        let operation = self.clients.attempts[attempt as usize].operation;
        self.clients.operations[operation as usize].client
    }

    /// Nothing was heard of a try: its node died, stands still, or takes too long.
    pub(super) fn give_up(&mut self, attempt: u32) {
        let client = self.client_of(attempt);
        let next = self.clients.unheard(attempt, &mut self.random);
        self.follow_up(client, next);
    }

    pub(super) fn attempt_of(&self, entry: &Entry) -> Option<u32> {
        (entry.kind == EntryKind::Command).then(|| Command::of(entry.payload.bytes()).attempt)
    }

    /// A write was applied, and its caller gets the state machine's answer.
    pub(super) fn wrote(&mut self, node: usize, attempt: Waiter, answer: Answer, entry: &Entry) {
        let of = self.attempt_of(entry);
        assert_eq!(of, Some(attempt), "[answers] a caller gets the answer of another's entry {}", entry.id);
        let client = self.client_of(attempt);
        self.ghost.acknowledged = self.ghost.acknowledged.max(entry.id.index);
        self.tally.writes += 1;
        self.goals.reach(Goal::WriteAcknowledged);
        self.clients.set_hint(client, node);
        let token = &mut self.clients.attempts[attempt as usize].token;
        *token = Some(entry.id);
        if let Some(operation) = self.clients.answered(attempt) {
            assert!(answer != Answer::Late, "[exactly once] a caller's newest write came after a later one");
            self.clients.end(operation, Ending::Wrote(answer));
            self.clients.carry_token(client, entry.id);
            self.follow_up(client, Next::Done);
        }
    }

    pub(super) fn write_rejected(&mut self, node: usize, attempt: Waiter, why: Rejection, leader: Option<NodeId>) {
        let client = self.client_of(attempt);
        self.clients.attempts[attempt as usize].rejected = true;
        match why {
            Rejection::Overwritten => {
                self.goals.reach(Goal::Overwritten);
                let entry = self.clients.attempts[attempt as usize].entry.expect("it was appended");
                let decided = self.committed_term(entry.index).is_some_and(|term| term != entry.term);
                assert!(decided, "[overwritten is certain] try {attempt} was told so, and {entry} may come back");
            }
            Rejection::Overloaded { .. } => self.goals.reach(Goal::Overloaded),
            Rejection::Deadline => {
                self.goals.reach(Goal::DeadlineCame);
                let operation = self.clients.attempts[attempt as usize].operation;
                let read = self.clients.operations[operation as usize].want == Want::Read;
                // A follower that is repaired entry by entry takes as long as the log is.
                let healed = self.plan.step_back == 0 && self.healed_at.is_some_and(|first| attempt >= first);
                // One that joins may have to be sent all there is.
                let healed = healed && self.changes.committed.is_voter(self.nodes[node].id);
                assert!(
                    !(read && healed),
                    "[a healed cluster serves] n{} let a read wait for 10 s: {}",
                    node + 1,
                    self.picture()
                );
            }
            Rejection::HandingOver => self.goals.reach(Goal::ProposalInHandover),
            Rejection::NotLeader | Rejection::Stopping => {}
        }
        let hint = leader.map_or((node + 1) % self.nodes.len(), |leader| place(leader.0));
        self.goals.reach_if(leader.is_some_and(|leader| place(leader.0) != node), Goal::WriteWasSentElsewhere);
        self.clients.set_hint(client, hint);
        if let Some(operation) = self.clients.answered(attempt) {
            let next = self.clients.rejected(operation, &mut self.random);
            self.follow_up(client, next);
        }
    }

    pub(super) fn write_unknown(&mut self, attempt: Waiter, token: LogId) {
        let client = self.client_of(attempt);
        self.goals.reach(Goal::WriteUnknown);
        self.clients.attempts[attempt as usize].token = Some(token);
        self.check_outcome(token);
        if let Some(operation) = self.clients.answered(attempt) {
            let next = self.clients.doubtful(operation, &mut self.random);
            self.follow_up(client, next);
        }
    }

    /// Whoever is asked now what became of an entry says what is certain, or that it does not know.
    fn check_outcome(&self, token: LogId) {
        let committed = self.committed_term(token.index);
        for node in &self.nodes {
            let Some(replica) = &node.replica else { continue };
            let outcome = replica.outcome(token);
            let is_true = match outcome {
                Outcome::Applied => committed == Some(token.term),
                Outcome::NotApplied => committed.is_some_and(|term| term != token.term),
                Outcome::NotKnownYet => true,
            };
            assert!(is_true, "[outcomes are true] n{} says {outcome:?} of {token}, early", node.id.0);
        }
    }

    /// The term of the committed entry at `index`, if it is known.
    fn committed_term(&self, index: Index) -> Option<Term> {
        let at = usize::try_from(index.prev().0).ok()?;
        self.ghost.committed.get(at).map(|known| Term(known.mark.term))
    }

    /// A read may be served: the caller reads the state machine of this node at this moment.
    pub(super) fn read_ready(&mut self, node: usize, attempt: Waiter, index: Index, mode: ReadMode) {
        let client = self.client_of(attempt);
        let applied = self.nodes[node].machine.applied;
        let tried = self.clients.attempts[attempt as usize];
        assert!(applied >= index, "[reads wait for apply] a read at {index} is let go at {applied}");
        assert!(index >= tried.must_see, "[reads see what was acknowledged] a read at {index}, not {}", tried.must_see);
        // What one caller saw, all later ones must see.
        self.ghost.acknowledged = self.ghost.acknowledged.max(applied);
        self.note_lease_read(node, tried.mode, mode);
        self.tally.reads += 1;
        self.goals.reach(if self.nodes[node].leads() { Goal::LeaderRead } else { Goal::FollowerRead });
        self.goals.reach_if(applied == index && applied > tried.must_see, Goal::ReadWaitedForApply);
        self.goals.reach_if(self.nodes[node].seen.term.0 > tried.term && tried.term > 0, Goal::ReadOutlivedLeader);
        if let Some(operation) = self.clients.answered(attempt) {
            let key = self.clients.operations[operation as usize].key;
            let value = self.nodes[node].machine.register(key);
            self.clients.end(operation, Ending::Read(value));
            let term = self.committed_term(applied).unwrap_or_default();
            self.clients.carry_token(client, LogId::new(applied, term));
            self.follow_up(client, Next::Done);
        }
    }

    /// Whoever asked a process that still lives has had its one answer, unless its command is still on its way there.
    pub(super) fn check_answered(&self) {
        for (number, attempt) in self.clients.attempts.iter().enumerate() {
            let node = &self.nodes[usize::from(attempt.node)];
            let on_its_way = || node.inbox.iter().any(|proposal| proposal.waiter as usize == number);
            assert!(
                attempt.answered || attempt.life != node.life || on_its_way(),
                "[one answer] try {number} at n{} was never answered",
                node.id.0
            );
        }
    }

    /// Every answer about an outcome is true. (That every acknowledged write is there follows from equal states: it was
    /// acknowledged when it was applied.)
    pub(super) fn check_answers(&mut self) {
        for (number, attempt) in self.clients.attempts.iter().enumerate() {
            let Some(token) = attempt.token else { continue };
            let at = usize::try_from(token.index.prev().0).expect("a small index");
            let applied = self.ghost.committed.get(at).is_some_and(|known| known.mark.term == token.term.0);
            let operation = &self.clients.operations[attempt.operation as usize];
            let acknowledged = matches!(operation.ending, Ending::Wrote(_)) && attempt.answered;
            self.goals.reach_if(applied && !acknowledged, Goal::UnknownWriteApplied);
            self.goals.reach_if(!applied, Goal::UnknownWriteNotApplied);
            for node in &self.nodes {
                let Some(replica) = &node.replica else { continue };
                let outcome = replica.outcome(token);
                let truth = if applied { Outcome::Applied } else { Outcome::NotApplied };
                assert!(
                    outcome == truth || outcome == Outcome::NotKnownYet,
                    "[outcomes are true] n{} says {outcome:?} of try {number}, {token}; it is {truth:?}",
                    node.id.0
                );
            }
        }
    }
}
