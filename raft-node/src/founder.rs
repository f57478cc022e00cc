//! The asking of [`founding`](crate::founding), until this node belongs to a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raft_core::ports::RequestError;
use raft_core::types::{ClusterId, NodeName};
use tokio::task::JoinSet;

use crate::events::{EventKind, Tale};
use crate::founding::{BlankNode, Decision, FounderAnswer, FoundingRecord, decide};
use crate::members::join::{self, Admission};
use crate::parts::{AcceptedFounding, IdentityStore};
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Founded, Shared};
use crate::status::{Phase, WaitReason};

/// How long one founder is waited for in one round of questions.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// This node as it shows itself while it is blank.
pub(crate) fn blank_node(shared: &Shared) -> BlankNode {
    let mut list: Vec<NodeName> = shared.config.bootstrap.iter().map(|founder| founder.name.clone()).collect();
    list.sort();
    BlankNode {
        name: shared.name.clone(),
        incarnation: shared.incarnation,
        peer_address: shared.config.peer_address.clone(),
        api_address: shared.config.api_address.clone(),
        list,
    }
}

/// Asks, waits and decides until a founding record is accepted, durably. Gives the identity back: it holds the lock of
/// the data directory.
///
/// # Errors
/// When the disk cannot take the record.
pub(crate) async fn found(
    shared: &Arc<Shared>,
    identity: Box<dyn IdentityStore>,
) -> Result<(Founded, Box<dyn IdentityStore>), String> {
    let own = blank_node(shared);
    loop {
        let answers = ask_all(shared, &own).await;
        // A node that its own list does not name founds nothing: it can only be admitted.
        let decision =
            if own.list.contains(&own.name) { decide(&own, &answers) } else { Decision::Wait(silent(&answers)) };
        let record = match decision {
            Decision::Accept(record) => record,
            Decision::Write(founders) => {
                let cluster = ClusterId(uuid::Uuid::new_v4().as_u128());
                tracing::info!(node = %own.name, %cluster, founders = founders.len(), "founding the cluster");
                FoundingRecord::new(cluster, founders, shared.config.founding_settings.clone())
            }
            Decision::Wait(mut waiting_for) => {
                match join::ask(shared, &answers).await {
                    Ok(Admission { accepted, record, members }) => {
                        shared.members.hint(members.into_iter().filter(|member| member.name != own.name));
                        return accept(shared, accepted, record, identity).await;
                    }
                    Err(admitting) => {
                        waiting_for.retain(|(name, _)| !admitting.iter().any(|(other, _)| other == name));
                        waiting_for.extend(admitting);
                    }
                }
                wait(shared, waiting_for);
                tokio::time::sleep(ROUND_PAUSE).await;
                continue;
            }
        };
        let Some(member) = record.member(&own.name, own.incarnation) else {
            return Err("the founding record does not name this disk".into());
        };
        let accepted = AcceptedFounding { cluster: record.cluster, id: member.id, record: record.encode() };
        return accept(shared, accepted, record, identity).await;
    }
}

/// Makes it durable that this node belongs to the cluster.
async fn accept(
    shared: &Arc<Shared>,
    accepted: AcceptedFounding,
    record: FoundingRecord,
    mut identity: Box<dyn IdentityStore>,
) -> Result<(Founded, Box<dyn IdentityStore>), String> {
    // From here on this node answers neither "blank" nor with the record, until the record is durable.
    shared.accepting.store(true, Ordering::Release);
    let id = accepted.id;
    let (what, verb) = match record.member(&shared.name, shared.incarnation) {
        Some(_) => ("founded", "founds"),
        None => ("joined", "joins"),
    };
    let stored = tokio::task::spawn_blocking(move || {
        let result = identity.accept_founding(&accepted);
        (identity, result)
    });
    let (identity, result) = stored.await.map_err(|error| format!("accepting the founding record: {error}"))?;
    result.map_err(|error| format!("accepting the founding record: {error}"))?;
    tracing::info!(node = %shared.name, cluster = %record.cluster, %id, "belongs to the cluster");
    let tale = Tale::new(EventKind::Membership, format!("{} {verb} the cluster as {id}", shared.name));
    shared.events.tell(tale.with("what", what).with("cluster", record.cluster).with("id", id));
    Ok((Founded { id, record }, identity))
}

/// Those who cannot be asked, or are blank themselves.
fn silent(answers: &BTreeMap<NodeName, FounderAnswer>) -> Vec<(NodeName, WaitReason)> {
    let waits = |(name, answer): (&NodeName, &FounderAnswer)| {
        let reason = match answer {
            FounderAnswer::Silent(why) => WaitReason::Silent(why.clone()),
            FounderAnswer::Unusable(why) => WaitReason::Refuses(why.clone()),
            FounderAnswer::Blank(_) => WaitReason::Refuses("it belongs to no cluster yet".into()),
            FounderAnswer::Founded(record) => WaitReason::BelongsToCluster(record.cluster),
        };
        (name.clone(), reason)
    };
    answers.iter().map(waits).collect()
}

/// Shows for whom this node waits, and logs it when it changes.
fn wait(shared: &Shared, waiting_for: Vec<(NodeName, WaitReason)>) {
    let next = Phase::Founding { waiting_for };
    if *shared.phase.borrow() != next {
        if let Phase::Founding { waiting_for } = &next {
            for (name, reason) in waiting_for {
                tracing::info!(node = %shared.name, "waits for {name}, which {reason}");
            }
        }
        shared.enter(next);
    }
}

async fn ask_all(shared: &Arc<Shared>, own: &BlankNode) -> BTreeMap<NodeName, FounderAnswer> {
    let mut asking = JoinSet::new();
    for name in own.list.iter().filter(|name| **name != own.name).cloned() {
        let shared = shared.clone();
        asking.spawn(async move {
            let answer = ask(&shared, &name).await;
            (name, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(answered) = asking.join_next().await {
        if let Ok((name, answer)) = answered {
            answers.insert(name, answer);
        }
    }
    answers
}

async fn ask(shared: &Shared, name: &NodeName) -> FounderAnswer {
    let answered = shared.transport.request(name, NodeRequest::Founding.encode(), ANSWER_TIMEOUT).await;
    match answered.map(NodeAnswer::decode) {
        Err(error) => FounderAnswer::Silent(with_last_error(shared, name, &error)),
        Ok(Err(error)) => FounderAnswer::Unusable(error.to_string()),
        Ok(Ok(NodeAnswer::Founding(answer))) => answer,
        Ok(Ok(NodeAnswer::Failure(why))) => FounderAnswer::Unusable(why),
        Ok(Ok(other)) => FounderAnswer::Unusable(format!("it answered something else: {other:?}")),
    }
}

/// A peer may be silent because it refuses our connection; the transport knows why.
fn with_last_error(shared: &Shared, name: &NodeName, error: &RequestError) -> String {
    let (peers, _) = shared.transport.status();
    let status = peers.into_iter().find(|(peer, _)| peer == name);
    match status.and_then(|(_, status)| status.last_error) {
        Some(last) if !error.to_string().contains(&last) => format!("{error}; {last}"),
        _ => error.to_string(),
    }
}
