//! What the transport calls: messages for the driver, and requests of other nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::PeerMessage;
use raft_core::ports::{Inbound, RemoteIdentity, SnapshotError, SnapshotOffer, SnapshotSink};
use raft_core::types::{NodeId, NodeName};

use crate::cluster_view;
use crate::founder;
use crate::founding::FounderAnswer;
use crate::handovers;
use crate::marks;
use crate::members::{admit, change, standing};
use crate::queue::Refused;
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::Shared;
use crate::snapshots::receiver;
use crate::writes;

/// Refusals in the handshake after which a node does not go on.
const DISK_REFUSALS: [&str; 2] = ["cloned_disk", "rolled_back_disk"];
/// The short reason of a peer that does not know this node.
const UNKNOWN_NAME: &str = "unknown_name";

/// See the module.
pub(crate) struct NodeInbound(pub(crate) Arc<Shared>);

#[async_trait]
impl Inbound for NodeInbound {
    fn receive(&self, message: PeerMessage) {
        let shared = &self.0;
        if shared.founded.get().is_none_or(|founded| founded.id != message.envelope.to) {
            shared.metrics.inbound_dropped("not_for_this_node");
            return;
        }
        let backlog = shared.log_backlog_bytes.load(Ordering::Acquire);
        if let Err(Refused::Full(full)) = shared.queue.receive(message, backlog) {
            shared.metrics.inbound_dropped(full.0);
        }
    }

    fn unreachable(&self, peer: NodeId) {
        // A transport may say so for every message that it drops.
        self.0.queue.unreachable(peer);
    }

    async fn request(&self, from: RemoteIdentity, request: Bytes) -> Bytes {
        let answer = match NodeRequest::decode(request) {
            Ok(request) => serve(&self.0, &from, request).await,
            Err(error) => NodeAnswer::Failure(format!("the request is {error}")),
        };
        answer.encode()
    }

    fn refused(&self, peer: &NodeName, reason: &str, text: &str) {
        // Two processes on copies of one disk would vote twice.
        if DISK_REFUSALS.contains(&reason) {
            self.0.fail(format!("{peer} refuses this node: {text}"));
        }
        if reason == UNKNOWN_NAME {
            // It may have been removed, and need not wait for a leader to find that out.
            self.0.doubted.notify_one();
        }
    }

    fn snapshot(&self, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        receiver::receive(&self.0, &offer)
    }
}

async fn serve(shared: &Arc<Shared>, from: &RemoteIdentity, request: NodeRequest) -> NodeAnswer {
    if request == NodeRequest::Founding {
        return founding_answer(shared);
    }
    match request {
        NodeRequest::Join(join) => return admit::serve(shared, from, join).await,
        NodeRequest::Standing => return standing::serve(shared, from),
        _ => {}
    }
    // All else is between members of one cluster.
    let Some(id) = from.id.filter(|_| shared.is_member(from)) else {
        return NodeAnswer::Failure(format!("{} is no member of the cluster of {}", from.name, shared.name));
    };
    match request {
        NodeRequest::Founding | NodeRequest::Join(_) | NodeRequest::Standing => {
            NodeAnswer::Failure("it was to be answered before".into())
        }
        NodeRequest::Members { ask, options } => {
            NodeAnswer::Members(change::serve_passed_on(shared, ask, options).await)
        }
        NodeRequest::Moved { peer_address, api_address } => {
            standing::serve_moved(shared, id, &peer_address, &api_address).await
        }
        NodeRequest::Write { command, timeout } => {
            NodeAnswer::Write(writes::serve_forwarded(shared, command, timeout).await)
        }
        NodeRequest::Writes(passed) => NodeAnswer::Writes(writes::serve_all_forwarded(shared, passed).await),
        NodeRequest::Outcome(token) => NodeAnswer::Outcome(writes::outcome_here(shared, token).await),
        NodeRequest::Mark { timeout } => NodeAnswer::Write(marks::mark_here(shared, timeout).await),
        NodeRequest::MarkDigest(mark) => NodeAnswer::MarkDigest(shared.marks.digest(shared, mark)),
        NodeRequest::SendSnapshot { at_least } => marks::serve_snapshot_wanted(shared, id, at_least).await,
        NodeRequest::HandOver { to } => NodeAnswer::HandedOver(handovers::serve(shared, to.as_ref()).await),
        NodeRequest::Report => NodeAnswer::Report(cluster_view::report(shared)),
        NodeRequest::Cluster { timeout } => NodeAnswer::Cluster(cluster_view::gather(shared, timeout, None).await),
    }
}

fn founding_answer(shared: &Shared) -> NodeAnswer {
    if let Some(founded) = shared.founded.get() {
        return NodeAnswer::Founding(FounderAnswer::Founded(founded.record.clone()));
    }
    if shared.accepting.load(Ordering::Acquire) {
        return NodeAnswer::Failure("it is just accepting a founding record".into());
    }
    NodeAnswer::Founding(FounderAnswer::Blank(founder::blank_node(shared)))
}
