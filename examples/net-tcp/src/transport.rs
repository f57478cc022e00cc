//! The port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::message::PeerMessage;
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RequestError, SnapshotError, SnapshotOffer, SnapshotSent,
    SnapshotSource, Transport,
};
use raft_core::roster::Roster;
use raft_core::types::{NodeId, NodeName};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::link::{Dialed, Link};
use crate::tls::Tls;
use crate::{accept, snapshots};

/// What a transport is told by its maker. All members need the same `frame_bytes_max`.
pub struct Settings {
    /// `host:port` to listen at.
    pub listen: String,
    /// Who this node is, and whom it trusts.
    pub tls: Tls,
    /// The longest frame; a longer message is dropped and counted, a longer frame ends its connection.
    pub frame_bytes_max: usize,
    /// Messages that wait in one lane; then further ones are dropped and counted.
    pub lane_messages_max: usize,
    /// Their bytes, likewise.
    pub lane_bytes_max: u64,
    /// Connections for requests that others may have open; then further ones are refused.
    pub requests_max: usize,
    /// A connection on which nothing moves for so long is given up. Each side says each fifth of it that it is there.
    pub silence: Duration,
    /// The same for a transfer of a snapshot.
    pub snapshot_stall_timeout: Duration,
}

impl Settings {
    /// Settings that suit most clusters.
    #[must_use]
    pub fn new(listen: impl Into<String>, tls: Tls) -> Self {
        Self {
            listen: listen.into(),
            tls,
            frame_bytes_max: 16 << 20,
            lane_messages_max: 4096,
            lane_bytes_max: 64 << 20,
            requests_max: 1024,
            silence: Duration::from_secs(5),
            snapshot_stall_timeout: Duration::from_secs(30),
        }
    }
}

/// See the crate.
pub struct TcpTransport(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    running: OnceLock<(Handle, Arc<dyn Inbound>, SocketAddr)>,
    pub(crate) state: Mutex<State>,
    /// Ticks when `state` has changed: every connection then asks anew whether it may go on.
    pub(crate) changes: watch::Sender<()>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) roster: Roster,
    links: BTreeMap<NodeName, Dialed>,
    pub(crate) places: accept::Places,
    refusals: BTreeMap<&'static str, u64>,
    stopped: bool,
}

impl TcpTransport {
    /// A transport that does nothing until it is started.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (running, changes) = (OnceLock::new(), watch::Sender::new(()));
        Self(Arc::new(Shared { settings, running, state: Mutex::default(), changes, listening: Mutex::default() }))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Where it listens, once it has been started and as long as it is not stopped.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.0.running.get().map(|(_, _, address)| *address).filter(|_| !self.0.state.lock().stopped)
    }
}

impl Shared {
    pub(crate) fn inbound(&self) -> Arc<dyn Inbound> {
        let (_, inbound, _) = self.running.get().expect("connections come after the start");
        Arc::clone(inbound)
    }

    pub(crate) fn count(&self, reason: &'static str) {
        *self.state.lock().refusals.entry(reason).or_default() += 1;
    }

    pub(crate) async fn until_stopped(&self) {
        let mut changes = self.changes.subscribe();
        while !self.state.lock().stopped && changes.changed().await.is_ok() {}
    }

    /// Dials the peers of the roster and no others; before the start, nobody.
    fn dial_peers(self: &Arc<Self>, state: &mut State) {
        let Some((runtime, _, _)) = self.running.get() else { return };
        let mut before = std::mem::take(&mut state.links);
        for peer in state.roster.peers() {
            let kept = before.remove(&peer.name).filter(|dialed| dialed.link.peer == *peer);
            let dialed = kept.unwrap_or_else(|| Dialed::new(self, runtime, peer.clone()));
            state.links.insert(peer.name.clone(), dialed);
        }
    }

    fn link_to(&self, wanted: impl Fn(&Peer) -> bool) -> Option<Arc<Link>> {
        let state = self.state.lock();
        let found = state.links.values().find(|dialed| wanted(&dialed.link.peer));
        found.map(|dialed| Arc::clone(&dialed.link))
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.roster.clear();
        state.links.clear();
        drop(state);
        self.changes.send_replace(());
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn start(&self, inbound: Arc<dyn Inbound>) -> Result<(), String> {
        let shared = &self.0;
        let listen = &shared.settings.listen;
        let failed = |error| format!("cannot listen at {listen}: {error}; set `listen` to an address of this machine");
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let running = shared.running.set((Handle::current(), inbound, address));
        running.map_err(|_| "the transport was started before; make another one".to_owned())?;
        *shared.listening.lock() = Some(tokio::spawn(accept::listen(Arc::clone(shared), listener)));
        shared.dial_peers(&mut shared.state.lock());
        Ok(())
    }

    fn set_peers(&self, local: LocalIdentity, peers: Vec<Peer>) {
        let mut state = self.0.state.lock();
        if state.stopped {
            return;
        }
        if state.roster.set(local, peers) {
            state.links.clear();
        }
        self.0.dial_peers(&mut state);
        drop(state);
        self.0.changes.send_replace(());
    }

    fn admit_guests(&self, admit: bool) {
        self.0.state.lock().roster.admit_guests(admit);
        self.0.changes.send_replace(());
    }

    fn send(&self, to: NodeId, message: PeerMessage) {
        if let Some(link) = self.0.link_to(|peer| peer.id == Some(to)) {
            link.send(&self.0.settings, message);
        }
    }

    async fn request(&self, to: &NodeName, request: Bytes, timeout: Duration) -> Result<Bytes, RequestError> {
        let link = self.0.link_to(|peer| peer.name == *to);
        let link = link.ok_or_else(|| RequestError::NotSent(format!("{to} is no peer")))?;
        link.request(&self.0, &request, timeout).await
    }

    async fn send_snapshot(
        &self,
        offer: SnapshotOffer,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<SnapshotSent, SnapshotError> {
        let link = self.0.link_to(|peer| peer.id == Some(offer.to));
        let link = link.ok_or_else(|| SnapshotError::Interrupted(format!("{} is no peer", offer.to)))?;
        tokio::select! {
            biased;
            () = self.0.until_stopped() => Err(SnapshotError::Abandoned("the transport was stopped".into())),
            sent = snapshots::send(&self.0, &link, offer, source) => sent,
        }
    }

    fn status(&self) -> (Vec<(NodeName, PeerStatus)>, RefusalCounts) {
        let state = self.0.state.lock();
        let peers = state.links.iter().map(|(name, dialed)| (name.clone(), dialed.link.status.lock().clone()));
        (peers.collect(), state.refusals.iter().map(|(reason, count)| (*reason, *count)).collect())
    }

    async fn stop(&self) {
        self.0.stop();
        let listening = self.0.listening.lock().take();
        if let Some(listening) = listening {
            // It ends by itself, and with it what others have dialed.
            let _ = listening.await;
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.0.stop();
    }
}
