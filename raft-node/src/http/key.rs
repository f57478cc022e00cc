//! A key is the raw path after `/v1/kv/`, percent-decoded: `%2F` stays in the key, any byte is legal.

use bytes::Bytes;

/// Why a path names no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing stands after `/v1/kv/`.
    #[error("the key is empty")]
    Empty,
    /// A `%` without two hexadecimal digits after it.
    #[error("the `%` at byte {at} of the key is not followed by two hexadecimal digits; write a percent sign as %25")]
    Malformed {
        /// Where in the encoded key, from 0.
        at: usize,
    },
}

/// Decodes a key out of a raw path.
///
/// # Errors
/// See [`KeyError`].
pub fn decode(raw: &str) -> Result<Bytes, KeyError> {
    if raw.is_empty() {
        return Err(KeyError::Empty);
    }
    let raw = raw.as_bytes();
    if !raw.contains(&b'%') {
        return Ok(Bytes::copy_from_slice(raw));
    }
    let mut key = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] == b'%' {
            let digit = |offset: usize| raw.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(KeyError::Malformed { at }) };
            key.push((high * 16 + low) as u8);
            at += 3;
        } else {
            key.push(raw[at]);
            at += 1;
        }
    }
    Ok(key.into())
}

/// Encodes a key as one path segment that no client library rewrites: everything but letters, digits, `-`, `_` and
/// `~` is escaped, and `.` too where it stands at the beginning.
#[must_use]
pub fn encode(key: &[u8]) -> String {
    let mut path = String::with_capacity(key.len());
    for (position, byte) in key.iter().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (*byte == b'.' && position > 0);
        if plain {
            path.push(char::from(*byte));
        } else {
            path.push('%');
            for nibble in [byte >> 4, byte & 15] {
                path.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_path_is_taken_as_it_stands() {
        for (raw, key) in [
            ("a", &b"a"[..]),
            ("a/b", b"a/b"),
            ("a%2Fb", b"a/b"),
            ("a%2fb", b"a/b"),
            ("/", b"/"),
            ("%00%ff", b"\x00\xff"),
            ("a+b", b"a+b"),
            ("%25", b"%"),
            ("..", b".."),
        ] {
            assert_eq!(decode(raw).as_deref(), Ok(key), "{raw}");
        }
    }

    #[test]
    fn what_is_no_encoding_is_refused_with_its_place() {
        assert_eq!(decode(""), Err(KeyError::Empty));
        for (raw, at) in [("%", 0), ("a%", 1), ("a%2", 1), ("ab%zz", 2), ("%2F%+1", 3), ("%-1", 0)] {
            assert_eq!(decode(raw), Err(KeyError::Malformed { at }), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn every_key_survives_the_path(key in proptest::collection::vec(any::<u8>(), 1..64)) {
            let path = encode(&key);
            prop_assert_eq!(decode(&path), Ok(Bytes::from(key)));
            prop_assert!(!path.contains('/') && !path.starts_with('.'));
        }

        #[test]
        fn no_path_panics(raw in "[ -~]{0,32}") {
            let _ = decode(&raw);
        }
    }
}
