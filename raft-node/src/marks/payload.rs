//! What a mark carries, as bytes in its entry. See `docs/node-requests.md`.

use bytes::Bytes;
use prost::Message as _;
use raft_core::types::{Index, NodeId};

/// The version of the format that this binary writes and reads.
const PAYLOAD_VERSION: u32 = 1;
/// Members that a payload may name; more voters than this make no sense in Raft.
const MEMBERS_MAX: usize = 1024;
/// The longest digest of a state, in bytes.
const DIGEST_BYTES_MAX: usize = 1024;

/// What the leader knew when it made a mark. A hint for whoever applies it: the state does not depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkPayload {
    /// The mark before, to which the digests are the answers; zero when the leader knew none.
    pub previous: Index,
    /// What members answered to the mark before, as far as they were heard in time.
    pub digests: Vec<(NodeId, Bytes)>,
    /// Up to where each member's log was known to equal the leader's, durably.
    pub acknowledged: Vec<(NodeId, Index)>,
    /// The leader's time, in milliseconds since the Unix epoch.
    pub stamp_ms: u64,
}

/// Why bytes are no mark's payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// They are not the format, or beyond its bounds.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A format of another version.
    #[error("format version {found}, this binary knows {PAYLOAD_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    previous: u64,
    #[prost(message, repeated, tag = "3")]
    digests: Vec<WireDigest>,
    #[prost(message, repeated, tag = "4")]
    acknowledged: Vec<WireAcknowledged>,
    #[prost(uint64, tag = "5")]
    stamp_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDigest {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(bytes = "bytes", tag = "2")]
    digest: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireAcknowledged {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

impl MarkPayload {
    /// The payload's bytes. A digest longer than 1024 bytes is left out.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let fits = |(_, digest): &&(NodeId, Bytes)| digest.len() <= DIGEST_BYTES_MAX;
        let digest = |(node, digest): &(NodeId, Bytes)| WireDigest { node: node.0, digest: digest.clone() };
        let acknowledged = |(node, index): &(NodeId, Index)| WireAcknowledged { node: node.0, index: index.0 };
        Wire {
            version: PAYLOAD_VERSION,
            previous: self.previous.0,
            digests: self.digests.iter().filter(fits).take(MEMBERS_MAX).map(digest).collect(),
            acknowledged: self.acknowledged.iter().take(MEMBERS_MAX).map(acknowledged).collect(),
            stamp_ms: self.stamp_ms,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When the bytes are no payload that this version understands.
    pub fn decode(bytes: &Bytes) -> Result<Self, PayloadError> {
        let wire = Wire::decode(bytes.clone()).map_err(|error| PayloadError::Malformed(error.to_string()))?;
        if wire.version != PAYLOAD_VERSION {
            return Err(PayloadError::Version { found: wire.version });
        }
        let members = wire.digests.len().max(wire.acknowledged.len());
        if members > MEMBERS_MAX {
            return Err(PayloadError::Malformed(format!("it names {members} members, more than {MEMBERS_MAX}")));
        }
        if let Some(long) = wire.digests.iter().map(|digest| digest.digest.len()).find(|len| *len > DIGEST_BYTES_MAX) {
            return Err(PayloadError::Malformed(format!("a digest of {long} bytes, more than {DIGEST_BYTES_MAX}")));
        }
        Ok(Self {
            previous: Index(wire.previous),
            digests: wire.digests.into_iter().map(|digest| (NodeId(digest.node), digest.digest)).collect(),
            acknowledged: wire.acknowledged.into_iter().map(|known| (NodeId(known.node), Index(known.index))).collect(),
            stamp_ms: wire.stamp_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload() -> MarkPayload {
        MarkPayload {
            previous: Index(7),
            digests: vec![(NodeId(1), Bytes::from_static(b"one")), (NodeId(3), Bytes::new())],
            acknowledged: vec![(NodeId(1), Index(9)), (NodeId(2), Index(0))],
            stamp_ms: 1234,
        }
    }

    #[test]
    fn a_payload_survives_its_bytes_which_stay_the_same() {
        let golden = [
            8, 1, 16, 7, 26, 7, 8, 1, 18, 3, b'o', b'n', b'e', 26, 2, 8, 3, 34, 4, 8, 1, 16, 9, 34, 2, 8, 2, 40, 210, 9,
        ];
        assert_eq!(payload().encode(), golden.as_slice());
        assert_eq!(MarkPayload::decode(&payload().encode()), Ok(payload()));
    }

    #[test]
    fn other_versions_and_payloads_beyond_the_bounds_are_refused_by_name() {
        let other = Wire { version: 2, ..Wire::default() }.encode_to_vec().into();
        assert_eq!(MarkPayload::decode(&other), Err(PayloadError::Version { found: 2 }));
        assert_eq!(MarkPayload::decode(&Bytes::new()), Err(PayloadError::Version { found: 0 }));
        let long = WireDigest { node: 1, digest: vec![0; DIGEST_BYTES_MAX + 1].into() };
        let many = vec![WireAcknowledged::default(); MEMBERS_MAX + 1];
        for (digests, acknowledged) in [(vec![long], Vec::new()), (Vec::new(), many)] {
            let bytes = Wire { version: 1, digests, acknowledged, ..Wire::default() }.encode_to_vec().into();
            assert!(matches!(MarkPayload::decode(&bytes), Err(PayloadError::Malformed(_))));
        }
    }

    #[test]
    fn what_is_too_long_is_left_out_so_that_all_can_read_the_rest() {
        let mut too_long = payload();
        too_long.digests.push((NodeId(4), vec![0; DIGEST_BYTES_MAX + 1].into()));
        assert_eq!(MarkPayload::decode(&too_long.encode()), Ok(payload()));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = MarkPayload::decode(&bytes.into());
        }
    }
}
