//! How a node that is in no cluster becomes a member of one that exists.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::types::{ClusterId, NodeName};

use super::admit::{JoinAnswer, JoinRequest};
use crate::founding::{FounderAnswer, FoundingRecord};
use crate::parts::AcceptedFounding;
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::Shared;
use crate::status::{Member, WaitReason};

/// How long one node is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// An admission: what to keep, and whom to talk to until the log says so.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) accepted: AcceptedFounding,
    pub(crate) record: FoundingRecord,
    pub(crate) members: Vec<Member>,
}

/// Asks those who belong to a cluster for admission there, one after the other.
///
/// # Errors
/// Whom this node waits for, and why.
pub(crate) async fn ask(
    shared: &Shared,
    answers: &BTreeMap<NodeName, FounderAnswer>,
) -> Result<Admission, Vec<(NodeName, WaitReason)>> {
    let hosts: Vec<(&NodeName, &FoundingRecord)> = answers
        .iter()
        .filter_map(|(name, answer)| match answer {
            FounderAnswer::Founded(record) => Some((name, record)),
            _ => None,
        })
        .collect();
    // Which of several clusters is meant nobody but a person can say.
    if hosts.windows(2).any(|pair| pair[0].1.cluster != pair[1].1.cluster) {
        let waits =
            |(name, record): (&NodeName, &FoundingRecord)| (name.clone(), WaitReason::BelongsToCluster(record.cluster));
        return Err(hosts.into_iter().map(waits).collect());
    }
    let mut waiting = Vec::new();
    for (name, record) in hosts {
        match ask_one(shared, name, record.cluster).await {
            Ok(admission) => return Ok(admission),
            Err(why) => waiting.push((name.clone(), WaitReason::AdmitsLater { cluster: record.cluster, why })),
        }
    }
    Err(waiting)
}

async fn ask_one(shared: &Shared, name: &NodeName, cluster: ClusterId) -> Result<Admission, String> {
    let request = NodeRequest::Join(JoinRequest {
        name: shared.name.clone(),
        incarnation: shared.incarnation,
        peer_address: shared.config.peer_address.clone(),
        api_address: shared.config.api_address.clone(),
        voter: shared.config.join_voter,
    });
    let answered = shared.transport.request(name, request.encode(), ANSWER_TIMEOUT).await;
    let answer = match answered.map(NodeAnswer::decode) {
        Ok(Ok(NodeAnswer::Join(answer))) => answer,
        Ok(Ok(NodeAnswer::Failure(why))) => return Err(why),
        Ok(Ok(other)) => return Err(format!("it answered something else: {other:?}")),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(error.to_string()),
    };
    match answer {
        JoinAnswer::NotYet(why) => Err(why),
        JoinAnswer::Admitted { id, record: bytes, members } => {
            let record = FoundingRecord::decode(&bytes).map_err(|error| error.to_string())?;
            if record.cluster != cluster {
                return Err(format!("it admits to cluster {}, and belongs to {cluster}", record.cluster));
            }
            if record.members.iter().any(|founder| founder.id == id) {
                return Err(format!("it admits as {id}, which is the id of a founder"));
            }
            let accepted = AcceptedFounding { cluster, id, record: bytes };
            Ok(Admission { accepted, record, members })
        }
    }
}
