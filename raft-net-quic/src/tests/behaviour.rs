//! What is promised between nodes that behave.

use raft_core::ports::RequestError;

use super::*;

fn indexes(node: &Node) -> Vec<u64> {
    let received = node.inbound.received.lock();
    received.iter().flat_map(|message| &message.entries).map(|entry| entry.id.index.0).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_arrive_once_and_in_order_whatever_their_size() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let dropped = one.dropped(2);
    let sent: Vec<_> = (1..=500u64)
        .map(|index| append(1, 2, index, Bytes::from(vec![index as u8; (index * 37 % 9000) as usize])))
        .collect();
    for message in &sent {
        one.transport.send(NodeId(2), message.clone());
    }
    until("all appends", || indexes(&two).len() == 500).await;
    let received: Vec<_> =
        two.inbound.received.lock().iter().filter(|message| !message.entries.is_empty()).cloned().collect();
    assert_eq!(received, sent);
    assert_eq!(one.dropped(2), dropped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_overtakes_bulk() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let payload = Bytes::from(vec![7; 512 << 10]);
    for index in 1..=60 {
        one.transport.send(NodeId(2), append(1, 2, index, payload.clone()));
    }
    one.send(2, heartbeat(99));
    until("everything", || indexes(&two).len() == 60).await;
    let received = two.inbound.received.lock();
    let position = received.iter().position(|message| message.envelope.message == heartbeat(99)).unwrap();
    let appends_before = received[..position].iter().filter(|message| !message.entries.is_empty()).count();
    // At most what one batch and the stream's window had taken before it: by far not all 30 MiB.
    assert!(appends_before < 30, "{appends_before} of 60 appends came before the heartbeat");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_drops_and_counts_and_tells_once_per_burst() {
    let authority = Authority::new();
    let (one, two) = pair_with(&authority, |config| {
        config.limits.append_lane_messages_max = 8;
        config.limits.append_lane_bytes_max = 1 << 20;
    })
    .await;
    let told_before = one.inbound.unreachable.lock().len();
    let dropped_before = one.dropped(2);
    // 400 MB in one go: the lane holds 1 MiB, QUIC's window a few.
    let payload = Bytes::from(vec![7; 1 << 20]);
    for index in 1..=400 {
        one.transport.send(NodeId(2), append(1, 2, index, payload.clone()));
    }
    let dropped = one.dropped(2) - dropped_before;
    assert!(dropped > 300, "{dropped} dropped");
    until("the burst to be told", || one.inbound.unreachable.lock().len() > told_before).await;
    let told = one.inbound.unreachable.lock().len() - told_before;
    assert!((told as u64) < dropped, "told {told} times of {dropped} drops");
    until("the rest", || indexes(&two).len() as u64 + dropped == 400).await;
    let arrived = indexes(&two);
    assert!(arrived.is_sorted_by(|a, b| a < b), "{arrived:?}");
}

#[tokio::test]
async fn what_is_sent_without_a_connection_or_to_nobody_is_counted() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    one.transport.set_peers(member(1), vec![peer(2, free_address())]);
    for round in 0..5 {
        one.send(2, heartbeat(round));
    }
    assert_eq!(one.dropped(2), 5);
    until("to be told", || !one.inbound.unreachable.lock().is_empty()).await;
    assert_eq!(*one.inbound.unreachable.lock(), [NodeId(2)]);
    one.send(3, heartbeat(1));
    assert_eq!(one.refusals("unknown_recipient"), 1);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Idle timeouts that never end a connection, so that a test sees what else does.
fn no_idle_timeout(config: &mut QuicConfig) {
    config.timing.idle_timeout = Duration::from_secs(3600);
    config.timing.keep_alive = Duration::from_secs(1800);
}

/// Ends a node as a loss of power does: it says nothing to anybody.
fn kill(node: Node, runtime: tokio::runtime::Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(10));
    drop(node);
}

#[test]
fn a_peer_that_came_back_is_reached_again_though_it_never_said_goodbye() {
    let authority = Authority::new();
    // Both roles in the tie between two connections: the lesser name and the greater one come back.
    for (stays, falls) in [(1u64, 2u64), (2, 1)] {
        let (calm, doomed) = (runtime(), runtime());
        let files = |number| authority.node(CLUSTER, &format!("n{number}"));
        let any = any_port;
        let one = calm.block_on(Node::start_at(stays, files(stays), any(), no_idle_timeout));
        let two = doomed.block_on(Node::start_at(falls, files(falls), any(), no_idle_timeout));
        one.knows(&[&two]);
        two.knows(&[&one]);
        calm.block_on(one.reaches(&two));
        calm.block_on(two.reaches(&one));
        let address = two.address;
        let told = one.inbound.unreachable.lock().len();
        kill(two, doomed);
        let next = runtime();
        let two = next.block_on(Node::start_at(falls, files(falls), address, no_idle_timeout));
        two.knows(&[&one]);
        calm.block_on(one.reaches(&two));
        calm.block_on(two.reaches(&one));
        assert!(one.inbound.unreachable.lock().len() > told, "the loss is told");
    }
}

#[test]
fn a_peer_that_forgot_the_connection_says_so() {
    let authority = Authority::new();
    let (calm, doomed) = (runtime(), runtime());
    let any = any_port;
    let one = calm.block_on(Node::start_at(1, authority.node(CLUSTER, "n1"), any(), no_idle_timeout));
    let files = authority.node(CLUSTER, "n2");
    let two = doomed.block_on(Node::start_at(2, files.clone(), any(), no_idle_timeout));
    one.knows(&[&two]);
    two.knows(&[&one]);
    calm.block_on(one.reaches(&two));
    let address = two.address;
    kill(two, doomed);
    // It is back, and does not dial, since it knows nobody yet.
    let next = runtime();
    let _two = next.block_on(Node::start_at(2, files, address, no_idle_timeout));
    calm.block_on(until("the stateless reset", || {
        one.send(2, heartbeat(1));
        !one.is_connected(2)
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_in_parallel_and_bounded() {
    let authority = Authority::new();
    let (one, two) = pair_with(&authority, |config| config.limits.requests_max = 4).await;
    let ask = |request: &'static str, timeout: Duration| {
        let to = name(2);
        let one = &one;
        async move { one.transport.request(&to, Bytes::from(request), timeout).await }
    };
    let long = Duration::from_secs(30);
    let waiting = async { tokio::join!(ask("w1", long), ask("w2", long), ask("w3", long), ask("w4", long)) };
    let others = async {
        until("four requests at work", || two.inbound.asked.lock().len() == 4).await;
        // The fifth waits for its turn, and its time is over first: it never left.
        let fifth = ask("fifth", Duration::from_millis(50)).await;
        assert!(matches!(&fifth, Err(RequestError::NotSent(why)) if why.contains("peer.requests_max")), "{fifth:?}");
        two.inbound.gate.add_permits(4);
    };
    let (answers, ()) = tokio::join!(waiting, others);
    let (a, b, c, d) = answers;
    assert_eq!([a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap()], ["w1", "w2", "w3", "w4"]);
    assert_eq!(two.inbound.asked.lock().len(), 4, "the fifth never arrived");
    assert_eq!(ask("again", long).await.unwrap(), "again");
    let from = two.inbound.asked.lock()[0].0.clone();
    assert_eq!((from.name, from.id, from.cluster), (name(1), Some(NodeId(1)), Some(ClusterId(77))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_says_whether_it_can_have_had_an_effect() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    let short = Duration::from_millis(100);
    let outcome = one.transport.request(&name(2), Bytes::from_static(b"wait"), short).await;
    assert!(matches!(outcome, Err(RequestError::NoAnswer(_))), "{outcome:?}");
    assert_eq!(two.inbound.asked.lock().len(), 1);

    let outcome = one.transport.request(&name(9), Bytes::new(), short).await;
    assert!(matches!(outcome, Err(RequestError::NotSent(_))), "{outcome:?}");
    let outcome = one.transport.request(&name(2), Bytes::from(vec![0; 17 << 20]), short).await;
    assert!(matches!(&outcome, Err(RequestError::NotSent(why)) if why.contains("frame_bytes_max")), "{outcome:?}");
    let big = Bytes::from(vec![5; 15 << 20]);
    assert_eq!(one.transport.request(&name(2), big.clone(), Duration::from_secs(30)).await.unwrap(), big);

    // The peer goes away while it works: nobody knows.
    let to = name(2);
    let request = one.transport.request(&to, Bytes::from_static(b"wait more"), Duration::from_secs(30));
    let stop = async {
        until("the request at work", || two.inbound.asked.lock().len() == 3).await;
        two.transport.stop().await;
    };
    let (outcome, ()) = tokio::join!(request, stop);
    assert!(matches!(outcome, Err(RequestError::NoAnswer(_))), "{outcome:?}");
    // Now there is no connection.
    let outcome = one.transport.request(&name(2), Bytes::from_static(b"x"), short).await;
    assert!(matches!(outcome, Err(RequestError::NotSent(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blank_nodes_may_ask_and_nothing_else_until_they_are_founded() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let two = Node::start(2, authority.node(CLUSTER, "n2")).await;
    let unknown = |number, address: SocketAddr| Peer { id: None, incarnation: None, ..peer(number, address) };
    one.transport.set_peers(blank(1), vec![unknown(2, two.address)]);
    two.transport.set_peers(blank(2), vec![unknown(1, one.address)]);
    let long = Duration::from_secs(30);
    until("a connection", || one.is_connected(2)).await;
    assert_eq!(one.transport.request(&name(2), Bytes::from_static(b"hello?"), long).await.unwrap(), "hello?");
    assert_eq!(two.inbound.asked.lock()[0].0.cluster, None);
    // One is founded first. It still only asks.
    one.knows(&[&two]);
    until("the connection to be made again", || one.is_connected(2)).await;
    one.send(2, heartbeat(1));
    // Connections may be changing hands: a request that meets the end of one is asked again.
    loop {
        if one.transport.request(&name(2), Bytes::from_static(b"join"), long).await.is_ok() {
            break;
        }
    }
    assert_eq!(two.inbound.count(), 0);
    two.knows(&[&one]);
    one.reaches(&two).await;
    two.reaches(&one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_peer_any_more_is_cut_off() {
    let authority = Authority::new();
    let (one, two) = pair(&authority).await;
    two.knows(&[]);
    until("the end of the connection", || !one.is_connected(2)).await;
    until("the reason", || one.refusals("refused_by_peer") > 0).await;
    assert!(one.last_error(2).contains("no node named n1"), "{}", one.last_error(2));
    assert!(two.refusals("unknown_name") > 0);
    two.knows(&[&one]);
    one.reaches(&two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_connection_per_pair() {
    let authority = Authority::new();
    for _ in 0..5 {
        let (one, two) = pair(&authority).await;
        one.reaches(&two).await;
        two.reaches(&one).await;
        let status = one.transport.status().0;
        assert!(status[0].1.rtt.is_some() && status[0].1.sent_bytes > 0);
        one.transport.stop().await;
        two.transport.stop().await;
    }
}
