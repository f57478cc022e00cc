//! A process that is killed loses nothing that it acknowledged, and its next life suspects no loss.
//!
//! The page cache survives a kill, so this says nothing of syncs; that a call returns only after its sync is for
//! `store.rs` and for tests that take unsynced bytes away.

// A test that cannot set itself up has to stop at once.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use raft_core::ports::{LogStore as _, LogWrite};
use raft_core::testing::{Report, entry};
use raft_core::types::{Index, Term};
use raft_log_rocks::{LogOptions, RocksLog};
use tempfile::TempDir;

mod common;
use common::*;

const ACKNOWLEDGED_PER_ROUND: usize = 150;

/// How often the writer is killed: `RAFT_LOG_KILL_ROUNDS`, 6 unless set.
fn rounds() -> u64 {
    std::env::var("RAFT_LOG_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

/// Small buffers, so that tables are flushed and WAL files are written again many times in a round.
fn options() -> LogOptions {
    LogOptions { write_buffer_bytes: 128 << 10, ..LogOptions::default() }
}

/// Not a test by itself: the process that is killed. Appends, and now and then replaces the last two entries.
#[test]
fn writer_to_be_killed() {
    let Some(path) = std::env::var_os("RAFT_TEST_WRITE_UNTIL_KILLED").map(PathBuf::from) else {
        return;
    };
    let mut log = RocksLog::open(path, options()).unwrap();
    let recovered = log.recover(GROUP).unwrap();
    let mut last = recovered.last().index.0;
    let mut term = recovered.hard_state.term.0;
    for turn in 0_u64.. {
        let truncate = turn % 7 == 3 && last > 2;
        if turn % 7 == 0 || truncate {
            term += 1;
        }
        let first = if truncate { last - 1 } else { last + 1 };
        let write = LogWrite {
            hard_state: Some(vote(term, 1 + term % 3)),
            truncate_from: truncate.then_some(Index(first)),
            entries: vec![entry(first, term, 3000)],
            group: GROUP,
            ..LogWrite::default()
        };
        log.write(&[write]).unwrap();
        last = first;
        eprintln!("acknowledged {last} {term}");
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let directory = TempDir::new().unwrap();
    let (mut killed, mut acknowledged_in_all, mut read_back) = (0, 0, 0);
    for round in 1..=rounds() {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env("RAFT_TEST_WRITE_UNTIL_KILLED", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stderr.take().unwrap()).lines().map(Result::unwrap);
        let acknowledged: Vec<_> =
            lines.by_ref().filter(|line| line.contains("acknowledged")).take(ACKNOWLEDGED_PER_ROUND).collect();
        writer.kill().unwrap();
        writer.wait().unwrap();
        // Whole lines that it still got out before it died count too.
        let acknowledged: Vec<_> =
            acknowledged.into_iter().chain(lines.filter(|line| line.contains("acknowledged"))).collect();
        assert!(acknowledged.len() >= ACKNOWLEDGED_PER_ROUND, "round {round}: the writer died by itself");
        killed += 1;
        acknowledged_in_all += acknowledged.len() as u64;
        let mut words = acknowledged.last().unwrap().split(' ').skip(1).map(|word| word.parse().unwrap());
        let (index, term) = (words.next().unwrap(), words.next().unwrap());

        let mut log = RocksLog::open(directory.path(), options()).unwrap();
        let recovered = log.recover(GROUP).unwrap();
        assert_eq!(recovered.lost, None, "round {round}");
        // One more write may have become durable without its line.
        let (found, hard_state) = (recovered.last(), recovered.hard_state);
        assert!(
            (Term(term)..=Term(term + 1)).contains(&hard_state.term),
            "round {round}: {hard_state:?} after term {term}"
        );
        assert_eq!(hard_state, vote(hard_state.term.0, 1 + hard_state.term.0 % 3), "round {round}");
        let reached = [Index(index), Index(index + 1)].contains(&found.index);
        let replaced = found.index == Index(index - 1) && found.term == Term(term + 1);
        assert!(reached || replaced, "round {round}: the log ends with {found} after {index}@{term}");
        let entries = log.reader().read(GROUP, Index(1), found.index, u64::MAX).unwrap();
        assert_eq!(entries.len() as u64, found.index.0);
        let expected = entries.iter().map(|held| entry(held.id.index.0, held.id.term.0, 3000));
        assert!(expected.eq(entries.iter().cloned()), "round {round}: another entry than was written");
        read_back += found.index.0;
    }
    let least = rounds() * ACKNOWLEDGED_PER_ROUND as u64;
    let mut report = Report::new("log-kill");
    report
        .at_least("writers killed", killed, rounds())
        .at_least("acknowledged writes", acknowledged_in_all, least)
        .at_least("entries read back and compared", read_back, least / 2);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
}
