//! Reads that promise less than the newest value: verified, snapshot and local ones. Each answer says which position it
//! reflects, and the log says what every key was there.

use super::history::{Replay, Seen};

/// How such a read was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Not older than the newest answer that this client has had from any node.
    Verified,
    /// At the newest mark that the node has passed.
    Snapshot,
    /// Whatever the node has applied.
    Local,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Verified, Self::Snapshot, Self::Local];

    pub fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Snapshot => "snapshot",
            Self::Local => "local",
        }
    }

    /// The header that says which position the answer reflects.
    pub fn position_header(self) -> &'static str {
        if self == Self::Snapshot { "raft-mark" } else { "raft-revision" }
    }
}

/// One of these reads, with its answer.
#[derive(Clone, Debug)]
pub struct Look {
    /// Who asked, and whom.
    pub asked: (usize, String),
    pub mode: Mode,
    pub key: String,
    /// The newest position that the client had seen.
    pub had_seen: u64,
    /// The position that the answer reflects.
    pub position: u64,
    pub found: Option<Seen>,
}

/// What is wrong with these reads, by the log.
pub fn check(looks: &[Look], replay: &Replay) -> Vec<String> {
    let mut wrong = Vec::new();
    for look in looks {
        if look.mode == Mode::Verified && look.position < look.had_seen {
            wrong.push(format!("client {} at {}: {look:?} is older than what it had seen", look.asked.0, look.asked.1));
        }
        let was = replay.at(&look.key, look.position);
        if was != look.found {
            wrong.push(format!("client {} at {}: {look:?}, and it was {was:?} then", look.asked.0, look.asked.1));
        }
    }
    wrong
}
