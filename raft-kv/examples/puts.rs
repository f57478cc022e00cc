//! How fast the bare state machine on disk applies puts: batches of 64 puts of 256 bytes over 100,000 keys.
//!
//! `puts DIRECTORY [SECONDS] [NAME=VALUE ...]`: the directory must be empty or missing, and lie on the disk that is
//! asked about; the rest are replicated settings. Prints one line: puts per second after the keys were filled once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use raft_core::ports::StateMachine;
use raft_core::types::{Entry, EntryKind, Index, LogId, Payload, Term};
use raft_kv::{Command, KvStateMachine, Setting, Settings, stamp};

const KEYS: u64 = 100_000;
const BATCH: u64 = 64;
const VALUE_BYTES: usize = 256;

/// A generator of numbers that needs no crate: xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn put(index: u64, random: &mut u64, key: u64) -> Result<Entry, Box<dyn std::error::Error>> {
    let value: Vec<u8> = (0..VALUE_BYTES / 8).flat_map(|_| next(random).to_be_bytes()).collect();
    let command = Command::put(format!("key-{key:08}"), value).encode()?;
    let payload = Payload::new(stamp(command, index));
    Ok(Entry { id: LogId::new(Index(index), Term(1)), kind: EntryKind::Command, payload })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("name a directory")?);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let mut settings = Settings::default();
    for argument in arguments {
        let (name, value) = argument.split_once('=').ok_or("settings are NAME=VALUE")?;
        settings.set(Setting::from_name(name).ok_or("no such setting")?, value.parse()?)?;
    }
    let mut kv = KvStateMachine::open(&directory, settings)?;
    let (mut index, mut random, mut answers) = (0, 0x9E37_79B9_7F4A_7C15, Vec::new());
    let (mut busy, mut puts) = (Duration::ZERO, 0);
    while busy < Duration::from_secs(seconds) {
        let filling = index < KEYS;
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let key = if filling { index % KEYS } else { next(&mut random) % KEYS };
            index += 1;
            batch.push(put(index, &mut random, key)?);
        }
        answers.clear();
        let begin = Instant::now();
        kv.apply(&batch, &mut answers)?;
        if !filling {
            busy += begin.elapsed();
            puts += BATCH;
        }
    }
    let mut out = std::io::stdout();
    let per_second = puts as f64 / busy.as_secs_f64();
    std::io::Write::write_all(&mut out, format!("{per_second:.0} puts/s\n").as_bytes())?;
    Ok(())
}
