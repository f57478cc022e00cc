//! Peers that break the rules in the transfer of a snapshot, at either end.

use bytes::{BufMut, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use raft_core::ports::SnapshotSent;

use super::hostile::{Stranger, admitted, cluster, greet, undisturbed};
use super::shelf::Chunks;
use super::snapshots::offer;
use super::*;
use crate::Limits;
use crate::wire::hello::{Hello, Reply as HelloReply};
use crate::wire::snapshot::{self, Reply};
use crate::wire::{Frame, StreamKind, control, frame_type, put_head, take_frame};

const CHUNK: &[u8] = &[7; 1000];

fn limits() -> Limits {
    Limits::default()
}

fn offer_bytes(offer: &SnapshotOffer) -> Vec<u8> {
    let head = snapshot::encode_offer(offer, &limits()).unwrap();
    [&StreamKind::Snapshot.preface()[..], &head, &offer.manifest].concat()
}

fn chunk_bytes(number: u32, bytes: &[u8]) -> Vec<u8> {
    [&snapshot::encode_chunk(GroupId(5), number, bytes, &limits()).unwrap(), bytes].concat()
}

/// A chunk whose bytes are not those of its checksum.
fn damaged_bytes(number: u32) -> Vec<u8> {
    let mut bytes = chunk_bytes(number, CHUNK);
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

/// A frame of any type with any body.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    assert!(put_head(&mut bytes, kind, 5, &control::Answer {}, body.len(), &limits()));
    bytes.put_slice(body);
    bytes.to_vec()
}

fn reply(reply: &Reply) -> Vec<u8> {
    reply.encode(GroupId(5), &limits()).to_vec()
}

fn wanted(ranges: &[(u32, u32)]) -> Vec<u8> {
    let body: Vec<u8> =
        ranges.iter().flat_map(|(start, end)| [start.to_be_bytes(), end.to_be_bytes()]).flatten().collect();
    frame(frame_type::SNAPSHOT_WANTED, &body)
}

async fn read_frame(stream: &mut RecvStream, buffer: &mut BytesMut) -> Option<Frame> {
    loop {
        if let Some(frame) = take_frame(buffer, &limits()).unwrap() {
            return Some(frame);
        }
        let chunk = stream.read_chunk(1 << 16, true).await.ok()??;
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// The next reply that is no mere word of progress.
async fn read_reply(stream: &mut RecvStream, buffer: &mut BytesMut) -> Option<Reply> {
    loop {
        let frame = read_frame(stream, buffer).await?;
        match Reply::decode(&frame, 1 << 20).unwrap() {
            Some(Reply::Progress { .. }) => {}
            reply => return reply,
        }
    }
}

async fn open(connection: &Connection, bytes: &[u8]) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    (send, receive)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_that_are_no_offers_close_their_connection_and_nothing_else() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let good = offer_bytes(&offer(3, 1, 9));
    let mut long = good.clone();
    long[24] = 0x7f;
    let checksum = crc32c::crc32c(&long[4..32]);
    long[32..36].copy_from_slice(&checksum.to_be_bytes());
    let preface = StreamKind::Snapshot.preface();
    let cases: [(&str, Vec<u8>); 9] = [
        ("wrong_sender", offer_bytes(&offer(2, 1, 9))),
        ("wrong_recipient", offer_bytes(&offer(3, 2, 9))),
        ("beyond_limit", offer_bytes(&SnapshotOffer { term: Term::LIMIT, ..offer(3, 1, 9) })),
        ("frame_out_of_place", [&preface[..], &chunk_bytes(0, CHUNK)].concat()),
        ("frame_out_of_place", [&good[..], &good[4..]].concat()),
        ("frame_truncated", good[..good.len() - 1].to_vec()),
        ("frame_truncated", preface.to_vec()),
        ("frame_magic", [&preface[..], &[0; 64]].concat()),
        ("frame_too_long", long),
    ];
    for (expected, bytes) in cases {
        let before = one.refusals(expected);
        let connection = admitted(&stranger, &one).await;
        let (mut send, _receive) = open(&connection, &bytes).await;
        send.finish().unwrap();
        let closed = connection.closed().await;
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{expected}: {closed}");
        until(expected, || one.refusals(expected) == before + 1).await;
    }
    until("all sinks to be dropped", || one.inbound.shelf.state().open == 0).await;
    assert_eq!(one.inbound.shelf.state().finished, 0);
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_nobody_asked_for_cost_the_transfer_and_not_the_connection() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let connection = admitted(&Stranger::new(&files).unwrap(), &one).await;
    one.inbound.shelf.change(|state| {
        state.chunks.insert(4, Bytes::from_static(CHUNK));
    });
    let twice = [chunk_bytes(1, CHUNK), chunk_bytes(1, CHUNK)].concat();
    let cases =
        [chunk_bytes(9, CHUNK), chunk_bytes(u32::MAX, CHUNK), chunk_bytes(4, CHUNK), twice].into_iter().zip(1..);
    for (bytes, refusals) in cases {
        one.inbound.shelf.change(|state| state.chunks.retain(|number, _| *number == 4));
        let (mut send, mut receive) = open(&connection, &offer_bytes(&offer(3, 1, 9))).await;
        let mut buffer = BytesMut::new();
        let asked = read_reply(&mut receive, &mut buffer).await;
        assert_eq!(asked, Some(Reply::Wanted(vec![0..4, 5..9])));
        send.write_all(&bytes).await.unwrap();
        let failed = read_reply(&mut receive, &mut buffer).await;
        assert!(matches!(&failed, Some(Reply::Failed(why)) if why.contains("was not asked for")), "{failed:?}");
        until("the refusal", || one.refusals("snapshot_chunk") == refusals).await;
        until("the sink to be dropped", || one.inbound.shelf.state().open == 0).await;
    }
    assert!(connection.close_reason().is_none());
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_does_not_fit_its_checksum_is_asked_for_again_and_what_is_unknown_is_dropped() {
    let authority = Authority::new();
    let (one, _two, files) = cluster(&authority).await;
    let connection = admitted(&Stranger::new(&files).unwrap(), &one).await;
    let (mut send, mut receive) = open(&connection, &offer_bytes(&offer(3, 1, 3))).await;
    let mut buffer = BytesMut::new();
    assert_eq!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Wanted(std::iter::once(0..3).collect())));
    let unknown = frame(99, b"of a later version");
    send.write_all(&[chunk_bytes(2, CHUNK), unknown, damaged_bytes(0), chunk_bytes(1, b"")].concat()).await.unwrap();
    assert_eq!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Again(vec![0])));
    assert_eq!((one.refusals("snapshot_checksum"), one.refusals("unknown_message")), (1, 1));
    send.write_all(&chunk_bytes(0, CHUNK)).await.unwrap();
    assert_eq!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Done));
    let state = one.inbound.shelf.state();
    assert_eq!((state.finished, &state.chunks[&0][..], &state.chunks[&1][..]), (1, CHUNK, &b""[..]));
    assert_eq!(state.put, 3, "the damaged one never came to the sink");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_off_and_long_chunks_are_refused() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let good = chunk_bytes(0, CHUNK);
    let mut long = good.clone();
    long[20..24].copy_from_slice(&((limits().snapshot_chunk_bytes_max + 8192) as u32).to_be_bytes());
    let checksum = crc32c::crc32c(&long[..28]);
    long[28..32].copy_from_slice(&checksum.to_be_bytes());
    for (expected, bytes) in [("frame_truncated", &good[..500]), ("frame_too_long", &long[..])] {
        let connection = admitted(&stranger, &one).await;
        let (mut send, mut receive) = open(&connection, &offer_bytes(&offer(3, 1, 3))).await;
        let mut buffer = BytesMut::new();
        assert!(matches!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Wanted(_))));
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
        until(expected, || one.refusals(expected) == 1).await;
    }
    // One that is reset, or ends between two chunks, breaks no rule.
    let connection = admitted(&stranger, &one).await;
    for resets in [true, false] {
        let (mut send, mut receive) = open(&connection, &offer_bytes(&offer(3, 1, 3))).await;
        let mut buffer = BytesMut::new();
        assert!(matches!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Wanted(_))));
        if resets {
            send.reset(7u32.into()).unwrap()
        } else {
            send.finish().unwrap()
        }
        assert!(matches!(read_reply(&mut receive, &mut buffer).await, Some(Reply::Failed(_))));
        until("the sink to be dropped", || one.inbound.shelf.state().open == 0).await;
    }
    assert!(connection.close_reason().is_none());
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_node_offers_in_vain() {
    let authority = Authority::new();
    let (one, _two, files) = cluster(&authority).await;
    let connection = Stranger::new(&files).unwrap().connect(one.address).await;
    let reply = greet(&connection, &Hello::of(&blank(3), CLUSTER, 1)).await;
    assert!(matches!(reply, HelloReply::Welcome(_)), "{reply:?}");
    let (_send, mut receive) = open(&connection, &offer_bytes(&offer(3, 1, 3))).await;
    let refused = read_reply(&mut receive, &mut BytesMut::new()).await;
    assert!(matches!(&refused, Some(Reply::Refused(why)) if why.contains("no known members")), "{refused:?}");
    assert_eq!(one.refusals("not_a_member"), 1);
    assert!(one.inbound.shelf.state().offers.is_empty());
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_for_snapshots_are_bounded_and_those_of_a_dead_process_make_room() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let hello = |process| Hello { bulk: true, ..Hello::of(&member(3), CLUSTER, process) };
    let mut taken = Vec::new();
    for _ in 0..4 {
        let connection = stranger.connect_marked(one.address).await;
        let reply = greet(&connection, &hello(1)).await;
        assert!(matches!(reply, HelloReply::Welcome(_)), "{reply:?}");
        taken.push(connection);
    }
    let reply = greet(&stranger.connect_marked(one.address).await, &hello(1)).await;
    assert!(matches!(&reply, HelloReply::Refused { reason, .. } if reason == "duplicate"), "{reply:?}");
    let next = stranger.connect_marked(one.address).await;
    let reply = greet(&next, &hello(2)).await;
    assert!(matches!(reply, HelloReply::Welcome(_)), "{reply:?}");
    for connection in taken {
        connection.closed().await;
    }
    // It is a connection for snapshots and no other: the node is not connected by it.
    assert!(!one.is_connected(3));
    let (_send, mut receive) = open(&next, &offer_bytes(&offer(3, 1, 3))).await;
    let asked = read_reply(&mut receive, &mut BytesMut::new()).await;
    assert_eq!(asked, Some(Reply::Wanted(std::iter::once(0..3).collect())));
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_for_a_snapshot_carries_nothing_else_and_does_not_wait_for_ever() {
    let authority = Authority::new();
    let one = Node::start_at(1, authority.node(CLUSTER, "n1"), any_port(), |config| {
        config.timing.snapshot_stall_timeout = Duration::from_secs(1);
    })
    .await;
    one.transport.set_peers(member(1), vec![peer(3, nowhere())]);
    let stranger = Stranger::new(&authority.node(CLUSTER, "n3")).unwrap();
    let bulk = Hello { bulk: true, ..Hello::of(&member(3), CLUSTER, 1) };
    // A request, a lane in the place of the stream, and nothing at all.
    let request = StreamKind::Request.preface();
    let control = StreamKind::Control.preface();
    for (refusals, bytes) in [(1, Some(&request)), (2, Some(&control)), (2, None)] {
        let connection = stranger.connect_marked(one.address).await;
        let reply = greet(&connection, &bulk).await;
        assert!(matches!(reply, HelloReply::Welcome(_)), "{reply:?}");
        let opened = match bytes {
            Some(bytes) => Some(open(&connection, bytes).await),
            None => None,
        };
        connection.closed().await;
        drop(opened);
        until("the refusal", || one.refusals("frame_out_of_place") == refusals).await;
    }
    // The mark and the word have to fit.
    let connection = stranger.connect(one.address).await;
    connection_closes_at(&connection, &bulk).await;
    let connection = stranger.connect_marked(one.address).await;
    connection_closes_at(&connection, &Hello::of(&member(3), CLUSTER, 1)).await;
    until("the refusals", || one.refusals("frame_out_of_place") == 4).await;
}

/// Says hello, and is not answered but closed.
async fn connection_closes_at(connection: &Connection, hello: &Hello) {
    let bytes = [&StreamKind::Handshake.preface()[..], &hello.encode_hello(&limits())].concat();
    let _streams = open(connection, &bytes).await;
    let closed = connection.closed().await;
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
}

/// Has `one` send a snapshot of so many chunks to the stranger, which answers with these bytes at once, and reads no
/// more than the offer.
async fn answered(
    one: &Node,
    connection: &Connection,
    source: &Arc<Chunks>,
    count: u32,
    answer: &[u8],
) -> Result<SnapshotSent, SnapshotError> {
    let sending = one.transport.send_snapshot(offer(1, 3, count), source.clone());
    let answering = async {
        // Its own lanes are there too: they are streams of one direction.
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        let mut preface = [0; 4];
        receive.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, StreamKind::Snapshot.preface());
        let offered = read_frame(&mut receive, &mut BytesMut::new()).await.unwrap();
        assert_eq!(snapshot::decode_offer(offered).unwrap(), offer(1, 3, count));
        send.write_all(answer).await.unwrap();
        (send, receive)
    };
    let (sent, _streams) = tokio::join!(sending, answering);
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_break_the_rules_end_the_transfer_and_keep_the_connection() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let connection = admitted(&Stranger::new(&files).unwrap(), &one).await;
    // More than a stream's window holds, so that it cannot have been sent when the answer comes.
    let (source, all) = (Chunks::new(64, 1 << 20), wanted(&[(0, 64)]));
    let again = |numbers: &[u32]| reply(&Reply::Again(numbers.to_vec()));
    let cases = [
        ("snapshot_ranges", wanted(&[(0, 65)])),
        ("snapshot_ranges", wanted(&[(9, 9)])),
        ("snapshot_ranges", wanted(&[(9, 3)])),
        ("snapshot_ranges", wanted(&[(5, 9), (8, 12)])),
        ("snapshot_ranges", wanted(&[(5, 9), (0, 2)])),
        ("snapshot_ranges", wanted(&[])),
        ("snapshot_ranges", wanted(&[(1, 2); 4097])),
        ("snapshot_ranges", frame(frame_type::SNAPSHOT_WANTED, &[0; 15])),
        ("snapshot_order", again(&[1])),
        ("snapshot_order", [all.clone(), again(&[64])].concat()),
        ("snapshot_order", [all.clone(), again(&[])].concat()),
        ("snapshot_order", [wanted(&[(0, 3), (9, 64)]), again(&[9, 5])].concat()),
        ("snapshot_order", [all.clone(), all.clone()].concat()),
        ("snapshot_order", [all.clone(), reply(&Reply::Done)].concat()),
        ("snapshot_order", [all.clone(), reply(&Reply::Refused("no".into()))].concat()),
        // The same one for ever.
        ("snapshot_ranges", [all.clone(), again(&[0; 200]).repeat(6)].concat()),
    ];
    for (expected, answer) in cases {
        let before = one.refusals(expected);
        let error = answered(&one, &connection, &source, 64, &answer).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Interrupted(_)), "{expected}: {error}");
        assert_eq!(one.refusals(expected), before + 1, "{error}");
    }
    assert!(connection.close_reason().is_none());
    // These are no breach.
    let words = [
        ("no space", reply(&Reply::Refused("no space".into()))),
        ("receiver says: broken", [all.clone(), reply(&Reply::Failed("broken".into()))].concat()),
        ("receiver says: broken", reply(&Reply::Failed("broken".into()))),
    ];
    for (expected, answer) in words {
        let error = answered(&one, &connection, &source, 64, &answer).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let unknown = [frame(99, b"x"), reply(&Reply::Done)].concat();
    assert_eq!(answered(&one, &connection, &source, 64, &unknown).await.unwrap(), SnapshotSent::default());
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_a_receiver_that_are_no_replies_close_the_connection() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let mut huge = frame(frame_type::SNAPSHOT_WANTED, &[0; 8]);
    huge[20..24].copy_from_slice(&(8u32 << 20).to_be_bytes());
    let checksum = crc32c::crc32c(&huge[..28]);
    huge[28..32].copy_from_slice(&checksum.to_be_bytes());
    let cases = [
        ("frame_out_of_place", chunk_bytes(0, CHUNK)),
        ("frame_out_of_place", frame(frame_type::REQUEST, b"")),
        ("frame_body", frame(frame_type::SNAPSHOT_DONE, b"x")),
        ("frame_too_long", huge),
        ("frame_magic", vec![0; 64]),
    ];
    for (expected, answer) in cases {
        let before = one.refusals(expected);
        let connection = admitted(&stranger, &one).await;
        let error = answered(&one, &connection, &Chunks::new(9, 10), 9, &answer).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Interrupted(_)), "{expected}: {error}");
        connection.closed().await;
        assert_eq!(one.refusals(expected), before + 1, "{error}");
    }
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_reads_nothing_ends_by_the_stall_timeout() {
    let authority = Authority::new();
    let timeout = Duration::from_millis(400);
    let one = Node::start_at(1, authority.node(CLUSTER, "n1"), any_port(), |config| {
        config.timing.snapshot_stall_timeout = timeout;
    })
    .await;
    one.transport.set_peers(member(1), vec![peer(3, nowhere())]);
    let connection = admitted(&Stranger::new(&authority.node(CLUSTER, "n3")).unwrap(), &one).await;
    // It repeats itself, which is no progress.
    let progress = reply(&Reply::Progress { chunks: 0, bytes: 0, working: false }).repeat(100);
    for answer in [Vec::new(), wanted(&[(0, 64)]), [wanted(&[(0, 64)]), progress].concat()] {
        let error = answered(&one, &connection, &Chunks::new(64, 1 << 20), 64, &answer).await.unwrap_err();
        assert!(error.to_string().contains("nothing moved for 400ms"), "{error}");
    }
    assert!(connection.close_reason().is_none());
}

/// Of two connections that come about at the same time one is closed, while a transfer looks for a connection of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_when_another_connection_takes_the_place_of_the_first() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let silent = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    one.transport.set_peers(member(1), vec![peer(3, silent.local_addr().unwrap())]);
    let stranger = Stranger::new(&authority.node(CLUSTER, "n3")).unwrap();
    let hello = Hello::of(&member(3), CLUSTER, 9);
    let first = stranger.connect(one.address).await;
    assert!(matches!(greet(&first, &hello).await, HelloReply::Welcome(_)));
    until("the first connection", || one.is_connected(3)).await;

    let answering = async {
        let mut datagram = [0; 2048];
        // Its long header: flags, version, and the receiver's id behind its length. RFC 9000 17.2
        while {
            let length = silent.recv(&mut datagram).await.unwrap();
            let id = &datagram[6..6 + usize::from(datagram[5])];
            length < 1200 || !crate::bulk::is_marked(&quinn::ConnectionId::new(id))
        } {}
        let second = stranger.connect(one.address).await;
        assert!(matches!(greet(&second, &hello).await, HelloReply::Welcome(_)));
        first.closed().await;
        let (mut send, mut receive) = second.accept_bi().await.unwrap();
        let mut buffer = BytesMut::new();
        receive.read_exact(&mut [0; 4]).await.unwrap();
        read_frame(&mut receive, &mut buffer).await.unwrap();
        send.write_all(&reply(&Reply::Failed("it is seen".into()))).await.unwrap();
        (second, send, receive)
    };
    let mut sending = std::pin::pin!(one.transport.send_snapshot(offer(1, 3, 2), Chunks::new(2, 1000)));
    let _kept = tokio::select! {
        kept = answering => kept,
        ended = &mut sending => panic!("it ended before it was offered: {ended:?}"),
    };
    let error = sending.await.unwrap_err();
    assert!(error.to_string().contains("it is seen"), "{error}");
}
