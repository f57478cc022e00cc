//! What `preload.c` recorded.

use std::fs;
use std::path::Path;

use bytes::Bytes;

const HEADER: usize = 32;

/// One call that changed something, or a mark of the child.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The thread that made the call.
    pub(crate) thread: u32,
    pub(crate) change: Change,
}

/// What a call did. Paths are below the root; a handle is one opening of a file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A process began; handles of the one before mean nothing any more.
    Life,
    Open {
        handle: u32,
        path: String,
        created: bool,
        truncated: bool,
    },
    Write {
        handle: u32,
        offset: u64,
        bytes: Bytes,
    },
    Truncate {
        handle: u32,
        length: u64,
    },
    /// Zeros within the length.
    Zero {
        handle: u32,
        offset: u64,
        length: u64,
    },
    SyncStart {
        handle: u32,
        id: u64,
    },
    /// `error` is the system's number, or 0. A skipped sync was answered and not made.
    SyncEnd {
        handle: u32,
        id: u64,
        error: u16,
        skipped: bool,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Link {
        from: String,
        to: String,
    },
    MakeDirectory {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    Mark(String),
    /// A rule of the plan has fired.
    Fault(String),
}

impl Change {
    /// Whether it changes names, or makes them durable at the next sync of a directory.
    pub(crate) fn is_of_names(&self) -> bool {
        matches!(
            self,
            Self::Open { created: true, .. }
                | Self::Rename { .. }
                | Self::Unlink { .. }
                | Self::Link { .. }
                | Self::MakeDirectory { .. }
                | Self::RemoveDirectory { .. }
        )
    }
}

/// A recorded run of one or more processes, in the order in which their calls took effect.
pub(crate) struct Record {
    events: Vec<Event>,
}

impl Record {
    /// Reads the file. A frame at its end that is not whole yet is being written by a process that runs.
    pub(crate) fn load(path: &Path) -> Self {
        let mut rest = Bytes::from(fs::read(path).unwrap());
        let mut events = Vec::new();
        while rest.len() >= HEADER {
            let header = rest.split_to(HEADER);
            let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
            if rest.len() < length {
                break;
            }
            events.push(parse(&header, rest.split_to(length)));
        }
        Self { events }
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }
}

fn parse(header: &[u8], payload: Bytes) -> Event {
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let (kind, flags, error) = (header[4], header[5], u16::from_le_bytes([header[6], header[7]]));
    let (handle, a, b) = (u32_at(12), u64_at(16), u64_at(24));
    let text = || String::from_utf8_lossy(&payload).into_owned();
    let two = || {
        let text = text();
        let (from, to) = text.split_once('\0').unwrap();
        (from.to_owned(), to.to_owned())
    };
    let change = match kind {
        1 => Change::Life,
        2 => Change::Open { handle, path: text(), created: flags & 1 != 0, truncated: flags & 2 != 0 },
        3 => Change::Write { handle, offset: a, bytes: payload },
        4 => Change::Truncate { handle, length: a },
        5 => Change::Zero { handle, offset: a, length: b },
        6 => Change::SyncStart { handle, id: a },
        7 => Change::SyncEnd { handle, id: a, error, skipped: flags & 1 != 0 },
        8 => {
            let (from, to) = two();
            Change::Rename { from, to }
        }
        9 => Change::Unlink { path: text() },
        10 => {
            let (from, to) = two();
            Change::Link { from, to }
        }
        11 => Change::MakeDirectory { path: text() },
        12 => Change::RemoveDirectory { path: text() },
        13 => Change::Mark(text()),
        14 => Change::Fault(text()),
        other => panic!("the record holds a frame of kind {other}"),
    };
    Event { thread: u32_at(8), change }
}
