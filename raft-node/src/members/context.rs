//! What the configuration keeps of a member for the node: its name, the life of its disk, where it is reached. The core
//! carries these bytes and never reads them. The format is in `docs/node-requests.md`.

use prost::Message as _;
use raft_core::membership::CONTEXT_BYTES_MAX;
use raft_core::types::{Incarnation, NodeId, NodeName};

use bytes::Bytes;

use crate::founding::random_number;
use crate::status::Member;

/// The version of the format that this binary writes and reads.
const VERSION: u32 = 1;
/// Longest name of a member, in bytes; what certificates and DNS can carry.
pub(crate) const NAME_BYTES_MAX: usize = 253;
/// Longest address of a member, in bytes: a host name, a port and a scheme.
pub(crate) const ADDRESS_BYTES_MAX: usize = 320;

/// Why bytes are no context, or a member has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// They are not even the format.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A format of another version.
    #[error("format version {found}, this binary knows {VERSION}; run the version that wrote it")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A name or an address that is too long, or a name that is empty.
    #[error("{field} has {found} bytes and may have {least} to {limit}; set a shorter one")]
    Length {
        /// Which.
        field: &'static str,
        /// Its bytes.
        found: usize,
        /// The fewest.
        least: usize,
        /// The most.
        limit: usize,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireContext {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    incarnation: Vec<u8>,
    #[prost(string, tag = "4")]
    peer_address: String,
    #[prost(string, tag = "5")]
    api_address: String,
}

/// Checks what a member says of itself.
///
/// # Errors
/// Names what is too long.
pub(crate) fn check(name: &str, peer_address: &str, api_address: &str) -> Result<(), ContextError> {
    let fields = [
        ("name", name, 1, NAME_BYTES_MAX),
        ("peer.advertise", peer_address, 0, ADDRESS_BYTES_MAX),
        ("client.advertise", api_address, 0, ADDRESS_BYTES_MAX),
    ];
    for (field, text, least, limit) in fields {
        if !(least..=limit).contains(&text.len()) {
            return Err(ContextError::Length { field, found: text.len(), least, limit });
        }
    }
    Ok(())
}

/// The context of a member that [`check`] has passed.
pub(crate) fn encode(member: &Member) -> Bytes {
    let bytes = WireContext {
        version: VERSION,
        name: member.name.as_str().to_owned(),
        incarnation: member.incarnation.0.to_be_bytes().to_vec(),
        peer_address: member.peer_address.clone(),
        api_address: member.api_address.clone(),
    }
    .encode_to_vec();
    assert!(bytes.len() <= CONTEXT_BYTES_MAX, "a checked member's context has {} bytes", bytes.len());
    bytes.into()
}

/// The member `id` as its context says.
///
/// # Errors
/// When the bytes are no context that this version understands.
pub(crate) fn decode(id: NodeId, context: &[u8]) -> Result<Member, ContextError> {
    let malformed = |why: String| ContextError::Malformed(why);
    let wire = WireContext::decode(context).map_err(|error| malformed(error.to_string()))?;
    if wire.version != VERSION {
        return Err(ContextError::Version { found: wire.version });
    }
    check(&wire.name, &wire.peer_address, &wire.api_address)?;
    let incarnation = random_number(&wire.incarnation, "incarnation").map_err(|error| malformed(error.to_string()))?;
    Ok(Member {
        id,
        name: NodeName::new(&wire.name),
        incarnation: Incarnation(incarnation),
        peer_address: wire.peer_address,
        api_address: wire.api_address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            id: NodeId(3),
            name: NodeName::new("n3"),
            incarnation: Incarnation(0x0102),
            peer_address: "h3:7082".into(),
            api_address: "http://h3:7080".into(),
        }
    }

    #[test]
    fn a_context_comes_back_as_it_was() {
        assert_eq!(decode(NodeId(3), &encode(&member())), Ok(member()));
        let longest = Member {
            name: NodeName::new("n".repeat(NAME_BYTES_MAX)),
            peer_address: "p".repeat(ADDRESS_BYTES_MAX),
            api_address: "a".repeat(ADDRESS_BYTES_MAX),
            ..member()
        };
        assert_eq!(decode(NodeId(3), &encode(&longest)), Ok(longest));
    }

    #[test]
    fn the_bytes_are_what_the_document_says() {
        let expected =
            "\x08\x01\x12\x02n3\x1a\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x22\x07h3:7082\x2a\x0ehttp://h3:7080";
        assert_eq!(encode(&member()), expected.as_bytes());
    }

    #[test]
    fn what_is_no_context_has_a_name() {
        assert!(matches!(decode(NodeId(1), b""), Err(ContextError::Version { found: 0 })));
        assert!(matches!(decode(NodeId(1), b"\x08\x09"), Err(ContextError::Version { found: 9 })));
        assert!(matches!(decode(NodeId(1), b"\x08\x01"), Err(ContextError::Length { field: "name", .. })));
        assert!(matches!(decode(NodeId(1), b"\x08\x01\x12\x01n"), Err(ContextError::Malformed(_))));
        assert!(matches!(decode(NodeId(1), b"\xff"), Err(ContextError::Malformed(_))));
        assert!(check("n", &"p".repeat(321), "").is_err());
    }
}
