//! What Kubernetes does with the StatefulSet of `deploy/kubernetes`, with real nodes in network namespaces and clients that
//! do not stop: pods are restarted one after the other, come and go, lose their disks and their addresses.
//!
//! Environment, arguments, hook and probes are those of the manifest that kubectl builds. Kubernetes' own waits pass ten
//! times faster, the nodes' do not.
// A panic is how a test fails; what a test measured is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod kubelet;
mod load;
mod manifest;
mod sandbox;
mod set;
#[path = "../support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use load::{CLIENTS, DEADLINE, Load};
use serde_json::Value;
use set::StatefulSet;
use support::http::call;
use support::namespace::run_isolated;
use support::prometheus::Prometheus;
use support::{await_that, cli};

/// Whether requests may fail: while there is no quorum nobody can serve them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failures {
    None,
    WithoutQuorum,
}

/// Does `what` under load; then reads every acknowledged write at every pod. `stage` names the report.
fn under_load(set: &mut StatefulSet, stage: &str, failures: Failures, what: impl FnOnce(&mut StatefulSet)) {
    let (begin, kubelet) = (Instant::now(), set.kubelet.clone());
    let load = Load::new(&kubelet);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let load = &load;
            scope.spawn(move || load.client(number));
        }
        let moving = || {
            let before = load.done();
            await_that("requests", || load.done() >= before + 4 * CLIENTS);
        };
        let caught = catch_unwind(AssertUnwindSafe(|| {
            await_that("the first requests", || load.done() >= 4 * CLIENTS);
            what(set);
            moving();
        }));
        load.stop();
        caught.unwrap_or_else(|panic| resume_unwind(panic));
    });
    load.report(stage, begin.elapsed());
    let failed = load.failures();
    assert!(failures == Failures::WithoutQuorum || failed.is_empty(), "requests failed:\n{}", failed.join("\n"));
    let (slowest, limit) = (u128::from(load.slowest_millis()), DEADLINE.as_millis());
    assert!(failures == Failures::WithoutQuorum || slowest <= limit, "a request took {slowest} ms, retries included");
    assert_eq!(set.kubelet.restarts(), Vec::<String>::new(), "a liveness probe would have restarted somebody");
    load.check(set);
}

/// The leader's view of the cluster, from a pod.
fn view(set: &StatefulSet, ordinal: usize) -> Option<Value> {
    let reply = call(&set.client(ordinal), "GET", "/v1/cluster?timeout=2s", &[], b"")?;
    serde_json::from_slice(&reply.body).ok()
}

/// Waits until the cluster is healthy and has so many voters.
fn await_voters(set: &StatefulSet, count: usize) -> Value {
    support::await_some(&format!("{count} voters"), || {
        let view = view(set, 0)?;
        let voters = view["members"].as_array()?.iter().filter(|member| member["standing"] == "voter").count();
        (view["healthy"] == true && voters == count && view["members"].as_array()?.len() == count).then_some(view)
    })
}

/// What `deploy/README.md` says to do before a scale-down.
fn remove(endpoint: &str, name: &str) {
    let args = ["members", "remove", name, "--less-tolerance", "--endpoint", endpoint, "--timeout", "30s"];
    let removed = cli(&args);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
}

/// Who leads, by the word of its cluster.
fn leader(set: &StatefulSet) -> usize {
    support::await_some("a leader", || {
        let view = view(set, 0)?;
        let name = view["leader"].as_str()?;
        set.ordinals().into_iter().find(|ordinal| set.manifest.pod(*ordinal) == name)
    })
}

#[test]
fn three_are_restarted_one_after_the_other_and_every_request_succeeds() {
    run_isolated("three_are_restarted_one_after_the_other_and_every_request_succeeds", || {
        let mut set = StatefulSet::start(3);
        assert_eq!(set.manifest.replicas, 3);
        await_voters(&set, 3);
        under_load(&mut set, "stateful-set-three", Failures::None, StatefulSet::rolling_restart);
        await_voters(&set, 3);
    });
}

#[test]
fn five_are_restarted_one_after_the_other_and_every_request_succeeds() {
    run_isolated("five_are_restarted_one_after_the_other_and_every_request_succeeds", || {
        let mut set = StatefulSet::start(3);
        set.scale_up(5);
        await_voters(&set, 5);
        under_load(&mut set, "stateful-set-five", Failures::None, StatefulSet::rolling_restart);
        await_voters(&set, 5);
    });
}

#[test]
fn pods_that_are_added_join_and_pods_whose_members_were_removed_go_at_once() {
    run_isolated("pods_that_are_added_join_and_pods_whose_members_were_removed_go_at_once", || {
        let mut set = StatefulSet::start(3);
        await_voters(&set, 3);
        under_load(&mut set, "stateful-set-scaled", Failures::None, |set| {
            let begin = Instant::now();
            set.scale_up(5);
            await_voters(set, 5);
            println!("3 became 5 voters in {:.1?}", begin.elapsed());
            for ordinal in [4, 3] {
                let name = set.manifest.pod(ordinal);
                let endpoint = set.client(0);
                remove(&endpoint, &name);
                let ended = set.delete(ordinal);
                assert!(ended.said.contains("was removed from its cluster"), "{}", ended.said);
                println!("{name} was removed and stopped in {:.1?}", ended.took);
            }
            await_voters(set, 3);
        });
    });
}

#[test]
fn an_unannounced_scale_down_is_held_and_alerts_until_somebody_removes_the_members() {
    run_isolated("an_unannounced_scale_down_is_held_and_alerts_until_somebody_removes_the_members", || {
        let mut set = StatefulSet::start(3);
        set.scale_up(5);
        await_voters(&set, 5);
        let names: Vec<String> = (0..5).map(|ordinal| set.manifest.pod(ordinal)).collect();
        let ops: Vec<String> = (0..5).map(|ordinal| set.ops(ordinal)).collect();
        let targets: Vec<(&str, &str)> = names.iter().zip(&ops).map(|(name, ops)| (&**name, &**ops)).collect();
        let directory = support::scratch();
        let prometheus = Prometheus::start(&targets, &sandbox::HERE.to_string(), directory.path());
        let alert = |name: &str| {
            let rules = prometheus.rules();
            let query = rules.iter().find(|rule| rule["name"] == name).unwrap()["query"].as_str().unwrap().to_owned();
            !prometheus.query(&query).is_empty()
        };
        await_that("no alert", || !alert("RaftMembersMissing") && !prometheus.query("raft_build_info").is_empty());
        under_load(&mut set, "stateful-set-held", Failures::None, |set| {
            // From five to two: three of five may not go.
            let begin = Instant::now();
            let mut going: Vec<_> = [4, 3, 2].map(|ordinal| set.begin_delete(ordinal)).into();
            await_that("two of them to go", || going.iter().filter(|pod| pod.is_finished()).count() == 2);
            println!("two have gone after {:.1?}", begin.elapsed());
            await_that("RaftMembersMissing", || alert("RaftMembersMissing"));
            let held = going.iter().position(|pod| !pod.is_finished()).expect("the third one is held");
            let held = going.remove(held);
            let gone: Vec<_> = going.into_iter().map(|pod| pod.join().unwrap()).collect();
            assert!(gone.iter().all(|ended| ended.hook == Some(0)), "{gone:?}");
            assert!(!held.is_finished(), "the third one went too");
            // What the runbook says: remove the members that were taken away.
            let silent = support::await_some("exactly the two to be out of reach", || {
                let view = view(set, 0)?;
                let members = view["members"].as_array()?.iter();
                let silent = members.filter(|member| member["unreachable"].is_string());
                let names: Vec<String> =
                    silent.filter_map(|member| Some(member["name"].as_str()?.to_owned())).collect();
                (names.len() == 2).then_some(names)
            });
            for name in silent {
                let endpoint = set.client(0);
                remove(&endpoint, &name);
            }
            let ended = held.join().unwrap();
            assert_eq!(ended.hook, Some(0), "{ended:?}");
            assert!(ended.said.contains("waits: "), "it was not held: {}", ended.said);
            println!("the third one was held, and went after {:.1?}", ended.took);
        });
        await_that("RaftMembersMissing, since three are members and two run", || alert("RaftMembersMissing"));
    });
}

#[test]
fn a_lost_disk_heals_without_anybody() {
    run_isolated("a_lost_disk_heals_without_anybody", || {
        let mut set = StatefulSet::start(3);
        let before = await_voters(&set, 3);
        let incarnation = |view: &Value, name: &str| {
            let members = view["members"].as_array().unwrap();
            members.iter().find(|member| member["name"] == name).unwrap()["incarnation"].clone()
        };
        under_load(&mut set, "stateful-set-lost-disk", Failures::None, |set| {
            // The claim and the pod are deleted; then the leader's machine is lost with its disk.
            for lost in [false, true] {
                let ordinal = if lost { leader(set) } else { 2 };
                let (begin, name) = (Instant::now(), set.manifest.pod(ordinal));
                let old = incarnation(&await_voters(set, 3), &name);
                if lost {
                    set.lose(ordinal);
                } else {
                    set.delete(ordinal);
                }
                set.delete_claim(ordinal);
                set.create(ordinal);
                set.await_available();
                let healed = await_voters(set, 3);
                assert_ne!(incarnation(&healed, &name), old, "{name} has its old disk");
                println!("{name} lost its disk (machine lost: {lost}) and votes again after {:.1?}", begin.elapsed());
            }
        });
        assert_eq!(before["cluster"], await_voters(&set, 3)["cluster"], "another cluster was founded");
    });
}

#[test]
fn a_pod_that_is_killed_in_the_middle_of_a_rolling_restart_fails_no_request() {
    run_isolated("a_pod_that_is_killed_in_the_middle_of_a_rolling_restart_fails_no_request", || {
        let mut set = StatefulSet::start(3);
        set.scale_up(5);
        await_voters(&set, 5);
        under_load(&mut set, "stateful-set-killed", Failures::None, |set| {
            for ordinal in set.ordinals().into_iter().rev() {
                // The one that is next is lost while this one stops: two of five are away.
                let next = (ordinal + 4) % 5;
                let going = set.begin_delete(ordinal);
                set.lose(next);
                let ended = going.join().unwrap();
                assert!(ended.hook == Some(0) && ended.status.success(), "{ended:?}");
                set.scale_up(5);
            }
        });
        await_voters(&set, 5);
    });
}

#[test]
fn all_addresses_change_at_once_and_nothing_is_lost() {
    run_isolated("all_addresses_change_at_once_and_nothing_is_lost", || {
        let mut set = StatefulSet::start(3);
        let before = await_voters(&set, 3);
        under_load(&mut set, "stateful-set-addresses", Failures::WithoutQuorum, |set| {
            // All machines lose power.
            let begin = Instant::now();
            for ordinal in set.ordinals() {
                set.lose(ordinal);
            }
            set.scale_up(3);
            println!("three came back with other addresses after {:.1?}", begin.elapsed());
            // All pods are deleted at once: the hooks let one go after the other.
            let begin = Instant::now();
            let mut going: Vec<_> =
                set.ordinals().into_iter().map(|ordinal| (ordinal, set.begin_delete(ordinal))).collect();
            while !going.is_empty() {
                let mut gone = None;
                await_that("a pod to end", || {
                    gone = going.iter().position(|(_, pod)| pod.is_finished());
                    gone.is_some()
                });
                let (ordinal, pod) = going.remove(gone.unwrap());
                let ended = pod.join().unwrap();
                println!("{} went after {:.1?}: {}", set.manifest.pod(ordinal), ended.took, ended.said.trim_end());
                assert!(ended.hook == Some(0) && ended.status.success(), "{ended:?}");
                set.create(ordinal);
            }
            set.await_available();
            println!("all of them were deleted at once, and are back after {:.1?}", begin.elapsed());
        });
        assert_eq!(before["cluster"], await_voters(&set, 3)["cluster"], "another cluster was founded");
    });
}
