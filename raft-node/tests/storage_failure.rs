//! A node whose disk fails: it ends, and says why after its next start.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;

use support::namespace::run_isolated;
use support::{TestCluster, await_some, await_that, command};

fn run(words: &[&str]) {
    let done = command(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_node_whose_disk_is_full_ends_and_tells_of_it_after_its_next_start() {
    run_isolated("a_node_whose_disk_is_full_ends_and_tells_of_it_after_its_next_start", || {
        const LAST: &str = "raft_storage_last_failure_timestamp_seconds";
        let mut cluster = TestCluster::prepare(1, &[]);
        let node = &mut cluster.nodes[0];
        std::fs::create_dir_all(&node.data_dir).unwrap();
        // A small file system that is this node's alone. Nothing is asked of its durability here.
        run(&["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", node.data_dir.to_str().unwrap()]);
        node.start();
        await_that("a first write", || node.put("key", b"value").is_some_and(|reply| reply.status == 200));
        assert_eq!(node.metric(LAST), Some(0.0), "it has never failed");
        let size = node.metric("raft_storage_size_bytes").unwrap();
        assert!((size - 64.0 * 1024.0 * 1024.0).abs() < 1.0, "the file system has {size} bytes");
        let filler = node.data_dir.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        // It is measured beside, so that a disk that hangs does not hang the metrics.
        await_that("a full disk in the metrics", || {
            // A mark of its own may be what it ends by.
            !node.lives() || node.metric("raft_storage_free_bytes").is_some_and(|free| free < 8192.0)
        });
        await_that("the end of a node that cannot write its log", || {
            let _refused = node.put("key", &[2; 1 << 20]);
            !node.lives()
        });
        let status = node.child.take().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(11), "{}", node.log());
        // Room is made, and it is started again.
        drop(file);
        std::fs::remove_file(filler).unwrap();
        node.start();
        let at = await_some("the time of the failure", || node.metric(LAST));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(at > 0.0 && now - at < 600.0, "{at}");
        let events = await_some("the events", || node.get("/v1/events?limit=100")).text();
        assert!(events.contains("before this start the disk failed") && events.contains("No space left"), "{events}");
        await_that("another write", || node.put("key", b"again").is_some_and(|reply| reply.status == 200));
        let data_dir = node.data_dir.to_str().unwrap().to_owned();
        node.kill();
        run(&["umount", &data_dir]);
    });
}
