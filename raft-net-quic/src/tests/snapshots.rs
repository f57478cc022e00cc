//! What is promised of snapshots between nodes that behave, beyond what the suite of the port demands.

use raft_core::ports::{SnapshotSent, SnapshotSource};

use super::shelf::Chunks;
use super::*;

const STALL_TIMEOUT: Duration = Duration::from_millis(400);

pub(super) fn offer(from: u64, to: u64, chunks: u32) -> SnapshotOffer {
    SnapshotOffer {
        group: GroupId(5),
        from: NodeId(from),
        to: NodeId(to),
        term: Term(3),
        manifest: Bytes::from_static(b"manifest"),
        chunks,
    }
}

async fn send(
    from: &Node,
    to: &Node,
    count: u32,
    source: &Arc<impl SnapshotSource + 'static>,
) -> Result<SnapshotSent, SnapshotError> {
    from.transport.send_snapshot(offer(from.number, to.number, count), source.clone()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_gaps_than_one_frame_holds_are_filled() {
    const COUNT: u32 = 10_000;
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let source = Chunks::new(COUNT, 10);
    // Every second one is there: 5000 ranges are missing.
    two.inbound.shelf.change(|state| {
        state.chunks = (0..COUNT).step_by(2).map(|number| (number, source.bytes(number))).collect();
    });
    let sent = send(&one, &two, COUNT, &source).await.unwrap();
    assert_eq!(sent, SnapshotSent { chunks: 5000, bytes: 50_000, again: 0 });
    let state = two.inbound.shelf.state();
    assert!((0..COUNT).all(|number| state.chunks[&number] == source.bytes(number)));
    assert_eq!((state.finished, state.offers.len(), state.offers[0].clone()), (1, 1, offer(1, 2, COUNT)));
    assert_eq!(*source.read.lock(), (0..COUNT).filter(|number| number % 2 == 1).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_travels_on_a_connection_of_its_own_that_ends_with_it() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let connections = |count| move |node: &Node| node.transport.open_connections() == count;
    let source = Chunks::new(4, 1000);
    for ends_well in [true, false] {
        two.inbound.shelf.change(|state| {
            state.chunks.clear();
            state.blocks_put = true;
        });
        let watching = async {
            until("the first chunk", || two.inbound.shelf.state().open == 1).await;
            assert!([&one, &two].into_iter().all(connections(2)));
            if ends_well {
                two.inbound.shelf.change(|state| state.blocks_put = false);
                std::future::pending().await
            }
        };
        tokio::select! {
            sent = send(&one, &two, 4, &source) => assert_eq!(sent.unwrap().chunks, 4),
            // It is given up.
            () = watching => two.inbound.shelf.change(|state| state.blocks_put = false),
        }
        until("the end of the second connection", || [&one, &two].into_iter().all(connections(1))).await;
        until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
    }
    assert!(one.is_connected(2) && two.is_connected(1));
    assert_eq!(one.refusals("snapshot_connection"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_peers_ends_the_connection_of_a_snapshot_too() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    two.inbound.shelf.change(|state| state.blocks_put = true);
    let source = Chunks::new(64, 1 << 20);
    let changing = async {
        until("the transfer to begin", || two.inbound.shelf.state().open == 1).await;
        let elsewhere = Peer { incarnation: Some(Incarnation(9)), ..peer(1, one.address) };
        two.transport.set_peers(member(2), vec![elsewhere]);
        two.inbound.shelf.change(|state| state.blocks_put = false);
    };
    let (sent, ()) = tokio::join!(send(&one, &two, 64, &source), changing);
    assert!(matches!(sent, Err(SnapshotError::Interrupted(_))), "{sent:?}");
    // Were it not closed, all of it would have arrived: the sink blocks no more.
    until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
    assert_eq!(two.inbound.shelf.state().finished, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_a_limit_is_named_at_the_sender() {
    let authority = Authority::new();
    let (one, two) = pair_with(&authority, |config| config.limits.snapshot_chunk_bytes_max = 100_000).await;
    assert!(send(&one, &two, 1, &Chunks::new(1, 100_000)).await.is_ok());
    two.inbound.shelf.change(|state| state.chunks.clear());
    let error = send(&one, &two, 1, &Chunks::new(1, 200_000)).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Refused(why) if why.contains("peer.snapshot_chunk_bytes_max")), "{error}");
    let mut large = offer(1, 2, 1);
    large.manifest = Bytes::from(vec![0; 17 << 20]);
    let error = one.transport.send_snapshot(large, Chunks::new(1, 1)).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Refused(why) if why.contains("peer.frame_bytes_max")), "{error}");
    assert!(one.is_connected(2), "nothing of it costs the connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_snapshot_of_a_peer_waits_a_moment_and_is_refused_by_name() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    two.inbound.shelf.change(|state| state.blocks_put = true);
    let source = Chunks::new(4, 1000);
    let first = send(&one, &two, 4, &source);
    let second = async {
        until("the first to begin", || two.inbound.shelf.state().open == 1).await;
        let error = send(&one, &two, 4, &source).await.unwrap_err();
        assert!(matches!(&error, SnapshotError::Refused(why) if why.contains("snapshot_streams_max")), "{error}");
        assert_eq!(two.refusals("too_many_snapshots"), 1);
        two.inbound.shelf.change(|state| state.blocks_put = false);
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!(first.unwrap().chunks, 4);
    until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
    assert_eq!(send(&one, &two, 4, &source).await.unwrap().chunks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_connection_ends_the_transfer_at_both_sides() {
    let authority = Authority::new();
    for at_sender in [true, false] {
        let (one, two) = pair(&authority).await;
        two.inbound.shelf.change(|state| state.blocks_put = true);
        let source = Chunks::new(40, 1 << 20);
        let ending = async {
            until("the transfer to begin", || two.inbound.shelf.state().open == 1).await;
            if at_sender { one.knows(&[]) } else { two.knows(&[]) }
        };
        let (sent, ()) = tokio::join!(send(&one, &two, 40, &source), ending);
        assert!(matches!(sent, Err(SnapshotError::Interrupted(_))), "{sent:?}");
        two.inbound.shelf.change(|state| state.blocks_put = false);
        until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
        assert_eq!(two.inbound.shelf.state().finished, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_sink_to_be_dropped() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let source = Chunks::new(400, 1 << 20);
    let stopping = async {
        until("some chunks", || two.inbound.shelf.state().put > 3).await;
        two.transport.stop().await;
        assert_eq!(two.inbound.shelf.state().open, 0);
    };
    let (sent, ()) = tokio::join!(send(&one, &two, 400, &source), stopping);
    assert!(matches!(sent, Err(SnapshotError::Interrupted(_))), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_at_the_end_is_no_standstill_and_a_blocked_disk_is_one() {
    let authority = Authority::new();
    let (one, two) = pair_with(&authority, |config| config.timing.snapshot_stall_timeout = STALL_TIMEOUT).await;
    two.inbound.shelf.change(|state| state.blocks_finish = true);
    let source = Chunks::new(4, 1000);
    let sending = send(&one, &two, 4, &source);
    let working = async {
        until("all chunks", || two.inbound.shelf.state().put == 4).await;
        // Nothing shows from outside that a sync takes its time.
        tokio::time::sleep(STALL_TIMEOUT * 4).await;
        two.inbound.shelf.change(|state| state.blocks_finish = false);
    };
    let (sent, ()) = tokio::join!(sending, working);
    assert_eq!(sent.unwrap().chunks, 4);

    two.inbound.shelf.change(|state| {
        state.chunks.clear();
        state.blocks_put = true;
    });
    let error = send(&one, &two, 4, &source).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Interrupted(why) if why.contains("nothing moved")), "{error}");
    two.inbound.shelf.change(|state| state.blocks_put = false);
    until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
    assert!(one.is_connected(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_either_disk_are_told_as_they_are() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let error = send(&one, &two, 9, &Chunks::that_end(9, 1000, 5)).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { place, .. } if place == "chunk 5"), "{error}");
    until("the sink to be dropped", || two.inbound.shelf.state().open == 0).await;
    assert_eq!(two.inbound.shelf.state().finished, 0);

    two.inbound.shelf.change(|state| state.fails_put = true);
    let error = send(&one, &two, 9, &Chunks::new(9, 1000)).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Interrupted(why) if why.contains("the disk is full")), "{error}");

    // A chunk that never arrives sound: its fault is not on the way.
    two.inbound.shelf.change(|state| {
        state.fails_put = false;
        state.damaged.insert(7);
    });
    let source = Chunks::new(9, 1000);
    let error = send(&one, &two, 9, &source).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Interrupted(why) if why.contains("chunk 7 arrived damaged 4")), "{error}");
    assert_eq!(source.read.lock().iter().filter(|number| **number == 7).count(), 4);
    assert_eq!(two.refusals("snapshot_checksum"), 3, "each of them was asked for again");
    assert!(one.is_connected(2) && two.is_connected(1));
}
