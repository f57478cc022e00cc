//! Who and what is refused at the door of the peers: counted, logged once per peer and reason, and the cluster does not
//! notice.
// A panic is how a test fails; what a test measured or was told is printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use support::http::call;
use support::stranger::{self, CONTROL, HANDSHAKE, Hello, Stranger};
use support::{TestCluster, TestNode, await_some, await_that, certificates};

/// How often each wrong thing is done: it is counted each time and logged once.
const TIMES: u64 = 3;

/// Long enough that a busy machine holds no election of its own: then a new term is the strangers' doing.
const PATIENT: [&str; 4] = ["--election-timeout", "3s", "--heartbeat-interval", "300ms"];

fn refused(node: &TestNode, reason: &str) -> u64 {
    node.status().unwrap()["refused"][reason].as_u64().unwrap_or(0)
}

/// Lines of the log about refusals of strangers for `reason`.
fn logged(node: &TestNode, reason: &str) -> usize {
    let log = node.log();
    log.lines()
        .filter(|line| line.contains("peer=127.0.0.1 ") && line.contains(&format!("reason=\"{reason}\"")))
        .count()
}

/// Does `wrong` a few times; expects it counted as `reason` each time, in the metrics too, and logged once.
fn expect_refusals(node: &TestNode, reason: &str, mut wrong: impl FnMut()) {
    let before = refused(node, reason);
    for _ in 0..TIMES {
        wrong();
    }
    await_that(&format!("{TIMES} more refusals for {reason}"), || refused(node, reason) >= before + TIMES);
    assert_eq!(refused(node, reason), before + TIMES, "{reason}");
    let metrics = call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text();
    let sample = format!("raft_transport_refusals_total{{reason=\"{reason}\"}} {}", before + TIMES);
    assert!(metrics.lines().any(|line| line == sample), "{sample} is not in the metrics");
    assert_eq!(logged(node, reason), 1, "{reason} in the log:\n{}", node.log());
}

/// What the third node says of itself when it connects to others.
fn third_member(cluster: &TestCluster) -> Hello {
    let status = cluster.nodes[2].status().unwrap();
    let bits = |text: &serde_json::Value| {
        let digits: String = text.as_str().unwrap().chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16).unwrap().to_be_bytes().to_vec()
    };
    Hello {
        protocol_min: 2,
        protocol_max: 2,
        cluster_name: "test".into(),
        cluster: bits(&status["cluster"]),
        id: status["id"].as_u64().unwrap(),
        name: "n3".into(),
        incarnation: bits(&status["incarnation"]),
        process: 1,
    }
}

/// Writes through one node until told to stop; every write must succeed. Returns how many did.
fn write_on(node: &str, stop: &AtomicBool, written: &AtomicU64) {
    while !stop.load(Ordering::Acquire) {
        let put = call(node, "PUT", "/v1/kv/undisturbed", &[], b"v").expect("an answer");
        assert_eq!(put.status, 200, "{}", put.text());
        written.fetch_add(1, Ordering::AcqRel);
    }
}

/// Leader, term and leader changes as a node knows them: what strangers must not move.
fn rule(node: &TestNode) -> (String, u64, Option<f64>) {
    let status = node.status().unwrap();
    let changes = node.metric("raft_leader_changes_total");
    (status["leader"].to_string(), status["term"].as_u64().unwrap(), changes)
}

/// Runs `strangers` while somebody writes, and expects that nobody in the cluster noticed.
fn unnoticed(cluster: &TestCluster, strangers: impl FnOnce()) {
    let before = rule(&cluster.nodes[0]);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&cluster.nodes[1].client, &stop, &written));
        let more = |count: u64| {
            let before = written.load(Ordering::Acquire);
            await_that("writes", || writer.is_finished() || written.load(Ordering::Acquire) >= before + count);
        };
        more(5);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(strangers));
        more(5);
        stop.store(true, Ordering::Release);
        writer.join().unwrap();
        if let Err(panic) = caught {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(rule(&cluster.nodes[0]), before, "leader, term and leader changes");
}

/// A cluster of three with a leader, its certificates' directory, and that of another authority.
fn cluster() -> (TestCluster, PathBuf, PathBuf) {
    let mut cluster = TestCluster::prepare(3, &PATIENT);
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        await_that("a write", || node.put("k", b"v").is_some_and(|put| put.status == 200));
    }
    let (certs, others) = (cluster.dir.path().join("certs"), cluster.dir.path().join("other-certs"));
    certificates(&others, "test", &["n1", "n2", "n3"]);
    (cluster, certs, others)
}

#[test]
fn garbage_on_the_peer_port_is_refused_and_the_cluster_does_not_notice() {
    let (cluster, ..) = cluster();
    let node = &cluster.nodes[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    unnoticed(&cluster, || {
        let garbage: [&[u8]; 3] = [b"GET / HTTP/1.1\r\n\r\n", &[0xff; 1200], &[0; 3]];
        for datagram in garbage {
            let before = refused(node, "not_quic");
            for _ in 0..TIMES {
                socket.send_to(datagram, &node.peer).unwrap();
            }
            await_that("garbage to be counted", || refused(node, "not_quic") >= before + TIMES);
        }
        expect_refusals(node, "not_quic", || {
            socket.send_to(b"more of it", &node.peer).unwrap();
        });
    });
}

#[test]
fn certificates_and_hellos_that_do_not_fit_are_refused_and_the_cluster_does_not_notice() {
    let (cluster, certs, others) = cluster();
    let node = &cluster.nodes[0];
    let honest = third_member(&cluster);
    let says = |certificates: &PathBuf, hello: &Hello| {
        let answer =
            Stranger::new(certificates, "n3").say(&node.peer, &[&HANDSHAKE[..], &stranger::hello(hello)].concat());
        match answer {
            Ok((kind, control)) => {
                assert_eq!(kind, 3, "a refusal, not a welcome");
                String::from_utf8_lossy(&control).into_owned()
            }
            Err(end) => end,
        }
    };
    unnoticed(&cluster, || {
        expect_refusals(node, "tls", || println!("another authority: {}", says(&others, &honest)));
        let cases = [
            ("certificate_name", Hello { name: "n2".into(), id: 2, ..honest.clone() }),
            ("cluster_name", Hello { cluster_name: "elsewhere".into(), ..honest.clone() }),
            ("other_cluster", Hello { cluster: vec![7; 16], ..honest.clone() }),
            ("other_incarnation", Hello { incarnation: vec![7; 16], ..honest.clone() }),
            ("unknown_name", Hello { name: "n9".into(), ..honest.clone() }),
            ("protocol_version", Hello { protocol_min: 3, protocol_max: 4, ..honest.clone() }),
        ];
        for (reason, hello) in cases {
            expect_refusals(node, reason, || {
                let told = says(&certs, &hello);
                assert!(told.contains(reason), "the other side is told {told}");
                println!("{}", told.replace(|letter: char| letter.is_control(), " "));
            });
        }
    });
}

#[test]
fn an_oversized_frame_is_refused_from_a_stranger_and_from_a_member() {
    let (mut cluster, certs, _) = cluster();
    let honest = third_member(&cluster);
    // Two gigabytes are promised; nobody makes room for them.
    let oversized = stranger::frame(23, b"", 0x7fff_ff00);
    let before = cluster.nodes[0].resident_bytes();
    unnoticed(&cluster, || {
        expect_refusals(&cluster.nodes[0], "frame_too_long", || {
            let told = Stranger::new(&certs, "n3").say(&cluster.nodes[0].peer, &[&HANDSHAKE[..], &oversized].concat());
            println!("instead of a hello: {}", told.expect_err("no answer to an oversized frame"));
        });
    });
    // A member gone mad: it has the name, the certificate and the disk's number of n3, which is down.
    cluster.nodes[2].kill();
    await_that("writes of two", || cluster.nodes[0].put("k", b"v").is_some_and(|put| put.status == 200));
    unnoticed(&cluster, || {
        let node = &cluster.nodes[0];
        let (count, mut process) = (refused(node, "frame_too_long"), 1);
        for _ in 0..TIMES {
            process += 1;
            let hello = Hello { process, ..honest.clone() };
            let ended = Stranger::new(&certs, "n3").send_as_member(&node.peer, &hello, CONTROL, &oversized);
            assert!(ended.contains("peer.frame_bytes_max"), "{ended}");
        }
        await_that("the refusals", || refused(node, "frame_too_long") == count + TIMES);
        let lines = node.log();
        let of_n3 = lines.lines().filter(|line| line.contains("peer=n3 ") && line.contains("\"frame_too_long\""));
        assert_eq!(of_n3.count(), 1, "logged once:\n{lines}");
    });
    let grown = cluster.nodes[0].resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more in memory");
    cluster.nodes[2].start();
    let back = || cluster.nodes[2].get("/v1/kv/k?consistency=local").filter(|got| got.status == 200);
    await_some("the real n3 to be back", back);
}
