//! How a node learns that it was removed, where the others have gone, and how it tells them where it is.
//!
//! A removed node need not have the entry that leaves it out. Its questions for votes are not even heard: to the others
//! it is no peer. So a node that knows of no leader for a while asks whom it knew, as a guest; a member's word that a
//! committed configuration leaves it out is true for ever. It campaigns no more then, over restarts too, since it asks
//! again after each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use raft_core::membership::{Change, ChangeRefusal};
use raft_core::message::{Envelope, Message, PeerMessage};
use raft_core::ports::RemoteIdentity;
use raft_core::types::{GroupId, Index, NodeId, NodeName};
use tokio::task::JoinSet;

use super::change::{Obstacle, submit};
use super::{Known, check_context, encode_context};
use crate::events::{EventKind, Tale};
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Shared, deadline_after};
use crate::status::{Member, Phase};

/// How long one member is waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two rounds of questions.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the leader is waited for to commit a member's new address.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a member answers to "am I one of you?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StandingAnswer {
    /// The committed configuration of this entry leaves the asking node out, for ever.
    Removed {
        /// The entry.
        configuration: Index,
        /// Who says so.
        by: NodeId,
    },
    /// It does not, as far as the asked node knows.
    NotRemoved {
        /// Whom to talk to.
        members: Vec<Member>,
    },
}

/// The answer to a node of this cluster that asks.
pub(crate) fn serve(shared: &Shared, from: &RemoteIdentity) -> NodeAnswer {
    let (Some(id), true) = (from.id, from.cluster.is_some() && from.cluster == shared.cluster()) else {
        return NodeAnswer::Failure(format!("{} is of no cluster, or of another one", from.name));
    };
    let by = shared.founded.get().map_or(NodeId(0), |founded| founded.id);
    NodeAnswer::Standing(standing(&shared.members.now(), id, by))
}

fn standing(known: &Known, id: NodeId, by: NodeId) -> StandingAnswer {
    if known.committed.was_removed(id) {
        return StandingAnswer::Removed { configuration: known.committed.index(), by };
    }
    StandingAnswer::NotRemoved { members: known.to_tell() }
}

/// Asks whom it knows whether this node is a member, whenever no leader is known for a while, or none is and
/// somebody does not know this node; until it is told that it is none, or the task is dropped.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut leadership = shared.leadership.subscribe();
    let patience = (4 * shared.config.raft.election_timeout).max(PAUSE_MIN);
    let mut pause = PAUSE_MIN;
    loop {
        let none_leads = leadership.wait_for(|known| {
            // Those whom only the configuration file names are not needed any more.
            if known.leader.is_some() {
                shared.set_astray(false);
            }
            known.leader.is_none()
        });
        if none_leads.await.is_err() {
            return;
        }
        let led = tokio::select! {
            led = tokio::time::timeout(patience, leadership.wait_for(|known| known.leader.is_some())) => led.is_ok(),
            () = shared.doubted.notified() => false,
        };
        if led {
            pause = PAUSE_MIN;
            continue;
        }
        if shared.removed().is_some() {
            return;
        }
        shared.set_astray(true);
        ask_all(&shared).await;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One round of questions.
async fn ask_all(shared: &Arc<Shared>) {
    let mut asking = JoinSet::new();
    for peer in shared.peers() {
        let shared = shared.clone();
        asking.spawn(async move {
            let asked = shared.transport.request(&peer.name, NodeRequest::Standing.encode(), ASK_TIMEOUT).await;
            asked.map(NodeAnswer::decode)
        });
    }
    while let Some(answered) = asking.join_next().await {
        match answered {
            Ok(Ok(Ok(NodeAnswer::Standing(StandingAnswer::Removed { configuration, by })))) => {
                return tell_removed(shared, by, configuration);
            }
            Ok(Ok(Ok(NodeAnswer::Standing(StandingAnswer::NotRemoved { members })))) => learn_of(shared, members),
            _ => {}
        }
    }
}

/// Takes note of members that this node's log does not know yet.
fn learn_of(shared: &Shared, members: Vec<Member>) {
    if shared.members.hint(members.into_iter().filter(|member| member.name != shared.name)) {
        shared.show_peers();
    }
}

/// Tells the core what a member has said, as if it had come as a message.
fn tell_removed(shared: &Shared, from: NodeId, configuration: Index) {
    let Some(own) = shared.founded.get().map(|founded| founded.id) else { return };
    let term = shared.view().status.term;
    let envelope = Envelope { from, to: own, term, message: Message::Removed { configuration } };
    let message = PeerMessage { group: GroupId::FIRST, envelope, entries: Vec::new() };
    // When the queue is full the next round tells it again.
    let _ = shared.queue.receive(message, 0);
}

/// Tells the cluster where this node is, whenever the configuration says otherwise: once per start, as a rule.
pub(crate) async fn announce(shared: Arc<Shared>) {
    let Some(own) = shared.founded.get().map(|founded| founded.id) else { return };
    let (peer, api) = (shared.config.peer_address.clone(), shared.config.api_address.clone());
    if check_context(shared.name.as_str(), &peer, &api).is_err() || peer.is_empty() {
        return;
    }
    let mut leadership = shared.leadership.subscribe();
    let mut phase = shared.phase.subscribe();
    let mut members = shared.members.subscribe();
    if phase.wait_for(|phase| *phase == Phase::Running).await.is_err() {
        return;
    }
    loop {
        let moved = |known: &Arc<Known>| {
            let found = known.list.iter().find(|member| member.id == own);
            known.is_committed && found.is_some_and(|found| found.peer_address != peer || found.api_address != api)
        };
        if members.wait_for(&moved).await.is_err() {
            return;
        }
        let Ok(known) = leadership.wait_for(|known| known.leader.is_some()).await.map(|known| *known) else { return };
        let told = match known.leader.and_then(|leader| shared.member(leader)) {
            _ if known.leads => moved_to(&shared, own, &peer, &api).await,
            Some(leader) => {
                let request = NodeRequest::Moved { peer_address: peer.clone(), api_address: api.clone() };
                let answer = shared.transport.request(&leader.name, request.encode(), MOVE_TIMEOUT).await;
                match answer.map(NodeAnswer::decode) {
                    Ok(Ok(NodeAnswer::Done)) => Ok(()),
                    Ok(Ok(NodeAnswer::Failure(why))) => Err(why),
                    other => Err(format!("{other:?}")),
                }
            }
            None => Err("the leader is no member that this node knows".into()),
        };
        match told {
            Ok(()) => {
                tracing::info!(node = %shared.name, peer, api, "the cluster knows this node's new addresses");
                // The entry that says so is on its way here; without it the leader is told again.
                let _ = tokio::time::timeout(MOVE_TIMEOUT, members.wait_for(|known| !moved(known))).await;
            }
            Err(why) => {
                tracing::debug!(node = %shared.name, %why, "the new addresses are not known to the cluster yet");
                tokio::time::sleep(PAUSE_MIN).await;
            }
        }
    }
}

/// Warns of a `bootstrap` list with which this node, had it lost its disk, would find nobody and found another cluster.
pub(crate) async fn warn_of_lonely_list(shared: Arc<Shared>) {
    let own = shared.name.clone();
    let listed: BTreeSet<NodeName> = shared.config.bootstrap.iter().map(|founder| founder.name.clone()).collect();
    let is_lonely = |known: &Arc<Known>| {
        let grown = known.is_committed && known.list.iter().any(|member| member.name != own);
        grown && !known.list.iter().any(|member| member.name != own && listed.contains(&member.name))
    };
    // A node that its own list does not name founds nothing.
    if !listed.contains(&own) || shared.members.subscribe().wait_for(is_lonely).await.is_err() {
        return;
    }
    let text = format!("bootstrap of {own} names no other member: with its disk lost it would found another cluster");
    tracing::warn!(node = %own, "{text}; name other members there");
    shared.events.tell(Tale::new(EventKind::Fault, text).with("setting", "bootstrap"));
}

/// A member says where it is from now on; only the leader does something about it.
pub(crate) async fn serve_moved(shared: &Arc<Shared>, id: NodeId, peer: &str, api: &str) -> NodeAnswer {
    if !shared.leadership.borrow().leads {
        return NodeAnswer::Failure(format!("{} does not lead", shared.name));
    }
    match moved_to(shared, id, peer, api).await {
        Ok(()) => NodeAnswer::Done,
        Err(why) => NodeAnswer::Failure(why),
    }
}

/// Has an entry committed that says so.
async fn moved_to(shared: &Arc<Shared>, id: NodeId, peer: &str, api: &str) -> Result<(), String> {
    let Some(member) = shared.member(id) else { return Err(format!("{id} is no member")) };
    check_context(member.name.as_str(), peer, api).map_err(|error| error.to_string())?;
    let member = Member { peer_address: peer.to_owned(), api_address: api.to_owned(), ..Member::clone(&member) };
    let change = Change::Contexts(vec![(id, encode_context(&member))]);
    match submit(shared, change, deadline_after(MOVE_TIMEOUT)).await {
        Ok(_) | Err(Obstacle::Refused(ChangeRefusal::NothingChanges)) => Ok(()),
        Err(Obstacle::Again) => Err("not now; ask again".into()),
        Err(Obstacle::Refused(why)) => Err(why.to_string()),
        Err(Obstacle::Error(error)) => Err(error.text),
    }
}

#[cfg(test)]
mod tests {
    use raft_core::membership::{Configuration, Wanted, WantedMember};

    use super::*;

    #[test]
    fn only_a_committed_configuration_removes() {
        let all = Configuration::new([NodeId(1), NodeId(2), NodeId(3)]);
        // A learner that leaves takes one entry.
        let learner =
            Wanted { learners: vec![WantedMember::with_context(NodeId(4), bytes::Bytes::new())], ..Wanted::of(&all) };
        let with = all.changed(Index(5), &learner, 64).unwrap_or_default();
        let without = with.changed(Index(6), &Wanted::of(&all), 64).unwrap_or_default();
        assert!(without.was_removed(NodeId(4)), "{without:?}");
        let members = super::super::Members::default();
        members.set(&Arc::new(with), true);
        members.set(&Arc::new(without), false);
        assert!(matches!(standing(&members.now(), NodeId(4), NodeId(1)), StandingAnswer::NotRemoved { .. }));
        let committed = members.now().configuration.clone();
        members.set(&committed, true);
        let removed = StandingAnswer::Removed { configuration: Index(6), by: NodeId(1) };
        assert_eq!(standing(&members.now(), NodeId(4), NodeId(1)), removed);
        assert!(matches!(standing(&members.now(), NodeId(9), NodeId(1)), StandingAnswer::NotRemoved { .. }));
    }
}
