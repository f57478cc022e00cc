//! The small files of a data directory: every bit of each, and every other way in which one may come back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use raft_core::ports::LogStore as _;
use raft_core::testing::{Random, Report};
use raft_core::types::{ClusterId, HardState, Incarnation, LogId, NodeId, NodeName};
use raft_log_rocks::{DataDir, LogOptions};
use tempfile::TempDir;

use crate::common::{GROUP, append, copy, put_back, set, vote};
use crate::image::{Outcome, Tally, setting};

/// All small files, and whether only opening the log reads them.
const FILES: &[(&str, bool)] = &[
    ("FORMAT", false),
    ("IDENTITY", false),
    ("START", false),
    ("FOUNDING", false),
    ("LOG_MADE", true),
    ("log/QUARANTINE", true),
    ("log/EVIDENCE", true),
];
/// Those whose checksum covers the whole file.
const FRAMED: usize = 6;
/// Flips of the evidence that go through a whole start; all bits are flipped in memory, in the unit tests.
const EVIDENCE_FLIPS: usize = 150;
/// Pairs of flips in each file.
const PAIRS: usize = 400;

/// A node's data directory, and what it has to say.
struct Node {
    directory: TempDir,
    name: NodeName,
    incarnation: Incarnation,
    id: NodeId,
    hard_state: HardState,
    last: LogId,
    lost: Option<LogId>,
}

impl Node {
    /// A founded node with a log of five entries, which has voted for itself.
    fn new(name: &str, id: NodeId) -> Self {
        let directory = TempDir::new().unwrap();
        let name = NodeName::new(name);
        let mut opened = DataDir::open(directory.path(), &name).unwrap();
        opened.accept_founding(ClusterId(77), id, Bytes::from(format!("{name} among the founders"))).unwrap();
        let hard_state = vote(3, id.0);
        let mut log = opened.open_log(LogOptions::default()).unwrap();
        log.write(&[set(hard_state), append(1, 5, 3)]).unwrap();
        let last = log.recover(GROUP).unwrap().last();
        let incarnation = opened.incarnation();
        drop((log, opened));
        Self { directory, name, incarnation, id, hard_state, last, lost: None }
    }

    /// The same with a log that has lost its end and says so.
    fn marked(name: &str, id: NodeId) -> Self {
        let mut node = Self::new(name, id);
        fs::remove_dir_all(node.path().join("log/db")).unwrap();
        node.lost = Some(node.last);
        node.last = LogId::ZERO;
        assert_eq!(node.look(true), Ok(Outcome::DeclaredLost));
        node
    }

    /// The same with a database that is three batches behind its evidence, among them a vote.
    fn behind(name: &str, id: NodeId) -> Self {
        let mut node = Self::new(name, id);
        let before = TempDir::new().unwrap();
        copy(node.path(), before.path());
        let opened = DataDir::open(node.path(), &node.name).unwrap();
        let mut log = opened.open_log(LogOptions::default()).unwrap();
        node.hard_state = vote(4, 3);
        for write in [append(6, 6, 3), set(node.hard_state), append(7, 7, 4)] {
            log.write(&[write]).unwrap();
        }
        node.lost = Some(log.recover(GROUP).unwrap().last());
        drop((log, opened));
        put_back(&before.path().join("log"), &node.path().join("log"), "db");
        node
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    /// Starts on the directory and compares all that it says. An error tells what is silently wrong.
    fn look(&self, with_log: bool) -> Result<Outcome, String> {
        let opened = match DataDir::open(self.path(), &self.name) {
            Ok(opened) => opened,
            Err(error) => return self.named(error.to_string()),
        };
        if opened.incarnation() != self.incarnation {
            return Err(format!("{} where {} was drawn", opened.incarnation(), self.incarnation));
        }
        let founding = (ClusterId(77), self.id, Bytes::from(format!("{} among the founders", self.name)));
        if opened.founding() != Some(founding) {
            return Err(format!("another founding: {:?}", opened.founding()));
        }
        if !with_log {
            return Ok(Outcome::Harmless);
        }
        let mut log = match opened.open_log(LogOptions::default()) {
            Ok(log) => log,
            Err(error) => return self.named(error.to_string()),
        };
        let recovered =
            log.recover(GROUP).map_err(|error| format!("recovery after an open that went well: {error}"))?;
        let found = (recovered.hard_state, recovered.last(), recovered.lost);
        if found != (self.hard_state, self.last, self.lost) {
            return Err(format!("{found:?} where {:?} belongs", (self.hard_state, self.last, self.lost)));
        }
        Ok(if self.lost.is_some() { Outcome::DeclaredLost } else { Outcome::Harmless })
    }

    /// An error has to name a file of ours.
    fn named(&self, error: String) -> Result<Outcome, String> {
        let named = FILES.iter().any(|(name, _)| error.contains(&self.file(name).display().to_string()));
        if named || error.contains("belongs to node") {
            Ok(Outcome::Detected)
        } else {
            Err(format!("an error that names no file: {error}"))
        }
    }

    /// Starts with this content in the place of a file, and puts the file back.
    fn look_with(&self, name: &str, content: &[u8], with_log: bool) -> Result<Outcome, String> {
        let before = self.bytes(name);
        fs::write(self.file(name), content).unwrap();
        let outcome = self.look(with_log);
        fs::write(self.file(name), before).unwrap();
        outcome
    }
}

fn flipped(content: &[u8], bits: &[usize]) -> Vec<u8> {
    let mut content = content.to_vec();
    bits.iter().for_each(|bit| content[bit / 8] ^= 1 << (bit % 8));
    content
}

fn must(outcome: Result<Outcome, String>, expected: Outcome, what: &str) {
    assert_eq!(outcome, Ok(expected), "{what}");
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_small_file_is_found() {
    let started = Instant::now();
    let node = Node::marked("node-a", NodeId(1));
    let (mut tally, mut report) = (Tally::default(), Report::new("flips-small"));
    let mut random = Random::new(setting("RAFT_SEED", 1));
    for (name, with_log) in &FILES[..FRAMED] {
        let whole = node.bytes(name);
        let mut look = |content: &[u8], what: &str| {
            must(node.look_with(name, content, *with_log), Outcome::Detected, &format!("{name}, {what}"));
            tally.add(name, Outcome::Detected);
        };
        let bits = whole.len() * 8;
        for bit in 0..bits {
            look(&flipped(&whole, &[bit]), &format!("bit {bit}"));
        }
        // A start of the log costs much more than one of the directory.
        for _ in 0..if *with_log { PAIRS / 10 } else { PAIRS } {
            let one = random.below(bits as u64) as usize;
            let other = (one + 1 + random.below(bits as u64 - 1) as usize) % bits;
            look(&flipped(&whole, &[one, other]), &format!("bits {one} and {other}"));
        }
        for cut in (0..whole.len()).step_by(if *with_log { 5 } else { 1 }) {
            look(&whole[..cut], &format!("cut at {cut}"));
        }
        look(&[&whole[..], &[0]].concat(), "a byte more");
        look(&[&whole[..], &whole[..]].concat(), "twice");
        look(&vec![0; whole.len()], "zeros");
        look(&vec![0xff; whole.len()], "ones");
        for (other, _) in FILES.iter().filter(|(other, _)| other != name) {
            look(&node.bytes(other), &format!("the content of {other}"));
        }
        report.at_least(&format!("bits of {name}"), bits as u64, 160);
    }
    report.at_least("looks", tally.total(), 3900).count("seconds", started.elapsed().as_secs());
    tally.note(&mut report);
    report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
    must(node.look(true), Outcome::DeclaredLost, "the directory as it was");
}

#[test]
fn a_flipped_bit_of_the_evidence_neither_hides_a_loss_nor_a_vote() {
    let node = Node::behind("node-a", NodeId(1));
    let whole = node.bytes("log/EVIDENCE");
    let before = TempDir::new().unwrap();
    copy(node.path(), before.path());
    let mut random = Random::new(setting("RAFT_SEED", 1));
    // Where something stands, most times; a page is mostly zeros.
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let (mut lost, pages) = (0, whole.len() / 4096);
    for number in 0..EVIDENCE_FLIPS {
        let at = match number % 4 {
            0 => random.below(whole.len() as u64) as usize,
            _ => used[random.below(used.len() as u64) as usize],
        };
        put_back(&before.path().join("log"), &node.path().join("log"), "db");
        fs::write(node.file("log/EVIDENCE"), flipped(&whole, &[at * 8 + random.below(8) as usize])).unwrap();
        must(node.look(true), Outcome::DeclaredLost, &format!("byte {at} of the evidence"));
        fs::remove_file(node.file("log/QUARANTINE")).unwrap();
        lost += 1;
    }
    assert_eq!((lost, pages), (EVIDENCE_FLIPS, 6));
    // Damage to one page of every slot is repaired from the other page.
    put_back(&before.path().join("log"), &node.path().join("log"), "db");
    let one_of_each: Vec<usize> = (0..pages / 2).map(|slot| ((slot * 2 + slot % 2) * 4096 + 40) * 8).collect();
    fs::write(node.file("log/EVIDENCE"), flipped(&whole, &one_of_each)).unwrap();
    must(node.look(true), Outcome::DeclaredLost, "a page of every slot is damaged");
}

#[test]
fn evidence_that_is_cut_emptied_or_another_nodes_is_refused_and_older_evidence_of_this_log_is_none_the_worse() {
    let node = Node::new("node-a", NodeId(1));
    let name = "log/EVIDENCE";
    let (whole, older) = (node.bytes(name), Node::new("node-a", NodeId(1)).bytes(name));
    must(node.look_with(name, &older, true), Outcome::Harmless, "a twin of the log");
    for length in [0, 1, 511, 4096, whole.len() - 1] {
        must(node.look_with(name, &whole[..length], true), Outcome::Detected, &format!("cut at {length}"));
    }
    must(node.look_with(name, &[&whole[..], &[0]].concat(), true), Outcome::Detected, "a byte more");
    must(node.look_with(name, &vec![0; whole.len()], true), Outcome::Detected, "zeros");
    let other = Node::new("node-b", NodeId(2));
    // It tells of as many batches and of another vote in the same term: to take that over would be to vote twice.
    must(node.look_with(name, &other.bytes(name), true), Outcome::Detected, "another node's");
    let further = DataDir::open(other.path(), &other.name).unwrap();
    further.open_log(LogOptions::default()).unwrap().write(&[append(6, 9, 3)]).unwrap();
    drop(further);
    must(node.look_with(name, &other.bytes(name), true), Outcome::Detected, "another node's, which is further");
    let opened = DataDir::open(node.path(), &node.name).unwrap();
    opened.open_log(LogOptions::default()).unwrap().write(&[append(6, 6, 3)]).unwrap();
    drop(opened);
    let node = Node { last: append(6, 6, 3).entries[0].id, ..node };
    must(node.look_with(name, &whole, true), Outcome::Harmless, "evidence of a batch ago, and the log is whole");
}

#[test]
fn small_files_of_another_node_or_an_earlier_time_have_the_outcomes_that_the_docs_state() {
    let (a, b) = (Node::new("node-a", NodeId(1)), Node::new("node-b", NodeId(2)));
    must(a.look_with("FORMAT", &b.bytes("FORMAT"), true), Outcome::Harmless, "the format is the same everywhere");
    must(a.look_with("LOG_MADE", &b.bytes("LOG_MADE"), true), Outcome::Harmless, "so is the note of a log");
    must(a.look_with("IDENTITY", &b.bytes("IDENTITY"), true), Outcome::Detected, "the name is another");
    // What is in the record is the node's to judge: it refuses one that does not name this incarnation under this id.
    let other = a.look_with("FOUNDING", &b.bytes("FOUNDING"), true).unwrap_err();
    assert!(other.contains("another founding"), "{other}");
    // Peers refuse a count that comes again with another nonce, one that goes back, and one that does not come after theirs.
    must(a.look_with("START", &b.bytes("START"), true), Outcome::Harmless, "another count, nothing else");
    // A mark of an end that the log has reached is taken off; that of a further one stays until it is reached.
    let marked = Node::marked("node-c", NodeId(3));
    fs::copy(marked.file("log/QUARANTINE"), a.file("log/QUARANTINE")).unwrap();
    must(a.look(true), Outcome::Harmless, "a mark of an earlier time");
    assert!(!a.file("log/QUARANTINE").exists(), "it was taken off");
    for name in ["FORMAT", "IDENTITY", "START", "FOUNDING", "log/EVIDENCE"] {
        let content = a.bytes(name);
        fs::remove_file(a.file(name)).unwrap();
        must(a.look(true), Outcome::Detected, &format!("{name} is missing"));
        fs::write(a.file(name), content).unwrap();
    }
    fs::remove_file(a.file("LOG_MADE")).unwrap();
    must(a.look(true), Outcome::Harmless, "the log is there, and noted again");
}

/// Switches the check off by doing what no flipped bit does: the checksum is made anew over another content.
#[test]
fn the_harness_sees_a_small_file_that_says_something_else_with_a_checksum_that_fits() {
    let node = Node::new("node-a", NodeId(1));
    let whole = node.bytes("IDENTITY");
    let mut other = whole.clone();
    other[20] ^= 1;
    let covered = [&other[..16], &other[20..]].concat();
    other[16..20].copy_from_slice(&crate::crc32c(&covered).to_be_bytes());
    let wrong = node.look_with("IDENTITY", &other, false).unwrap_err();
    assert!(wrong.contains("was drawn"), "{wrong}");
}
