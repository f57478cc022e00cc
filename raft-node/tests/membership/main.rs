//! Members of real clusters come and go: under load, with lost and copied disks, after they were removed.
// A panic is how a test fails; what a test measured is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod load;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use load::{CLIENTS, Load};
use raft_core::testing::Report;
use serde_json::{Value, json};
use support::http::{Reply, call, call_within};
use support::{TestCluster, TestNode, await_some, await_that};

/// How long one change of the members may take on a busy machine.
const CHANGE_TIME: Duration = Duration::from_secs(60);

/// Sets a flag of a node's command line.
fn set_flag(node: &mut TestNode, flag: &str, value: &str) {
    let flag = format!("--{flag}");
    match node.args.iter().position(|arg| *arg == flag) {
        Some(at) => value.clone_into(&mut node.args[at + 1]),
        None => node.args.extend([flag, value.to_owned()]),
    }
}

/// Asks for a change of the members, again as long as nobody can say what became of it.
fn change(node: &TestNode, method: &str, path: &str, body: &Value) -> Reply {
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = format!("/v1/cluster/{path}{joint}timeout=30s");
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let begin = Instant::now();
    loop {
        let reply = call_within(CHANGE_TIME, &node.client, method, &path, &[], &body).ok();
        match reply {
            Some(reply) if ![429, 503, 504].contains(&reply.status) => return reply,
            other => {
                assert!(begin.elapsed() < 3 * CHANGE_TIME, "{method} {path}: {other:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Has a change of the members made. On a busy machine somebody may seem to be silent for a moment.
fn changed(node: &TestNode, method: &str, path: &str, body: &Value) {
    await_that(&format!("{method} {path}"), || {
        let reply = change(node, method, path, body);
        let text = reply.text();
        assert!(
            reply.status == 200 || text.contains("silent") || text.contains("cancelled"),
            "{}: {text}",
            reply.status
        );
        reply.status == 200
    });
}

/// The voters as a node knows them, once its configuration is settled and committed.
fn voters(node: &TestNode) -> Option<Vec<String>> {
    let status = node.status()?;
    let configuration = &status["configuration"];
    if configuration["phase"] != "settled" || configuration["committed"] != true {
        return None;
    }
    let mut names: Vec<String> = serde_json::from_value(configuration["voters"].clone()).unwrap();
    names.sort();
    Some(names)
}

fn await_voters(node: &TestNode, names: &[&str]) {
    await_that(&format!("{} to see the voters {names:?}", node.name), || {
        voters(node).is_some_and(|found| found == names)
    });
}

/// Whether a node is a member, and caught up.
fn is_member(node: &TestNode) -> bool {
    call(&node.ops, "GET", "/readyz", &[], b"").is_some_and(|reply| reply.status == 200)
}

/// Eight nodes, of which the first founds the cluster alone and the others join when they are started.
fn prepared() -> TestCluster {
    let mut cluster = TestCluster::prepare(8, &[]);
    let address = |node: &TestNode| format!("{}={}", node.name, node.peer);
    let first = address(&cluster.nodes[0]);
    let all: Vec<String> = cluster.nodes.iter().map(address).collect();
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        let list = if at == 0 { first.clone() } else { all.join(",") };
        set_flag(node, "bootstrap", &list);
    }
    cluster
}

#[test]
fn one_becomes_three_five_three_others_and_one_under_load() {
    let begin = Instant::now();
    let mut cluster = prepared();
    cluster.nodes[0].start();
    await_that("the first write", || cluster.nodes[0].put("first", b"0").is_some_and(|put| put.status == 200));
    let load = Load::new(vec![cluster.nodes[0].client.clone()]);
    let mut gaps: Vec<(&str, Duration)> = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let load = &load;
                    move || load.client(number)
                })
            })
            .collect();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let moving = || {
                let before = load.acknowledged.load(Ordering::Acquire);
                await_that("writes", || load.acknowledged.load(Ordering::Acquire) >= before + 4 * CLIENTS);
            };
            let mut step = |name, load: &Load| {
                moving();
                gaps.push((name, load.gap()));
            };
            moving();
            load.gap();
            grow(&mut cluster, &load, &mut step);
            replace_all(&mut cluster, &load, &mut step);
        }));
        load.stop();
        for client in clients {
            client.join().unwrap();
        }
        if let Err(panic) = caught {
            std::panic::resume_unwind(panic);
        }
    });
    let operations = load.check(&cluster.nodes[6].client);
    report(&load, &gaps, operations, begin);
}

/// From one to five voters.
fn grow(cluster: &mut TestCluster, load: &Load, step: &mut impl FnMut(&'static str, &Load)) {
    for at in [1, 2] {
        cluster.nodes[at].start();
    }
    // They join by themselves, and are made voters when they have caught up.
    await_voters(&cluster.nodes[0], &["n1", "n2", "n3"]);
    step("1 to 3, by themselves", load);
    for at in [3, 4] {
        set_flag(&mut cluster.nodes[at], "join-voter", "false");
        cluster.nodes[at].start();
    }
    await_that("two learners", || is_member(&cluster.nodes[3]) && is_member(&cluster.nodes[4]));
    load.ask(cluster.nodes[..5].iter().map(|node| node.client.clone()).collect());
    let five = json!({ "voters": ["n1", "n2", "n3", "n4", "n5"] });
    changed(&cluster.nodes[4], "PUT", "members", &five);
    await_voters(&cluster.nodes[4], &["n1", "n2", "n3", "n4", "n5"]);
    step("3 to 5", load);
}

/// From five voters to three others, and to one of these.
fn replace_all(cluster: &mut TestCluster, load: &Load, step: &mut impl FnMut(&'static str, &Load)) {
    for at in 5..8 {
        set_flag(&mut cluster.nodes[at], "join-voter", "false");
        cluster.nodes[at].start();
    }
    await_that("three learners", || cluster.nodes[5..8].iter().all(is_member));
    load.ask(cluster.nodes[5..8].iter().map(|node| node.client.clone()).collect());
    let others = json!({ "voters": ["n6", "n7", "n8"] });
    let refused = change(&cluster.nodes[6], "PUT", "members", &others);
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("preflight_refused")), "{}", refused.text());
    println!("refused: {}", refused.json()["detail"]);
    step("three learners", load);
    changed(&cluster.nodes[6], "PUT", "members?less_tolerance=true", &others);
    await_voters(&cluster.nodes[6], &["n6", "n7", "n8"]);
    step("5 to 3 others", load);
    for at in 0..5 {
        await_that("a removed node to say so", || {
            cluster.nodes[at].status().is_some_and(|status| !status["removed"].is_null())
        });
        cluster.nodes[at].stop();
    }
    load.ask(vec![cluster.nodes[6].client.clone()]);
    let one = json!({ "voters": ["n7"] });
    changed(&cluster.nodes[6], "PUT", "members?less_tolerance=true", &one);
    await_voters(&cluster.nodes[6], &["n7"]);
    step("3 to 1", load);
}

fn report(load: &Load, gaps: &[(&str, Duration)], operations: u64, begin: Instant) {
    let mut report = Report::new("membership");
    report
        .at_least("acknowledged writes", load.acknowledged.load(Ordering::Acquire), 20 * CLIENTS)
        .at_least("answered reads", load.reads.load(Ordering::Acquire), CLIENTS)
        .at_least("operations checked", operations, 20 * CLIENTS)
        .count("seconds", begin.elapsed().as_secs());
    for (step, gap) in gaps {
        let millis = u64::try_from(gap.as_millis()).unwrap();
        report.count(&format!("longest gap without a write in ms, {step}"), millis);
    }
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

/// Whether n3 votes with a new id, and the change that brought it is through.
fn has_new_n3(node: &TestNode) -> bool {
    let Some(reply) = node.get("/v1/cluster") else { return false };
    let view = reply.json();
    let (members, membership) = (view["members"].as_array().unwrap(), &view["membership"]);
    membership["phase"] == "settled"
        && membership["committed"] == true
        && members.len() == 3
        && members.iter().any(|member| member["name"] == "n3" && member["id"] == 4 && member["voter"] == true)
}

#[test]
fn another_disk_under_a_name_that_answers_waits_until_that_is_silent() {
    let mut cluster = TestCluster::start(3);
    let real = &cluster.nodes[2];
    let mut other = TestNode {
        name: real.name.clone(),
        client: real.client.clone(),
        ops: real.ops.clone(),
        peer: real.peer.clone(),
        data_dir: cluster.dir.path().join("other"),
        args: real.args.clone(),
        stderr: cluster.dir.path().join("other.log"),
        child: None,
    };
    let data_dir = other.data_dir.to_str().unwrap().to_owned();
    set_flag(&mut other, "data-dir", &data_dir);
    for listen in ["client-listen", "ops-listen", "peer-listen"] {
        set_flag(&mut other, listen, "127.0.0.1:0");
    }
    set_flag(&mut other, "client-advertise", "127.0.0.1:9");
    other.start();
    cluster.nodes.push(other);
    await_that("the other disk to be told why not", || {
        let Some(reply) = cluster.nodes[0].get("/v1/cluster") else { return false };
        let view = reply.json();
        assert!(view["members"].as_array().unwrap().iter().all(|member| member["id"] != 4), "{view}");
        let pending = view["membership"]["pending"].as_array().unwrap();
        pending.iter().any(|node| node["reason"].as_str().is_some_and(|why| why.contains("a member that answers")))
    });
    cluster.nodes[2].kill();
    await_that("n3 to vote with a new id", || has_new_n3(&cluster.nodes[0]));
}

#[test]
fn a_wiped_node_comes_back_under_its_name_by_itself() {
    let mut cluster = TestCluster::start(3);
    assert_eq!(cluster.nodes[0].put("a", b"1").unwrap().status, 200);
    cluster.nodes[2].kill();
    std::fs::remove_dir_all(&cluster.nodes[2].data_dir).unwrap();
    cluster.nodes[2].start();
    // Its own view is that of the founders until its log comes.
    await_that("n3 to vote with a new id", || has_new_n3(&cluster.nodes[0]));
    await_voters(&cluster.nodes[2], &["n1", "n2", "n3"]);
    let read = || cluster.nodes[2].get("/v1/kv/a").filter(|reply| reply.status == 200);
    assert_eq!(await_some("a read", read).text(), "1");
    // It counts: with one of the others gone, writes go on.
    cluster.nodes[0].kill();
    await_that("writes of two", || cluster.nodes[2].put("a", b"2").is_some_and(|put| put.status == 200));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_copied_data_directory_is_refused() {
    let mut cluster = TestCluster::start(3);
    cluster.nodes[2].stop();
    let (copied, older) = (cluster.dir.path().join("copied"), cluster.dir.path().join("older"));
    copy(&cluster.nodes[2].data_dir, &copied);
    copy(&cluster.nodes[2].data_dir, &older);
    cluster.nodes[2].start();
    await_that("n3 to be back", || is_member(&cluster.nodes[2]));
    let elsewhere = |node: &TestNode, directory: &Path| {
        let flags = [
            ("data-dir", directory.to_str().unwrap()),
            ("client-listen", "127.0.0.1:0"),
            ("ops-listen", "127.0.0.1:0"),
            ("peer-listen", "127.0.0.1:0"),
            ("client-advertise", "127.0.0.1:9"),
        ];
        node.refused_start(&flags)
    };
    let refused = elsewhere(&cluster.nodes[2], &copied);
    assert_eq!(refused.code, Some(11), "{}", refused.said);
    assert!(refused.said.contains("copies of one data directory"), "{}", refused.said);
    // An older copy shows a start that is long over.
    cluster.nodes[2].stop();
    cluster.nodes[2].start();
    await_that("n3 to be back", || is_member(&cluster.nodes[2]));
    let refused = elsewhere(&cluster.nodes[2], &older);
    assert_eq!(refused.code, Some(11), "{}", refused.said);
    assert!(refused.said.contains("set back to an older copy"), "{}", refused.said);
    // The real one is not disturbed.
    await_that("n3 to be a member still", || is_member(&cluster.nodes[2]));
    // Whoever starts the older copy again and again does not get past what the others remember, with nobody to answer.
    cluster.nodes[2].stop();
    for why in ["copies of one data directory", "does not come after its start 3", "does not come after its start 3"] {
        let refused = elsewhere(&cluster.nodes[2], &older);
        assert_eq!(refused.code, Some(11), "{}", refused.said);
        assert!(refused.said.contains(why), "{}", refused.said);
    }
    cluster.nodes[2].start();
    await_that("n3 to be back", || is_member(&cluster.nodes[2]));
}

#[test]
fn removing_two_of_three_while_the_third_is_down_is_refused() {
    let mut cluster = TestCluster::start(3);
    cluster.nodes[2].kill();
    let wanted = json!({ "voters": ["n3"] });
    // As soon as the leader misses it.
    let refused = await_some("the refusal", || {
        let reply = change(&cluster.nodes[0], "PUT", "members?less_tolerance=true", &wanted);
        assert_eq!(reply.status, 409, "{}", reply.text());
        (reply.json()["code"] == "preflight_refused").then_some(reply)
    });
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    println!("{detail}");
    for part in ["silent or behind is n3", "start that first", "keep as voters too: n1, n2"] {
        assert!(detail.contains(part), "{part} in {detail}");
    }
    // One that was begun before the leader missed it was taken back.
    await_voters(&cluster.nodes[0], &["n1", "n2", "n3"]);
    assert_eq!(cluster.nodes[0].put("a", b"1").unwrap().status, 200);
}

/// Restarts of a removed node: `RAFT_REMOVED_RESTARTS`, 50 unless set.
fn restarts() -> u64 {
    std::env::var("RAFT_REMOVED_RESTARTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(50)
}

#[test]
fn a_removed_node_that_is_started_again_and_again_disturbs_nobody() {
    // So patient that a busy machine causes no election.
    let patient = ["--election-timeout", "3s", "--heartbeat-interval", "300ms"];
    let mut cluster = TestCluster::prepare(3, &patient);
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.await_leader();
    await_that("a write", || cluster.nodes[0].put("a", b"1").is_some_and(|put| put.status == 200));
    let removed = cluster.nodes.iter().position(|node| node.role().as_deref() == Some("follower")).unwrap();
    // It is down meanwhile, so that its own log does not say so.
    cluster.nodes[removed].kill();
    let others: Vec<usize> = (0..3).filter(|at| *at != removed).collect();
    let path = format!("members/{}?less_tolerance=true", cluster.nodes[removed].name);
    changed(&cluster.nodes[others[0]], "DELETE", &path, &Value::Null);
    // Nor do the others tell it any more: it has to ask.
    for at in &others {
        await_that("the others to forget it", || {
            let Some(status) = cluster.nodes[*at].status() else { return false };
            status["peers"].as_array().unwrap().iter().all(|peer| peer["name"] != cluster.nodes[removed].name.as_str())
        });
    }
    let rule = |node: &TestNode| {
        let term = node.status().unwrap()["term"].as_u64().unwrap();
        (term, node.metric("raft_leader_changes_total"), node.metric("raft_elections_total"))
    };
    let before: Vec<_> = others.iter().map(|at| rule(&cluster.nodes[*at])).collect();
    let says_so = |node: &TestNode| node.status().is_some_and(|status| !status["removed"].is_null());
    for _ in 0..restarts() {
        cluster.nodes[removed].start();
        await_that("a removed node to say so", || says_so(&cluster.nodes[removed]));
        assert_eq!(cluster.nodes[removed].metric("raft_elections_total"), Some(0.0));
        cluster.nodes[removed].kill();
    }
    let after: Vec<_> = others.iter().map(|at| rule(&cluster.nodes[*at])).collect();
    assert_eq!(after, before, "terms, leader changes and elections of the others");
    // With `removed.exit` it ends, and says why.
    let ended = cluster.nodes[removed].refused_start(&[("removed-exit", "true")]);
    assert_eq!(ended.code, Some(13), "{}", ended.said);
}

#[test]
fn all_nodes_move_to_other_addresses_at_once() {
    let mut cluster = TestCluster::start(3);
    assert_eq!(cluster.nodes[0].put("a", b"1").unwrap().status, 200);
    for node in &mut cluster.nodes {
        node.stop();
    }
    let moved: Vec<String> = cluster.nodes.iter().map(|node| node.peer.replace(":7082", ":7092")).collect();
    let pairs = cluster.nodes.iter().zip(&moved);
    let list = pairs.map(|(node, peer)| format!("{}={peer}", node.name)).collect::<Vec<_>>().join(",");
    for (node, peer) in cluster.nodes.iter_mut().zip(&moved) {
        set_flag(node, "peer-listen", peer);
        set_flag(node, "bootstrap", &list);
        node.peer.clone_from(peer);
        node.start();
    }
    await_that("a write", || cluster.nodes[1].put("a", b"2").is_some_and(|put| put.status == 200));
    // The cluster comes to know them, so the next start needs no list.
    await_that("the new addresses in the configuration", || {
        let Some(reply) = cluster.nodes[0].get("/v1/cluster") else { return false };
        let view = reply.json();
        let members = view["members"].as_array().unwrap();
        members.len() == 3
            && members.iter().all(|member| moved.iter().any(|peer| member["peer_address"] == peer.as_str()))
    });
}
