//! Faults that need a machine's own network and mounts: a blocked port, a full disk.

use crate::support::namespaces::{isolated, tool, with_libraries};
use crate::support::{TestCluster, TestNode, await_that, command};
use crate::{doctor, endpoint, settings};

/// Lets no UDP from one node to another through.
fn block(from: &TestNode, to: &TestNode) {
    let host = |node: &TestNode| node.peer.split(':').next().unwrap().to_owned();
    let mut filter = command(tool("xtables-legacy-multi", "iptables"));
    with_libraries(&mut filter);
    filter.args(["iptables", "-A", "INPUT", "-p", "udp", "-s", &host(from), "-d", &host(to), "-j", "DROP"]);
    let done = filter.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_peer_port_that_is_blocked_over_udp_is_found() {
    isolated("network::a_peer_port_that_is_blocked_over_udp_is_found", |_| {
        let cluster = TestCluster::start(3);
        let (first, last) = (&cluster.nodes[0], &cluster.nodes[2]);
        block(first, last);
        block(last, first);
        await_that("the connection to end", || first.metric("raft_peer_connected") == Some(1.0));
        cluster.await_leader();
        let diagnosis = doctor(&endpoint(first));
        let found = diagnosis.has("peer-unreachable", "let UDP to port 7082 through", "says:");
        let place = found["where"].as_str().unwrap();
        assert!(place.contains("n1") && place.contains("n3"), "{found}");
        diagnosis.only(&["peer-unreachable"]);
    });
}

#[test]
fn a_disk_that_is_nearly_full_is_found() {
    isolated("network::a_disk_that_is_nearly_full_is_found", |directory| {
        let disk = directory.join("disk");
        std::fs::create_dir(&disk).unwrap();
        let mounted = command("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&disk).status().unwrap();
        assert!(mounted.success());
        let cluster = TestCluster::prepare(1, &["--election-timeout", "2s", "--heartbeat-interval", "200ms"]);
        let data_dir = disk.join("node");
        // The last flag is the one that keeps the machine's own disk out of other tests.
        let mut args = settings(&cluster.nodes[0], &[("data-dir", data_dir.to_str().unwrap())]);
        args.truncate(args.len() - 2);
        assert_eq!(doctor(&args).code, Some(0));
        std::fs::write(disk.join("films"), vec![0; 60 << 20]).unwrap();
        let diagnosis = doctor(&args);
        diagnosis.has("disk-nearly-full", &format!("df -h {}", disk.display()), "less than --disk-free-min");
        diagnosis.only(&["disk-nearly-full"]);
        args.extend(["--disk-free-min".to_owned(), "5".to_owned()]);
        assert_eq!(doctor(&args).code, Some(0));
    });
}
