//! Members come and go: nodes of in-memory parts in one process.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod in_memory;

use std::time::{Duration, Instant};

use bytes::Bytes;
use in_memory::{Cluster, Disk, PATIENCE, config, eventually, put, try_start, value};
use raft_core::membership::{Phase, Standing};
use raft_core::types::{NodeId, NodeName};
use raft_node::handle::{Consistency, ReadFailure};
use raft_node::members::{MembersAsk, MembersDone, MembersError, MembersOptions, MembersProblem};
use raft_node::{NodeConfig, NodeHandle};

const THREE: [&str; 3] = ["n1", "n2", "n3"];

fn name(name: &str) -> NodeName {
    NodeName::new(name)
}

fn options() -> MembersOptions {
    MembersOptions { timeout: PATIENCE, less_tolerance: false, force: false }
}

fn smaller() -> MembersOptions {
    MembersOptions { less_tolerance: true, ..options() }
}

fn set(voters: &[&str]) -> MembersAsk {
    MembersAsk::Set { voters: voters.iter().map(NodeName::new).collect(), learners: Vec::new() }
}

fn add(who: &str, voter: bool) -> MembersAsk {
    MembersAsk::Add { name: name(who), peer_address: format!("{who}:7082"), api_address: String::new(), voter }
}

/// So patient that a busy machine causes no election, for tests in which one would change what is seen.
fn patient(config: &mut NodeConfig) {
    config.raft.election_timeout = Duration::from_secs(2);
    config.raft.disk_stall_timeout = Duration::from_secs(4);
    config.raft.heartbeat_interval = Duration::from_millis(40);
}

fn patient_config(name: &str, list: &[&str]) -> NodeConfig {
    let mut config = config(name, list);
    patient(&mut config);
    config
}

/// Names and standings, as a node sees them, once the configuration is settled and committed.
fn members(node: &NodeHandle) -> Option<Vec<(String, Standing)>> {
    let status = node.status();
    let configuration = &status.raft.configuration;
    if configuration.phase() != Phase::Settled || !status.raft.configuration_committed {
        return None;
    }
    let name = |id: NodeId| status.members.iter().find(|member| member.id == id).unwrap().name.to_string();
    Some(configuration.seats().iter().map(|seat| (name(seat.id), seat.now)).collect())
}

fn voters(names: &[&str]) -> Option<Vec<(String, Standing)>> {
    Some(names.iter().map(|name| ((*name).to_owned(), Standing::Voter)).collect())
}

/// Has a change made. On a busy machine somebody may seem to be silent for a moment.
async fn done(node: &NodeHandle, ask: MembersAsk, options: MembersOptions) -> MembersDone {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let passes = |error: &MembersError| {
            error.problem == MembersProblem::Cancelled
                || (error.problem == MembersProblem::Preflight && error.text.contains("silent"))
        };
        match node.change_members(ask.clone(), options).await {
            Err(error) if passes(&error) && Instant::now() < deadline => {}
            ended => return ended.unwrap_or_else(|error| panic!("{ask:?}: {error}")),
        }
    }
}

async fn refused(node: &NodeHandle, ask: MembersAsk, options: MembersOptions) -> MembersError {
    node.change_members(ask, options).await.unwrap_err()
}

#[tokio::test]
async fn a_node_whose_list_names_a_cluster_joins_and_votes() {
    let cluster = Cluster::start(&THREE).await;
    put(&cluster.nodes[0], "a", "1").await.unwrap();
    let n4 = try_start(&cluster.net, &Disk::blank("n4"), config("n4", &["n2"])).await.unwrap();
    n4.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(n4.status().id, Some(NodeId(4)));
    let all = voters(&["n1", "n2", "n3", "n4"]);
    eventually("all see four voters", async || {
        members(&n4) == all && cluster.nodes.iter().all(|node| members(node) == all)
    })
    .await;
    assert_eq!(value(&n4, "a", Consistency::Linearizable).await, "1");
    put(&n4, "b", "2").await.unwrap();
    assert_eq!(value(&cluster.nodes[1], "b", Consistency::Linearizable).await, "2");
}

#[tokio::test]
async fn a_member_that_is_asked_for_is_proposed_once_it_is_heard() {
    let cluster = Cluster::start_tuned(&THREE, patient).await;
    let follower = &cluster.nodes[cluster.follower().await];
    let soon = MembersOptions { timeout: Duration::from_millis(300), ..options() };
    eventually("n4 to be waited for", async || {
        follower.change_members(add("n4", false), soon).await.is_ok_and(|done| done.pending)
    })
    .await;
    let shown = follower.cluster_status(PATIENCE).await;
    assert_eq!(shown.membership.pending.len(), 1);
    assert!(shown.reasons.iter().any(|reason| reason.contains("n4")), "{:?}", shown.reasons);

    let n4 = try_start(&cluster.net, &Disk::blank("n4"), patient_config("n4", &THREE)).await.unwrap();
    let added = done(follower, add("n4", false), options()).await;
    assert!(!added.pending);
    n4.wait_ready(PATIENCE).await.unwrap();
    // It was asked for as a learner: its own wish to vote does not count.
    let learner = |name: &str| (name.to_owned(), Standing::Learner);
    let expected = voters(&THREE).map(|mut all| {
        all.push(learner("n4"));
        all
    });
    eventually("n4 learns", async || members(&n4) == expected).await;
    assert!(!done(follower, add("n4", false), options()).await.changed, "it is so already");

    assert!(done(follower, MembersAsk::Promote(name("n4")), options()).await.changed);
    eventually("n4 votes", async || members(&n4) == voters(&["n1", "n2", "n3", "n4"])).await;
    assert!(!done(follower, MembersAsk::Promote(name("n4")), options()).await.changed);
    assert!(done(follower, MembersAsk::Demote(name("n4")), options()).await.changed);
    eventually("n4 learns again", async || members(&n4) == expected).await;
    assert!(done(follower, MembersAsk::Remove(name("n4")), options()).await.changed);
    n4.removed().await;
    let told = |node: &NodeHandle, what: &str| node.events(100).iter().any(|event| event.text.contains(what));
    eventually("what happened to be told", async || {
        told(follower, "n1, n2, n3 vote, n4 learn (settled, committed)")
            && told(follower, "n1, n2, n3 vote (settled, committed)")
            && told(&n4, "n4 joins the cluster as n4")
            && told(&n4, "n4 was removed from the cluster")
    })
    .await;
    let again = refused(follower, MembersAsk::Remove(name("n4")), options()).await;
    assert_eq!(again.problem, MembersProblem::UnknownMember);
    assert!(n4.ready().unwrap_err().contains("removed"), "{:?}", n4.ready());
}

#[tokio::test]
async fn three_are_replaced_by_three_others_in_one_request() {
    let cluster = Cluster::start(&THREE).await;
    put(&cluster.nodes[0], "a", "1").await.unwrap();
    let mut others = Vec::new();
    for name in ["n4", "n5", "n6"] {
        let mut config = config(name, &THREE);
        config.join_voter = false;
        others.push(try_start(&cluster.net, &Disk::blank(name), config).await.unwrap());
    }
    for other in &others {
        other.wait_ready(PATIENCE).await.unwrap();
    }
    assert!(done(&cluster.nodes[1], set(&["n4", "n5", "n6"]), options()).await.changed);
    eventually("the others lead", async || others.iter().all(|node| members(node) == voters(&["n4", "n5", "n6"])))
        .await;
    for node in &cluster.nodes {
        node.removed().await;
    }
    assert_eq!(value(&others[0], "a", Consistency::Linearizable).await, "1");
    put(&others[2], "b", "2").await.unwrap();
    // They found the cluster by nodes that are gone, and find each other again without them.
    assert!(done(&others[1], set(&["n5"]), smaller()).await.changed);
    eventually("one is left", async || members(&others[1]) == voters(&["n5"])).await;
    put(&others[1], "c", "3").await.unwrap();
}

#[tokio::test]
async fn a_wiped_disk_comes_back_under_its_name_by_itself() {
    let mut cluster = Cluster::start(&THREE).await;
    put(&cluster.nodes[0], "a", "1").await.unwrap();
    let lost = cluster.follower().await;
    let lost_name = THREE[lost];
    let node = cluster.nodes.remove(lost);
    node.stop().await.unwrap();
    drop(node);
    let back = try_start(&cluster.net, &Disk::blank(lost_name), config(lost_name, &THREE)).await.unwrap();
    back.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(back.status().id, Some(NodeId(4)), "a new id: the old one's promises are gone");
    eventually("it votes in the place of the old one", async || {
        let mut names: Vec<String> = members(&back).into_iter().flatten().map(|(name, _)| name).collect();
        names.sort();
        names == THREE && back.status().raft.configuration.voters().contains(&NodeId(4))
    })
    .await;
    assert_eq!(value(&back, "a", Consistency::Linearizable).await, "1");
}

#[tokio::test]
async fn a_disk_that_is_lost_before_it_has_caught_up_is_given_up_for_the_next_one() {
    let mut cluster = Cluster::start_tuned(&THREE, patient).await;
    let leader = cluster.leader().await;
    let lost = cluster.follower().await;
    let by = THREE[cluster.others(lost).find(|at| *at != leader).unwrap()];
    let node = cluster.nodes.remove(lost);
    node.stop().await.unwrap();
    // It is admitted by way of the other follower; the leader cannot reach it, so it never catches up.
    cluster.net.cut(&name(THREE[lost]), &name(THREE[leader]));
    let first = try_start(&cluster.net, &Disk::blank(THREE[lost]), patient_config(THREE[lost], &[by])).await.unwrap();
    eventually("its first disk to be admitted", async || first.status().id == Some(NodeId(4))).await;
    first.stop().await.unwrap();
    let shown = cluster.nodes[0].cluster_status(PATIENCE).await;
    let old = shown.members.iter().find(|shown| shown.member.name == name(THREE[lost])).unwrap();
    assert_eq!(old.unreachable.as_deref(), Some("its disk is lost; n4 takes its place"));
    cluster.net.heal(&name(THREE[lost]), &name(THREE[leader]));
    let second = try_start(&cluster.net, &Disk::blank(THREE[lost]), patient_config(THREE[lost], &[by])).await.unwrap();
    eventually("its second disk to vote", async || {
        let configuration = second.status().raft.configuration;
        configuration.phase() == Phase::Settled && configuration.voters().contains(&NodeId(5))
    })
    .await;
}

#[tokio::test]
async fn what_would_lose_the_quorum_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(&THREE).await;
    let lost = cluster.follower().await;
    cluster.nodes.remove(lost).stop().await.unwrap();
    // It passes on to whoever leads.
    let asked = &cluster.nodes[0];
    let survivor = THREE[lost];
    eventually("the leader misses it", async || {
        let error = refused(asked, set(&[survivor]), smaller()).await;
        error.problem == MembersProblem::Preflight && error.text.contains("silent") && error.text.contains(survivor)
    })
    .await;
    // One that was begun before the leader missed it was taken back.
    eventually("all three vote", async || members(asked) == voters(&THREE)).await;
}

#[tokio::test]
async fn a_removed_node_that_is_started_again_and_again_disturbs_nobody() {
    let mut cluster = Cluster::start_tuned(&THREE, patient).await;
    let removed = cluster.follower().await;
    let leader_at = cluster.leader().await;
    // It is cut off when it is removed, so that its own log does not say so.
    cluster.cut_off(removed);
    done(&cluster.nodes[leader_at], MembersAsk::Remove(name(THREE[removed])), smaller()).await;
    // Nor does the leader tell it any more: it has to ask.
    eventually("the leader forgets it", async || {
        cluster.nodes[leader_at].status().peers.iter().all(|(peer, _)| *peer != name(THREE[removed]))
    })
    .await;
    // Whoever waits there for a leader waits no longer than until it knows.
    let (asked, query) = (cluster.nodes[removed].clone(), Bytes::from_static(b"size"));
    let hour = Duration::from_secs(3600);
    let waits = tokio::spawn(async move { asked.read(query, Consistency::Linearizable, hour).await });
    cluster.heal(removed);
    cluster.nodes[removed].removed().await;
    let ended = tokio::time::timeout(PATIENCE, waits).await.expect("it ends").unwrap();
    assert!(matches!(&ended, Err(ReadFailure::NotReady(why)) if why.contains("removed")), "{ended:?}");
    let rule = |node: &NodeHandle| (node.status().raft.term, node.status().raft.counters.leader_changes);
    let before = rule(&cluster.nodes[leader_at]);
    // Each waits for a leader first, which takes its time; real processes do it more often.
    for _ in 0..3 {
        cluster.restart(removed).await;
        cluster.nodes[removed].removed().await;
        assert_eq!(cluster.nodes[removed].status().raft.counters.elections_started, 0);
    }
    assert_eq!(rule(&cluster.nodes[leader_at]), before, "term and leader changes");
    put(&cluster.nodes[leader_at], "a", "1").await.unwrap();
}

#[tokio::test]
async fn a_member_that_moved_tells_the_others() {
    let mut cluster = Cluster::start(&THREE).await;
    let moved = cluster.follower().await;
    let mut config = config(THREE[moved], &THREE);
    config.peer_address = "elsewhere:7082".into();
    config.api_address = "http://elsewhere:7080".into();
    cluster.nodes[moved] = try_start(&cluster.net, &cluster.disks[moved], config).await.unwrap();
    eventually("all know the new address", async || {
        cluster.nodes.iter().all(|node| {
            let status = node.status();
            status.member(&name(THREE[moved])).is_some_and(|member| member.peer_address == "elsewhere:7082")
        })
    })
    .await;
}

#[tokio::test]
async fn one_that_joined_and_knows_only_who_has_left_asks_whom_its_list_names() {
    let cluster = Cluster::start(&["n1"]).await;
    let mut others = Vec::new();
    for name in ["n2", "n3"] {
        others.push(try_start(&cluster.net, &Disk::blank(name), config(name, &["n1"])).await.unwrap());
    }
    eventually("three vote", async || members(&cluster.nodes[0]) == voters(&THREE)).await;
    done(&others[0], MembersAsk::Remove(name("n1")), smaller()).await;
    cluster.nodes[0].removed().await;
    cluster.nodes[0].stop().await.unwrap();
    let leads = |node: &NodeHandle| node.status().raft.leader == node.status().id;
    eventually("one of the others to lead", async || others.iter().any(leads)).await;
    let (leader, follower) = if leads(&others[0]) { ("n2", "n3") } else { ("n3", "n2") };
    // It is admitted by way of the follower, and its log never comes: the founding record is all that it has.
    let disk = Disk::blank("n4");
    cluster.net.cut(&name("n4"), &name(leader));
    let mut listed = config("n4", &[follower]);
    listed.join_voter = false;
    let n4 = try_start(&cluster.net, &disk, listed.clone()).await.unwrap();
    eventually("n4 to be admitted", async || n4.status().id == Some(NodeId(4))).await;
    n4.stop().await.unwrap();
    let n4 = try_start(&cluster.net, &disk, listed).await.unwrap();
    cluster.net.heal(&name("n4"), &name(leader));
    eventually("n4 to find the others", async || members(&n4).is_some_and(|found| found.len() == 3)).await;
}

/// Whom to ask for the leadership says the configuration in force: one that joined, and none that only founded.
#[tokio::test]
async fn the_leadership_goes_to_one_that_joined_and_to_no_one_that_left() {
    let cluster = Cluster::start(&["n1"]).await;
    let n1 = &cluster.nodes[0];
    let unknown = n1.hand_over(Some(&name("n2")), PATIENCE).await.unwrap_err();
    assert!(unknown.to_string().contains("there are n1"), "{unknown}");
    let n2 = try_start(&cluster.net, &Disk::blank("n2"), config("n2", &["n1"])).await.unwrap();
    eventually("n2 to vote", async || members(n1) == voters(&["n1", "n2"])).await;
    let warned = |node: &NodeHandle| node.events(100).iter().any(|event| event.text.contains("names no other member"));
    eventually("n1 to warn of its list", async || warned(n1)).await;
    assert!(!warned(&n2));
    // It founded the cluster alone, and is not alone any more: it waits for the other one to lead.
    let begin = Instant::now();
    let moved = n1.drain().await;
    assert!(moved || begin.elapsed() >= config("n1", &["n1"]).raft.election_timeout);
    let leads = |node: &NodeHandle| node.status().raft.leader == node.status().id;
    eventually("n2 to lead", async || leads(&n2)).await;
    n1.end_drain().await;
    // Its word that it may lead again has to arrive first.
    eventually("n1 to be asked", async || n2.hand_over(Some(&name("n1")), PATIENCE).await.is_ok()).await;
    eventually("n2 to be asked", async || n1.hand_over(Some(&name("n2")), PATIENCE).await.is_ok()).await;
    done(&n2, MembersAsk::Remove(name("n1")), smaller()).await;
    let gone = n2.hand_over(Some(&name("n1")), PATIENCE).await.unwrap_err();
    assert!(gone.to_string().contains("there are n2"), "{gone}");
}
