//! Tokens and their digests. Neither is ever shown: not by `Debug`, not in an error.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// What a token begins with, so that people and secret scanners know what they have found.
const TOKEN_PREFIX: &str = "raft_";

/// A token: whoever has it is whom it names. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// 256 fresh random bits as printable text.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0u8; TOKEN_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Takes a token out of text, as a file holds it: blanks and line ends around it are no part of it.
    ///
    /// # Errors
    /// When it is empty, or no token can look so (RFC 6750, 2.1). The error shows nothing of the text.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("holds no token");
        }
        if !is_token(text) {
            return Err(
                "holds no token: one is a single word of letters, digits, `-`, `.`, `_`, `~`, `+`, `/` and `=`",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The token itself, to be sent or written to a file of its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a token file has of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes; without them no token can be made")]
pub struct NoRandomness;

/// Whether text is a `b64token` of RFC 6750.
pub(super) fn is_token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

/// SHA-256 of a token. A plain hash is enough: a token is 256 random bits, which nobody finds by trying, so there is
/// nothing that salt or a slow hash would protect. Its `Debug` shows nothing of it.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of this text.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits; `None` when it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits, for the token file.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares in a time that tells nothing of where two digests differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    #[test]
    fn a_digest_is_the_sha_256_that_other_tools_compute() {
        // FIPS 180-2, B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenDigest::of("abc").hex(), known);
        assert!(TokenDigest::parse(known).unwrap().is(&TokenDigest::of("abc")));
        assert!(TokenDigest::parse(&known.to_uppercase()).unwrap().is(&TokenDigest::of("abc")));
        assert!(!TokenDigest::of("abd").is(&TokenDigest::of("abc")));
        for wrong in ["", "ba78", &known[1..], &format!("{known}0"), &known.replace('b', "g"), &"é".repeat(32)] {
            assert!(TokenDigest::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_random_printable_and_long() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), TOKEN_PREFIX.len() + 43);
        assert_eq!(Secret::read(&format!(" {}\n", one.expose())).unwrap(), one);
        for wrong in ["", " \n", "two words", "=", "é", "a\u{0}b", "a=b"] {
            assert!(Secret::read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let secret = Secret::random().unwrap();
        let shown = format!("{secret:?} {:#?} {:?}", Some(&secret), secret.digest());
        assert!(!shown.contains(secret.expose()) && !shown.contains(&secret.digest().hex()), "{shown}");
        assert_eq!(shown.matches("(..)").count(), 3, "{shown}");
    }
}
