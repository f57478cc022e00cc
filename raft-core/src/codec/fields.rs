//! Fields one after the other.

use bytes::{Buf, BufMut, Bytes};

use super::VERSION;
use crate::runs::SpanError;
use crate::types::LogId;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The layout is one of a later version. Drop it and keep the connection; run one version on all nodes.
    #[error("it has layout version {found}, and this program knows {VERSION}; run the same version on all nodes")]
    UnknownVersion {
        /// Which.
        found: u8,
    },
    /// It is something that this version does not know. Drop it and keep the connection.
    #[error("it is of a kind that this program does not know ({found})")]
    UnknownKind {
        /// Which.
        found: u8,
    },
    /// The bytes end too soon.
    #[error("the bytes end inside `{field}`")]
    Short {
        /// Which field was to be read.
        field: &'static str,
    },
    /// Bytes are left over.
    #[error("{count} bytes follow its end")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A field has a value that it cannot have.
    #[error("`{field}` cannot be {found}")]
    Value {
        /// Which.
        field: &'static str,
        /// Its value; of a name its length.
        found: u64,
    },
    /// The entries are no stretch of a log.
    #[error("its entries are no stretch of a log: {0}")]
    Entries(#[source] SpanError),
    /// A payload's checksum does not fit: the sender's memory is damaged, or this code is wrong.
    #[error("the checksum of entry {entry} does not fit its bytes")]
    Checksum {
        /// The entry.
        entry: LogId,
    },
}

impl CodecError {
    /// Whether a later version may have sent it: then it is dropped and the connection stays. Everything else is
    /// damage or a fault, and ends the connection.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::UnknownVersion { .. } | Self::UnknownKind { .. })
    }
}

pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend([VERSION, kind]);
        Self(bytes)
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.put_u8(byte);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(super) fn short(&mut self, number: u32) {
        self.0.put_u32(number);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.put_u64(number);
    }

    pub(super) fn wide(&mut self, number: u128) {
        self.0.put_u128(number);
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

pub(super) struct Reader {
    kind: u8,
    left: Bytes,
}

impl Reader {
    pub(super) fn new(mut bytes: Bytes) -> Result<Self, CodecError> {
        match bytes.try_get_u8() {
            Ok(VERSION) => {}
            Ok(found) => return Err(CodecError::UnknownVersion { found }),
            Err(_) => return Err(CodecError::Short { field: "version" }),
        }
        let kind = bytes.try_get_u8().map_err(|_| CodecError::Short { field: "kind" })?;
        Ok(Self { kind, left: bytes })
    }

    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    pub(super) fn demand_kind(&self, kind: u8) -> Result<(), CodecError> {
        if self.kind == kind { Ok(()) } else { Err(CodecError::UnknownKind { found: self.kind }) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, CodecError> {
        self.left.try_get_u8().map_err(|_| CodecError::Short { field })
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, CodecError> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(CodecError::Value { field, found: found.into() }),
        }
    }

    pub(super) fn short(&mut self, field: &'static str) -> Result<u32, CodecError> {
        self.left.try_get_u32().map_err(|_| CodecError::Short { field })
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, CodecError> {
        self.left.try_get_u64().map_err(|_| CodecError::Short { field })
    }

    pub(super) fn wide(&mut self, field: &'static str) -> Result<u128, CodecError> {
        self.left.try_get_u128().map_err(|_| CodecError::Short { field })
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, field: &'static str, limit: u64) -> Result<u64, CodecError> {
        let found = self.number(field)?;
        if found < limit { Ok(found) } else { Err(CodecError::Value { field, found }) }
    }

    pub(super) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.flag(field)? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn take(&mut self, length: u32, field: &'static str) -> Result<Bytes, CodecError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.left.len() => Ok(self.left.split_to(length)),
            _ => Err(CodecError::Short { field }),
        }
    }

    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.left)
    }

    pub(super) fn end(&self) -> Result<(), CodecError> {
        if self.is_empty() { Ok(()) } else { Err(CodecError::Trailing { count: self.left.len() }) }
    }
}
