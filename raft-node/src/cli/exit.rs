//! Exit codes and the errors that carry them. `docs/cli.md` documents the codes; a test holds the two together.

use std::fmt;

/// How the program ends. The numbers are stable; scripts may branch on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It went wrong in a way that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration or a certificate is refused.
    Config = 3,
    /// The key does not exist.
    NotFound = 4,
    /// A precondition does not hold, or the request was refused for what it asks.
    Refused = 5,
    /// No node could be reached, or none could serve: no leader, overloaded, stopping. Nothing was applied.
    Unavailable = 6,
    /// It is not known whether the write was applied.
    Unknown = 7,
    /// The cluster answers and is not healthy (`status`).
    Unhealthy = 8,
    /// An address is in use or cannot be bound (`start`).
    Address = 9,
    /// The data directory cannot be used: another process, another node, another format (`start`).
    DataDirectory = 10,
    /// The node failed while it ran: its disk, for example (`start`).
    NodeFailed = 11,
    /// The node was removed from its cluster, and `removed.exit` is set (`start`).
    Removed = 13,
    /// The time was over before the node could stop without costing the quorum (`pre-stop`).
    StopUnsafe = 14,
    /// Something is wrong with what was looked at (`doctor`).
    Findings = 15,
    /// A second signal cut the stop short (`start`, `demo`).
    Interrupted = 12,
}

impl Exit {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 15] = [
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::NotFound,
        Self::Refused,
        Self::Unavailable,
        Self::Unknown,
        Self::Unhealthy,
        Self::Address,
        Self::DataDirectory,
        Self::NodeFailed,
        Self::Interrupted,
        Self::Removed,
        Self::StopUnsafe,
        Self::Findings,
    ];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

/// What went wrong, and how the program ends for it.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message.to_string())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        let page = include_str!("../../../docs/cli.md");
        for exit in Exit::ALL {
            assert!(page.contains(&format!("| {} | ", exit.code())), "docs/cli.md does not explain exit code {exit:?}");
        }
    }
}
