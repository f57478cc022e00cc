//! Reading and writing of plain big-endian fields. Whoever reads checks every length before it is used.

use bytes::{Buf, Bytes};

/// The bytes end before the field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short;

/// Takes fields off the front of bytes. Longer fields come out as slices that share the memory.
pub(crate) struct Fields {
    rest: Bytes,
}

impl Fields {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Short> {
        self.rest.try_get_u8().map_err(|_| Short)
    }

    pub(crate) fn word(&mut self) -> Result<u32, Short> {
        self.rest.try_get_u32().map_err(|_| Short)
    }

    pub(crate) fn long(&mut self) -> Result<u64, Short> {
        self.rest.try_get_u64().map_err(|_| Short)
    }

    pub(crate) fn slice(&mut self, length: usize) -> Result<Bytes, Short> {
        if length > self.rest.len() {
            return Err(Short);
        }
        Ok(self.rest.split_to(length))
    }

    /// A slice with its length in four bytes before it.
    pub(crate) fn long_slice(&mut self) -> Result<Bytes, Short> {
        let length = self.word()?;
        self.slice(length as usize)
    }

    /// As many bytes as the array has.
    pub(crate) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Short> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(&self.slice(LENGTH)?);
        Ok(array)
    }

    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
