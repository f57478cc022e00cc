//! The trap of streams, by hand: two connections of one purpose, and the older one still has something to say.

use async_trait::async_trait;
use raft_core::message::{Envelope, Message};
use raft_core::ports::{Inbound, LocalIdentity, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink, Transport};
use raft_core::runs::Span;
use raft_core::types::{ClusterId, GroupId, Incarnation, Index, LogId, NodeName, Term};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::*;
use crate::transport::TcpTransport;
use crate::{Settings, Tls};

const PATIENCE: Duration = Duration::from_secs(30);

/// Writes down the terms of what arrives.
#[derive(Default)]
struct Terms(Mutex<Vec<u64>>);

#[async_trait]
impl Inbound for Terms {
    fn receive(&self, message: PeerMessage) {
        self.0.lock().push(message.envelope.term.0);
    }

    fn unreachable(&self, _peer: NodeId) {}

    async fn request(&self, _from: RemoteIdentity, request: Bytes) -> Bytes {
        request
    }

    fn snapshot(&self, _offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        Err(SnapshotError::Refused("nobody wants it".into()))
    }
}

fn make_certificates(directory: &std::path::Path) {
    let write = |file: String, text: String| std::fs::write(directory.join(file), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    write("ca.pem".into(), params.self_signed(&key).unwrap().pem());
    let authority = Issuer::new(params, key);
    for name in ["n1", "n2"] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("raft://raft/{name}").as_str().try_into().unwrap())];
        write(format!("{name}.pem"), params.signed_by(&key, &authority).unwrap().pem());
        write(format!("{name}.key"), key.serialize_pem());
    }
}

fn append(term: u64) -> Vec<u8> {
    let prev = LogId::new(Index(term), Term(1));
    let message = Message::Append { entries: Span { prev, ..Span::default() }, commit: Index(0) };
    let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: Term(term), message };
    codec::encode(&PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() })
}

/// Waits for so many messages.
async fn arrived(terms: &Terms, count: usize) {
    let enough = async {
        while terms.0.lock().len() < count {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, enough).await.expect("messages on a sound connection arrive");
}

#[tokio::test]
async fn bytes_of_a_connection_that_was_given_up_are_never_taken_after_newer_ones() {
    let directory = tempfile::tempdir().unwrap();
    make_certificates(directory.path());
    let transport = |name: &str| {
        let at = |file: String| directory.path().join(file);
        let (certificate, key) = (at(format!("{name}.pem")), at(format!("{name}.key")));
        let tls = Tls::load("raft", &at("ca.pem".into()), &certificate, &key).unwrap();
        TcpTransport::new(Settings::new("127.0.0.1:0", tls))
    };
    let local = |number: u64| LocalIdentity {
        name: NodeName::new(format!("n{number}")),
        incarnation: Incarnation(number.into()),
        cluster: Some(ClusterId(9)),
        id: Some(NodeId(number)),
    };
    let peer = |number: u64, address: String| {
        let LocalIdentity { name, incarnation, id, .. } = local(number);
        Peer { name, address, id, incarnation: Some(incarnation) }
    };
    let (dialer, listener, terms) = (transport("n1"), transport("n2"), Arc::new(Terms::default()));
    listener.start(Arc::clone(&terms) as _).await.unwrap();
    listener.set_peers(local(2), vec![peer(1, "127.0.0.1:1".into())]);
    // It is not started, so it dials by hand only.
    let there = peer(2, listener.local_address().unwrap().to_string());
    dialer.set_peers(local(1), vec![there.clone()]);
    let (urgent, bulk) = (Lane::new(&dialer.shared().settings).0, Lane::new(&dialer.shared().settings).0);
    let (status, lanes, lost) = (Mutex::default(), [urgent, bulk], Notify::new());
    let link = Link { peer: there, status, lanes, lost, attempts: AtomicU64::new(0), idle: Mutex::default() };

    let (mut older, member) = link.dial(dialer.shared(), BULK).await.unwrap();
    assert_eq!(member, Some(NodeId(2)));
    older.send(kind::MESSAGE, &append(1)).await.unwrap();
    arrived(&terms, 1).await;
    let (mut newer, _) = link.dial(dialer.shared(), BULK).await.unwrap();
    // What was on its way: it may be refused by now, and may not be heard.
    let _ = older.send(kind::MESSAGE, &append(2)).await;
    newer.send(kind::MESSAGE, &append(3)).await.unwrap();
    // The older one has come to its end at the other side, as a read shows after some beats.
    let ended = async { while older.next().await.is_ok() {} };
    timeout(PATIENCE, ended).await.expect("the older connection is ended by the newer one");
    arrived(&terms, 2).await;
    assert_eq!(*terms.0.lock(), [1, 3]);
    // Connections of another purpose are none of its business.
    let (mut urgent, _) = link.dial(dialer.shared(), URGENT).await.unwrap();
    urgent.send(kind::MESSAGE, &append(4)).await.unwrap();
    newer.send(kind::MESSAGE, &append(5)).await.unwrap();
    arrived(&terms, 4).await;
    listener.stop().await;
}
