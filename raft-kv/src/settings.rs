//! The replicated settings that apply depends on.

use std::fmt;

use crate::codec::{Fields, Short};

/// A replicated setting of the state machine. Its number is part of the command and disk formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// `idempotency.window`: how many idempotency keys are remembered, in keys.
    IdempotencyWindow,
    /// `kv.key_bytes_max`: the longest key, in bytes.
    KeyBytesMax,
    /// `kv.value_bytes_max`: the longest value, in bytes.
    ValueBytesMax,
    /// `versions.window`: how far behind the applied entry older versions of keys can be read, in entries.
    VersionsWindow,
    /// `mark.interval_ms`: how often the leader makes a mark, in milliseconds.
    MarkIntervalMs,
    /// `mark.entries`: after how many entries the leader makes a mark at the latest, in entries.
    MarkEntries,
}

impl Setting {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::IdempotencyWindow,
        Self::KeyBytesMax,
        Self::ValueBytesMax,
        Self::VersionsWindow,
        Self::MarkIntervalMs,
        Self::MarkEntries,
    ];

    /// The name in configuration files, in HTTP and in errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IdempotencyWindow => "idempotency.window",
            Self::KeyBytesMax => "kv.key_bytes_max",
            Self::ValueBytesMax => "kv.value_bytes_max",
            Self::VersionsWindow => "versions.window",
            Self::MarkIntervalMs => "mark.interval_ms",
            Self::MarkEntries => "mark.entries",
        }
    }

    /// The setting of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// The least and the greatest value that is accepted.
    #[must_use]
    pub fn range(self) -> (u64, u64) {
        match self {
            // Each remembered key costs up to half a kibibyte of disk on every replica.
            Self::IdempotencyWindow => (1, 100_000_000),
            Self::KeyBytesMax => (1, 64 << 10),
            Self::ValueBytesMax => (1, 16 << 20),
            // Zero keeps none.
            Self::VersionsWindow => (0, 10_000_000),
            Self::MarkIntervalMs => (100, 3_600_000),
            Self::MarkEntries => (1, 10_000_000),
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::IdempotencyWindow => 1,
            Self::KeyBytesMax => 2,
            Self::ValueBytesMax => 3,
            Self::VersionsWindow => 4,
            Self::MarkIntervalMs => 5,
            Self::MarkEntries => 6,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.code() == code)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value that a setting cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be {value}; set {least} to {greatest}")]
pub struct SettingError {
    /// Which setting.
    pub setting: Setting,
    /// The value that was refused.
    pub value: u64,
    /// The least value that is accepted.
    pub least: u64,
    /// The greatest value that is accepted.
    pub greatest: u64,
}

/// What decides, on every replica alike, which commands are too large, how many idempotency keys are remembered, how
/// far back versions can be read, and when there is a mark. The first values come with the founding of the cluster;
/// later ones are commands in the log ([`Operation::Settings`](crate::Operation::Settings)), so that every replica
/// changes at the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Idempotency keys that are remembered. Beyond it, the key that was recorded first is forgotten.
    pub idempotency_window: u64,
    /// The longest key that is accepted, in bytes.
    pub key_bytes_max: u64,
    /// The longest value that is accepted, in bytes.
    pub value_bytes_max: u64,
    /// Older versions of keys can be read at least this many entries behind the applied one. They are forgotten 64
    /// entries at a time, so up to 63 more can be read. 0 keeps none.
    pub versions_window: u64,
    /// The leader makes a mark this often, in milliseconds, while anything is written. The state machine only keeps it.
    pub mark_interval_ms: u64,
    /// The leader makes a mark after so many entries at the latest. The state machine only keeps it.
    pub mark_entries: u64,
}

impl Default for Settings {
    /// 1,000,000 idempotency keys, keys up to 8 KiB, values up to 1.5 MiB, versions of 200,000 entries, a mark every 10
    /// seconds or 100,000 entries.
    fn default() -> Self {
        Self {
            idempotency_window: 1_000_000,
            key_bytes_max: 8 << 10,
            value_bytes_max: 3 << 19,
            versions_window: 200_000,
            mark_interval_ms: 10_000,
            mark_entries: 100_000,
        }
    }
}

impl Settings {
    /// Length of the encoding.
    pub(crate) const LENGTH: usize = 48;

    /// The value of one setting.
    #[must_use]
    pub fn value(&self, setting: Setting) -> u64 {
        match setting {
            Setting::IdempotencyWindow => self.idempotency_window,
            Setting::KeyBytesMax => self.key_bytes_max,
            Setting::ValueBytesMax => self.value_bytes_max,
            Setting::VersionsWindow => self.versions_window,
            Setting::MarkIntervalMs => self.mark_interval_ms,
            Setting::MarkEntries => self.mark_entries,
        }
    }

    /// Changes one setting.
    ///
    /// # Errors
    /// When the value is outside [`Setting::range`]; nothing is changed then.
    pub fn set(&mut self, setting: Setting, value: u64) -> Result<(), SettingError> {
        let (least, greatest) = setting.range();
        if value < least || value > greatest {
            return Err(SettingError { setting, value, least, greatest });
        }
        match setting {
            Setting::IdempotencyWindow => self.idempotency_window = value,
            Setting::KeyBytesMax => self.key_bytes_max = value,
            Setting::ValueBytesMax => self.value_bytes_max = value,
            Setting::VersionsWindow => self.versions_window = value,
            Setting::MarkIntervalMs => self.mark_interval_ms = value,
            Setting::MarkEntries => self.mark_entries = value,
        }
        Ok(())
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// Names the first setting that is outside.
    pub fn check(&self) -> Result<(), SettingError> {
        let mut copy = *self;
        Setting::ALL.into_iter().try_for_each(|setting| copy.set(setting, self.value(setting)))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for setting in Setting::ALL {
            out.extend_from_slice(&self.value(setting).to_be_bytes());
        }
    }

    pub(crate) fn decode(fields: &mut Fields) -> Result<Self, Short> {
        Ok(Self {
            idempotency_window: fields.long()?,
            key_bytes_max: fields.long()?,
            value_bytes_max: fields.long()?,
            versions_window: fields.long()?,
            mark_interval_ms: fields.long()?,
            mark_entries: fields.long()?,
        })
    }
}
