//! What a command came to, as bytes that are the same on every replica.
//!
//! ```text
//! answer    version u8 = 1 | replayed u8 | index u64 | term u64 | verdict u8 | fields
//! 1 written               count u8 | bits, first change in the lowest bit of the first byte
//! 2 settings changed      (nothing)
//! 3 precondition failed   change u8 | current revision u64, 0 when absent
//! 4 too large             change u8 | setting u8 | limit u64 | size u64
//! 5 setting refused       setting u8 | value u64
//! 6 key of another request   index u64 | term u64
//! 7 key may be forgotten  horizon u64
//! 8 malformed             reason u8
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::types::{Index, LogId, Term};

use crate::codec::{Fields, Short};
use crate::command::{CHANGES_MAX, Malformed};
use crate::settings::{Setting, SettingError};

const ANSWER_VERSION: u8 = 1;
/// Where the replayed mark stands.
const REPLAYED: usize = 1;

const WRITTEN: u8 = 1;
const SETTINGS_CHANGED: u8 = 2;
const PRECONDITION_FAILED: u8 = 3;
const TOO_LARGE: u8 = 4;
const SETTING_REFUSED: u8 = 5;
const KEY_OF_ANOTHER_REQUEST: u8 = 6;
const KEY_MAY_BE_FORGOTTEN: u8 = 7;
const MALFORMED: u8 = 8;

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All changes are made; their revision is the answer's index.
    Written {
        /// For each change, whether its key existed just before it: for a delete, whether it deleted anything.
        existed: Vec<bool>,
    },
    /// The settings are changed.
    SettingsChanged,
    /// A precondition does not hold. Nothing is changed.
    PreconditionFailed {
        /// Which change, counted from 0.
        change: usize,
        /// The revision of its key; `None` when it does not exist.
        current: Option<Index>,
    },
    /// A key or a value is longer than a setting allows. Nothing is changed.
    TooLarge {
        /// Which change, counted from 0.
        change: usize,
        /// The setting.
        setting: Setting,
        /// Its value, in bytes.
        limit: u64,
        /// What was asked for, in bytes.
        size: u64,
    },
    /// A setting cannot have this value. No setting is changed.
    SettingRefused {
        /// The setting.
        setting: Setting,
        /// The value that was refused; see [`Setting::range`].
        value: u64,
    },
    /// The idempotency key was used for another request before. Nothing is changed.
    IdempotencyConflict {
        /// The entry of that request.
        original: LogId,
    },
    /// The idempotency key is a UUIDv7 so old that its request may have been done before and forgotten. Nothing is
    /// changed **now**; whether it was before is unknown.
    IdempotencyForgotten {
        /// UUIDv7 that were made up to then may be forgotten, in milliseconds since the Unix epoch.
        horizon_ms: u64,
    },
    /// The bytes are not a command. Nothing is changed.
    Malformed(Malformed),
}

/// What a command came to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The entry that decided it. Of a replayed answer, the first entry of the request.
    pub decided: LogId,
    /// Whether an earlier entry with the same idempotency key decided it. This entry changed nothing.
    pub replayed: bool,
    /// What was decided.
    pub verdict: Verdict,
}

/// Bytes that are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not an answer of this version")]
pub struct AnswerError;

impl From<Short> for AnswerError {
    fn from(Short: Short) -> Self {
        Self
    }
}

impl Answer {
    /// The answer to a command that is decided now.
    pub(crate) fn new(decided: LogId, verdict: Verdict) -> Self {
        Self { decided, replayed: false, verdict }
    }

    /// The answer as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(40);
        out.put_u8(ANSWER_VERSION);
        out.put_u8(u8::from(self.replayed));
        put_log_id(self.decided, &mut out);
        match &self.verdict {
            Verdict::Written { existed } => {
                out.put_u8(WRITTEN);
                put_bits(existed, &mut out);
            }
            Verdict::SettingsChanged => out.put_u8(SETTINGS_CHANGED),
            Verdict::PreconditionFailed { change, current } => {
                out.put_u8(PRECONDITION_FAILED);
                put_position(*change, &mut out);
                out.put_u64(current.unwrap_or(Index::ZERO).0);
            }
            Verdict::TooLarge { change, setting, limit, size } => {
                out.put_u8(TOO_LARGE);
                put_position(*change, &mut out);
                out.put_u8(setting.code());
                out.put_u64(*limit);
                out.put_u64(*size);
            }
            Verdict::SettingRefused { setting, value } => {
                out.put_u8(SETTING_REFUSED);
                out.put_u8(setting.code());
                out.put_u64(*value);
            }
            Verdict::IdempotencyConflict { original } => {
                out.put_u8(KEY_OF_ANOTHER_REQUEST);
                put_log_id(*original, &mut out);
            }
            Verdict::IdempotencyForgotten { horizon_ms } => {
                out.put_u8(KEY_MAY_BE_FORGOTTEN);
                out.put_u64(*horizon_ms);
            }
            Verdict::Malformed(reason) => {
                out.put_u8(MALFORMED);
                out.put_u8(reason.code());
            }
        }
        out.freeze()
    }

    /// Reads an answer. (The answer to a no-op entry is empty, and no [`Answer`].)
    ///
    /// # Errors
    /// When the bytes are not an answer.
    pub fn decode(bytes: Bytes) -> Result<Self, AnswerError> {
        let mut fields = Fields::new(bytes);
        if fields.byte()? != ANSWER_VERSION {
            return Err(AnswerError);
        }
        let replayed = match fields.byte()? {
            0 => false,
            1 => true,
            _ => return Err(AnswerError),
        };
        let decided = log_id(&mut fields)?;
        let verdict = decode_verdict(&mut fields)?;
        if !fields.is_empty() {
            return Err(AnswerError);
        }
        Ok(Self { decided, replayed, verdict })
    }

    /// The refusal of a setting, with its range, if this is one.
    #[must_use]
    pub fn setting_error(&self) -> Option<SettingError> {
        let Verdict::SettingRefused { setting, value } = self.verdict else { return None };
        let (least, greatest) = setting.range();
        Some(SettingError { setting, value, least, greatest })
    }
}

/// Marks an encoded answer as replayed.
pub(crate) fn replayed(answer: &Bytes) -> Bytes {
    let mut copy = BytesMut::from(&answer[..]);
    if let Some(mark) = copy.get_mut(REPLAYED) {
        *mark = 1;
    }
    copy.freeze()
}

fn decode_verdict(fields: &mut Fields) -> Result<Verdict, AnswerError> {
    Ok(match fields.byte()? {
        WRITTEN => Verdict::Written { existed: bits(fields)? },
        SETTINGS_CHANGED => Verdict::SettingsChanged,
        PRECONDITION_FAILED => Verdict::PreconditionFailed {
            change: usize::from(fields.byte()?),
            current: Some(Index(fields.long()?)).filter(|revision| *revision != Index::ZERO),
        },
        TOO_LARGE => Verdict::TooLarge {
            change: usize::from(fields.byte()?),
            setting: setting(fields)?,
            limit: fields.long()?,
            size: fields.long()?,
        },
        SETTING_REFUSED => Verdict::SettingRefused { setting: setting(fields)?, value: fields.long()? },
        KEY_OF_ANOTHER_REQUEST => Verdict::IdempotencyConflict { original: log_id(fields)? },
        KEY_MAY_BE_FORGOTTEN => Verdict::IdempotencyForgotten { horizon_ms: fields.long()? },
        MALFORMED => Verdict::Malformed(Malformed::from_code(fields.byte()?).ok_or(AnswerError)?),
        _ => return Err(AnswerError),
    })
}

fn setting(fields: &mut Fields) -> Result<Setting, AnswerError> {
    Setting::from_code(fields.byte()?).ok_or(AnswerError)
}

fn log_id(fields: &mut Fields) -> Result<LogId, Short> {
    Ok(LogId::new(Index(fields.long()?), Term(fields.long()?)))
}

fn put_log_id(id: LogId, out: &mut BytesMut) {
    out.put_u64(id.index.0);
    out.put_u64(id.term.0);
}

fn put_position(change: usize, out: &mut BytesMut) {
    assert!(change < CHANGES_MAX, "change {change} of a command of at most {CHANGES_MAX}");
    out.put_u8(change as u8);
}

fn put_bits(bits: &[bool], out: &mut BytesMut) {
    assert!(bits.len() <= CHANGES_MAX, "{} changes in a command of at most {CHANGES_MAX}", bits.len());
    out.put_u8(bits.len() as u8);
    for eight in bits.chunks(8) {
        out.put_u8(eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | u8::from(*bit) << place));
    }
}

fn bits(fields: &mut Fields) -> Result<Vec<bool>, AnswerError> {
    let count = usize::from(fields.byte()?);
    if count > CHANGES_MAX {
        return Err(AnswerError);
    }
    let bytes = fields.slice(count.div_ceil(8))?;
    Ok((0..count).map(|place| bytes[place / 8] >> (place % 8) & 1 == 1).collect())
}
