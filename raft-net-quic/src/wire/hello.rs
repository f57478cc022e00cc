//! What the two ends of a new connection tell each other first.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use raft_core::ports::{LocalIdentity, RemoteIdentity};
use raft_core::types::{ClusterId, Incarnation, NodeId, NodeName};

use super::{Frame, Malformed, frame_type, put_head};
use crate::config::{EARLIER_STARTS_MAX, Limits, Start};

/// Longest name that is taken from a peer, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 253;

/// Who speaks. Sent by the dialer as HELLO and by the acceptor as WELCOME. Tags 10, 11, 13, 14 and 17 to 19 are reserved.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol_min: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) protocol_max: u32,
    #[prost(string, tag = "3")]
    pub(crate) cluster_name: String,
    /// 16 bytes, or none while the node has no cluster.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) cluster: Bytes,
    /// Zero while the node has no id.
    #[prost(uint64, tag = "5")]
    pub(crate) id: u64,
    #[prost(string, tag = "6")]
    pub(crate) name: String,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) incarnation: Bytes,
    /// Drawn at every start of the process: tells a connection of an earlier process life from one of this.
    #[prost(fixed64, tag = "8")]
    pub(crate) process: u64,
    /// Only in WELCOME: the version that both speak from here on.
    #[prost(uint32, tag = "9")]
    pub(crate) protocol: u32,
    /// Only in HELLO: the connection is for a snapshot, beside the one that the two nodes use for all else.
    #[prost(bool, tag = "15")]
    pub(crate) bulk: bool,
    /// The start of the process on its disk; a copy of the disk is known by it.
    #[prost(message, optional, tag = "12")]
    pub(crate) start: Option<WireStart>,
    /// Only in HELLO: it comes as a guest, who asks and nothing else.
    #[prost(bool, tag = "16")]
    pub(crate) guest: bool,
}

/// One start of a process on a disk.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireStart {
    /// How often the disk was started, this time included.
    #[prost(uint64, tag = "1")]
    pub(crate) count: u64,
    /// 16 bytes, drawn anew at every start.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) nonce: Bytes,
    /// The same 16 bytes of the starts before this one, one after the other, the newest first, at most 64.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) earlier: Bytes,
}

impl WireStart {
    pub(crate) fn of(start: &Start) -> Self {
        let earlier = start.earlier.iter().take(EARLIER_STARTS_MAX).flat_map(|nonce| nonce.to_be_bytes()).collect();
        Self { count: start.count, nonce: Bytes::copy_from_slice(&start.nonce.to_be_bytes()), earlier }
    }
}

/// Why a connection is not wanted. Sent instead of WELCOME.
#[derive(Clone, PartialEq, prost::Message)]
struct RefusalControl {
    /// The short name, see [`Refusal::reason`].
    #[prost(string, tag = "1")]
    reason: String,
    /// The same for people.
    #[prost(string, tag = "2")]
    text: String,
}

/// A reason to refuse a peer in the handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no common protocol version: this side speaks {} to {}, the other {min} to {max}", super::PROTOCOL.0, super::PROTOCOL.1)]
    Version { min: u32, max: u32 },
    #[error("the other side belongs to a cluster named {theirs:?}, this one to {ours:?}: set `cluster` alike")]
    ClusterName { ours: String, theirs: String },
    #[error("the other side belongs to cluster {theirs}, this one to {ours}: its data directory is of another cluster")]
    Cluster { ours: ClusterId, theirs: ClusterId },
    #[error("no node named {name} is known here")]
    UnknownName { name: NodeName },
    #[error("{name} was expected at this address, but {found} answers there: set `peer.advertise` of both")]
    OtherNode { name: NodeName, found: NodeName },
    #[error(
        "{name} is known with incarnation {known}, not {found}: its data directory was replaced; put the old one back, or let \
         it ask for admission"
    )]
    Incarnation { name: NodeName, known: Incarnation, found: Incarnation },
    #[error("{name} is known as {known}, not as {found}")]
    Id { name: NodeName, known: NodeId, found: NodeId },
    #[error(
        "the certificate names neither {uri} nor the host of {name}'s `peer.advertise` (it names {found}): issue one that does"
    )]
    CertificateName { name: NodeName, uri: String, found: String },
    #[error(
        "start {count} of this disk is known here with another nonce: two processes run on copies of one data directory; stop \
         this one, and give it an empty data directory"
    )]
    ClonedDisk { count: u64 },
    #[error(
        "a process on this disk answers here already, and start {count} of it comes from elsewhere: two processes run on \
         copies of one data directory; stop this one, and give it an empty data directory"
    )]
    TwinDisk { count: u64 },
    #[error(
        "this disk shows its start {found}, and start {known} of it is known here: it was set back to an older copy, or runs \
         elsewhere too; give this node an empty data directory"
    )]
    RolledBackDisk { known: u64, found: u64 },
    #[error(
        "start {found} of this disk does not come after its start {known}, which is known here: it was set back to an older \
         copy and started since, or runs elsewhere too; give this node an empty data directory"
    )]
    ForkedDisk { known: u64, found: u64 },
    #[error("{limit} guests are connected, and no more are let in: ask another node, or again when one has left")]
    TooManyGuests { limit: usize },
    #[error("this node does not know yet who it is")]
    NotReady,
    #[error("another connection between the two nodes is in use")]
    Duplicate,
}

impl Refusal {
    /// The short name under which it is counted and sent.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Version { .. } => "protocol_version",
            Self::ClusterName { .. } => "cluster_name",
            Self::Cluster { .. } => "other_cluster",
            Self::UnknownName { .. } => "unknown_name",
            Self::OtherNode { .. } => "other_node",
            Self::Incarnation { .. } => "other_incarnation",
            Self::Id { .. } => "other_id",
            Self::CertificateName { .. } => "certificate_name",
            Self::ClonedDisk { .. } | Self::TwinDisk { .. } | Self::ForkedDisk { .. } => "cloned_disk",
            Self::RolledBackDisk { .. } => "rolled_back_disk",
            Self::TooManyGuests { .. } => "too_many_guests",
            Self::NotReady => "not_ready",
            Self::Duplicate => "duplicate",
        }
    }

    /// Whether it is part of how connections come about, and nothing that anybody has to mend.
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::NotReady | Self::Duplicate)
    }
}

/// Whether the short name that a peer sent means that this node may come as a guest and ask.
pub(crate) fn may_visit(reason: &str) -> bool {
    matches!(reason, "unknown_name" | "other_incarnation" | "other_id")
}

/// Whether the short name that a peer sent means nothing that anybody has to mend.
pub(crate) fn is_expected_reason(reason: &str) -> bool {
    [Refusal::NotReady, Refusal::Duplicate].iter().any(|expected| expected.reason() == reason)
}

/// What a dialer hears.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Welcome(Hello),
    Refused { reason: String, text: String },
}

impl Hello {
    /// What this node says of itself.
    pub(crate) fn of(local: &LocalIdentity, cluster_name: &str, process: u64) -> Self {
        let (protocol_min, protocol_max) = super::PROTOCOL;
        Self {
            protocol_min,
            protocol_max,
            cluster_name: cluster_name.to_owned(),
            cluster: local.cluster.map_or_else(Bytes::new, |cluster| Bytes::copy_from_slice(&cluster.0.to_be_bytes())),
            id: local.id.map_or(0, |id| id.0),
            name: local.name.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&local.incarnation.0.to_be_bytes()),
            process,
            protocol: 0,
            bulk: false,
            start: None,
            guest: false,
        }
    }

    /// Who the other side says it is.
    pub(crate) fn identity(&self) -> Result<RemoteIdentity, Malformed> {
        let number =
            |bytes: &Bytes| <[u8; 16]>::try_from(&bytes[..]).map(u128::from_be_bytes).map_err(|_| Malformed::Control);
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(Malformed::Control);
        }
        let cluster = if self.cluster.is_empty() { None } else { Some(ClusterId(number(&self.cluster)?)) };
        Ok(RemoteIdentity {
            name: NodeName::new(&self.name),
            incarnation: Incarnation(number(&self.incarnation)?),
            cluster,
            id: (self.id != 0).then_some(NodeId(self.id)),
        })
    }

    /// Which start of its disk the other side is.
    pub(crate) fn start(&self) -> Result<Option<Start>, Malformed> {
        let Some(start) = &self.start else { return Ok(None) };
        let nonce = <[u8; 16]>::try_from(&start.nonce[..]).map_err(|_| Malformed::Control)?;
        let (earlier, rest) = start.earlier.as_chunks::<16>();
        if !rest.is_empty() || earlier.len() > EARLIER_STARTS_MAX {
            return Err(Malformed::EarlierStarts);
        }
        let earlier = earlier.iter().copied().map(u128::from_be_bytes).collect();
        Ok(Some(Start { count: start.count, nonce: u128::from_be_bytes(nonce), earlier }))
    }

    /// The newest version that both sides speak.
    pub(crate) fn common_protocol(&self) -> Result<u32, Refusal> {
        let (min, max) = (self.protocol_min.max(super::PROTOCOL.0), self.protocol_max.min(super::PROTOCOL.1));
        if min > max {
            return Err(Refusal::Version { min: self.protocol_min, max: self.protocol_max });
        }
        Ok(max)
    }

    /// The frame that opens a connection.
    pub(crate) fn encode_hello(&self, limits: &Limits) -> Bytes {
        encode(frame_type::HELLO, self, limits)
    }

    /// The frame that accepts one.
    pub(crate) fn encode_welcome(&self, limits: &Limits) -> Bytes {
        encode(frame_type::WELCOME, self, limits)
    }

    /// Reads what a dialer sent.
    pub(crate) fn decode(frame: &Frame) -> Result<Self, Malformed> {
        if frame.kind != frame_type::HELLO {
            return Err(Malformed::OutOfPlace);
        }
        Self::decode_control(frame)
    }

    fn decode_control(frame: &Frame) -> Result<Self, Malformed> {
        if !frame.body.is_empty() {
            return Err(Malformed::UnexpectedBody);
        }
        let hello = Self::decode_from(frame.control.clone())?;
        if hello.cluster_name.len() > NAME_BYTES_MAX {
            return Err(Malformed::Control);
        }
        Ok(hello)
    }

    fn decode_from(control: Bytes) -> Result<Self, Malformed> {
        <Self as prost::Message>::decode(control).map_err(|_| Malformed::Control)
    }
}

/// The frame that refuses a connection.
pub(crate) fn encode_refusal(refusal: &Refusal, limits: &Limits) -> Bytes {
    let control = RefusalControl { reason: refusal.reason().to_owned(), text: refusal.to_string() };
    encode(frame_type::REFUSAL, &control, limits)
}

/// Reads what an acceptor sent.
pub(crate) fn decode_reply(frame: &Frame) -> Result<Reply, Malformed> {
    match frame.kind {
        frame_type::WELCOME => Hello::decode_control(frame).map(Reply::Welcome),
        frame_type::REFUSAL => {
            let control = RefusalControl::decode(frame.control.clone()).map_err(|_| Malformed::Control)?;
            Ok(Reply::Refused { reason: control.reason, text: control.text })
        }
        _ => Err(Malformed::OutOfPlace),
    }
}

fn encode(kind: u8, control: &impl prost::Message, limits: &Limits) -> Bytes {
    let mut buffer = BytesMut::new();
    let fits = put_head(&mut buffer, kind, 0, control, 0, limits);
    assert!(fits, "a handshake frame holds names of at most {NAME_BYTES_MAX} bytes, which any allowed limit admits");
    buffer.freeze()
}
