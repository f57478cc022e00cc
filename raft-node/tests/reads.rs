//! Reads by a token from real processes: the client library and the command line carry what was seen from one to the
//! other, and a replica that has surely not seen it gives nothing older.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use raft_kv::client::{Client, ErrorKind, Read, Token, Write};
use support::{BINARY, PATIENCE, TestCluster, await_that, command};

/// How long a replica that can surely not answer is asked.
const IN_VAIN: Duration = Duration::from_millis(500);

fn client(cluster: &TestCluster, nodes: &[usize]) -> Client {
    let endpoints = nodes.iter().map(|at| cluster.nodes[*at].client.clone());
    Client::builder(endpoints).deadline(PATIENCE).build().unwrap()
}

/// Runs the command line against one node; its exit code and what it printed.
fn kv(cluster: &TestCluster, at: usize, args: &[&str]) -> (Option<i32>, String) {
    let endpoint = &cluster.nodes[at].client;
    let run = command(BINARY).arg("kv").args(args).args(["--endpoint", endpoint, "--timeout", "500ms"]).output();
    let run = run.unwrap();
    (run.status.code(), String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_slept_through_a_write_gives_nothing_older_to_who_has_seen_it() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.await_leader();
    let (asleep, awake) = ((leader + 1) % 3, (leader + 2) % 3);
    let all = client(&cluster, &[asleep, leader, awake]);
    all.put("k", "old", Write::default()).await.unwrap();
    await_that("the follower has the first value", || {
        cluster.nodes[asleep].get("/v1/kv/k?consistency=local").is_some_and(|reply| reply.body == b"old")
    });

    // The write that it misses goes through the command line, which gives the token on.
    cluster.nodes[asleep].kill();
    let (code, printed) = kv(&cluster, leader, &["put", "k", "new", "-o", "json"]);
    assert_eq!(code, Some(0), "{printed}");
    let written: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let token = written["token"].as_str().unwrap().to_owned();
    let revision = written["revision"].as_u64().unwrap();

    // Alone it can learn nothing.
    cluster.nodes[leader].kill();
    cluster.nodes[awake].kill();
    cluster.nodes[asleep].start();
    await_that("it serves what it has", || {
        cluster.nodes[asleep].get("/v1/kv/k?consistency=local").is_some_and(|reply| matches!(reply.status, 200 | 404))
    });
    let alone = client(&cluster, &[asleep]).with_token(Token::new(&token));
    let local = alone.get("k", Read::local()).await.unwrap();
    assert_ne!(local.value.map(|value| value.bytes), Some("new".into()), "the teeth: it has not seen the write");
    let error = alone.get("k", Read::verified().within(IN_VAIN)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Unavailable), "{error}");
    let verified = ["get", "k", "--consistency", "verified", "--token", &token];
    let (code, printed) = kv(&cluster, asleep, &verified);
    assert_eq!(code, Some(6), "{printed}");
    assert_eq!(alone.token(), Some(Token::new(&token)), "what it said took nothing back");

    // With the others back it is the newest, through that same replica.
    cluster.nodes[leader].start();
    cluster.nodes[awake].start();
    let got = alone.get("k", Read::verified()).await.unwrap();
    let value = got.value.unwrap();
    assert_eq!((&value.bytes[..], value.revision), (&b"new"[..], revision));
    assert_eq!(got.served_by.as_deref(), Some(cluster.nodes[asleep].name.as_str()));
    let (code, printed) = kv(&cluster, asleep, &verified);
    assert_eq!((code, printed.trim()), (Some(0), "new"));
    let (code, printed) = kv(&cluster, asleep, &["get", "k", "--consistency", "verified"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("--token"), "{printed}");
}

#[test]
fn the_command_line_takes_every_mode() {
    let mut cluster = TestCluster::start(1);
    let (code, printed) = kv(&cluster, 0, &["put", "k", "v"]);
    assert_eq!(code, Some(0), "{printed}");
    for args in [
        &["get", "k", "--consistency", "linearizable"][..],
        &["get", "k", "--consistency", "local"],
        &["get", "k", "--consistency", "local", "--max-staleness", "1h"],
    ] {
        let (code, printed) = kv(&cluster, 0, args);
        assert_eq!((code, printed.trim()), (Some(0), "v"), "{args:?}");
    }
    let (code, printed) = kv(&cluster, 0, &["get", "k", "--max-staleness", "1h"]);
    assert_eq!(code, Some(5), "{printed}");
    assert!(printed.contains("max_staleness"), "{printed}");
    // What it means is the node's business: it is passed on by its name.
    let (_, printed) = kv(&cluster, 0, &["get", "k", "--consistency", "lease"]);
    assert!(printed.trim() == "v" || printed.contains("lease"), "{printed}");
    cluster.nodes[0].stop();
}
