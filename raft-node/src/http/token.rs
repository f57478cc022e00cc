//! `Raft-Token`: the log position that an answer reflects, as opaque printable text.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use raft_core::types::{ClusterId, Index, LogId, Term};

/// A log position of one history of one cluster.
///
/// As text it is unpadded base64url of: version u8 = 1, cluster u128, epoch u64, term u64, index u64 and the CRC-32C of
/// all that, numbers big-endian. Clients compare it with nothing and take nothing out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which history of it: counts the times that its log was rewritten by a restore or a forced recovery. Zero until
    /// the first.
    pub epoch: u64,
    /// The entry.
    pub id: LogId,
}

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no Raft-Token; pass on one exactly as an answer gave it")]
pub struct TokenError;

const VERSION: u8 = 1;
const BODY: usize = 1 + 16 + 3 * 8;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0u8; BODY + 4];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.cluster.0.to_be_bytes());
        for (slot, number) in bytes[17..BODY].chunks_exact_mut(8).zip([self.epoch, self.id.term.0, self.id.index.0]) {
            slot.copy_from_slice(&number.to_be_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&checksum.to_be_bytes());
        let mut text = [0u8; (BODY + 4) * 4 / 3 + 4];
        let length = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError)?;
        let (body, checksum) = bytes.split_at_checked(BODY).ok_or(TokenError)?;
        if checksum != crc32c::crc32c(body).to_be_bytes() || body[0] != VERSION {
            return Err(TokenError);
        }
        let cluster = u128::from_be_bytes(body[1..17].try_into().map_err(|_| TokenError)?);
        let number = |from: usize| -> Result<u64, TokenError> {
            Ok(u64::from_be_bytes(body[from..from + 8].try_into().map_err(|_| TokenError)?))
        };
        let id = LogId::new(Index(number(33)?), Term(number(25)?));
        Ok(Self { cluster: ClusterId(cluster), epoch: number(17)?, id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text(cluster: u128, epoch: u64, term: u64, index: u64) {
            let token = Token { cluster: ClusterId(cluster), epoch, id: LogId::new(Index(index), Term(term)) };
            let text = token.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            prop_assert_eq!(text.parse(), Ok(token));
        }

        #[test]
        fn other_text_is_no_token(text in "[ -~]{0,80}") {
            prop_assert_eq!(text.parse::<Token>(), Err(TokenError));
        }
    }

    #[test]
    fn a_typing_error_is_noticed() {
        let token = Token { cluster: ClusterId(7), epoch: 0, id: LogId::new(Index(5), Term(1)) };
        let text = token.to_string();
        for position in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[position] = if wrong[position] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap_or_default();
            assert_ne!(wrong.parse(), Ok(token), "{wrong}");
        }
    }
}
