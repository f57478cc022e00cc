//! What a client asks for, as bytes in a log entry.
//!
//! ```text
//! command   version u8 = 1 | stamp u64 | operation u8 | key length u8 | idempotency key | body
//! body of 1 (write)      count u8 | change ...
//! change    effect u8 | condition u8 | [revision u64] | key length u32 | key | [value length u32 | value]
//! body of 2 (settings)   count u8 | (setting u8 | value u64) ...
//! ```
//! Numbers are big-endian. Effect: 1 put, 2 delete (without a value). Condition: 0 none, 1 revision equals, 2 absent.
//! Version and stamp stand at the same place in every version to come.

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::types::Index;

use crate::codec::{Fields, Short};
use crate::idempotency::IdempotencyKey;
use crate::settings::Setting;

/// The command format that this version writes.
pub const COMMAND_VERSION: u8 = 1;
/// Changes in one command. A command with more is malformed.
pub const CHANGES_MAX: usize = 128;

/// Where the stamp stands, after the version.
const STAMP: std::ops::Range<usize> = 1..9;
/// Everything from here on is what the client asked for; before it is what the leader adds.
pub(crate) const REQUEST_OFFSET: usize = 9;

const OPERATION_WRITE: u8 = 1;
const OPERATION_SETTINGS: u8 = 2;
const EFFECT_PUT: u8 = 1;
const EFFECT_DELETE: u8 = 2;
const CONDITION_NONE: u8 = 0;
const CONDITION_REVISION: u8 = 1;
const CONDITION_ABSENT: u8 = 2;

/// What must be true of a key before the command for its changes to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// The key exists and was last written at this revision (`If-Match`).
    Revision(Index),
    /// The key does not exist (`If-None-Match: *`).
    Absent,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It has this value.
    Put(Bytes),
    /// It is gone. Deleting an absent key is no failure.
    Delete,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key: any bytes, at least one.
    pub key: Bytes,
    /// What becomes of it.
    pub effect: Effect,
    /// What must be true before. Judged against the state before the command, not between its changes.
    pub precondition: Precondition,
}

impl Change {
    /// Gives `key` this value.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), effect: Effect::Put(value.into()), precondition: Precondition::None }
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), effect: Effect::Delete, precondition: Precondition::None }
    }

    /// The same change, made only if `precondition` holds.
    #[must_use]
    pub fn only_if(self, precondition: Precondition) -> Self {
        Self { precondition, ..self }
    }

    fn length(&self) -> usize {
        let value = match &self.effect {
            Effect::Put(value) => 4 + value.len(),
            Effect::Delete => 0,
        };
        let revision = if matches!(self.precondition, Precondition::Revision(_)) { 8 } else { 0 };
        2 + revision + 4 + self.key.len() + value
    }
}

/// What a command does. It does all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Changes keys, in order: of two changes of one key the later one stays. When a precondition fails, none is made.
    /// At most [`CHANGES_MAX`].
    Write(Vec<Change>),
    /// Changes replicated settings.
    Settings(Vec<(Setting, u64)>),
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Milliseconds since the Unix epoch by the clock of the leader that proposed it. The only time that the state
    /// machine knows. A stamp before the last one counts as the last one, so that this time never goes back.
    pub stamp_ms: u64,
    /// Names the request over its retries: within the window it has its effect once, and every retry gets the first
    /// answer.
    pub idempotency: Option<IdempotencyKey>,
    /// What to do.
    pub operation: Operation,
}

/// Why bytes are not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No version makes sense of it. Every replica answers [`Verdict::Malformed`](crate::Verdict::Malformed).
    #[error("{0}")]
    Malformed(Malformed),
    /// A later version may make sense of it, so it stops this one.
    #[error("unknown {what} {code}")]
    Unknown {
        /// What is unknown: the command version, an operation, an effect, a condition or a setting.
        what: &'static str,
        /// Its number.
        code: u8,
    },
}

/// What is wrong with a command. The number is part of the answer's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end in the middle of a field.
    #[error("the command ends in the middle of a field")]
    Short,
    /// Bytes follow the last field.
    #[error("bytes follow the end of the command")]
    Trailing,
    /// No change at all.
    #[error("the command changes nothing")]
    Empty,
    /// More than [`CHANGES_MAX`] changes.
    #[error("the command has more than {CHANGES_MAX} changes")]
    TooManyChanges,
    /// A key of no bytes.
    #[error("a key is empty")]
    EmptyKey,
    /// An idempotency key of more than [`IdempotencyKey::BYTES_MAX`] bytes.
    #[error("the idempotency key is longer than {} bytes", IdempotencyKey::BYTES_MAX)]
    IdempotencyKeyTooLong,
}

impl Malformed {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Short => 1,
            Self::Trailing => 2,
            Self::Empty => 3,
            Self::TooManyChanges => 4,
            Self::EmptyKey => 5,
            Self::IdempotencyKeyTooLong => 6,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Short, Self::Trailing, Self::Empty, Self::TooManyChanges, Self::EmptyKey, Self::IdempotencyKeyTooLong]
            .into_iter()
            .find(|reason| reason.code() == code)
    }
}

impl From<Short> for CommandError {
    fn from(Short: Short) -> Self {
        Self::Malformed(Malformed::Short)
    }
}

impl From<Malformed> for CommandError {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}

impl Command {
    /// A command that does `operation`, not stamped yet.
    #[must_use]
    pub fn new(operation: Operation) -> Self {
        Self { stamp_ms: 0, idempotency: None, operation }
    }

    /// Gives `key` this value.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::new(Operation::Write(vec![Change::put(key, value)]))
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::new(Operation::Write(vec![Change::delete(key)]))
    }

    /// Makes all of `changes`, or none.
    #[must_use]
    pub fn batch(changes: Vec<Change>) -> Self {
        Self::new(Operation::Write(changes))
    }

    /// Changes replicated settings, all of them or none.
    #[must_use]
    pub fn settings(changes: Vec<(Setting, u64)>) -> Self {
        Self::new(Operation::Settings(changes))
    }

    /// The same command under an idempotency key.
    #[must_use]
    pub fn with_idempotency(self, key: IdempotencyKey) -> Self {
        Self { idempotency: Some(key), ..self }
    }

    /// The command as the payload of a log entry.
    ///
    /// # Errors
    /// When it has no changes, too many, or an empty key.
    pub fn encode(&self) -> Result<Bytes, Malformed> {
        self.check()?;
        let mut out = BytesMut::with_capacity(self.length());
        out.put_u8(COMMAND_VERSION);
        out.put_u64(self.stamp_ms);
        out.put_u8(match self.operation {
            Operation::Write(_) => OPERATION_WRITE,
            Operation::Settings(_) => OPERATION_SETTINGS,
        });
        let key = self.idempotency.as_ref().map_or(&[][..], IdempotencyKey::as_bytes);
        out.put_u8(u8::try_from(key.len()).map_err(|_| Malformed::IdempotencyKeyTooLong)?);
        out.put_slice(key);
        match &self.operation {
            Operation::Write(changes) => {
                out.put_u8(u8::try_from(changes.len()).map_err(|_| Malformed::TooManyChanges)?);
                changes.iter().for_each(|change| encode_change(change, &mut out));
            }
            Operation::Settings(changes) => {
                out.put_u8(u8::try_from(changes.len()).map_err(|_| Malformed::TooManyChanges)?);
                for (setting, value) in changes {
                    out.put_u8(setting.code());
                    out.put_u64(*value);
                }
            }
        }
        Ok(out.freeze())
    }

    /// Reads a command. Keys and values share the memory of `bytes`.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn decode(bytes: Bytes) -> Result<Self, CommandError> {
        let mut fields = Fields::new(bytes);
        let version = fields.byte()?;
        if version != COMMAND_VERSION {
            return Err(CommandError::Unknown { what: "command version", code: version });
        }
        let stamp_ms = fields.long()?;
        let operation = fields.byte()?;
        if operation != OPERATION_WRITE && operation != OPERATION_SETTINGS {
            return Err(CommandError::Unknown { what: "operation", code: operation });
        }
        let key_length = usize::from(fields.byte()?);
        if key_length > IdempotencyKey::BYTES_MAX {
            return Err(Malformed::IdempotencyKeyTooLong.into());
        }
        let idempotency = IdempotencyKey::new(fields.slice(key_length)?).ok();
        let operation = match operation {
            OPERATION_WRITE => Operation::Write(decode_changes(&mut fields)?),
            _ => Operation::Settings(decode_settings(&mut fields)?),
        };
        if !fields.is_empty() {
            return Err(Malformed::Trailing.into());
        }
        Ok(Self { stamp_ms, idempotency, operation })
    }

    fn check(&self) -> Result<(), Malformed> {
        let count = match &self.operation {
            Operation::Write(changes) if changes.iter().any(|change| change.key.is_empty()) => {
                return Err(Malformed::EmptyKey);
            }
            Operation::Write(changes) => changes.len(),
            Operation::Settings(changes) => changes.len(),
        };
        check_count(count)
    }

    fn length(&self) -> usize {
        let body = match &self.operation {
            Operation::Write(changes) => changes.iter().map(Change::length).sum(),
            Operation::Settings(changes) => 9 * changes.len(),
        };
        let key = self.idempotency.as_ref().map_or(0, |key| key.as_bytes().len());
        REQUEST_OFFSET + 2 + key + 1 + body
    }
}

fn check_count(count: usize) -> Result<(), Malformed> {
    match count {
        0 => Err(Malformed::Empty),
        1..=CHANGES_MAX => Ok(()),
        _ => Err(Malformed::TooManyChanges),
    }
}

fn encode_change(change: &Change, out: &mut BytesMut) {
    out.put_u8(match change.effect {
        Effect::Put(_) => EFFECT_PUT,
        Effect::Delete => EFFECT_DELETE,
    });
    match change.precondition {
        Precondition::None => out.put_u8(CONDITION_NONE),
        Precondition::Revision(revision) => {
            out.put_u8(CONDITION_REVISION);
            out.put_u64(revision.0);
        }
        Precondition::Absent => out.put_u8(CONDITION_ABSENT),
    }
    put_long_slice(&change.key, out);
    if let Effect::Put(value) = &change.effect {
        put_long_slice(value, out);
    }
}

fn put_long_slice(bytes: &Bytes, out: &mut BytesMut) {
    // Both ends of the wire refuse messages far below 4 GiB; a longer slice is a mistake of the caller.
    assert!(u32::try_from(bytes.len()).is_ok(), "a field of {} bytes does not fit in a command", bytes.len());
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn decode_changes(fields: &mut Fields) -> Result<Vec<Change>, CommandError> {
    let count = usize::from(fields.byte()?);
    check_count(count)?;
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        changes.push(decode_change(fields)?);
    }
    Ok(changes)
}

fn decode_change(fields: &mut Fields) -> Result<Change, CommandError> {
    let effect = fields.byte()?;
    if effect != EFFECT_PUT && effect != EFFECT_DELETE {
        return Err(CommandError::Unknown { what: "effect", code: effect });
    }
    let precondition = match fields.byte()? {
        CONDITION_NONE => Precondition::None,
        CONDITION_REVISION => Precondition::Revision(Index(fields.long()?)),
        CONDITION_ABSENT => Precondition::Absent,
        code => return Err(CommandError::Unknown { what: "condition", code }),
    };
    let key = fields.long_slice()?;
    if key.is_empty() {
        return Err(Malformed::EmptyKey.into());
    }
    let effect = if effect == EFFECT_PUT { Effect::Put(fields.long_slice()?) } else { Effect::Delete };
    Ok(Change { key, effect, precondition })
}

fn decode_settings(fields: &mut Fields) -> Result<Vec<(Setting, u64)>, CommandError> {
    let count = usize::from(fields.byte()?);
    check_count(count)?;
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        let code = fields.byte()?;
        let setting = Setting::from_code(code).ok_or(CommandError::Unknown { what: "setting", code })?;
        changes.push((setting, fields.long()?));
    }
    Ok(changes)
}

/// Writes the leader's clock into an encoded command, just before it is proposed. In place when nobody else holds the
/// bytes, else in a copy. Bytes that are too short to be a command come back unchanged; apply answers that they are
/// malformed.
#[must_use]
pub fn stamp(command: Bytes, now_ms: u64) -> Bytes {
    if command.len() < STAMP.end {
        return command;
    }
    let mut command = command.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    command[STAMP].copy_from_slice(&now_ms.to_be_bytes());
    command.freeze()
}
