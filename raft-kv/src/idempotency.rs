//! Names of requests, and what is remembered of them.

use bytes::Bytes;

use crate::codec::Fields;

/// A client's name for one request, the same in all its retries: 1 to 128 bytes.
///
/// A UUIDv7 in its usual form (`018f…-…-7…-…`) carries the time when it was made. That time tells a retry whose record
/// was already forgotten from a new request, so that the retry is refused instead of done twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Bytes);

/// An idempotency key that is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key of {length} bytes; use 1 to {} bytes, best a UUIDv7", IdempotencyKey::BYTES_MAX)]
pub struct IdempotencyKeyError {
    /// Its length, in bytes.
    pub length: usize,
}

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Takes a key.
    ///
    /// # Errors
    /// When it is empty or longer than [`IdempotencyKey::BYTES_MAX`].
    pub fn new(key: impl Into<Bytes>) -> Result<Self, IdempotencyKeyError> {
        let key = key.into();
        if key.is_empty() || key.len() > Self::BYTES_MAX {
            return Err(IdempotencyKeyError { length: key.len() });
        }
        Ok(Self(key))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// When it was made, in milliseconds since the Unix epoch, if it is a UUIDv7 (RFC 9562, section 5.7) in
    /// hyphenated hexadecimal.
    #[must_use]
    pub fn uuid_v7_ms(&self) -> Option<u64> {
        uuid_v7_ms(&self.0)
    }
}

pub(crate) fn uuid_v7_ms(key: &[u8]) -> Option<u64> {
    const LENGTH: usize = 36;
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    const VERSION: usize = 14;
    const VARIANT: usize = 19;
    if key.len() != LENGTH || key[VERSION] != b'7' || !b"89abAB".contains(&key[VARIANT]) {
        return None;
    }
    let mut ms = 0;
    for (position, byte) in key.iter().enumerate() {
        if HYPHENS.contains(&position) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(*byte).to_digit(16)?;
        // The first 48 bits, twelve digits around one hyphen, are the time.
        if position < HYPHENS[1] {
            ms = ms << 4 | u64::from(digit);
        }
    }
    Some(ms)
}

/// What identifies a request's content: the first 128 bits of the BLAKE3 hash of the command without version and stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; Self::LENGTH]);

impl Fingerprint {
    const LENGTH: usize = 16;

    pub(crate) fn of(request: &[u8]) -> Self {
        let mut first = [0; Self::LENGTH];
        first.copy_from_slice(&blake3::hash(request).as_bytes()[..Self::LENGTH]);
        Self(first)
    }
}

/// What is remembered under an idempotency key: its number, the fingerprint, then the encoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) number: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) answer: Bytes,
}

impl Remembered {
    pub(crate) fn encode(&self) -> Bytes {
        [&self.number.to_be_bytes()[..], &self.fingerprint.0, &self.answer].concat().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let (number, fingerprint) = (fields.long().ok()?, Fingerprint(fields.array().ok()?));
        Some(Self { number, fingerprint, answer: fields.rest() })
    }
}

/// Which idempotency keys are remembered. They are numbered in the order of the log; the remembered ones are
/// `oldest..next`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// The number of the key that is forgotten next.
    pub(crate) oldest: u64,
    /// The number of the next key that is recorded.
    pub(crate) next: u64,
    /// The latest time in any UUIDv7 that was forgotten. One that is not newer and not remembered may have been
    /// recorded and forgotten.
    pub(crate) horizon_ms: u64,
}

impl Window {
    /// A UUIDv7 may be this far ahead of the state machine's time. One that is further ahead counts as a plain key:
    /// else a single client with a wrong clock would push the horizon past every other client's new keys.
    pub(crate) const AHEAD_MS_MAX: u64 = 10_000;
    /// Keys forgotten by one command at most, so that a window that shrinks does not stop the apply for long. Each
    /// command adds at most one, so the window still shrinks.
    pub(crate) const FORGET_MAX: u64 = 64;

    pub(crate) fn len(&self) -> u64 {
        self.next - self.oldest
    }

    /// Whether a request under this key may have been done and forgotten.
    pub(crate) fn may_be_forgotten(&self, key: &IdempotencyKey) -> bool {
        key.uuid_v7_ms().is_some_and(|made_ms| made_ms <= self.horizon_ms)
    }

    /// Takes note that `key` is forgotten. `now_ms` is the state machine's time.
    pub(crate) fn forget(&mut self, key: &[u8], now_ms: u64) {
        assert!(self.oldest < self.next, "nothing is remembered at {}", self.oldest);
        if let Some(made_ms) = uuid_v7_ms(key)
            && made_ms <= now_ms.saturating_add(Self::AHEAD_MS_MAX)
        {
            self.horizon_ms = self.horizon_ms.max(made_ms);
        }
        self.oldest += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_of_version_7_carries_a_time() {
        let time = |text: &'static str| uuid_v7_ms(text.as_bytes());
        // The example of RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC.
        assert_eq!(time("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"), Some(0x017F_22E2_79B0));
        assert_eq!(time("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), Some(0x017F_22E2_79B0));
        assert_eq!(time("017f22e2-79b0-4cc3-98c4-dc0c0c07398f"), None, "version 4");
        assert_eq!(time("017f22e2-79b0-7cc3-c8c4-dc0c0c07398f"), None, "another variant");
        assert_eq!(time("017f22e2079b0-7cc3-98c4-dc0c0c07398f"), None, "no hyphen");
        assert_eq!(time("017f22e2-79b0-7cc3-98c4-dc0c0c07398g"), None, "no hexadecimal digit");
        assert_eq!(time("order-4711"), None);
    }

    #[test]
    fn a_key_from_far_ahead_does_not_move_the_horizon() {
        let mut window = Window { oldest: 0, next: 2, horizon_ms: 0 };
        window.forget(b"017f22e2-79b0-7cc3-98c4-dc0c0c07398f", 0x017F_22E2_79B0 - Window::AHEAD_MS_MAX - 1);
        assert_eq!(window.horizon_ms, 0);
        window.forget(b"017f22e2-79b0-7cc3-98c4-dc0c0c07398f", 0x017F_22E2_79B0 - Window::AHEAD_MS_MAX);
        assert_eq!(window.horizon_ms, 0x017F_22E2_79B0);
        assert_eq!(window.len(), 0);
    }
}
