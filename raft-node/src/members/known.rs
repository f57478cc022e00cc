//! What a node knows of the members now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft_core::membership::Configuration;
use raft_core::types::{Incarnation, NodeId, NodeName, Term};
use tokio::sync::watch;

use super::context;
use crate::status::Member;

/// Nodes in no cluster that are remembered for having asked for admission, or for being wanted; more are not taken.
pub(crate) const CANDIDATES_MAX: usize = 64;
/// A node that has not asked again for so long is not there any more.
pub(crate) const HEARD_FOR: Duration = Duration::from_secs(10);

/// The members of one configuration, as this node sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// In force, committed or not.
    pub(crate) configuration: Arc<Configuration>,
    /// Whether it is committed, as far as this node knows.
    pub(crate) is_committed: bool,
    /// The newest that is known to be committed.
    pub(crate) committed: Arc<Configuration>,
    /// The members in force, in the order of their ids, as far as their contexts can be read.
    pub(crate) list: Vec<Arc<Member>>,
    /// Members of an earlier committed configuration that are none of the one in force; see [`Members::forget_parted`].
    pub(crate) others: Vec<Arc<Member>>,
    /// Members that others have told of and that came after the configuration in force: this node's log is far behind.
    pub(crate) told: Vec<Arc<Member>>,
}

impl Known {
    /// The member of this id.
    pub(crate) fn member(&self, id: NodeId) -> Option<&Arc<Member>> {
        self.list.iter().chain(&self.others).chain(&self.told).find(|member| member.id == id)
    }

    /// The member in force of this name. While one disk replaces another under the same name, the newer one.
    pub(crate) fn named(&self, name: &NodeName) -> Option<&Arc<Member>> {
        self.list.iter().rev().find(|member| member.name == *name)
    }

    /// Whether the committed configuration has this very member. An id of an entry that was truncated may have been given
    /// to another node: name and incarnation tell them apart.
    pub(crate) fn is_committed_member(&self, member: &Member) -> bool {
        let seat = self.committed.seat(member.id).and_then(|seat| context::decode(seat.id, &seat.context).ok());
        seat.is_some_and(|found| found.name == member.name && found.incarnation == member.incarnation)
    }

    /// Whom another node may be told of: an entry that is not committed may be truncated, and its ids be given to others.
    pub(crate) fn to_tell(&self) -> Vec<Member> {
        let stays = |member: &Arc<Member>| !self.configuration.contains(member.id) || self.is_committed_member(member);
        self.by_name().into_values().filter(|member| stays(member)).map(|member| Member::clone(member)).collect()
    }

    /// Whom to talk to, by name; of several of one name the newest.
    pub(crate) fn by_name(&self) -> BTreeMap<&NodeName, &Arc<Member>> {
        let mut found: BTreeMap<&NodeName, &Arc<Member>> = BTreeMap::new();
        for member in self.others.iter().chain(&self.list).chain(&self.told) {
            let newest = found.entry(&member.name).or_insert(member);
            if newest.id < member.id {
                *newest = member;
            }
        }
        found
    }
}

/// A node that is no member yet, and asked to become one or was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingMember {
    /// Its name.
    pub name: NodeName,
    /// Where peers reach it, by its own word or by that of who asked for it.
    pub peer_address: String,
    /// Where clients reach it.
    pub api_address: String,
    /// Whether it shall vote once it has caught up.
    pub voter: bool,
    /// Whether somebody has asked for it ([`MembersAsk::Add`](super::MembersAsk::Add)).
    pub wanted: bool,
    /// How long ago it was heard; `None` when it was not.
    pub heard_ago: Option<Duration>,
    /// Why it is no member yet, where that is known.
    pub reason: Option<String>,
}

/// A candidate as it is kept by the node that hears of it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) peer_address: String,
    pub(crate) api_address: String,
    /// `None` until it was heard.
    pub(crate) heard: Option<(Incarnation, Instant)>,
    /// Since when it has been heard again and again with this disk, by a leader of this term.
    pub(crate) since: Option<(Instant, Term)>,
    /// Whether it shall vote: by the word of who asked for it, else by its own.
    pub(crate) voter: bool,
    pub(crate) wanted: bool,
    pub(crate) reason: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Members {
    now: watch::Sender<Arc<Known>>,
    candidates: Mutex<BTreeMap<NodeName, Candidate>>,
    /// Counts what changes among the candidates.
    candidates_changed: watch::Sender<u64>,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            now: watch::Sender::new(Arc::default()),
            candidates: Mutex::default(),
            candidates_changed: watch::Sender::new(0),
        }
    }
}

impl Members {
    pub(crate) fn now(&self) -> Arc<Known> {
        self.now.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.now.subscribe()
    }

    /// Another configuration is in force, or it is committed now.
    pub(crate) fn set(&self, configuration: &Arc<Configuration>, is_committed: bool) {
        self.now.send_modify(|now| {
            let committed = if is_committed { configuration.clone() } else { now.committed.clone() };
            let list = members_of(configuration);
            let mut others = now.others.clone();
            others.extend(now.list.iter().filter(|member| now.committed.contains(member.id)).cloned());
            others.extend(members_of(&committed));
            others.retain(|member| !configuration.contains(member.id));
            others.sort_by_key(|member| member.id);
            others.dedup_by_key(|member| member.id);
            let told = now.told.iter().filter(|member| member.id > configuration.highest_id()).cloned().collect();
            *now =
                Arc::new(Known { configuration: configuration.clone(), is_committed, committed, list, others, told });
        });
    }

    /// Forgets members that have left, unless the configuration that leaves them out is not committed yet. They were given
    /// time to learn of it.
    pub(crate) fn forget_parted(&self) {
        self.now.send_modify(|now| {
            let mut known = Known::clone(now);
            known.others.retain(|member| known.committed.contains(member.id));
            *now = Arc::new(known);
        });
    }

    /// What is known to be committed at the start.
    pub(crate) fn set_committed(&self, committed: Arc<Configuration>) {
        self.now.send_modify(|now| *now = Arc::new(Known { committed, ..(**now).clone() }));
    }

    /// Notes members that others have told of, unless the configuration knows better. Returns whether that is news.
    pub(crate) fn hint(&self, told: impl IntoIterator<Item = Member>) -> bool {
        let heard: Vec<Arc<Member>> = told.into_iter().map(Arc::new).collect();
        self.now.send_if_modified(|now| {
            let mut told = now.told.clone();
            for member in heard.iter().filter(|member| member.id > now.configuration.highest_id()) {
                told.retain(|known| known.id != member.id);
                told.push(member.clone());
            }
            told.sort_by_key(|member| member.id);
            let news = told != now.told;
            if news {
                *now = Arc::new(Known { told, ..(**now).clone() });
            }
            news
        })
    }

    /// The candidate of this name.
    pub(crate) fn candidate(&self, name: &NodeName) -> Option<Candidate> {
        self.candidates.lock().get(name).cloned()
    }

    /// Changes or makes a candidate; `None` when there are too many.
    pub(crate) fn note_candidate(&self, name: &NodeName, change: impl FnOnce(Option<Candidate>) -> Candidate) -> bool {
        let mut candidates = self.candidates.lock();
        candidates
            .retain(|_, candidate| candidate.wanted || candidate.heard.is_some_and(|(_, at)| at.elapsed() < HEARD_FOR));
        if candidates.len() >= CANDIDATES_MAX && !candidates.contains_key(name) {
            return false;
        }
        let changed = change(candidates.remove(name));
        candidates.insert(name.clone(), changed);
        drop(candidates);
        self.candidates_changed.send_modify(|count| *count += 1);
        true
    }

    /// Forgets a candidate; whether there was one.
    pub(crate) fn forget_candidate(&self, name: &NodeName) -> bool {
        self.candidates.lock().remove(name).is_some()
    }

    /// Says why a candidate is no member yet; whether that is news.
    pub(crate) fn explain_candidate(&self, name: &NodeName, why: &str) -> bool {
        let mut candidates = self.candidates.lock();
        let Some(candidate) = candidates.get_mut(name) else { return false };
        let before = candidate.reason.replace(why.to_owned());
        before.as_deref() != Some(why)
    }

    pub(crate) fn candidates_changed(&self) -> watch::Receiver<u64> {
        self.candidates_changed.subscribe()
    }

    /// All candidates, for people.
    pub(crate) fn pending(&self) -> Vec<PendingMember> {
        let candidates = self.candidates.lock();
        let shown = candidates.iter().map(|(name, candidate)| PendingMember {
            name: name.clone(),
            peer_address: candidate.peer_address.clone(),
            api_address: candidate.api_address.clone(),
            voter: candidate.voter,
            wanted: candidate.wanted,
            heard_ago: candidate.heard.map(|(_, at)| at.elapsed()),
            reason: candidate.reason.clone(),
        });
        shown.filter(|pending| pending.wanted || pending.heard_ago.is_some_and(|ago| ago < HEARD_FOR)).collect()
    }
}

fn members_of(configuration: &Configuration) -> Vec<Arc<Member>> {
    let read = |seat: &raft_core::membership::Seat| match context::decode(seat.id, &seat.context) {
        Ok(member) => Some(Arc::new(member)),
        Err(error) => {
            // Another version may have written it; the member is not reached then, and nothing else is lost.
            tracing::warn!(id = %seat.id, %error, "what the configuration says of a member cannot be read");
            None
        }
    };
    configuration.seats().iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, incarnation: u128) -> Member {
        Member {
            id: NodeId(id),
            name: NodeName::new(name),
            incarnation: Incarnation(incarnation),
            peer_address: format!("{name}:1"),
            api_address: String::new(),
        }
    }

    fn configuration(members: &[Member]) -> Arc<Configuration> {
        Arc::new(Configuration::founders(members.iter().map(|member| (member.id, context::encode(member)))))
    }

    #[test]
    fn the_newer_of_two_disks_of_one_name_is_talked_to() {
        let members = Members::default();
        members.set(&configuration(&[member(1, "n1", 1), member(2, "n2", 2), member(3, "n1", 3)]), true);
        let known = members.now();
        assert_eq!(known.by_name()[&NodeName::new("n1")].id, NodeId(3));
        assert_eq!(known.named(&NodeName::new("n1")).map(|member| member.id), Some(NodeId(3)));
        assert_eq!(known.member(NodeId(1)).map(|member| member.incarnation), Some(Incarnation(1)));
    }

    #[test]
    fn members_of_the_committed_configuration_stay_known_until_the_next_one_is() {
        let members = Members::default();
        members.set(&configuration(&[member(1, "n1", 1), member(2, "n2", 2)]), true);
        members.set(&configuration(&[member(1, "n1", 1)]), false);
        assert!(members.now().member(NodeId(2)).is_some());
        members.forget_parted();
        assert!(members.now().member(NodeId(2)).is_some(), "it may still come back");
        members.set(&configuration(&[member(1, "n1", 1)]), true);
        assert!(members.now().member(NodeId(2)).is_some(), "it has to learn of it");
        members.forget_parted();
        assert!(members.now().member(NodeId(2)).is_none());
    }

    /// An isolated leader would have others wait for a member that never came to be.
    #[test]
    fn nobody_is_told_of_who_may_still_be_truncated() {
        let members = Members::default();
        let (one, two, three) = (member(1, "n1", 1), member(2, "n2", 2), member(3, "n3", 3));
        members.set(&configuration(&[one.clone(), two.clone()]), true);
        members.set(&configuration(&[one.clone(), three.clone()]), false);
        assert_eq!(members.now().to_tell(), [one.clone(), two]);
        members.set(&configuration(&[one.clone(), three.clone()]), true);
        members.forget_parted();
        assert_eq!(members.now().to_tell(), [one, three]);
    }

    #[test]
    fn hints_do_not_hide_what_the_log_says() {
        let members = Members::default();
        assert!(members.hint([member(1, "n1", 1)]));
        assert!(!members.hint([member(1, "n1", 1)]));
        assert!(members.now().member(NodeId(1)).is_some());
        members.set(&configuration(&[]), true);
        assert!(members.now().member(NodeId(1)).is_some(), "the log has nothing newer");
        members.set(&configuration(&[member(1, "m1", 1)]), true);
        assert!(!members.hint([member(1, "n1", 1)]));
        assert_eq!(members.now().member(NodeId(1)).map(|member| member.name.clone()), Some(NodeName::new("m1")));
    }

    #[test]
    fn candidates_are_bounded_and_forgotten() {
        let members = Members::default();
        let heard = |_: Option<Candidate>| Candidate {
            peer_address: String::new(),
            api_address: String::new(),
            heard: Some((Incarnation(1), Instant::now())),
            since: None,
            voter: true,
            wanted: false,
            reason: None,
        };
        for nth in 0..CANDIDATES_MAX {
            assert!(members.note_candidate(&NodeName::new(format!("n{nth}")), heard));
        }
        assert!(!members.note_candidate(&NodeName::new("one-more"), heard));
        assert!(members.note_candidate(&NodeName::new("n1"), heard));
        assert_eq!(members.pending().len(), CANDIDATES_MAX);
        assert!(members.forget_candidate(&NodeName::new("n1")));
        assert!(!members.forget_candidate(&NodeName::new("n1")));
    }
}
