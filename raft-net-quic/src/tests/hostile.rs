//! Peers that do not behave: each is refused and counted, and those that do behave do not notice.

use bytes::BytesMut;
use quinn::{Connection, Endpoint, RecvStream};

use super::*;
use crate::tls::{Credentials, SERVER_NAME};
use crate::wire::hello::{self, Hello, Reply};
use crate::wire::message::Batch;
use crate::wire::{StreamKind, control, frame_type, put_head, take_frame};
use crate::{Limits, SetupError};

/// A QUIC client that speaks as it likes.
pub(super) struct Stranger {
    pub(super) endpoint: Endpoint,
    pub(super) client: quinn::ClientConfig,
}

impl Stranger {
    pub(super) fn new(files: &TlsFiles) -> Result<Self, SetupError> {
        Ok(Self::with(quinn::ClientConfig::new(Credentials::load(files)?.client.clone())))
    }

    /// One that speaks TLS as it likes.
    pub(super) fn with(client: quinn::ClientConfig) -> Self {
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { endpoint, client }
    }

    pub(super) async fn connect(&self, to: SocketAddr) -> Connection {
        self.endpoint.connect_with(self.client.clone(), to, SERVER_NAME).unwrap().await.unwrap()
    }

    /// A connection whose first packet says that it is for a snapshot.
    pub(super) async fn connect_marked(&self, to: SocketAddr) -> Connection {
        let mut client = self.client.clone();
        client.initial_dst_cid_provider(Arc::new(crate::bulk::marked_id));
        self.endpoint.connect_with(client, to, SERVER_NAME).unwrap().await.unwrap()
    }
}

async fn write_bi(connection: &Connection, bytes: &[u8]) -> RecvStream {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    receive
}

fn opening(hello: &Hello) -> Vec<u8> {
    [&StreamKind::Handshake.preface()[..], &hello.encode_hello(&Limits::default())].concat()
}

/// Says hello and hears the answer.
pub(super) async fn greet(connection: &Connection, hello: &Hello) -> Reply {
    let mut receive = write_bi(connection, &opening(hello)).await;
    let mut buffer = BytesMut::new();
    loop {
        if let Some(frame) = take_frame(&mut buffer, &Limits::default()).unwrap() {
            return hello::decode_reply(&frame).unwrap();
        }
        let chunk = receive.read_chunk(1 << 16, true).await.unwrap().expect("an answer comes before the end");
        buffer.extend_from_slice(&chunk.bytes);
    }
}

pub(super) fn honest() -> Hello {
    Hello::of(&member(3), CLUSTER, 1)
}

/// Two members that know a third one, and that third one's certificate.
pub(super) async fn cluster(authority: &Authority) -> (Node, Node, TlsFiles) {
    let (one, two) = pair(authority).await;
    let third = peer(3, nowhere());
    one.transport.set_peers(member(1), vec![peer(2, two.address), third.clone()]);
    two.transport.set_peers(member(2), vec![peer(1, one.address), third]);
    one.reaches(&two).await;
    (one, two, authority.node(CLUSTER, "n3"))
}

/// The two members go on as if nothing had happened.
pub(super) async fn undisturbed(one: &Node, two: &Node) {
    one.reaches(two).await;
    two.reaches(one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_that_do_not_fit_are_refused_by_name() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let other = |local: LocalIdentity| Hello::of(&local, CLUSTER, 1);
    let cases = [
        ("protocol_version", Hello { protocol_min: 3, protocol_max: 9, ..honest() }),
        // A build from before there were snapshots.
        ("protocol_version", Hello { protocol_min: 1, protocol_max: 1, ..honest() }),
        ("cluster_name", Hello::of(&member(3), "elsewhere", 1)),
        ("other_cluster", other(LocalIdentity { cluster: Some(ClusterId(5)), ..member(3) })),
        ("other_incarnation", other(LocalIdentity { incarnation: Incarnation(5), ..member(3) })),
        ("other_id", other(LocalIdentity { id: Some(NodeId(8)), ..member(3) })),
        ("unknown_name", other(LocalIdentity { name: name(4), ..member(3) })),
        // A valid certificate, and the name of another member.
        ("certificate_name", other(member(2))),
    ];
    for (expected, hello) in cases {
        let before = one.refusals(expected);
        for _ in 0..2 {
            let connection = stranger.connect(one.address).await;
            match greet(&connection, &hello).await {
                Reply::Refused { reason, text } => {
                    assert_eq!(reason, expected);
                    assert!(!text.is_empty());
                }
                Reply::Welcome(_) => panic!("{expected} was let in"),
            }
        }
        until(expected, || one.refusals(expected) == before + 2).await;
    }
    let connection = stranger.connect(one.address).await;
    assert!(matches!(greet(&connection, &honest()).await, Reply::Welcome(hello) if hello.name == "n1"));
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_bound_to_names() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let by_host = Peer { address: "Node3.Example:7082".into(), ..peer(3, free_address()) };
    one.transport.set_peers(member(1), vec![by_host]);
    let uri = "raft://test/n3";
    let cases: [(&str, &[San<'_>], bool); 8] = [
        ("uri", &[San::Uri(uri)], true),
        ("second uri", &[San::Uri("raft://other/n3"), San::Uri(uri)], true),
        ("host", &[San::Dns("node3.example")], true),
        ("other cluster", &[San::Uri("raft://other/n3")], false),
        ("other node", &[San::Uri("raft://test/n33")], false),
        ("wildcard", &[San::Dns("*.example")], false),
        ("name as host", &[San::Dns("n3")], false),
        ("no names", &[], false),
    ];
    for (case, names, fits) in cases {
        let stranger = Stranger::new(&authority.issue(&case.replace(' ', "-"), names)).unwrap();
        let reply = greet(&stranger.connect(one.address).await, &honest()).await;
        assert_eq!(matches!(reply, Reply::Welcome(_)), fits, "{case}: {reply:?}");
    }
    until("five refusals", || one.refusals("certificate_name") == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_name_a_certificate_for_another_node() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    // It says that it is n2, with the certificate of n9.
    let two = Node::start(2, authority.node(CLUSTER, "n9")).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    until("both to refuse", || one.refusals("certificate_name") > 1 && two.refusals("refused_by_peer") > 1).await;
    assert!(one.last_error(2).contains("raft://test/n2"), "{}", one.last_error(2));
    until("the reason", || two.last_error(1).contains("raft://test/n2")).await;
    assert!(!one.is_connected(2) && !two.is_connected(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_refuse_a_certificate_of_another_authority() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let two = Node::start(2, Authority::new().node(CLUSTER, "n2")).await;
    one.knows(&[&two]);
    two.knows(&[&one]);
    until("both to refuse", || one.refusals("tls") > 1 && two.refusals("tls") > 1).await;
    assert!(!one.is_connected(2) && !two.is_connected(1));
    assert!(one.last_error(2).contains("TLS"), "{}", one.last_error(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_or_of_another_protocol_is_refused() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    one.transport.set_peers(member(1), Vec::new());
    let files = authority.node(CLUSTER, "n3");
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(&files.ca).unwrap();
    roots
        .add(<rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&ca).unwrap())
        .unwrap();
    for alpn in [&b"raft/1"[..], b"h3"] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let client =
            quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let before = one.refusals("tls");
        // The server's certificate names no host, so give up our own check last: the server must refuse first or too.
        let connecting = endpoint.connect_with(client, one.address, "n1").unwrap();
        let outcome = match connecting.await {
            Ok(connection) => connection.closed().await.to_string(),
            Err(error) => error.to_string(),
        };
        assert!(!outcome.is_empty());
        until("the refusal", || one.refusals("tls") > before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_datagrams_are_counted_and_change_nothing() {
    let authority = Authority::new();
    let (one, two, _) = cluster(&authority).await;
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let garbage: [&[u8]; 6] = [
        b"",
        b"x",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 1200],
        &[0x40; 1200],
        &[0xc0, 0, 0, 0, 9, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    for datagram in garbage {
        socket.send_to(datagram, one.address).unwrap();
    }
    // An empty datagram is nothing to count.
    until("the garbage to be counted", || one.refusals("not_quic") == garbage.len() as u64 - 1).await;
    undisturbed(&one, &two).await;
    assert_eq!(one.refusals("not_quic"), garbage.len() as u64 - 1, "nothing of a peer is taken for garbage");
    assert_eq!(two.refusals("not_quic"), 0);
}

pub(super) fn frame_bytes(message: &PeerMessage) -> Vec<u8> {
    let mut batch = Batch::default();
    assert!(batch.push(message, &Limits::default()));
    batch.finish().0.concat()
}

/// A connection that passed the handshake as n3.
pub(super) async fn admitted(stranger: &Stranger, to: &Node) -> Connection {
    let connection = stranger.connect(to.address).await;
    let reply = greet(&connection, &Hello { process: crate::shared::random(), ..honest() }).await;
    assert!(matches!(reply, Reply::Welcome(_)), "{reply:?}");
    connection
}

async fn write_lane(connection: &Connection, kind: StreamKind, frames: &[u8]) {
    let mut stream = connection.open_uni().await.unwrap();
    // The other side may stop the stream after its first bytes, or close the connection: what it did is what counts.
    let _ = stream.write_all(&[&kind.preface()[..], frames].concat()).await;
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_frames_close_their_connection_and_nothing_else() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let good = frame_bytes(&envelope(3, 1, heartbeat(5)));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        let checksum = crc32c::crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    let cases = [
        ("frame_magic", StreamKind::Control, changed(0, 0)),
        ("frame_version", StreamKind::Control, changed(2, 9)),
        ("frame_flags", StreamKind::Control, changed(5, 1)),
        ("frame_header_checksum", StreamKind::Control, [&good[..28], b"oops"].concat()),
        ("frame_too_long", StreamKind::Control, changed(20, 0x7f)),
        ("frame_control_checksum", StreamKind::Control, changed(24, good[24] ^ 1)),
        ("frame_truncated", StreamKind::Control, good[..good.len() - 1].to_vec()),
        ("frame_out_of_place", StreamKind::Append, good.clone()),
        ("wrong_sender", StreamKind::Control, frame_bytes(&envelope(2, 1, heartbeat(5)))),
        ("wrong_recipient", StreamKind::Control, frame_bytes(&envelope(3, 2, heartbeat(5)))),
        ("frame_out_of_place", StreamKind::Handshake, good.clone()),
    ];
    for (expected, kind, bytes) in cases {
        let before = (one.refusals(expected), one.inbound.count());
        let connection = admitted(&stranger, &one).await;
        write_lane(&connection, kind, &bytes).await;
        let closed = connection.closed().await;
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{expected}: {closed}");
        until(expected, || one.refusals(expected) == before.0 + 1).await;
        assert!(one.inbound.received.lock().iter().all(|message| message.envelope.from != NodeId(3)));
    }
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_may_send_is_dropped_and_the_connection_stays() {
    let authority = Authority::new();
    let (one, _two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let connection = admitted(&stranger, &one).await;
    let mut unknown = BytesMut::new();
    assert!(put_head(&mut unknown, 99, 1, &control::NotRun { reason: "new".into() }, 3, &Limits::default()));
    unknown.extend_from_slice(b"xyz");
    let known = frame_bytes(&envelope(3, 1, heartbeat(5)));
    write_lane(&connection, StreamKind::Control, &[&unknown[..], &known].concat()).await;
    until("the message after the unknown one", || {
        one.inbound.received.lock().iter().any(|message| message.envelope.from == NodeId(3))
    })
    .await;
    assert_eq!(one.refusals("unknown_message"), 1);
    // A payload that was damaged before it was sent costs its message, not the connection.
    let mut damaged = append(3, 1, 1, Bytes::from_static(b"payload"));
    damaged.entries[0].payload = Payload::with_checksum(Bytes::from_static(b"paylOad"), 1);
    let sound = append(3, 1, 2, Bytes::from_static(b"payload"));
    write_lane(&connection, StreamKind::Append, &[frame_bytes(&damaged), frame_bytes(&sound)].concat()).await;
    until("the sound append", || one.inbound.received.lock().contains(&sound)).await;
    assert_eq!(one.refusals("payload_checksum"), 1);
    // A kind of stream that is not known is not taken.
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[0x52, 0x51, 77, 1]).await.unwrap();
    assert_eq!(stream.stopped().await.unwrap(), Some(crate::wire::close_code::NOT_TAKEN.into()));
    assert_eq!(one.refusals("unknown_stream"), 1);
    // A request of a type that is not known is answered: it did not run.
    let mut bytes = BytesMut::from(&StreamKind::Request.preface()[..]);
    assert!(put_head(&mut bytes, 99, 0, &control::Answer {}, 0, &Limits::default()));
    let mut answer = write_bi(&connection, &bytes).await;
    let answer = answer.read_to_end(1 << 16).await.unwrap();
    let frame = take_frame(&mut BytesMut::from(&answer[..]), &Limits::default()).unwrap().unwrap();
    assert_eq!(frame.kind, frame_type::NOT_RUN);
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_of_a_lane_is_refused() {
    let authority = Authority::new();
    let (one, _two, files) = cluster(&authority).await;
    let connection = admitted(&Stranger::new(&files).unwrap(), &one).await;
    let good = frame_bytes(&envelope(3, 1, heartbeat(5)));
    for _ in 0..2 {
        write_lane(&connection, StreamKind::Control, &good).await;
    }
    connection.closed().await;
    assert_eq!(one.refusals("frame_out_of_place"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raft_messages_of_a_blank_node_are_not_taken() {
    let authority = Authority::new();
    let (one, _two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let connection = stranger.connect(one.address).await;
    let reply = greet(&connection, &Hello::of(&blank(3), CLUSTER, 1)).await;
    assert!(matches!(reply, Reply::Welcome(_)), "{reply:?}");
    write_lane(&connection, StreamKind::Control, &frame_bytes(&envelope(3, 1, heartbeat(5)))).await;
    until("the refusal", || one.refusals("not_a_member") == 1).await;
    assert!(connection.close_reason().is_none());
    assert!(one.inbound.received.lock().iter().all(|message| message.envelope.from != NodeId(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_lead_nowhere_end_and_are_bounded() {
    let authority = Authority::new();
    let any = any_port;
    let one = Node::start_at(1, authority.node(CLUSTER, "n1"), any(), |config| {
        config.limits.handshakes_max = 2;
        config.timing.connect_timeout = Duration::from_millis(300);
    })
    .await;
    one.transport.set_peers(member(1), vec![peer(3, free_address())]);
    let stranger = Stranger::new(&authority.node(CLUSTER, "n3")).unwrap();
    // Two that say nothing; the third is turned away.
    let silent = [stranger.connect(one.address).await, stranger.connect(one.address).await];
    let third = stranger.endpoint.connect_with(stranger.client.clone(), one.address, SERVER_NAME).unwrap().await;
    assert!(third.is_err());
    assert_eq!(one.refusals("too_many_handshakes"), 1);
    for connection in silent {
        connection.closed().await;
    }
    let connection = stranger.connect(one.address).await;
    assert!(matches!(greet(&connection, &honest()).await, Reply::Welcome(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialer_that_goes_before_its_answer_is_let_go() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let connection = stranger.connect(one.address).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    // Its answer is not wanted, so it cannot be written.
    receive.stop(0u32.into()).unwrap();
    send.write_all(&opening(&honest())).await.unwrap();
    connection.closed().await;
    // The connection was taken as n3's for a moment: its end has to be noticed, else n3 is never dialed again.
    until("its end is told", || one.inbound.unreachable.lock().contains(&NodeId(3))).await;
    assert!(!one.is_connected(3));
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_a_hello_is_refused() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let good = opening(&honest());
    let cases: [(&str, Vec<u8>); 5] = [
        ("frame_magic", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("frame_magic", [&good[..4], &[0; 64]].concat()),
        ("frame_out_of_place", StreamKind::Request.preface().to_vec()),
        ("frame_truncated", good[..good.len() - 1].to_vec()),
        ("frame_truncated", good[..2].to_vec()),
    ];
    for (expected, bytes) in cases {
        let before = one.refusals(expected);
        let connection = stranger.connect(one.address).await;
        let _receive = write_bi(&connection, &bytes).await;
        connection.closed().await;
        until(expected, || one.refusals(expected) == before + 1).await;
    }
    undisturbed(&one, &two).await;
}
