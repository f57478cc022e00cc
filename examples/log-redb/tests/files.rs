//! The identity and the file on a real file system: starts, the founding, locks, and files that are not whole.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use log_redb::{DataFile, RedbIdentity, RedbStore};
use raft_core::ports::{LogStore, LogWrite, StoreError};
use raft_core::testing::entry;
use raft_core::types::{ClusterId, GroupId, HardState, Index, LogId, NodeId, NodeName, Term};
use raft_node::parts::{AcceptedFounding, IdentityStore};

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("node.redb");
    (directory, path)
}

#[test]
fn an_identity_lasts_and_its_starts_are_counted() {
    let (_directory, path) = place();
    let name = NodeName::new("a");
    let first = RedbIdentity::open(&DataFile::open(&path).unwrap(), name.clone()).unwrap();
    let (incarnation, start) = (first.incarnation(), first.starts()[0]);
    assert_eq!((first.start_count(), first.name(), first.starts().len()), (1, name.clone(), 1));
    drop(first);

    let again = RedbIdentity::open(&DataFile::open(&path).unwrap(), name).unwrap();
    assert_eq!((again.start_count(), again.incarnation()), (2, incarnation));
    assert_eq!(again.starts()[1], start);
    assert_ne!(again.starts()[0], start);
    drop(again);

    let refusal = RedbIdentity::open(&DataFile::open(&path).unwrap(), NodeName::new("b")).unwrap_err();
    assert!(refusal.to_string().contains("the file is that of node a; name this node so"), "{refusal}");
}

#[test]
fn a_founding_is_accepted_once() {
    let (_directory, path) = place();
    let mut identity = RedbIdentity::open(&DataFile::open(&path).unwrap(), NodeName::new("a")).unwrap();
    assert_eq!(identity.founding().unwrap(), None);
    let founding = AcceptedFounding { cluster: ClusterId(7), id: NodeId(2), record: "a record".into() };
    identity.accept_founding(&founding).unwrap();
    identity.accept_founding(&founding).unwrap();
    let other = AcceptedFounding { cluster: ClusterId(8), ..founding.clone() };
    assert!(matches!(identity.accept_founding(&other), Err(StoreError::Refused { .. })));
    drop(identity);

    let identity = RedbIdentity::open(&DataFile::open(&path).unwrap(), NodeName::new("a")).unwrap();
    assert_eq!(identity.founding().unwrap(), Some(founding));
}

#[test]
fn a_compaction_takes_the_commit_index_with_it_that_allows_it() {
    let (_directory, path) = place();
    let entries = (1..=3).map(|index| entry(index, 1, 10)).collect();
    let term = Some(HardState { term: Term(1), vote: None });
    {
        let mut store = RedbStore::new(&DataFile::open(&path).unwrap());
        store.recover(GroupId::FIRST).unwrap();
        let append = LogWrite { group: GroupId::FIRST, hard_state: term, entries, ..LogWrite::default() };
        store.write(&[append]).unwrap();
        // A write that changes nothing else is not written.
        store.write(&[LogWrite { group: GroupId::FIRST, commit: Some(Index(2)), ..LogWrite::default() }]).unwrap();
        store.compact(GroupId::FIRST, Index(2)).unwrap();
        // Another group's write makes the compaction durable.
        store.recover(GroupId(7)).unwrap();
        store.write(&[LogWrite { group: GroupId(7), hard_state: term, ..LogWrite::default() }]).unwrap();
    }
    let recovered = RedbStore::new(&DataFile::open(&path).unwrap()).recover(GroupId::FIRST).unwrap();
    assert_eq!((recovered.base.index, recovered.commit), (Index(2), Index(2)));
}

#[test]
fn a_file_is_locked_and_one_that_was_not_finished_is_made_anew() {
    let (_directory, path) = place();
    // What a loss of power leaves of a file that was being made: it has its length and nothing else.
    std::fs::write(path.with_extension("unfinished"), [0; 5000]).unwrap();
    let file = DataFile::open(&path).unwrap();
    let second = DataFile::open(&path).unwrap_err();
    assert!(second.to_string().contains("already open"), "{second}");
    assert_eq!(RedbStore::new(&file).recover(GroupId::FIRST).unwrap().last(), LogId::ZERO);
    drop(file);

    std::fs::write(&path, [0; 5000]).unwrap();
    let refusal = DataFile::open(&path).unwrap_err();
    assert!(refusal.to_string().starts_with("storage failed while opening the file"), "{refusal}");
}
