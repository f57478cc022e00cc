//! Members that come and go: whoever leads is asked for other ones all the time, and what it does is compared with rules
//! that are written down here once more, by looking at everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::membership::{Change, ChangeRefusal, Configuration, Phase, Seat, Standing, Wanted, WantedMember};
use crate::random::Random;
use crate::replica::{Answer, Input};
use crate::status::Role;
use crate::testing::sim::goals::Goal;
use crate::testing::sim::handovers::is_handover;
use crate::testing::sim::leases::clock_rate;
use crate::testing::sim::node::{Node, Waiter};
use crate::testing::sim::world::{What, World, small};
use crate::types::{Entry, Index, NodeId};

/// Waiters from here on are callers of changes, up to those of handovers.
const CHANGES_FROM: Waiter = 1 << 30;
/// Nodes that a run may have in all.
pub(super) const NODES_MAX: usize = 14;

/// What is known of the changes of one run.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// By number: whether it was answered.
    answered: Vec<bool>,
    founders: Arc<Configuration>,
    /// The newest committed configuration.
    pub(super) committed: Arc<Configuration>,
    /// Changes of voters by the leader's term in which their first entry was appended.
    begun: Vec<(Index, u64)>,
}

impl Changes {
    pub(super) fn new(founders: Configuration) -> Self {
        let founders = Arc::new(founders);
        Self { committed: Arc::clone(&founders), founders, ..Self::default() }
    }
}

/// Whether those of `has` are a majority of `voters`, counted one by one.
fn majority(voters: &[NodeId], has: &dyn Fn(NodeId) -> bool) -> bool {
    2 * voters.iter().filter(|id| has(**id)).count() > voters.len()
}

/// The twin of the core's quorums.
pub(super) fn quorum(configuration: &Configuration, has: &dyn Fn(NodeId) -> bool) -> bool {
    let voters = |standing: fn(&Seat) -> Standing| -> Vec<NodeId> {
        configuration.seats().iter().filter(|seat| standing(seat) == Standing::Voter).map(|seat| seat.id).collect()
    };
    let (now, next) = (voters(|seat| seat.now), voters(|seat| seat.next));
    match configuration.phase() {
        Phase::Settled | Phase::CatchingUp => majority(&now, has),
        Phase::Joint => majority(&now, has) && majority(&next, has),
    }
}

/// Whether those of `has` may be all that made an entry committed which this configuration is in force for: C_new or C_old
/// alone may have done that after a joint one.
pub(super) fn may_have_decided(configuration: &Configuration, has: &dyn Fn(NodeId) -> bool) -> bool {
    majority(configuration.voters(), has) || majority(configuration.outgoing(), has)
}

/// Sets of voters that may have to decide from here on: now, after the change, and with those who are promoted.
fn sets(configuration: &Configuration) -> [Vec<NodeId>; 3] {
    let voters = |votes: fn(&Seat) -> bool| -> Vec<NodeId> {
        configuration.seats().iter().filter(|seat| votes(seat)).map(|seat| seat.id).collect()
    };
    let now = |seat: &Seat| seat.now == Standing::Voter;
    let next = |seat: &Seat| seat.next == Standing::Voter;
    [voters(now), voters(next), voters(|seat| seat.next == Standing::Voter || seat.promotes)]
}

impl World {
    /// The configuration that a node's log says is in force, by the entries that it asked to write.
    pub(super) fn believed(&self, node: usize) -> Arc<Configuration> {
        let kept = self.nodes[node].configurations.all().last().cloned();
        kept.unwrap_or_else(|| Arc::clone(&self.changes.founders))
    }

    pub(super) fn believed_at(&self, node: usize, index: Index) -> Arc<Configuration> {
        let kept = self.nodes[node].configurations.at(index).cloned();
        kept.unwrap_or_else(|| Arc::clone(&self.changes.founders))
    }

    /// The configurations that may turn out to be the one, as far as any node knows.
    fn possible(&self) -> Vec<Arc<Configuration>> {
        let committed = &self.changes.committed;
        let mut possible = vec![Arc::clone(committed)];
        for node in &self.nodes {
            let newer = node.configurations.all().iter().chain(node.disk.durable.configurations.all());
            possible.extend(newer.filter(|it| it.index() > committed.index()).cloned());
        }
        possible
    }

    /// Whether the nodes of `has` can decide whatever becomes of the changes that are under way.
    pub(super) fn decides(&self, has: &dyn Fn(NodeId) -> bool) -> bool {
        self.possible().iter().all(|configuration| sets(configuration).iter().all(|set| majority(set, has)))
    }

    /// Whether a node votes whatever becomes of the changes that are under way.
    pub(super) fn could_lead(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        self.possible().iter().all(|configuration| sets(configuration).iter().all(|set| set.contains(&id)))
    }

    /// Whether sound nodes other than `node` can decide: then it may lose its log or its state.
    pub(super) fn may_be_unsound(&self, node: usize) -> bool {
        let sound = |id: NodeId| {
            let place = super::network::place(id.0);
            // Where logs are whole, one whose state is replaced leads in order to hand over.
            let cut = self.plan.retain != 0;
            let is_sound = |it: &Node| it.disk.lost.is_none() && !(it.rebuilds && cut);
            place != node && self.nodes.get(place).is_some_and(is_sound)
        };
        self.decides(&sound)
    }

    pub(super) fn is_member(&self, node: usize) -> bool {
        self.changes.committed.contains(self.nodes[node].id)
    }

    /// Compares what a replica says of its configuration with its log.
    pub(super) fn check_configuration(&self, node: usize) {
        let entry = &self.nodes[node];
        let Some(replica) = &entry.replica else { return };
        let (said, believed) = (replica.raft().configuration(), self.believed(node));
        assert_eq!(
            said.index(),
            believed.index(),
            "[configurations act on append] n{} goes by {said:?}, its log says {believed:?}",
            node + 1
        );
        assert_eq!(said.leases(), believed.leases(), "[configurations act on append] leases of n{}", node + 1);
        let leads = entry.seen.role == Role::Leader;
        let left_out = believed.index() <= entry.seen.commit && !believed.is_voter(entry.id);
        assert!(!(leads && left_out), "[who leads votes] n{} leads, and {believed:?} is committed", node + 1);
        let campaigns = matches!(entry.seen.role, Role::PreCandidate | Role::Candidate);
        if campaigns {
            let from = self.believed_at(node, entry.seen.commit).index();
            let may_be = entry.configurations.all().iter().filter(|it| it.index() >= from);
            let votes = may_be.chain([&believed]).any(|it| it.is_voter(entry.id));
            assert!(votes, "[who campaigns votes] n{} campaigns, and its log says {believed:?}", node + 1);
        }
    }

    /// An entry is about to be written: what it makes of the configuration in force.
    pub(super) fn note_configuration(&mut self, node: usize, entry: &Entry) {
        let Ok(configuration) = Configuration::of_entry(entry.id.index, entry.payload.bytes()) else {
            panic!("[configurations can be read] {}", entry.id)
        };
        let before = self.believed(node);
        // What this very step commits counts: that it may is checked right after this.
        let own = self.nodes[node].replica.as_ref().map_or(Index::ZERO, |replica| replica.raft().commit_index());
        let committed = before.index() <= self.ghost.last().max(own);
        let same_voters = before.voters() == configuration.voters() && before.is_joint() == configuration.is_joint();
        let follows = match (before.phase(), configuration.phase()) {
            (Phase::Settled | Phase::CatchingUp, Phase::Joint) => configuration.outgoing() == before.voters(),
            // Back: whether it is committed or not.
            (Phase::Joint, Phase::Settled) if configuration.voters() == before.outgoing() => true,
            (Phase::Joint, Phase::Settled) => {
                assert!(committed, "[joint first] {configuration:?} follows {before:?}, which is not committed");
                configuration.voters() == before.voters()
            }
            _ => same_voters,
        };
        assert!(follows, "[joint first] {configuration:?} follows {before:?}");
        let appends = self.nodes[node].replica.as_ref().is_some_and(|replica| replica.raft().role() == Role::Leader);
        if appends {
            self.check_leader_appends(node, entry, &before, &configuration);
        }
        self.note_step(&before, &configuration);
    }

    /// What a leader that appends a configuration has to have done before.
    fn check_leader_appends(&mut self, node: usize, entry: &Entry, before: &Configuration, next: &Configuration) {
        let term = entry.id.term.0;
        let stays: &[NodeId] = if before.is_joint() { before.outgoing() } else { before.voters() };
        let back = before.phase() != Phase::Settled && next.phase() == Phase::Settled && next.voters() == stays;
        let commit = self.nodes[node].replica.as_ref().map_or(Index::ZERO, |replica| replica.raft().commit_index());
        assert!(
            before.index() <= self.ghost.last().max(commit) || back,
            "[one change at a time] {next:?} follows {before:?}, which is not committed"
        );
        self.check_lease_wait(entry.id.term, next);
        let own = self.nodes[node].log.at(commit).is_some_and(|mark| mark.term == term);
        assert!(own, "[own term first] n{} appends {next:?} and has committed nothing of term {term}", node + 1);
        if next.change() == next.index() && next.phase() != Phase::Settled {
            self.changes.begun.push((next.index(), term));
        }
        let other_began =
            self.changes.begun.iter().any(|(change, in_term)| *change == next.change() && *in_term < term);
        self.goals.reach_if(other_began && next.phase() == Phase::Settled, Goal::ChangeEndedByAnother);
        if next.phase() == Phase::Joint && before.phase() == Phase::CatchingUp {
            let lag = self.nodes[node].config(&self.plan).catch_up_entries_max;
            for id in before.joining() {
                let joins = &self.nodes[super::network::place(id.0)];
                let held = joins.disk.durable.marks.last();
                let lacks = entry.id.index.since(held);
                assert!(
                    lacks <= lag + 2 || joins.forgot,
                    "[learners first] {id} is to vote with entry {}, and its log ends with {held}",
                    entry.id
                );
            }
        }
    }

    fn note_step(&mut self, before: &Configuration, next: &Configuration) {
        let joint = next.is_joint();
        self.goals.reach_if(next.phase() == Phase::CatchingUp, Goal::LearnersCatchUp);
        self.goals.reach_if(joint, Goal::JointAppended);
        let replaced = joint && next.voters().iter().all(|id| !next.outgoing().contains(id));
        self.goals.reach_if(replaced, Goal::AllVotersReplaced);
        let back_from_joint = before.is_joint() && !joint && next.voters() == before.outgoing();
        self.goals.reach_if(back_from_joint, Goal::JointLeftTowardsOld);
        self.goals.reach_if(before.is_joint() && !joint && !back_from_joint, Goal::JointLeftTowardsNew);
        let demoted = before.outgoing().iter().any(|id| next.contains(*id) && !next.is_voter(*id));
        self.goals.reach_if(demoted, Goal::VoterDemoted);
        self.note_lease_step(before, next);
    }

    /// A log lost its end.
    pub(super) fn note_configurations_truncated(&mut self, node: usize, from: Index) {
        let gone = self.nodes[node].configurations.all().iter().any(|it| it.index() >= from);
        self.goals.reach_if(gone, Goal::ConfigurationTruncated);
        self.nodes[node].configurations.truncate(from);
    }

    /// More is committed: perhaps a configuration.
    pub(super) fn note_committed_configuration(&mut self, node: usize, commit: Index) {
        let newest = self.believed_at(node, commit);
        if newest.index() > self.changes.committed.index() {
            self.goals.reach_if(newest.is_joint(), Goal::JointCommitted);
            self.changes.committed = newest;
        }
    }

    /// A new leader.
    pub(super) fn check_elected_by_quorum(&mut self, node: usize, term: u64) {
        let configuration = self.believed(node);
        let voted = |id: NodeId| {
            let place = super::network::place(id.0);
            place == node || self.ghost.voted_for(place, term) == Some(node as u64 + 1)
        };
        assert!(
            quorum(&configuration, &voted),
            "[elected by a quorum] n{} leads term {term} without a quorum of {configuration:?}",
            node + 1
        );
        self.goals.reach_if(configuration.is_joint(), Goal::ElectedWhileJoint);
        self.goals.reach_if(!configuration.is_voter(self.nodes[node].id), Goal::ElectedAsStranger);
    }

    /// A node is told that it is no member any more.
    pub(super) fn note_removed(&mut self, node: usize, configuration: Index) {
        let (id, committed) = (self.nodes[node].id, &self.changes.committed);
        assert!(
            committed.was_removed(id) && configuration <= committed.index(),
            "[removals are true] {id} was removed by entry {configuration}, it is told, and {committed:?} is committed"
        );
        let by_its_log = self.believed(node).was_removed(id);
        self.goals.reach(if by_its_log { Goal::RemovalSeenInLog } else { Goal::RemovalTold });
    }

    /// Whoever leads (or somebody else, now and then) is asked for other members.
    pub(super) fn change_members(&mut self, draw: u64) {
        let leader = self.nodes.iter().position(Node::leads);
        let asked = leader.filter(|_| draw & 15 != 0).unwrap_or_else(|| self.pick());
        let Some(replica) = &self.nodes[asked].replica else { return };
        let configuration = Arc::clone(replica.raft().configuration());
        let mut random = Random::new(draw);
        let Some(change) = self.draw_change(&configuration, &mut random) else { return };
        if let Change::Members(wanted) = &change {
            let sound = |id: NodeId| {
                let place = super::network::place(id.0);
                self.nodes.get(place).is_none_or(|it| it.disk.lost.is_none() && !it.rebuilds)
            };
            let voters: Vec<NodeId> = wanted.voters.iter().map(|member| member.id).collect();
            let promoted = wanted.learners.iter().filter(|member| member.promotes).map(|member| member.id);
            let later: Vec<NodeId> = voters.iter().copied().chain(promoted).collect();
            if !majority(&voters, &sound) || !majority(&later, &sound) {
                return;
            }
            let named = wanted.voters.iter().chain(&wanted.learners).map(|member| member.id);
            for id in named.collect::<Vec<_>>() {
                self.make_node(id);
            }
        }
        let wait = Duration::from_millis(random.below(8_000));
        self.ask_change(asked, change, wait);
    }

    pub(super) fn ask_change(&mut self, asked: usize, change: Change, wait: Duration) {
        let waiter = CHANGES_FROM + Waiter::try_from(self.changes.answered.len()).expect("few changes");
        self.changes.answered.push(false);
        let deadline = self.nodes[asked].clock.read(self.now).monotonic + wait;
        self.step(asked, Input::ChangeMembership { change, deadline, waiter });
    }

    /// A blank node, which starts soon.
    fn make_node(&mut self, id: NodeId) {
        while self.nodes.len() < usize::try_from(id.0).expect("a small id") {
            let place = self.nodes.len();
            let rate = clock_rate(&self.plan, &mut self.random);
            let clock = self.now;
            let mut node = Node::new(place, &self.plan, rate);
            node.clock.stand_still(0, clock);
            self.nodes.push(node);
            self.ghost.add_node();
            let wait = self.about(5_000);
            self.after(wait, What::Start { node: small(place) });
        }
    }

    fn draw_change(&self, configuration: &Configuration, random: &mut Random) -> Option<Change> {
        let mut wanted = Wanted::of(configuration);
        wanted.less_tolerance = random.below(3) > 0;
        wanted.force = random.below(16) == 0;
        let room = NODES_MAX - self.nodes.len().max(usize::try_from(configuration.highest_id().0).unwrap_or(0));
        let mut next = configuration.next_id().0;
        let mut new = |promotes| {
            next += 1;
            WantedMember { promotes, ..WantedMember::with_context(NodeId(next - 1), Bytes::from_static(b"new")) }
        };
        let take = |list: &mut Vec<WantedMember>, random: &mut Random| {
            let at = usize::try_from(random.below(list.len().max(1) as u64)).unwrap_or(0);
            (at < list.len()).then(|| list.remove(at))
        };
        match random.below(14) {
            0 if room > 0 => wanted.voters.push(new(false)),
            1 if room > 1 => wanted.voters.extend([new(false), new(false)]),
            2 if room > 0 => {
                // A replacement.
                take(&mut wanted.voters, random)?;
                wanted.voters.push(new(false));
            }
            3 if room >= wanted.voters.len() => {
                wanted.voters = wanted.voters.iter().map(|_| new(false)).collect();
            }
            4 if room > 0 => wanted.learners.push(new(random.below(2) == 0)),
            5 | 6 => {
                take(&mut wanted.voters, random)?;
            }
            7 => {
                let keep = 1 + usize::try_from(random.below(3)).unwrap_or(0);
                while wanted.voters.len() > keep {
                    take(&mut wanted.voters, random)?;
                }
            }
            8 | 9 => {
                let learner = take(&mut wanted.learners, random)?;
                wanted.voters.push(WantedMember { promotes: false, ..learner });
            }
            10 => {
                let voter = take(&mut wanted.voters, random)?;
                wanted.learners.push(voter);
            }
            11 => {
                take(&mut wanted.learners, random)?;
            }
            12 => return Some(Change::Cancel),
            _ => {
                let ids: Vec<NodeId> = configuration.seats().iter().map(|seat| seat.id).collect();
                let id = *ids.get(usize::try_from(random.below(ids.len() as u64)).unwrap_or(0))?;
                let context = Bytes::from(random.next_u64().to_string());
                return Some(Change::Contexts(vec![(id, context)]));
            }
        }
        Some(Change::Members(wanted))
    }

    /// The caller of a change hears of it. Returns whether the waiter is one.
    pub(super) fn change_answered(&mut self, waiter: Waiter, answer: &Answer) -> bool {
        let Some(number) = waiter.checked_sub(CHANGES_FROM).filter(|_| !is_handover(waiter)) else { return false };
        let answered = &mut self.changes.answered[number as usize];
        assert!(!std::mem::replace(answered, true), "[one answer] change {number} has a second one: {answer:?}");
        match answer {
            Answer::Changed { index } => {
                assert!(*index <= self.ghost.last(), "[changes are committed] {answer:?}");
                self.goals.reach(Goal::ChangeDone);
            }
            Answer::ChangeRefused { why } => match why {
                ChangeRefusal::Running { .. } => self.goals.reach(Goal::ChangeRefusedByAnother),
                ChangeRefusal::Preflight(_) => self.goals.reach(Goal::ChangeRefusedByPreflight),
                ChangeRefusal::NotReady => self.goals.reach(Goal::ChangeTooEarly),
                ChangeRefusal::Cancelled { by } => {
                    assert!(*by <= self.ghost.last(), "[changes are committed] {answer:?}");
                    self.goals.reach(Goal::ChangeCancelled);
                }
                ChangeRefusal::WrongId { .. } | ChangeRefusal::NoMember { .. } | ChangeRefusal::NamedTwice { .. } => {
                    panic!("[changes make sense] {answer:?}")
                }
                _ => {}
            },
            Answer::Unknown { .. } => self.goals.reach(Goal::ChangeUnknown),
            Answer::Rejected { .. } | Answer::ReadReady { .. } => {}
            Answer::HandedOver(_) | Answer::NotHandedOver { .. } => {
                panic!("[answers] change {number} hears of a handover: {answer:?}")
            }
        }
        true
    }

    /// Who was removed knows it in the end, if it would campaign otherwise. Unless all whom it would ask left too, before
    /// they heard of its removal: it asks them for ever, and disturbs nobody.
    pub(super) fn knows_its_removal(&self, node: usize) -> bool {
        let entry = &self.nodes[node];
        let Some(replica) = &entry.replica else { return false };
        let status = replica.status(entry.clock.read(self.now));
        let silent = entry.disk.lost.is_some() || entry.rebuilds || status.fenced || status.rebuilding;
        let quiet = silent || !self.believed(node).is_voter(entry.id) || status.removed.is_some();
        let (asked, id) = (self.believed(node), entry.id);
        let knows = |peer: &usize| self.believed_at(*peer, self.nodes[*peer].seen.commit).was_removed(id);
        let mut peers = (0..self.nodes.len()).filter(|peer| asked.is_voter(self.nodes[*peer].id));
        !self.changes.committed.was_removed(id) || quiet || !peers.any(|peer| knows(&peer))
    }

    /// The entry of the newest configuration that any member's log has.
    pub(super) fn newest_configuration(&self) -> Index {
        let members = (0..self.nodes.len()).filter(|node| self.is_member(*node));
        members.map(|node| self.believed(node).index()).max().unwrap_or_default()
    }

    /// Nodes that are members in the end.
    pub(super) fn final_members(&self) -> BTreeSet<usize> {
        (0..self.nodes.len()).filter(|node| self.is_member(*node)).collect()
    }
}
