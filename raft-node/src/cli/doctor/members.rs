//! Who belongs to the cluster, who leads it, and who is missing.

use raft_node::http::view::{ClusterView, MemberView, NodeView};

use super::Thresholds;
use super::cluster::Cluster;
use super::finding::{Check, Report};

/// Judges members and nodes.
pub(super) fn examine(cluster: &Cluster, thresholds: &Thresholds, report: &mut Report) {
    cluster.nodes().for_each(|node| examine_node(node, report));
    let Some(view) = cluster.view.as_ref().filter(|view| view.cluster.is_some()) else { return };
    examine_leader(cluster, view, report);
    for member in &view.members {
        if is_down(cluster, member) {
            report_down(view, member, report);
        }
        if let Some(lag) = member.lag.filter(|lag| *lag > thresholds.lag_max) {
            report.find(
                Check::MemberLags,
                format!("{} is far behind its leader", member.name),
                member.api_address.as_str(),
                format!("{lag} entries; it has {}", member.match_index.unwrap_or_default()),
                "raft-node status --watch: does it shrink? If not look at that node's disk and network \
                 (raft_peer_rtt_seconds, raft_log_sync_duration_seconds)",
            );
        }
        if let Some(mark) = member.fenced.filter(|_| !member.rebuilding) {
            let evidence = format!("its state has differed from the majority's since mark {mark}");
            let fix = format!("curl -X POST {}/v1/node/rebuild", member.api_address);
            let what = format!("the state of {} is not that of the others", member.name);
            report.find(Check::StateDiffers, what, member.api_address.as_str(), evidence, fix);
        }
    }
    examine_votes(cluster, view, report);
}

/// Whether neither its peers nor we hear of it.
fn is_down(cluster: &Cluster, member: &MemberView) -> bool {
    member.unreachable.is_some() && !cluster.nodes().any(|node| node.incarnation == member.incarnation)
}

fn report_down(view: &ClusterView, member: &MemberView, report: &mut Report) {
    let (name, what) = (&member.name, if member.voter { "voter" } else { "learner" });
    let why = member.unreachable.as_deref().unwrap_or_default();
    let last = member.last_contact_ms.map_or(String::new(), |ms| format!("; last heard {ms} ms ago"));
    report.find(
        Check::MemberDown,
        format!("{what} {name} is down"),
        format!("{} (peers: {})", member.api_address, member.peer_address),
        format!("{} asked it over the peers' network: {why}{last}", view.answered_by),
        format!(
            "start it: raft-node start --config F, on its machine. If it is gone for good: raft-node members remove \
             {name}, or start a node with a blank disk under its name, which takes its place"
        ),
    );
}

fn examine_leader(cluster: &Cluster, view: &ClusterView, report: &mut Report) {
    if view.leader.is_some() || cluster.nodes().any(|node| node.leader.is_some()) {
        return;
    }
    let voters: Vec<&MemberView> = view.members.iter().filter(|member| member.voter).collect();
    let down: Vec<&str> =
        voters.iter().filter(|member| is_down(cluster, member)).map(|member| member.name.as_str()).collect();
    let (quorum, up) = (voters.len() / 2 + 1, voters.len() - down.len());
    let evidence = format!("{up} of {} voters answer, and {quorum} are needed; nobody knows a leader", voters.len());
    let fix = if up < quorum {
        format!(
            "start {}: raft-node start --config F, on their machines; as soon as {quorum} run they elect one",
            down.join(", ")
        )
    } else {
        "enough voters run: they do not reach each other over UDP, or their disks are too slow for the election \
         timeout; see what else was found"
            .to_owned()
    };
    report.find(Check::NoLeader, "the cluster has no leader, so nothing can be written", "the cluster", evidence, fix);
}

/// How many failures the voters survive.
fn examine_votes(cluster: &Cluster, view: &ClusterView, report: &mut Report) {
    let voters: Vec<&MemberView> = view.members.iter().filter(|member| member.voter).collect();
    let names: Vec<&str> = voters.iter().map(|member| member.name.as_str()).collect();
    let (all, up) = (voters.len(), voters.iter().filter(|member| !is_down(cluster, member)).count());
    if all > 0 && all.is_multiple_of(2) {
        report.find(
            Check::EvenVoters,
            format!("{all} voters survive no more failures than {} do", all - 1),
            "the cluster",
            format!("voters: {}", names.join(", ")),
            format!(
                "add one: raft-node members add NAME (or start it: it joins by itself); or let one only learn: \
                 raft-node members demote {}",
                names.last().copied().unwrap_or_default()
            ),
        );
    }
    // Without a leader that is what there is to say.
    if view.leader.is_some() && up.saturating_sub(all / 2 + 1) == 0 {
        let fix = if all < 3 {
            "run three voters: start two more nodes with these in their bootstrap; they join by themselves".to_owned()
        } else {
            "bring back or replace the voters that are down; see what else was found".to_owned()
        };
        report.find(
            Check::NoFaultTolerance,
            "one more failure stops the cluster",
            "the cluster",
            format!("{up} of {all} voters are up, and {} are needed", all / 2 + 1),
            fix,
        );
    }
}

/// What a node says of itself.
fn examine_node(node: &NodeView, report: &mut Report) {
    let place = || format!("{} ({})", node.name, node.api_address);
    if node.phase == "failed" || node.disk_failed.is_some() {
        let mut evidence = node.phase_detail.join("; ");
        evidence.push_str(node.disk_failed.as_deref().unwrap_or_default());
        let fix = "read its log for the call that failed; make room or replace the disk, then start it";
        report.find(Check::NodeFailed, format!("{} has failed", node.name), place(), evidence, fix);
    }
    if node.draining {
        report.find(
            Check::NodeDrained,
            format!("{} is drained: it takes no requests and does not lead", node.name),
            place(),
            "it was told so by `drain` or `pre-stop`, and still runs",
            format!("raft-node drain --end --endpoint {}", node.api_address),
        );
    }
    if let Some(entry) = node.removed {
        report.find(
            Check::NodeRemoved,
            format!("{} was removed from its cluster and still runs", node.name),
            place(),
            format!("entry {entry} of the log removed it"),
            "stop it; to take it in again, start it with a blank data_dir",
        );
    }
    if !node.storage_sync {
        report.find(
            Check::StorageSyncOff,
            format!("{} may lose acknowledged writes with the power", node.name),
            place(),
            "it runs with storage.sync = false",
            "set storage.sync = true (RAFT_STORAGE_SYNC=true) there, and restart it",
        );
    }
    if node.phase == "founding" {
        examine_founding(node, place(), report);
    }
}

fn examine_founding(node: &NodeView, place: String, report: &mut Report) {
    let evidence = node.phase_detail.join("\n");
    if node.phase_detail.iter().any(|line| line.contains("has another bootstrap list")) {
        report.find(
            Check::BootstrapDiffers,
            format!("{} founds no cluster: its list of founders is not that of the others", node.name),
            place,
            evidence,
            "give all founders the same bootstrap (RAFT_BOOTSTRAP), name by name; start those again that had another",
        );
        return;
    }
    report.find(
        Check::FoundingWaits,
        format!("{} belongs to no cluster yet", node.name),
        place,
        evidence,
        "start those whom it waits for, all of them: one that is silent may hold the only data; correct bootstrap \
         where it names somebody who does not exist",
    );
}
