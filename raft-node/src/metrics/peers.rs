//! The metrics of a node's peers, by their names.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use raft_core::types::{NodeId, NodeName};

use super::registered::{Builder, number, raise};
use crate::status::NodeStatus;

#[derive(Debug)]
pub(super) struct PeerMetrics {
    connected: IntGaugeVec,
    match_index: IntGaugeVec,
    lag_entries: IntGaugeVec,
    last_contact_seconds: GaugeVec,
    rtt_seconds: GaugeVec,
    sent_bytes: IntCounterVec,
    dropped: IntCounterVec,
}

impl PeerMetrics {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let peer = &["peer"];
        Self {
            connected: build.gauges("raft_peer_connected", "1 when a connection to the peer is up.", peer),
            match_index: build.gauges(
                "raft_peer_match_index",
                "The peer's log equals the leader's up to here; leaders only.",
                peer,
            ),
            lag_entries: build.gauges(
                "raft_peer_lag_entries",
                "Entries that the peer is behind the leader's log; leaders only.",
                peer,
            ),
            last_contact_seconds: build.seconds_gauges(
                "raft_peer_last_contact_seconds",
                "Time since the leader last heard from the peer; leaders only.",
                peer,
            ),
            rtt_seconds: build.seconds_gauges("raft_peer_rtt_seconds", "Smoothed round trip time to the peer.", peer),
            sent_bytes: build.counters("raft_peer_sent_bytes_total", "Bytes of frames sent to the peer.", peer),
            dropped: build.counters(
                "raft_peer_dropped_total",
                "Messages to the peer that were dropped because its lane was full or no connection was up.",
                peer,
            ),
        }
    }

    pub(super) fn show(&self, status: &NodeStatus) {
        // Of a node that is no peer any more nothing is shown.
        self.connected.reset();
        self.rtt_seconds.reset();
        for (name, peer) in &status.peers {
            let labels = &[name.as_str()];
            self.connected.with_label_values(labels).set(i64::from(peer.connected));
            self.rtt_seconds.with_label_values(labels).set(peer.rtt.unwrap_or_default().as_secs_f64());
            raise(&self.sent_bytes.with_label_values(labels), peer.sent_bytes);
            raise(&self.dropped.with_label_values(labels), peer.dropped);
        }
        // What only a leader knows goes away when it leads no more, so that nobody reads an old value.
        self.match_index.reset();
        self.lag_entries.reset();
        self.last_contact_seconds.reset();
        let name_of = |id: NodeId| -> Option<&NodeName> {
            status.members.iter().find(|member| member.id == id).map(|member| &member.name)
        };
        for peer in &status.raft.peers {
            let Some(name) = name_of(peer.id) else { continue };
            let labels = &[name.as_str()];
            self.match_index.with_label_values(labels).set(number(peer.match_index.0));
            let lag = status.raft.last.index.since(peer.match_index);
            self.lag_entries.with_label_values(labels).set(number(lag));
            if let Some(contact) = peer.last_contact {
                self.last_contact_seconds.with_label_values(labels).set(contact.as_secs_f64());
            }
        }
    }
}
