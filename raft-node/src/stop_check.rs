//! Whether a node may stop: whether the other voters are a quorum without it.
//!
//! Several nodes may ask at once, as when all of a machine room is drained. Each of them would find the others up. So a
//! node that was told that it may stop says so in its reports, and is counted as gone; it says so **before** it asks the
//! time that counts, and takes it back when the answer is no. Of two that ask at once at least one sees the other, then.
//! So that they do not hold each other up for ever, one that is drained and has the lesser name comes first. A node that
//! stops whatever it was told is counted as gone from the first moment, and nothing takes that back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raft_core::membership::Standing;
use raft_core::types::NodeName;

use crate::cluster_view::{HEALTHY_LAG_ENTRIES_MAX, cluster_status};
use crate::shared::Shared;
use crate::status::{ClusterStatus, Departure, MemberStatus};

/// How far this node is on its way to a stop.
pub(crate) fn departure(shared: &Shared) -> Departure {
    if shared.leaving.load(Ordering::SeqCst) || shared.cleared.load(Ordering::SeqCst) {
        Departure::Cleared
    } else if shared.draining.load(Ordering::SeqCst) {
        Departure::Drained
    } else {
        Departure::Stays
    }
}

/// See [`NodeHandle::stop_reasons`](crate::handle::NodeHandle::stop_reasons).
pub(crate) async fn reasons(shared: &Arc<Shared>, timeout: Duration) -> Vec<String> {
    if shared.removed().is_some() {
        return Vec::new();
    }
    without(&cluster_status(shared, timeout).await, &shared.name, departure(shared))
}

/// See [`NodeHandle::clear_to_stop`](crate::handle::NodeHandle::clear_to_stop).
pub(crate) async fn clear(shared: &Arc<Shared>, timeout: Duration) -> Vec<String> {
    if !shared.draining.load(Ordering::SeqCst) {
        return vec!["it is not drained; drain it first (POST /v1/node/drain)".into()];
    }
    let _turn = shared.clear_turn.lock().await;
    // What was said once holds: whoever heard it may be on its way.
    if shared.cleared.load(Ordering::SeqCst) {
        return Vec::new();
    }
    // Nodes that have to wait do not hold up those whose turn it is.
    let first = reasons(shared, timeout).await;
    if !first.is_empty() {
        return first;
    }
    // Takes it back when nobody waits for the answer any more.
    let mut claim = Claim { shared, granted: false };
    shared.cleared.store(true, Ordering::SeqCst);
    let mut reasons = reasons(shared, timeout).await;
    if !shared.draining.load(Ordering::SeqCst) {
        reasons.push("its drain was ended meanwhile".into());
    }
    claim.granted = reasons.is_empty();
    reasons
}

struct Claim<'a> {
    shared: &'a Shared,
    granted: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.granted {
            self.shared.cleared.store(false, Ordering::SeqCst);
        }
    }
}

/// Why the cluster of `status` would have no quorum without `own`.
fn without(status: &ClusterStatus, own: &NodeName, departure: Departure) -> Vec<String> {
    if status.cluster.is_none() {
        // It is not founded, so nobody rests on this node.
        return Vec::new();
    }
    if let Some(why) = &status.not_leader_view {
        return vec![format!("nobody can tell whether the others are a quorum: {why}")];
    }
    let Some(this) = status.members.iter().find(|member| member.member.name == *own) else {
        return Vec::new();
    };
    let mut reasons = Vec::new();
    let halves: [fn(&MemberStatus) -> Standing; 2] = [|member| member.standing, |member| member.next];
    for half in halves {
        if half(this) != Standing::Voter {
            continue;
        }
        let voters: Vec<&MemberStatus> =
            status.members.iter().filter(|member| half(member) == Standing::Voter).collect();
        let (needed, others) = (voters.len() / 2 + 1, voters.iter().filter(|member| member.member.name != *own));
        let missing: Vec<String> = others.clone().filter_map(|member| gone(member, own, departure)).collect();
        let left = others.count() - missing.len();
        if left >= needed {
            continue;
        }
        let reason = if voters.len() == 1 {
            // Whoever means to stop it knows, and waiting changes nothing.
            if departure != Departure::Stays {
                continue;
            }
            format!("{own} is the only voter: without it nothing is served")
        } else {
            let who = if missing.is_empty() { "nobody else is missing".into() } else { missing.join(", ") };
            format!("of {} voters {needed} are needed, and without {own} there are {left}: {who}", voters.len())
        };
        // Both halves are the same when no change is under way.
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

/// Why a voter does not count: it is away, far behind, or about to go before this node.
fn gone(member: &MemberStatus, own: &NodeName, departure: Departure) -> Option<String> {
    let name = &member.member.name;
    if let Some(why) = &member.unreachable {
        return Some(format!("{name} cannot be asked ({why})"));
    }
    if let Some(phase) = member.phase.as_deref().filter(|phase| *phase != "running") {
        return Some(format!("{name} is {phase}"));
    }
    if let Some(lag) = member.lag_entries.filter(|lag| *lag > HEALTHY_LAG_ENTRIES_MAX) {
        return Some(format!("{name} is {lag} entries behind"));
    }
    let first = departure == Departure::Stays || name < own;
    match member.departure {
        Departure::Cleared => Some(format!("{name} is about to stop")),
        Departure::Drained if first => Some(format!("{name} is drained and stops first")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use raft_core::types::{ClusterId, Incarnation, Index, LogId, NodeId, Term};

    use super::*;
    use crate::status::{Member, MembershipStatus};

    fn voter(number: u64) -> MemberStatus {
        let member = Member {
            id: NodeId(number),
            name: NodeName::new(format!("n{number}")),
            incarnation: Incarnation(number.into()),
            peer_address: String::new(),
            api_address: String::new(),
        };
        MemberStatus {
            member,
            voter: true,
            standing: Standing::Voter,
            next: Standing::Voter,
            promotes: false,
            caught_up_for: None,
            role: None,
            match_index: None,
            applied_index: None,
            lag_entries: Some(3),
            last_contact: None,
            version: None,
            process_id: None,
            phase: Some("running".into()),
            storage_sync: None,
            snapshot: None,
            fenced: None,
            rebuilding: false,
            read_lease: None,
            departure: Departure::Stays,
            unreachable: None,
        }
    }

    fn cluster(members: Vec<MemberStatus>) -> ClusterStatus {
        ClusterStatus {
            answered_by: NodeName::new("n1"),
            not_leader_view: None,
            cluster: Some(ClusterId(1)),
            healthy: true,
            reasons: Vec::new(),
            failure_tolerance: 1,
            leader: Some(NodeName::new("n1")),
            term: Term(2),
            commit_index: Index(9),
            last: LogId::new(Index(9), Term(2)),
            members,
            membership: MembershipStatus::default(),
        }
    }

    fn judged(own: u64, departure: Departure, change: impl Fn(&mut ClusterStatus)) -> Vec<String> {
        let mut status = cluster((1..=3).map(voter).collect());
        change(&mut status);
        without(&status, &NodeName::new(format!("n{own}")), departure)
    }

    #[test]
    fn one_of_three_may_go_and_a_second_may_not() {
        assert_eq!(judged(1, Departure::Stays, |_| {}), Vec::<String>::new());
        let silent = judged(1, Departure::Stays, |status| status.members[1].unreachable = Some("timed out".into()));
        assert_eq!(
            silent,
            ["of 3 voters 2 are needed, and without n1 there are 1: n2 cannot be asked (timed out)"],
            "two of three"
        );
        for change in [
            (|member: &mut MemberStatus| member.phase = Some("replaying".into())) as fn(&mut MemberStatus),
            |member| member.lag_entries = Some(HEALTHY_LAG_ENTRIES_MAX + 1),
            |member| member.departure = Departure::Cleared,
            |member| member.departure = Departure::Drained,
        ] {
            assert_eq!(judged(1, Departure::Stays, |status| change(&mut status.members[1])).len(), 1);
        }
    }

    #[test]
    fn who_serves_nobody_may_go() {
        assert!(judged(1, Departure::Stays, |status| status.cluster = None).is_empty());
        assert!(judged(7, Departure::Stays, |_| {}).is_empty(), "no member");
        let learner = |status: &mut ClusterStatus| {
            (status.members[0].standing, status.members[0].next) = (Standing::Learner, Standing::Learner);
            status.members[1].unreachable = Some("gone".into());
        };
        assert!(judged(1, Departure::Stays, learner).is_empty());
    }

    #[test]
    fn without_a_leader_nobody_can_tell() {
        let reasons = judged(1, Departure::Stays, |status| status.not_leader_view = Some("no leader is known".into()));
        assert_eq!(reasons, ["nobody can tell whether the others are a quorum: no leader is known"]);
    }

    #[test]
    fn the_only_voter_is_told_so() {
        let reasons = judged(1, Departure::Stays, |status| status.members.truncate(1));
        assert_eq!(reasons, ["n1 is the only voter: without it nothing is served"]);
        assert!(judged(1, Departure::Cleared, |status| status.members.truncate(1)).is_empty(), "nobody to wait for");
    }

    #[test]
    fn in_a_joint_change_both_halves_need_their_quorum() {
        // n1 to n3 become n3 to n5, and n4 is silent.
        let reasons = judged(3, Departure::Stays, |status| {
            status.members.extend([voter(4), voter(5)]);
            for member in &mut status.members[..2] {
                member.next = Standing::Outside;
            }
            for member in &mut status.members[3..] {
                member.standing = Standing::Outside;
            }
            status.members[3].unreachable = Some("silent".into());
        });
        assert_eq!(reasons, ["of 3 voters 2 are needed, and without n3 there are 1: n4 cannot be asked (silent)"]);
    }

    #[test]
    fn of_two_that_are_drained_the_lesser_name_comes_first() {
        let drained =
            |number: usize| move |status: &mut ClusterStatus| status.members[number].departure = Departure::Drained;
        assert!(judged(1, Departure::Cleared, drained(1)).is_empty(), "n2 waits for n1");
        assert_eq!(judged(2, Departure::Cleared, drained(0)).len(), 1, "n1 comes first");
        // Whoever was told that it may is counted as gone, whatever its name.
        let cleared = |status: &mut ClusterStatus| status.members[1].departure = Departure::Cleared;
        assert_eq!(judged(1, Departure::Cleared, cleared).len(), 1);
    }
}
