//! What readers see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::{Bench, Case, append, stretch};
use crate::ports::{LogReader, LogWrite, ReadError};
use crate::testing::{Rule, entry};
use crate::types::{Entry, GroupId, Index, Payload};

const FIRST: GroupId = GroupId::FIRST;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, why, fix, source, test| Case { rule: Rule { name, why, fix, source }, test };
    vec![
        case(
            "reads-are-bounded-by-bytes",
            "a lane fills a message of bounded size; a single entry above the bound must still be sent, or it never \
             is",
            "stop before the entry that would exceed bytes_max by Entry::size, but return the first one whatever \
             its size",
            "LogReader::read: at least one entry, at most as many as fit",
            bounded_reads,
        ),
        case(
            "missing-entries-are-said-to-be-missing",
            "a lane that gets nothing without a reason would wait for ever, or send an append that names other \
             entries",
            "return ReadError::Missing when the first entry is not there; an empty Ok is never an answer",
            "LogReader::read, ReadError::Missing",
            missing,
        ),
        case(
            "completed-writes-are-seen-at-once",
            "a leader's lanes and the applier read on other threads as soon as a write is acknowledged",
            "let readers see a write as soon as write() has returned: no cache or view of their own that lags",
            "LogReader: entries of completed writes are seen",
            seen_by_another_thread,
        ),
        case(
            "readers-see-a-log-while-it-changes",
            "a lane checks the ids of what it read before it sends; an entry under another's id would pass that \
             check",
            "read the entries of one answer from one state of the store, and give each its own index and term as \
             stored",
            "LogReader, concurrent truncation; Raft §5.3, log matching",
            read_while_writing,
        ),
        case(
            "damage-is-found",
            "a flipped bit that is applied makes one replica differ from the others for ever",
            "keep a checksum of index, term, kind and payload with each entry and check it whenever it is read; \
             return ReadError::Damaged with the index",
            "design 5: the payload's checksum is checked at every disk [TH-LOG-CHECKSUM]",
            damage,
        ),
    ]
}

fn bounded_reads(bench: &mut Bench<'_>) {
    let log: Vec<_> = (1..=20).map(|index| entry(index, 1, 1000)).collect();
    bench.write(&[append(1, &log)]);
    let (rule, reader) = (bench.rule, bench.store().reader());
    let size = log[9].size();
    for (bytes_max, most) in
        [(0, 1), (1, 1), (size, 1), (2 * size - 1, 1), (3 * size, 3), (3 * size + 1, 3), (u64::MAX, 8)]
    {
        let read = rule.expect(reader.read(FIRST, Index(10), Index(17), bytes_max), "reading 10..=17");
        let ids: Vec<_> = read.iter().map(|entry| entry.id.index.0).collect();
        rule.demand(!read.is_empty() && read.len() <= most && log[9..].starts_with(&read), || {
            format!(
                "reading 10..=17 with bytes_max={bytes_max} (one entry has {size}) gave {ids:?}, at most {most} fit"
            )
        });
    }
    let read = rule.expect(reader.read(FIRST, Index(19), Index(400), u64::MAX), "reading beyond the end");
    rule.demand(log[18..].starts_with(&read) && !read.is_empty(), || "reading 19..=400 of 20 gave others".into());
}

fn missing(bench: &mut Bench<'_>) {
    bench.write(&[append(1, &stretch(1, 9, 1))]);
    bench.write(&[LogWrite { truncate_from: Some(Index(6)), ..append(2, &[]) }]);
    let (rule, reader) = (bench.rule, bench.store().reader());
    for (group, index) in [(FIRST, 0), (FIRST, 6), (FIRST, 7), (FIRST, 10), (FIRST, u64::MAX), (GroupId(2), 1)] {
        let index = Index(index);
        let read = reader.read(group, index, Index(u64::MAX), u64::MAX);
        rule.demand_eq(&read, &Err(ReadError::Missing { group, index }), || {
            format!("reading entry {index} of {group}")
        });
    }
}

fn seen_by_another_thread(bench: &mut Bench<'_>) {
    let (rule, reader) = (bench.rule, bench.store().reader());
    for index in 1..=50 {
        let log = stretch(index, index, 1);
        bench.write(&[append(1, &log)]);
        let seen = std::thread::scope(|scope| {
            scope
                .spawn(|| reader.read(FIRST, Index(index), Index(index), u64::MAX))
                .join()
                .expect("readers do not panic")
        });
        rule.demand_eq(&seen, &Ok(log), || format!("entry {index}, read on another thread after its write returned"));
    }
}

fn read_while_writing(bench: &mut Bench<'_>) {
    let (rule, reader) = (bench.rule, bench.store().reader());
    bench.write(&[append(1, &stretch(1, 8, 1))]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read_until(rule, &*reader, &done))).collect();
        for term in 2..60 {
            // Entries 1 to 8 stay; what follows is replaced again and again, by another length each time.
            let tail = stretch(9, 9 + term % 7, term);
            let truncate_from = (term > 2).then_some(Index(9));
            bench.write(&[LogWrite { truncate_from, ..append(term, &tail) }]);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            if let Err(panic) = reader.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Reads over the changing end of the log and demands that every answer is a stretch of one log.
fn read_until(rule: Rule, reader: &dyn LogReader, done: &AtomicBool) {
    loop {
        let last_look = done.load(Ordering::Acquire);
        let read: Vec<Entry> =
            rule.expect(reader.read(FIRST, Index(5), Index(40), u64::MAX), "reading what always stays");
        for (at, found) in read.iter().enumerate() {
            let ids: Vec<_> = read.iter().map(|entry| entry.id.to_string()).collect();
            rule.demand(found.id.index == Index(5 + at as u64), || format!("reading from 5 gave {ids:?}"));
            let wanted = entry(found.id.index.0, found.id.term.0, (found.id.index.0 % 40) as usize);
            rule.demand(*found == wanted, || format!("entry {} has bytes of another one", found.id));
            rule.demand(at == 0 || found.id.term >= read[at - 1].id.term, || format!("terms fall: {ids:?}"));
        }
        if last_look {
            return;
        }
    }
}

fn damage(bench: &mut Bench<'_>) {
    let intact = stretch(1, 2, 1);
    bench.write(&[append(1, &intact)]);
    let flipped = Payload::with_checksum(Bytes::from_static(b"not what was proposed"), intact[1].payload.checksum());
    let damaged = Entry { payload: flipped, ..entry(3, 1, 0) };
    // Refusing it at once is best. If it is taken, it must be found when it is read.
    if bench.store().write(&[append(1, &[damaged])]).is_ok() {
        let reader = bench.store().reader();
        let read = reader.read(FIRST, Index(3), Index(3), u64::MAX);
        bench.rule.demand(matches!(read, Err(ReadError::Damaged { index: Index(3), .. })), || {
            format!("entry 3, whose bytes do not fit its checksum, was written without a word and read as {read:?}")
        });
    }
    drop(bench.store.take());
    bench.store = Some(bench.lab.reopen());
    let reader: Arc<dyn LogReader> = bench.store().reader();
    let read =
        bench.rule.expect(reader.read(FIRST, Index(1), Index(2), u64::MAX), "reading the entries before the damage");
    bench.rule.demand(intact.starts_with(&read), || "entries before the damaged one were changed".into());
}
