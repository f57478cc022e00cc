//! Who the node is, in the same file as its log: an older copy of one is an older copy of the other.

use bytes::Bytes;
use raft_core::ports::StoreError;
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};
use raft_node::parts::{AcceptedFounding, IdentityStore};
use redb::Durability;
use uuid::Uuid;

use crate::codec::{seal, unseal};
use crate::file::{DataFile, IDENTITY, failed};

const NODE: &str = "node";
const FOUNDING: &str = "founding";
/// How many starts are remembered; a transport shows no more (`raft_net_quic::EARLIER_STARTS_MAX`, and this one).
const STARTS_MAX: usize = 65;

/// Name, incarnation, starts and the founding of the cluster.
#[derive(Debug)]
pub struct RedbIdentity {
    file: DataFile,
    node: Node,
}

#[derive(Debug)]
struct Node {
    name: NodeName,
    incarnation: Incarnation,
    start_count: u64,
    /// A random number for each of the last starts, the newest first.
    starts: Vec<u128>,
}

impl RedbIdentity {
    /// Opens the identity for a start of the node, which is counted durably. A blank file becomes this node's, with an
    /// incarnation that nobody else has.
    ///
    /// # Errors
    /// When the file is another node's, damaged, or cannot be written.
    pub fn open(file: &DataFile, name: NodeName) -> Result<Self, StoreError> {
        let incarnation = Incarnation(Uuid::new_v4().as_u128());
        let blank = Node { name: name.clone(), incarnation, start_count: 0, starts: Vec::new() };
        let mut identity = Self { file: file.clone(), node: blank };
        if let Some(kept) = identity.get(NODE)? {
            identity.node = Node::decode(&kept).map_err(|reason| damaged(NODE, reason))?;
        }
        let node = &mut identity.node;
        if node.name != name {
            let reason = format!("the file is that of node {}; name this node so, or give it another file", node.name);
            return Err(StoreError::Refused { reason });
        }
        node.start_count += 1;
        node.starts.insert(0, Uuid::new_v4().as_u128());
        node.starts.truncate(STARTS_MAX);
        let value = node.encode();
        identity.put(NODE, &value)?;
        Ok(identity)
    }

    /// A random number for each of the last starts, that of this one first. By these a peer tells the file from a copy
    /// of it, if the transport carries them.
    #[must_use]
    pub fn starts(&self) -> &[u128] {
        &self.node.starts
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.file.read(|transaction| {
            let value = transaction.open_table(IDENTITY)?.get(key)?;
            Ok(value.map(|value| value.value().to_vec()))
        });
        read.map_err(|error| failed("reading the identity", error))
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.file.write("writing the identity", Durability::Immediate, |transaction| {
            transaction.open_table(IDENTITY)?.insert(key, value)?;
            Ok(())
        })
    }
}

impl IdentityStore for RedbIdentity {
    fn name(&self) -> NodeName {
        self.node.name.clone()
    }

    fn incarnation(&self) -> Incarnation {
        self.node.incarnation
    }

    fn start_count(&self) -> u64 {
        self.node.start_count
    }

    fn founding(&self) -> Result<Option<AcceptedFounding>, StoreError> {
        let kept = self.get(FOUNDING)?.map(|value| decode_founding(&value));
        kept.transpose().map_err(|reason| damaged(FOUNDING, reason))
    }

    fn accept_founding(&mut self, founding: &AcceptedFounding) -> Result<(), StoreError> {
        match self.founding()? {
            None => self.put(FOUNDING, &encode_founding(founding)),
            Some(held) if held == *founding => Ok(()),
            Some(held) => {
                let reason = format!("this node belongs to cluster {}; a node has one cluster for ever", held.cluster);
                Err(StoreError::Refused { reason })
            }
        }
    }
}

impl Node {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.incarnation.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.start_count.to_be_bytes());
        bytes.extend_from_slice(&(self.starts.len() as u64).to_be_bytes());
        self.starts.iter().for_each(|start| bytes.extend_from_slice(&start.to_be_bytes()));
        bytes.extend_from_slice(self.name.as_str().as_bytes());
        seal(&[], bytes)
    }

    fn decode(value: &[u8]) -> Result<Self, String> {
        let mut fields = unseal(&[], value)?;
        let (incarnation, start_count) = (Incarnation(fields.u128()?), fields.u64()?);
        let starts = (0..fields.u64()?).map(|_| fields.u128()).collect::<Result<_, _>>()?;
        let name = std::str::from_utf8(fields.rest()).map_err(|error| error.to_string())?;
        Ok(Self { name: NodeName::new(name), incarnation, start_count, starts })
    }
}

fn encode_founding(founding: &AcceptedFounding) -> Vec<u8> {
    let mut bytes = founding.cluster.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&founding.id.0.to_be_bytes());
    bytes.extend_from_slice(&founding.record);
    seal(&[], bytes)
}

fn decode_founding(value: &[u8]) -> Result<AcceptedFounding, String> {
    let mut fields = unseal(&[], value)?;
    let (cluster, id) = (ClusterId(fields.u128()?), NodeId(fields.u64()?));
    Ok(AcceptedFounding { cluster, id, record: Bytes::copy_from_slice(fields.rest()) })
}

fn damaged(what: &str, reason: String) -> StoreError {
    StoreError::Damaged { place: format!("the identity ({what})"), reason }
}
