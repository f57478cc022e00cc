//! What is asked for: which keys, with which values.

/// One kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Gives a key a value.
    Put,
    /// Reads a key with this consistency, as the parameter of the HTTP interface names it.
    Get {
        /// `linearizable`, `lease` or `local`.
        consistency: String,
    },
}

/// The keys: a prefix and a number of fixed width.
#[derive(Clone, Debug)]
pub struct Keys {
    /// What every key begins with.
    pub prefix: String,
    /// How many there are.
    pub count: u64,
}

/// Digits of a key's number.
pub(crate) const KEY_DIGITS: usize = 10;
/// A prime, so that as many numbers in a row as there are keys name each of them once.
const SCATTER: u64 = 2_654_435_761;

impl Keys {
    /// The number of the key of request `number`: neighbours are far apart, and each key is named once in every `count`
    /// requests.
    #[must_use]
    pub fn of(&self, number: u64) -> u64 {
        // Both factors are below 2^33 as long as there are fewer keys than 2^31.
        (number % self.count).wrapping_mul(SCATTER) % self.count
    }

    /// The bytes of the key of request `number`.
    #[must_use]
    pub fn key(&self, number: u64) -> String {
        format!("{}{:0width$}", self.prefix, self.of(number), width = KEY_DIGITS)
    }
}

/// Writes a number as decimal digits over all of `digits`.
pub(crate) fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Values that differ and do not compress: parts of one block of random bytes, each from another place.
#[derive(Debug)]
pub struct Values {
    block: Vec<u8>,
    bytes: usize,
}

/// How many different places of the block a value may begin at.
const PLACES: usize = 64 << 10;

impl Values {
    /// Values of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        // xorshift64: quick, and nothing that a compressor would find.
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self { block: words.flatten().take(bytes + PLACES).collect(), bytes }
    }

    /// The value of request `number`.
    #[must_use]
    pub fn value(&self, number: u64) -> &[u8] {
        let at = (number.wrapping_mul(0x9E37_79B9) % PLACES as u64) as usize;
        &self.block[at..at + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn as_many_requests_as_keys_name_each_key_once() {
        for count in [1, 2, 10, 4096, 100_000] {
            let keys = Keys { prefix: String::new(), count };
            let named: BTreeSet<u64> = (7..7 + count).map(|number| keys.of(number)).collect();
            assert_eq!(named.len() as u64, count);
        }
    }

    #[test]
    fn digits_fill_their_place() {
        let mut digits = *b"xxxxx";
        write_digits(&mut digits, 402);
        assert_eq!(&digits, b"00402");
        let keys = Keys { prefix: "bench/".into(), count: 5 };
        assert_eq!(keys.key(0), "bench/0000000000");
    }

    #[test]
    fn values_have_their_length_and_differ() {
        let values = Values::new(256);
        let different: BTreeSet<&[u8]> = (0..1000).map(|number| values.value(number)).collect();
        assert_eq!(different.len(), 1000);
        assert!(different.iter().all(|value| value.len() == 256));
        assert!(Values::new(0).value(9).is_empty());
    }
}
