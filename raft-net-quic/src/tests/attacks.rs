//! What TLS and QUIC have to hold off before a byte of ours is read: certificates that must not count, recorded datagrams
//! that come again, and connections that take more than they may. `docs/bad-input.md` states what is expected.

use quinn::{Connection, Endpoint};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SignatureScheme};
use tokio::net::UdpSocket as AsyncUdpSocket;

use super::hostile::{Stranger, admitted, cluster, frame_bytes, greet, honest, undisturbed};
use super::*;
use crate::SetupError;
use crate::shared::{STREAM_WINDOW, UNI_STREAMS_MAX};
use crate::tls::Credentials;
use crate::wire::hello::Reply;
use crate::wire::{ALPN, StreamKind};

/// Certificates of the right authority and name that nobody may take, and what is wrong with each.
type Flaw = (&'static str, fn(&mut CertificateParams));
const FLAWS: [Flaw; 2] = [
    ("it is over", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1)),
    ("its time has not come", |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1)),
];

fn flawed(authority: &Authority, nth: usize, change: fn(&mut CertificateParams)) -> TlsFiles {
    authority.issue_with(&format!("flawed{nth}"), &[San::Uri("raft://test/n3")], change)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialer_whose_certificate_does_not_hold_is_refused() {
    let authority = Authority::new();
    let (one, two, _) = cluster(&authority).await;
    let no_client: Flaw =
        ("it is for servers only", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    for (nth, (flaw, change)) in FLAWS.into_iter().chain([no_client]).enumerate() {
        let credentials = Credentials::unchecked(&flawed(&authority, nth, change)).unwrap();
        let stranger = Stranger::with(quinn::ClientConfig::new(credentials.client.clone()));
        let before = one.refusals("tls");
        let dialed = stranger.endpoint.connect_with(stranger.client.clone(), one.address, "n1").unwrap();
        // The dialer is done first in TLS 1.3, and is told then.
        if let Ok(connection) = dialed.await {
            connection.closed().await;
        }
        until(flaw, || one.refusals("tls") == before + 1).await;
    }
    assert!(!one.is_connected(3));
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptor_whose_certificate_does_not_hold_is_refused() {
    let authority = Authority::new();
    let one = Node::start(1, authority.node(CLUSTER, "n1")).await;
    let no_server: Flaw =
        ("it is for clients only", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    for (nth, (flaw, change)) in FLAWS.into_iter().chain([no_server]).enumerate() {
        let credentials = Credentials::unchecked(&flawed(&authority, nth, change)).unwrap();
        let config = quinn::ServerConfig::with_crypto(credentials.server.clone());
        let acceptor = Endpoint::server(config, any_port()).unwrap();
        let before = one.refusals("tls");
        one.transport.set_peers(member(1), vec![peer(3, acceptor.local_addr().unwrap())]);
        let incoming = acceptor.accept().await.unwrap();
        assert!(incoming.await.is_err(), "{flaw}");
        until(flaw, || one.refusals("tls") > before).await;
        assert!(one.last_error(3).contains("TLS"), "{flaw}: {}", one.last_error(3));
        one.transport.set_peers(member(1), Vec::new());
    }
}

#[test]
fn a_certificate_of_ones_own_that_peers_would_refuse_is_named_at_the_start() {
    let authority = Authority::new();
    let refused = |nth, change| -> SetupError {
        QuicTransport::new(QuicConfig::new(any_port(), CLUSTER, flawed(&authority, nth, change))).unwrap_err()
    };
    for (nth, (flaw, change)) in FLAWS.into_iter().enumerate() {
        assert_eq!(refused(nth, change).setting, "peer.tls.cert", "{flaw}");
    }
    let for_servers = refused(7, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(for_servers.to_string().contains("client authentication"), "{for_servers}");
    let for_clients = refused(8, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(for_clients.setting, "peer.tls.cert");
}

/// The handshake is signed with the certificate's key; a short one proves nothing.
#[test]
fn a_signature_of_a_short_key_counts_for_nothing() {
    let holds = |certificate: &[u8], signature: &[u8]| {
        let supported = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let (_, algorithms) =
            supported.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PSS_SHA256).unwrap();
        let certificate = CertificateDer::from(certificate);
        let leaf = webpki::EndEntityCert::try_from(&certificate).unwrap();
        let message = b"signed by a key that may be too short";
        algorithms.iter().any(|algorithm| leaf.verify_signature(*algorithm, message, signature).is_ok())
    };
    assert!(holds(include_bytes!("rsa/2048.der"), include_bytes!("rsa/2048.sig")));
    assert!(!holds(include_bytes!("rsa/1024.der"), include_bytes!("rsa/1024.sig")));
}

/// A TLS client of `files` that resumes sessions and sends early data where it is let.
fn eager(files: &TlsFiles) -> quinn::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&files.cert).unwrap()];
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = true;
    quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_ever_sent_before_the_handshake_is_done() {
    let authority = Authority::new();
    let files = authority.issue("n1", &[San::Uri("raft://test/n1"), San::Dns("n1.test")]);
    let one = Node::start(1, files).await;
    one.transport.set_peers(member(1), vec![peer(3, nowhere())]);
    let stranger = Stranger::with(eager(&authority.node(CLUSTER, "n3")));
    for attempt in 0..3 {
        let connecting = stranger.endpoint.connect_with(stranger.client.clone(), one.address, "n1.test").unwrap();
        // It would go out with what the last connection left: a ticket. There is none.
        let Err(connecting) = connecting.into_0rtt() else { panic!("early data at attempt {attempt}") };
        let connection = connecting.await.unwrap();
        assert!(matches!(greet(&connection, &honest()).await, Reply::Welcome(_)));
        connection.close(0u32.into(), b"");
        connection.closed().await;
    }
}

/// A path between a stranger and a node on which somebody listens, and may send again what was heard.
struct Path {
    address: SocketAddr,
    to_node: Arc<AsyncUdpSocket>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    node: SocketAddr,
    forwards: tokio::task::JoinHandle<()>,
}

impl Path {
    async fn to(node: SocketAddr) -> Self {
        let to_stranger = AsyncUdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to_node = Arc::new(AsyncUdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, heard) = (to_stranger.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (behind, hears) = (to_node.clone(), heard.clone());
        let forwards = tokio::spawn(async move {
            let (mut there, mut back, mut stranger) = ([0; 2048], [0; 2048], None);
            loop {
                tokio::select! {
                    Ok((length, from)) = to_stranger.recv_from(&mut there) => {
                        stranger = Some(from);
                        hears.lock().push(there[..length].to_vec());
                        let _ = behind.send_to(&there[..length], node).await;
                    }
                    Ok((length, _)) = behind.recv_from(&mut back) => {
                        if let Some(stranger) = stranger {
                            let _ = to_stranger.send_to(&back[..length], stranger).await;
                        }
                    }
                }
            }
        });
        Self { address, to_node, heard, node, forwards }
    }

    /// All that was heard so far, once more, on the same path and from elsewhere.
    async fn replay(&self) {
        let heard = self.heard.lock().clone();
        let elsewhere = AsyncUdpSocket::bind("127.0.0.1:0").await.unwrap();
        for datagram in &heard {
            self.to_node.send_to(datagram, self.node).await.unwrap();
            elsewhere.send_to(datagram, self.node).await.unwrap();
        }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.forwards.abort();
    }
}

/// The rounds of the heartbeats that came from n3.
fn rounds_of_third(node: &Node) -> Vec<u64> {
    let received = node.inbound.received.lock();
    let rounds = received.iter().filter(|message| message.envelope.from == NodeId(3));
    rounds
        .map(|message| match message.envelope.message {
            Message::Heartbeat { round, .. } => round,
            _ => u64::MAX,
        })
        .collect()
}

async fn open_lane(connection: &Connection) -> quinn::SendStream {
    let mut lane = connection.open_uni().await.unwrap();
    lane.write_all(&StreamKind::Control.preface()).await.unwrap();
    lane
}

async fn beat(lane: &mut quinn::SendStream, round: u64) {
    lane.write_all(&frame_bytes(&envelope(3, 1, heartbeat(round)))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_datagrams_are_worth_nothing_now_and_after_a_restart() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let path = Path::to(one.address).await;
    let stranger = Stranger::new(&files).unwrap();
    let connection = stranger.connect(path.address).await;
    assert!(matches!(greet(&connection, &honest()).await, Reply::Welcome(_)));
    let mut lane = open_lane(&connection).await;
    beat(&mut lane, 1).await;
    until("the first heartbeat", || rounds_of_third(&one) == [1]).await;
    for round in 2..5 {
        path.replay().await;
        // Behind what was replayed, on the same path.
        beat(&mut lane, round).await;
        until("the heartbeat behind", || rounds_of_third(&one).last() == Some(&round)).await;
    }
    assert_eq!(rounds_of_third(&one), [1, 2, 3, 4]);
    assert!(connection.close_reason().is_none());
    undisturbed(&one, &two).await;
    // A restarted node has other keys for every connection, and knows none of before.
    let (address, own) = (one.address, authority.path("n1.pem"));
    one.transport.stop().await;
    let own = TlsFiles { ca: authority.path("ca.pem"), key: authority.path("n1.key"), cert: own };
    let again = Node::start_at(1, own, address, |_| {}).await;
    again.transport.set_peers(member(1), vec![peer(2, two.address), peer(3, nowhere())]);
    path.replay().await;
    undisturbed(&again, &two).await;
    let connection = admitted(&stranger, &again).await;
    beat(&mut open_lane(&connection).await, 9).await;
    until("a heartbeat after the restart", || rounds_of_third(&again) == [9]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_shown_its_address_is_sent_little_more_than_three_times_what_it_sent() {
    let authority = Authority::new();
    let give_up = Duration::from_millis(300);
    let files = authority.node(CLUSTER, "n1");
    let one = Node::start_at(1, files, any_port(), |config| config.timing.connect_timeout = give_up).await;
    one.transport.set_peers(member(1), Vec::new());
    // The first datagram of an honest handshake, from the address of somebody who never asked for an answer.
    let catcher = AsyncUdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = Stranger::new(&authority.node(CLUSTER, "n3")).unwrap();
    let _dials = stranger.endpoint.connect_with(stranger.client.clone(), catcher.local_addr().unwrap(), "n1").unwrap();
    let mut first = [0; 2048];
    let length = catcher.recv(&mut first).await.unwrap();
    let victim = AsyncUdpSocket::bind("127.0.0.1:0").await.unwrap();
    victim.send_to(&first[..length], one.address).await.unwrap();
    let (mut sent, mut answer) = (0, [0; 2048]);
    // The node gives up long before it is silent for this long; what it repeats until then counts.
    while let Ok(received) = tokio::time::timeout(give_up * 5, victim.recv(&mut answer)).await {
        sent += received.unwrap();
    }
    assert!(sent > 0, "the handshake was not answered at all");
    // quinn begins a datagram as long as a byte of the three times is left, and ends it.
    assert!(sent < 3 * length + 1500, "{sent} bytes for {length}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_does_not_move_to_another_address() {
    let authority = Authority::new();
    let short = |config: &mut QuicConfig| {
        config.timing.idle_timeout = Duration::from_millis(500);
        config.timing.keep_alive = Duration::from_millis(100);
    };
    let one = Node::start_at(1, authority.node(CLUSTER, "n1"), any_port(), short).await;
    one.transport.set_peers(member(1), vec![peer(3, nowhere())]);
    let stranger = Stranger::new(&authority.node(CLUSTER, "n3")).unwrap();
    let connection = admitted(&stranger, &one).await;
    let mut lane = open_lane(&connection).await;
    beat(&mut lane, 1).await;
    until("the first heartbeat", || rounds_of_third(&one) == [1]).await;
    stranger.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    beat(&mut lane, 2).await;
    tokio::select! {
        _ = connection.closed() => {}
        () = until("the end of the connection", || rounds_of_third(&one).contains(&2)) => {
            panic!("a message came from another address on the same connection");
        }
    }
    until("the end at the node", || !one.is_connected(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_bytes_of_a_connection_are_bounded() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let connection = stranger.connect(one.address).await;
    assert!(matches!(greet(&connection, &honest()).await, Reply::Welcome(_)));
    let mut lanes = Vec::new();
    // One more is not refused: it cannot be opened.
    while let Ok(lane) = tokio::time::timeout(Duration::ZERO, connection.open_uni()).await {
        lanes.push(lane.unwrap());
        assert!(lanes.len() <= UNI_STREAMS_MAX as usize, "more streams than allowed");
    }
    assert_eq!(lanes.len(), UNI_STREAMS_MAX as usize);
    let requests_max = QuicConfig::new(any_port(), CLUSTER, files).limits.requests_max;
    let mut requests = Vec::new();
    while let Ok(request) = tokio::time::timeout(Duration::ZERO, connection.open_bi()).await {
        requests.push(request.unwrap());
        assert!(requests.len() <= requests_max + 16, "more requests than allowed");
    }
    connection.close(0u32.into(), b"");
    // Who never says hello may send what fits into the window, and is cut off.
    let connection = stranger.connect(one.address).await;
    let (mut taken, piece) = (0, vec![0; 256 << 10]);
    let mut stream = connection.open_uni().await.unwrap();
    while let Ok(length) = stream.write(&piece).await {
        taken += length;
        assert!(taken <= STREAM_WINDOW as usize, "{taken} bytes before any hello");
    }
    connection.closed().await;
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_reset_in_the_middle_of_a_frame_leaves_nothing() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let stranger = Stranger::new(&files).unwrap();
    let frame = frame_bytes(&envelope(3, 1, heartbeat(5)));
    for kept in [1, 16, frame.len() - 1] {
        let connection = admitted(&stranger, &one).await;
        let mut lane = open_lane(&connection).await;
        beat(&mut lane, kept as u64).await;
        lane.write_all(&frame[..kept]).await.unwrap();
        until("the whole frame before", || rounds_of_third(&one).last() == Some(&(kept as u64))).await;
        lane.reset(7u32.into()).unwrap();
        // A lane that ends ends its connection, since what was in it is lost.
        connection.closed().await;
    }
    assert!(!rounds_of_third(&one).contains(&5), "half a frame was taken for a message");
    undisturbed(&one, &two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_key_updates_changes_nothing() {
    let authority = Authority::new();
    let (one, two, files) = cluster(&authority).await;
    let connection = admitted(&Stranger::new(&files).unwrap(), &one).await;
    let mut lane = open_lane(&connection).await;
    for round in 1..=300 {
        connection.force_key_update();
        beat(&mut lane, round).await;
        if round % 10 == 0 {
            until("the heartbeats so far", || rounds_of_third(&one).last() == Some(&round)).await;
        }
    }
    assert_eq!(rounds_of_third(&one), (1..=300).collect::<Vec<u64>>());
    assert!(connection.close_reason().is_none());
    undisturbed(&one, &two).await;
}
