//! What tests draw beside numbers.

use bytes::Bytes;

use crate::random::Random;

/// `length` random bytes.
pub fn random_bytes(random: &mut Random, length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}
