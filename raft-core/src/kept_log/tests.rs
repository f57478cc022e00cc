use bytes::Bytes;

use super::*;
use crate::random::Random;
use crate::types::{EntryKind, NodeId, Payload, SnapshotId};

fn entry(index: u64, term: u64, length: usize) -> Entry {
    let payload = Payload::new(Bytes::from(vec![b'x'; length]));
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Command, payload }
}

fn configuration(index: u64, term: u64) -> Entry {
    let voters = Configuration::new((1..=1 + index % 5).map(NodeId));
    let context = (NodeId(1), Bytes::from(index.to_string()));
    let payload = Payload::new(voters.with_contexts(Index(index), &[context]).unwrap().encode());
    Entry { id: LogId::new(Index(index), Term(term)), kind: EntryKind::Configuration, payload }
}

fn hard_state(term: u64, vote: Option<u64>) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId) }
}

fn snapshot(index: u64, term: u64) -> SnapshotMeta {
    let configuration = Configuration::new([NodeId(1)]);
    SnapshotMeta { id: SnapshotId(u128::from(index)), last: LogId::new(Index(index), Term(term)), configuration }
}

/// A log that keeps all its entries and looks at each.
#[derive(Clone, Default)]
struct Twin {
    base: LogId,
    entries: Vec<Entry>,
}

impl Twin {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Does what a store does with a change.
    fn apply(&mut self, change: Change, beginning: &LogBeginning, new: &[Entry]) {
        self.base = beginning.base;
        let goes = |entry: &Entry| {
            let index = entry.id.index;
            change.drop_upto.is_some_and(|upto| index <= upto) || change.drop_from.is_some_and(|from| index >= from)
        };
        self.entries.retain(|entry| !goes(entry));
        self.entries.extend_from_slice(new);
    }
}

fn read_back(log: &KeptLog, entries: &[Entry]) -> (Recovered, KeptLog) {
    let mut reading = LogReading::new(log.hard_state(), log.commit(), log.beginning());
    entries.iter().for_each(|entry| reading.push(entry).unwrap());
    reading.finish().unwrap()
}

/// A write that keeps every rule, of a log like this.
fn draw(random: &mut Random, log: &KeptLog, twin: &Twin, term: &mut u64) -> LogWrite {
    let mut write = LogWrite::default();
    let (base, last, commit) = (twin.base.index.0, twin.last().index.0, log.commit().0);
    let mut next = last + 1;
    *term += random.below(2);
    match random.below(8) {
        0 if last > commit => {
            next = commit.max(base) + 1 + random.below(last - commit.max(base) + 1);
            write.truncate_from = Some(Index(next));
        }
        1 => {
            // Of what is held, or of what lies beyond it.
            let index = base.max(1) + random.below(last + 4 - base);
            let held = if index == base {
                Some(twin.base)
            } else {
                twin.entries.get((index - base - 1) as usize).map(|entry| entry.id)
            };
            let snapshot = snapshot(index, held.map_or(*term, |id| id.term.0));
            next = if held.is_some() { next } else { index + 1 };
            write.snapshot = Some(snapshot);
        }
        _ => {}
    }
    let count = random.below(4);
    for index in next..next + count {
        let sets = random.below(3) == 0;
        write.entries.push(if sets {
            configuration(index, *term)
        } else {
            entry(index, *term, random.below(50) as usize)
        });
    }
    write.hard_state = Some(hard_state(*term, None));
    write.commit = (random.below(2) == 0).then(|| Index(commit + random.below(6)));
    write
}

#[test]
fn agrees_with_a_log_that_keeps_every_entry() {
    let (mut truncations, mut snapshots, mut compactions) = (0, 0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (mut log, mut twin, mut term) = (KeptLog::default(), Twin::default(), 1);
        for _ in 0..80 {
            let write = draw(&mut random, &log, &twin, &mut term);
            let change = log.write(&write).unwrap_or_else(|error| panic!("seed {seed}: {error}, {write:?}, {log:?}"));
            twin.apply(change, &log.beginning(), &write.entries);
            truncations += u64::from(write.truncate_from.is_some());
            snapshots += u64::from(write.snapshot.is_some());
            if random.below(6) == 0 {
                let upto = Index(random.below(log.commit().0 + 1));
                if let Some(change) = log.compact(upto).unwrap() {
                    twin.apply(change, &log.beginning(), &[]);
                    compactions += 1;
                }
            }
            assert_eq!(log.last(), twin.last(), "seed {seed}");
            for entry in &twin.entries {
                assert_eq!(log.term_at(entry.id.index), Some(entry.id.term), "seed {seed}, entry {}", entry.id);
            }
            assert_eq!(log.term_at(twin.base.index), Some(twin.base.term), "seed {seed}");
            assert_eq!(log.term_at(twin.last().index.next()), None, "seed {seed}");
            let (recovered, again) = read_back(&log, &twin.entries);
            assert_eq!(again, log, "seed {seed}");
            assert_eq!(recovered.last(), twin.last(), "seed {seed}");
        }
    }
    assert!(truncations > 100 && snapshots > 300 && compactions > 100, "{truncations} {snapshots} {compactions}");
}

#[test]
fn what_no_log_allows_is_refused_by_its_reason() {
    let mut log = KeptLog::default();
    let entries = [entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0)];
    let begun = LogWrite { hard_state: Some(hard_state(2, Some(1))), commit: Some(Index(2)), ..LogWrite::default() };
    log.write(&LogWrite { entries: entries.to_vec(), ..begun }).unwrap();
    log.compact(Index(1)).unwrap();

    let none = LogWrite::default();
    let append = |entry| LogWrite { entries: vec![entry], ..LogWrite::default() };
    let truncate = |from| LogWrite { truncate_from: Some(Index(from)), ..LogWrite::default() };
    let vote = |state| LogWrite { hard_state: Some(state), ..LogWrite::default() };
    let install = |snapshot| LogWrite { snapshot: Some(snapshot), ..LogWrite::default() };
    let mut damaged = entry(5, 2, 3);
    damaged.payload = Payload::with_checksum(Bytes::from_static(b"abc"), 7);
    let context = (NodeId(1), Bytes::from_static(b"x"));
    let later = Configuration::new([NodeId(1)]).with_contexts(Index(10), &[context]).unwrap();
    let of_later = SnapshotMeta { configuration: later, ..snapshot(9, 2) };
    for (write, wanted) in [
        (append(entry(6, 2, 0)), "entry 6@2 stands where index 5 belongs"),
        (append(entry(4, 2, 0)), "entry 4@2 stands where index 5 belongs"),
        (append(entry(5, 1, 0)), "entry 5@1 has a lower term"),
        (append(entry(5, 3, 0)), "the log would end with 5@3, of a later term than its own (2)"),
        (append(damaged), "the checksum of entry 5@2 does not fit its bytes"),
        (truncate(1), "a truncation from 1 on of a log that goes from 1@1 to 4@2"),
        (truncate(6), "a truncation from 6 on of a log that goes from 1@1 to 4@2"),
        (truncate(2), "a truncation from 2 on of a log that is committed up to 2"),
        (vote(hard_state(1, None)), "after HardState"),
        (vote(hard_state(2, Some(2))), "after HardState"),
        (vote(hard_state(2, None)), "after HardState"),
        (install(snapshot(2, 2)), "a snapshot that ends with 2@2, which is not what was committed up to 2"),
        (install(SnapshotMeta::default()), "a snapshot that ends with 0@0, of a log that begins after 1@1"),
        (install(snapshot(9, 0)), "a snapshot that ends with 9@0 and has no term"),
        (install(snapshot(Index::LIMIT.0, 3)), "has no term, an index beyond the limit"),
        (install(of_later), "a snapshot that ends with 9@2 and has no term"),
    ] {
        let refusal = log.clone().write(&write).unwrap_err().to_string();
        assert!(refusal.starts_with("refused to write: ") && refusal.contains(wanted), "{refusal}, wanted {wanted}");
    }
    let refusal = log.clone().compact(Index(3)).unwrap_err().to_string();
    assert!(refusal.contains("a compaction up to 3 of a log that is committed up to 2 and ends with 4@2"), "{refusal}");
    assert_eq!(log.compact(Index(1)).unwrap(), None);
    assert_eq!(log.clone().write(&none).unwrap(), Change::default());

    // Terms never fall along a log, so what is committed shows that such a snapshot is of another one.
    let mut committed = log.clone();
    committed.write(&LogWrite { commit: Some(Index(4)), ..LogWrite::default() }).unwrap();
    let refusal = committed.write(&install(snapshot(9, 1))).unwrap_err().to_string();
    assert!(refusal.contains("9@1, of an earlier term than what is committed"), "{refusal}");
}

#[test]
fn what_is_no_log_is_damage_and_stretches_are_bounded() {
    let state = hard_state(3, None);
    let mut reading = LogReading::new(state, Index(1), LogBeginning::default());
    let half = STRETCH_BYTES_MAX as usize / 2;
    for (index, length) in [(1, half), (2, half), (3, 5), (4, 3 * half), (5, 1), (6, 1)] {
        reading.push(&entry(index, 3, length)).unwrap();
    }
    let gap = reading.clone().push(&entry(8, 3, 1)).unwrap_err().to_string();
    assert!(gap.starts_with("storage is damaged at entry 8@3: "), "{gap}");
    let mut damaged = entry(7, 3, 1);
    damaged.payload = Payload::with_checksum(Bytes::from_static(b"a"), 0);
    assert!(reading.clone().push(&damaged).unwrap_err().to_string().contains("checksum does not fit"));
    let (recovered, _) = reading.finish().unwrap();
    let ends: Vec<u64> = recovered.batches.iter().map(|(last, _)| last.0).collect();
    assert_eq!(ends, [1, 3, 4, 6]);

    let reading = LogReading::new(state, Index(1), LogBeginning::default());
    assert!(reading.finish().unwrap_err().to_string().contains("its commit index 1 lies beyond its last entry"));
}
