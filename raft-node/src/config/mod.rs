//! The configuration: a TOML file, then `RAFT_…` in the environment, then flags, merged setting by setting.
//!
//! [`FIELDS`] lists every setting. [`Layers::merge`] reads and merges them, [`Settings::new`] checks them against each
//! other and gives them types. An unknown key is an error, never ignored. `docs/config.md` is the reference.

mod fields;
mod layers;
mod settings;
mod snapshots;
mod value;

pub use fields::{FIELDS, Field, find};
pub use layers::{ConfigRefused, Layers, Origin, Problem};
pub use settings::{
    COMMAND_BYTES_MAX, ClientSettings, Founder, Limits, LogFormat, PeerSettings, Seeds, Settings, TlsFiles,
};
pub(crate) use value::parse_duration;
pub use value::{Kind, Value};

#[cfg(test)]
mod reference;
