//! How a cluster comes to be: what every blank node decides from what the others answer. No I/O here; see
//! `founder.rs` for the asking.
//!
//! A node with a blank disk neither votes nor campaigns. It asks every name in its `bootstrap` list, again and again,
//! until one of two things is true:
//!
//! - **Somebody holds a founding record that names this very disk** (name and incarnation): accept it, once and
//!   synced. This is also how a founding that a crash cut short is finished, by whoever holds the record.
//! - **All have answered, all are blank, all show the same list** and this node's name is the smallest: write the
//!   record, accept it first, then answer with it whoever asks.
//!
//! Everything else is waiting, and saying for whom. A majority is not enough: the silent one may hold the only data.
//!
//! Why two clusters can never both work: a record names the incarnation of each founder, each founder accepts one
//! record in the life of its disk, and a quorum needs a majority of the founders of one record. A second record, even
//! one written after the first writer's disk was wiped, needs acceptances that the first already has.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use raft_core::membership::Configuration;
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};

use crate::members::{ContextError, check_context, encode_context};
use crate::status::{Member, WaitReason};

/// The version of the record's format that this binary writes and reads.
const RECORD_VERSION: u32 = 1;

/// Most founders that a record may name; more voters than this make no sense in Raft.
pub const FOUNDERS_MAX: usize = 64;

/// Who founded the cluster, and with which settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingRecord {
    /// The cluster, drawn at random by the writer.
    pub cluster: ClusterId,
    /// The founders in the order of their ids, 1..=n, which is the order of their names.
    pub members: Vec<Member>,
    /// First values of the replicated settings, in the state machine's own format.
    pub settings: Bytes,
}

/// Why bytes are no founding record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They are not even the format.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A format of another version.
    #[error("format version {found}, this binary knows {RECORD_VERSION}; run the version that wrote it")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A founder whose name or address is too long.
    #[error("founder {name}: {why}")]
    Founder {
        /// Which.
        name: NodeName,
        /// What is too long.
        why: ContextError,
    },
    /// The members are not 1..=n in the order of their names.
    #[error("the founders are not numbered 1..=n in the order of their names")]
    Order,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireMember {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    incarnation: Vec<u8>,
    #[prost(string, tag = "4")]
    peer_address: String,
    #[prost(string, tag = "5")]
    api_address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRecord {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    members: Vec<WireMember>,
    #[prost(bytes = "bytes", tag = "4")]
    settings: Bytes,
}

impl WireMember {
    pub(crate) fn of(member: &Member) -> Self {
        Self {
            id: member.id.0,
            name: member.name.as_str().to_owned(),
            incarnation: member.incarnation.0.to_be_bytes().to_vec(),
            peer_address: member.peer_address.clone(),
            api_address: member.api_address.clone(),
        }
    }

    pub(crate) fn member(self) -> Result<Member, RecordError> {
        Ok(Member {
            id: NodeId(self.id),
            name: NodeName::new(&self.name),
            incarnation: Incarnation(random_number(&self.incarnation, "incarnation")?),
            peer_address: self.peer_address,
            api_address: self.api_address,
        })
    }
}

fn check_member(name: &NodeName, peer_address: &str, api_address: &str) -> Result<(), RecordError> {
    let checked = check_context(name.as_str(), peer_address, api_address);
    checked.map_err(|why| RecordError::Founder { name: name.clone(), why })
}

/// Reads 128 random bits, big-endian.
pub(crate) fn random_number(bytes: &[u8], field: &str) -> Result<u128, RecordError> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| RecordError::Malformed(format!("{field} has {} bytes", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

impl FoundingRecord {
    /// Founds: numbers the founders by their names.
    #[must_use]
    pub fn new(cluster: ClusterId, mut founders: Vec<BlankNode>, settings: Bytes) -> Self {
        founders.sort_by(|a, b| a.name.cmp(&b.name));
        let members = founders.into_iter().zip(1..).map(|(founder, id)| Member {
            id: NodeId(id),
            name: founder.name,
            incarnation: founder.incarnation,
            peer_address: founder.peer_address,
            api_address: founder.api_address,
        });
        Self { cluster, members: members.collect(), settings }
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        WireRecord {
            version: RECORD_VERSION,
            cluster: self.cluster.0.to_be_bytes().to_vec(),
            members: self.members.iter().map(WireMember::of).collect(),
            settings: self.settings.clone(),
        }
        .encode_to_vec()
        .into()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When the bytes are no record that this version understands.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let wire = WireRecord::decode(bytes).map_err(|error| RecordError::Malformed(error.to_string()))?;
        if wire.version != RECORD_VERSION {
            return Err(RecordError::Version { found: wire.version });
        }
        let cluster = ClusterId(random_number(&wire.cluster, "cluster")?);
        let members = wire.members.into_iter().map(WireMember::member).collect::<Result<Vec<_>, _>>()?;
        let in_order = members.windows(2).all(|pair| pair[0].name < pair[1].name);
        let numbered = members.iter().zip(1..).all(|(member, id)| member.id == NodeId(id));
        if members.is_empty() || members.len() > FOUNDERS_MAX || !in_order || !numbered {
            return Err(RecordError::Order);
        }
        for member in &members {
            check_member(&member.name, &member.peer_address, &member.api_address)?;
        }
        Ok(Self { cluster, members, settings: wire.settings })
    }

    /// The member that is this very disk: name and incarnation.
    #[must_use]
    pub fn member(&self, name: &NodeName, incarnation: Incarnation) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name && member.incarnation == incarnation)
    }

    /// The founders as the first configuration, each with its name, incarnation and addresses.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        Configuration::founders(self.members.iter().map(|member| (member.id, encode_context(member))))
    }
}

/// A node without a cluster, as it shows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlankNode {
    /// Its name.
    pub name: NodeName,
    /// The life of its disk.
    pub incarnation: Incarnation,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub api_address: String,
    /// The names in its `bootstrap`, sorted.
    pub list: Vec<NodeName>,
}

/// What a founder answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FounderAnswer {
    /// Nothing; what the transport said.
    Silent(String),
    /// Something that is no answer; why.
    Unusable(String),
    /// "I have no cluster either."
    Blank(BlankNode),
    /// "I belong to the cluster of this record."
    Founded(FoundingRecord),
}

/// What a blank node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Accept this record: it names this disk.
    Accept(FoundingRecord),
    /// Write the record for these founders, this node included.
    Write(Vec<BlankNode>),
    /// Ask again later.
    Wait(Vec<(NodeName, WaitReason)>),
}

/// Decides from what the other names in `own.list` answered.
#[must_use]
pub fn decide(own: &BlankNode, answers: &BTreeMap<NodeName, FounderAnswer>) -> Decision {
    assert!(own.list.contains(&own.name), "{} is not in its own bootstrap list", own.name);
    let named_by = |answer: &FounderAnswer| match answer {
        FounderAnswer::Founded(record) if record.member(&own.name, own.incarnation).is_some() => Some(record.clone()),
        _ => None,
    };
    let mut naming_us: Vec<FoundingRecord> = answers.values().filter_map(named_by).collect();
    naming_us.dedup();
    if let [record] = naming_us.as_slice() {
        return Decision::Accept(record.clone());
    }

    let mut waiting = Vec::new();
    let mut founders = vec![own.clone()];
    for name in own.list.iter().filter(|name| **name != own.name) {
        match willing(own, name, answers.get(name)) {
            Ok(node) => founders.push(node),
            Err(reason) => waiting.push((name.clone(), reason)),
        }
    }
    if !waiting.is_empty() {
        return Decision::Wait(waiting);
    }
    match own.list.iter().min() {
        Some(smallest) if *smallest != own.name => {
            Decision::Wait(vec![(smallest.clone(), WaitReason::HasToWriteTheRecord)])
        }
        _ => Decision::Write(founders),
    }
}

/// The founder that `asked` shows itself to be, or why it is waited for.
fn willing(own: &BlankNode, asked: &NodeName, answer: Option<&FounderAnswer>) -> Result<BlankNode, WaitReason> {
    match answer {
        None => Err(WaitReason::Silent("not asked yet".into())),
        Some(FounderAnswer::Silent(why)) => Err(WaitReason::Silent(why.clone())),
        Some(FounderAnswer::Unusable(why)) => Err(WaitReason::Refuses(why.clone())),
        Some(FounderAnswer::Founded(record)) if record.member(&own.name, own.incarnation).is_some() => {
            Err(WaitReason::Refuses(format!("several clusters name this disk, one is {}", record.cluster)))
        }
        Some(FounderAnswer::Founded(record)) => Err(WaitReason::BelongsToCluster(record.cluster)),
        Some(FounderAnswer::Blank(node)) if node.name != *asked => {
            Err(WaitReason::Refuses(format!("it answers as {}", node.name)))
        }
        Some(FounderAnswer::Blank(node)) if node.list != own.list => {
            Err(WaitReason::ShowsAnotherList(node.list.clone()))
        }
        Some(FounderAnswer::Blank(node)) => match check_member(&node.name, &node.peer_address, &node.api_address) {
            Ok(()) => Ok(node.clone()),
            Err(why) => Err(WaitReason::Refuses(why.to_string())),
        },
    }
}

#[cfg(test)]
mod tests;
