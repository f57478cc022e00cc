//! The cluster in one answer for a person: what the leader sees, and what every member says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_core::membership::{self, Configuration, Standing};
use raft_core::status::{PeerProgress, Role, Status};
use raft_core::types::{NodeId, NodeName};
use tokio::task::JoinSet;

use crate::marks::Mismatch;
use crate::members::{Known, change};
use crate::requests::{NodeAnswer, NodeRequest, Report};
use crate::shared::{Shared, describe};
use crate::snapshots::{MemberSnapshot, MemberStage};
use crate::status::{ClusterStatus, Member, MemberStatus, MembershipStatus, Phase};
use crate::stop_check;

/// How long one member is waited for.
const REPORT_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// A member that is further behind than this is named as a reason for concern.
pub(crate) const HEALTHY_LAG_ENTRIES_MAX: u64 = 10_000;

/// This node by its own word.
pub(crate) fn report(shared: &Shared) -> Report {
    let view = shared.view();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        phase: shared.phase.borrow().name().to_owned(),
        role: view.status.role,
        applied_index: view.status.applied_index,
        storage_sync: shared.config.storage_sync,
        fenced: shared.marks.fence_held().map(|fence| fence.mark),
        rebuilding: shared.marks.status().rebuilding,
        read_lease: view.status.leases.clone().after(view.taken.elapsed()).valid,
        departure: stop_check::departure(shared),
    }
}

/// See [`NodeHandle::cluster_status`](crate::handle::NodeHandle::cluster_status).
pub(crate) async fn cluster_status(shared: &Arc<Shared>, timeout: Duration) -> ClusterStatus {
    if shared.founded.get().is_none() || shared.leadership.borrow().leads {
        return gather(shared, timeout, None).await;
    }
    let Some(Member { name, .. }) = shared.leader() else {
        return gather(shared, timeout, Some("no leader is known".into())).await;
    };
    // The leader waits for members that are silent. It has to answer before its own time is over, whoever is silent.
    let request = NodeRequest::Cluster { timeout: timeout / 8 * 3 };
    let reason = match shared.transport.request(&name, request.encode(), timeout / 2).await.map(NodeAnswer::decode) {
        Ok(Ok(NodeAnswer::Cluster(status))) => return status,
        Ok(Ok(NodeAnswer::Failure(why))) => why,
        Ok(Ok(_)) => "it answered something else".into(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    gather(shared, timeout / 2, Some(format!("the leader {name} cannot be asked: {reason}"))).await
}

/// This node's view, completed by what every other member says of itself.
pub(crate) async fn gather(shared: &Arc<Shared>, timeout: Duration, not_leader: Option<String>) -> ClusterStatus {
    let view = shared.view();
    let status = &view.status;
    let not_leader_view = not_leader.or_else(|| match &*shared.phase.borrow() {
        phase @ (Phase::Founding { .. } | Phase::Failed(_)) => Some(describe(phase)),
        _ if status.role != Role::Leader => Some("this node does not lead".into()),
        _ => None,
    });
    let known = shared.members.now();
    let members: Vec<Member> = known.list.iter().map(|member| Member::clone(member)).collect();
    let mut reports = ask_all(shared, &members, timeout.min(REPORT_TIMEOUT_MAX)).await;
    reports.insert(shared.name.clone(), Ok(report(shared)));
    let members: Vec<MemberStatus> =
        members.into_iter().map(|member| member_status(shared, &known, status, member, &mut reports)).collect();

    let leader = status.leader.and_then(|id| shared.member(id)).map(|member| member.name.clone());
    let tolerance = tolerance(&known.configuration, &members);
    let mut reasons = match shared.removed() {
        // The others are silent to it, and nothing follows from that.
        Some(_) => Vec::new(),
        None => reasons(&members, leader.as_ref(), not_leader_view.as_deref(), tolerance.is_some()),
    };
    reasons.extend(membership_reasons(shared, &known));
    reasons.extend(state_reasons(&members, shared.marks.status().mismatch.as_ref()));
    ClusterStatus {
        answered_by: shared.name.clone(),
        not_leader_view,
        cluster: shared.cluster(),
        healthy: reasons.is_empty(),
        reasons,
        failure_tolerance: tolerance.unwrap_or_default(),
        leader,
        term: status.term,
        commit_index: status.commit_index,
        last: status.last,
        members,
        membership: membership(shared, &known),
    }
}

/// How many more voters may fail; none when those that answer are no quorum. While the configuration is joint, both
/// halves need theirs.
fn tolerance(configuration: &Configuration, members: &[MemberStatus]) -> Option<u32> {
    let up = |id: &NodeId| members.iter().any(|member| member.member.id == *id && member.unreachable.is_none());
    let of = |voters: &[NodeId]| voters.iter().filter(|id| up(id)).count().checked_sub(voters.len() / 2 + 1);
    let new = of(configuration.voters());
    let spare = if configuration.is_joint() { new.min(of(configuration.outgoing())) } else { new };
    spare.map(|spare| u32::try_from(spare).unwrap_or(u32::MAX))
}

fn membership(shared: &Shared, known: &Known) -> MembershipStatus {
    let configuration = &known.configuration;
    let settled = configuration.phase() == membership::Phase::Settled;
    MembershipStatus {
        index: configuration.index(),
        committed: known.is_committed,
        phase: configuration.phase().name().to_owned(),
        change: configuration.change(),
        leads_to: if settled { String::new() } else { change::describe(known) },
        pending: shared.members.pending(),
    }
}

/// What of the membership is on its way, or has no end.
fn membership_reasons(shared: &Shared, known: &Known) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(entry) = shared.removed() {
        reasons.push(format!("{} was removed from the cluster by entry {entry}", shared.name));
    }
    if known.configuration.phase() != membership::Phase::Settled {
        reasons.push(format!(
            "a change of the members is under way ({}) since entry {}: {}",
            known.configuration.phase().name(),
            known.configuration.change(),
            change::describe(known)
        ));
    }
    for pending in shared.members.pending() {
        let why = pending.reason.as_deref().unwrap_or("its admission is being committed");
        reasons.push(format!("{} is no member yet: {why}", pending.name));
    }
    reasons
}

async fn ask_all(
    shared: &Arc<Shared>,
    members: &[Member],
    timeout: Duration,
) -> BTreeMap<NodeName, Result<Report, String>> {
    let mut asking = JoinSet::new();
    for name in members.iter().map(|member| member.name.clone()).filter(|name| *name != shared.name) {
        let shared = shared.clone();
        asking.spawn(async move {
            let asked = shared.transport.request(&name, NodeRequest::Report.encode(), timeout).await;
            let report = match asked.map(NodeAnswer::decode) {
                Ok(Ok(NodeAnswer::Report(report))) => Ok(report),
                Ok(Ok(NodeAnswer::Failure(why))) => Err(why),
                Ok(Ok(_)) => Err("it answered something else".into()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            (name, report)
        });
    }
    let mut reports = BTreeMap::new();
    while let Some(asked) = asking.join_next().await {
        if let Ok((name, report)) = asked {
            reports.insert(name, report);
        }
    }
    reports
}

fn member_status(
    shared: &Shared,
    known: &Known,
    status: &Status,
    member: Member,
    reports: &mut BTreeMap<NodeName, Result<Report, String>>,
) -> MemberStatus {
    let seat = known.configuration.seat(member.id);
    let leads = |id: NodeId| status.role == Role::Leader && id == status.id;
    let progress: Option<&PeerProgress> = status.peers.iter().find(|peer| peer.id == member.id);
    let (match_index, last_contact) = match progress {
        Some(progress) => (Some(progress.match_index), progress.last_contact),
        None if leads(member.id) => (Some(status.durable_index), Some(Duration::ZERO)),
        None => (None, None),
    };
    // While one disk replaces another under the same name, the newer one answers to it.
    let replaced = known.named(&member.name).filter(|newest| newest.id != member.id);
    let answered = if replaced.is_none() { reports.remove(&member.name) } else { None };
    let (report, unreachable) = match answered {
        Some(Ok(report)) => (Some(report), None),
        Some(Err(why)) => (None, Some(why)),
        None => {
            let lost = replaced.map(|newest| format!("its disk is lost; {} takes its place", newest.id));
            (None, Some(lost.unwrap_or_else(|| "it was not asked".into())))
        }
    };
    MemberStatus {
        voter: known.configuration.is_voter(member.id),
        standing: seat.map_or(Standing::Outside, |seat| seat.now),
        next: seat.map_or(Standing::Outside, |seat| seat.next),
        promotes: seat.is_some_and(|seat| seat.promotes),
        caught_up_for: progress.and_then(|progress| progress.caught_up_for),
        role: report.as_ref().map(|report| report.role),
        match_index,
        applied_index: report.as_ref().map(|report| report.applied_index),
        lag_entries: match_index.map(|matched| status.last.index.since(matched)),
        last_contact,
        version: report.as_ref().map(|report| report.version.clone()),
        process_id: report.as_ref().map(|report| report.process_id),
        storage_sync: report.as_ref().map(|report| report.storage_sync),
        snapshot: progress.and_then(|progress| shared.snapshots.of_member(progress)),
        fenced: report.as_ref().and_then(|report| report.fenced),
        rebuilding: report.as_ref().is_some_and(|report| report.rebuilding),
        read_lease: report.as_ref().map(|report| report.read_lease),
        departure: report.as_ref().map(|report| report.departure).unwrap_or_default(),
        phase: report.map(|report| report.phase),
        unreachable,
        member,
    }
}

fn describe_snapshot(snapshot: &MemberSnapshot) -> String {
    match snapshot.stage {
        MemberStage::Waiting => "waited for".into(),
        MemberStage::Sending => format!("on its way ({:.0} %)", snapshot.progress.ratio() * 100.0),
        MemberStage::Installing => "being installed".into(),
    }
}

/// What is wrong, one sentence each.
fn reasons(
    members: &[MemberStatus],
    leader: Option<&NodeName>,
    not_leader_view: Option<&str>,
    quorum_up: bool,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(why) = not_leader_view {
        reasons.push(format!("this is not the leader's view: {why}"));
    }
    if leader.is_none() {
        reasons.push("no leader is known, so nothing can be written".into());
    }
    if !quorum_up {
        reasons.push("fewer members answer than a quorum needs".into());
    }
    for member in members {
        let name = &member.member.name;
        if let Some(why) = &member.unreachable {
            reasons.push(format!("{name} cannot be asked: {why}"));
        }
        if let Some(lag) = member.lag_entries.filter(|lag| *lag > HEALTHY_LAG_ENTRIES_MAX) {
            reasons.push(format!("{name} is {lag} entries behind"));
        }
        if let Some(snapshot) = &member.snapshot {
            reasons.push(format!("{name} needs a snapshot, which is {}", describe_snapshot(snapshot)));
        }
        if let Some(phase) = member.phase.as_deref().filter(|phase| *phase != "running") {
            reasons.push(format!("{name} is {phase}"));
        }
    }
    reasons
}

/// Whose state is not that of the others, or is being replaced.
fn state_reasons(members: &[MemberStatus], mismatch: Option<&Mismatch>) -> Vec<String> {
    let mut reasons = Vec::new();
    for member in members {
        let name = &member.member.name;
        match member.fenced {
            _ if member.rebuilding => reasons.push(format!("the state of {name} is being rebuilt from a snapshot")),
            Some(mark) => reasons.push(format!(
                "{name} is fenced: its state differs from that of the majority since mark {mark}; \
                 rebuild it with POST /v1/node/rebuild"
            )),
            None => {}
        }
    }
    match mismatch {
        Some(Mismatch { mark, members: names, majority: true }) => {
            // Those that fenced themselves are named above.
            let known = |name: &&NodeName| {
                members
                    .iter()
                    .any(|member| member.member.name == **name && (member.fenced.is_some() || member.rebuilding))
            };
            let differ = names.iter().filter(|name| !known(name));
            reasons
                .extend(differ.map(|name| format!("the state of {name} differed from the majority's at mark {mark}")));
        }
        Some(Mismatch { mark, members: names, majority: false }) => {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let names = names.join(", ");
            reasons
                .push(format!("the states of {names} differ at mark {mark}, and no majority agrees: none is fenced"));
        }
        None => {}
    }
    reasons
}
