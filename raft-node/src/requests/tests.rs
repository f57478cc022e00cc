//! Every request and answer survives its bytes, and bytes of others are named errors.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raft_core::types::{Incarnation, NodeId};

use super::*;
use crate::snapshots::{MemberSnapshot, MemberStage, SnapshotProgress};

fn member(number: u64) -> Member {
    Member {
        id: NodeId(number),
        name: NodeName::new(format!("n{number}")),
        incarnation: Incarnation(u128::from(number) << 100),
        peer_address: "host:7082".into(),
        api_address: "http://host:7080".into(),
    }
}

fn requests() -> Vec<NodeRequest> {
    vec![
        NodeRequest::Founding,
        NodeRequest::Write { command: Bytes::from_static(b"put"), timeout: Duration::from_millis(1500) },
        NodeRequest::Writes(vec![
            PassedWrite { command: Bytes::from_static(b"put"), timeout: Duration::from_millis(1500) },
            PassedWrite { command: Bytes::new(), timeout: Duration::ZERO },
        ]),
        NodeRequest::Outcome(LogId::new(Index(7), Term(3))),
        NodeRequest::Mark { timeout: Duration::from_secs(2) },
        NodeRequest::MarkDigest(Index(8)),
        NodeRequest::SendSnapshot { at_least: Index(9) },
        NodeRequest::Report,
        NodeRequest::Cluster { timeout: Duration::from_secs(1) },
        NodeRequest::Standing,
        NodeRequest::Moved { peer_address: "h:1".into(), api_address: "http://h:2".into() },
        NodeRequest::Join(crate::members::wire::examples::join()),
    ]
    .into_iter()
    .chain(
        crate::members::wire::examples::asks().into_iter().map(|(ask, options)| NodeRequest::Members { ask, options }),
    )
    .collect()
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NotLeader,
        Refusal::NoLeader,
        Refusal::Overloaded { bound: "uncommitted_bytes_max".into() },
        Refusal::LeaderUnreachable("down".into()),
        Refusal::Deadline,
        Refusal::Stopping,
        Refusal::NotReady("replaying".into()),
        Refusal::Overwritten,
        Refusal::HandingOver,
        Refusal::TooLarge { bytes: 9, limit: 8, setting: "command_bytes_max".into() },
    ]
}

fn doubts() -> Vec<Doubt> {
    vec![Doubt::Deadline, Doubt::LeaderChanged, Doubt::NoAnswer("gone".into()), Doubt::Stopping]
}

fn cluster() -> ClusterStatus {
    let known = MemberStatus {
        member: member(1),
        voter: true,
        role: Some(Role::Leader),
        match_index: Some(Index(9)),
        applied_index: Some(Index(8)),
        lag_entries: Some(1),
        last_contact: Some(Duration::from_micros(1234)),
        version: Some("0.1.0".into()),
        process_id: Some(42),
        phase: Some("running".into()),
        storage_sync: Some(false),
        snapshot: Some(MemberSnapshot {
            stage: MemberStage::Sending,
            progress: SnapshotProgress {
                last: LogId::new(Index(8), Term(4)),
                done_bytes: 1 << 40,
                total_bytes: 1 << 41,
                bytes_per_second: 100 << 20,
                running: Duration::from_millis(1500),
            },
        }),
        fenced: Some(Index(4)),
        rebuilding: true,
        read_lease: Some(true),
        departure: Departure::Cleared,
        standing: Standing::Voter,
        next: Standing::Outside,
        promotes: false,
        caught_up_for: Some(Duration::from_millis(7)),
        unreachable: None,
    };
    ClusterStatus {
        answered_by: NodeName::new("n1"),
        not_leader_view: Some("alone".into()),
        cluster: Some(ClusterId(1 << 120)),
        healthy: false,
        reasons: vec!["n2 is silent".into()],
        failure_tolerance: 1,
        leader: Some(NodeName::new("n1")),
        term: Term(4),
        commit_index: Index(9),
        last: LogId::new(Index(9), Term(4)),
        members: vec![known, silent()],
        membership: membership(),
    }
}

/// A member that cannot be asked.
fn silent() -> MemberStatus {
    MemberStatus {
        member: member(2),
        voter: false,
        role: None,
        match_index: None,
        applied_index: None,
        lag_entries: None,
        last_contact: None,
        version: None,
        process_id: None,
        phase: None,
        storage_sync: None,
        snapshot: None,
        fenced: None,
        rebuilding: false,
        read_lease: None,
        departure: Departure::Drained,
        standing: Standing::Outside,
        next: Standing::Learner,
        promotes: true,
        caught_up_for: None,
        unreachable: Some("timed out".into()),
    }
}

fn membership() -> MembershipStatus {
    MembershipStatus {
        index: Index(8),
        committed: true,
        phase: "joint".into(),
        change: Index(7),
        leads_to: "afterwards n1 votes".into(),
        pending: vec![crate::status::PendingMember {
            name: NodeName::new("n4"),
            peer_address: "h4:1".into(),
            api_address: String::new(),
            voter: true,
            wanted: true,
            heard_ago: Some(Duration::from_millis(3)),
            reason: Some("it was not heard".into()),
        }],
    }
}

fn answers() -> Vec<NodeAnswer> {
    let blank = BlankNode {
        name: NodeName::new("a"),
        incarnation: Incarnation(5),
        peer_address: "a:7082".into(),
        api_address: String::new(),
        list: vec![NodeName::new("a"), NodeName::new("b")],
    };
    let record = FoundingRecord::new(ClusterId(3), vec![blank.clone()], Bytes::from_static(b"settings"));
    let token = Some(LogId::new(Index(7), Term(3)));
    let mut answers = vec![
        NodeAnswer::Failure("no".into()),
        NodeAnswer::Founding(FounderAnswer::Blank(blank)),
        NodeAnswer::Founding(FounderAnswer::Founded(record)),
        NodeAnswer::Write(ForwardedWrite::Applied {
            id: LogId::new(Index(7), Term(3)),
            answer: Bytes::from_static(b"done"),
        }),
        NodeAnswer::Writes(vec![
            ForwardedWrite::Applied { id: LogId::new(Index(8), Term(3)), answer: Bytes::from_static(b"done") },
            ForwardedWrite::NotApplied(Refusal::Overwritten),
            ForwardedWrite::Unknown { why: Doubt::Deadline, token },
        ]),
        NodeAnswer::Report(Report {
            version: "0.1.0".into(),
            process_id: 42,
            phase: "running".into(),
            role: Role::PreCandidate,
            applied_index: Index(6),
            storage_sync: false,
            fenced: Some(Index(3)),
            rebuilding: true,
            read_lease: true,
            departure: Departure::Drained,
        }),
        NodeAnswer::Cluster(cluster()),
        NodeAnswer::MarkDigest(None),
        NodeAnswer::MarkDigest(Some(Bytes::new())),
        NodeAnswer::MarkDigest(Some(Bytes::from_static(b"digest"))),
        NodeAnswer::Done,
    ];
    let members = vec![member(1), member(2)];
    answers.extend([
        NodeAnswer::Standing(StandingAnswer::Removed { configuration: Index(5), by: NodeId(2) }),
        NodeAnswer::Standing(StandingAnswer::NotRemoved { members: members.clone() }),
        NodeAnswer::Join(JoinAnswer::NotYet("later".into())),
        NodeAnswer::Join(JoinAnswer::Admitted { id: NodeId(4), record: Bytes::from_static(b"record"), members }),
    ]);
    answers.extend(crate::members::wire::examples::ends().into_iter().map(NodeAnswer::Members));
    answers.extend(refusals().into_iter().map(|why| NodeAnswer::Write(ForwardedWrite::NotApplied(why))));
    answers.extend(doubts().into_iter().map(|why| NodeAnswer::Write(ForwardedWrite::Unknown { why, token })));
    answers.extend([Outcome::Applied, Outcome::NotApplied, Outcome::NotKnownYet].map(NodeAnswer::Outcome));
    answers
}

#[test]
fn every_request_and_every_answer_survives_its_bytes() {
    for request in requests() {
        assert_eq!(NodeRequest::decode(request.encode()).unwrap(), request);
    }
    for answer in answers() {
        assert_eq!(NodeAnswer::decode(answer.encode()).unwrap(), answer);
    }
}

#[test]
fn what_a_newer_version_asks_is_not_known_and_no_panic() {
    // Field 99, a string.
    let newer = Bytes::from_static(b"\x9a\x06\x02hi");
    assert_eq!(NodeRequest::decode(newer.clone()), Err(WireError::Unknown));
    assert_eq!(NodeAnswer::decode(newer), Err(WireError::Unknown));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = NodeRequest::decode(bytes.clone().into());
        let _ = NodeAnswer::decode(bytes.into());
    }

    /// Damaged answers are as close to real ones as it gets.
    #[test]
    fn no_damaged_answer_makes_the_decoder_panic(which in 0_usize..20, at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let answers = answers();
        let mut bytes = answers[which % answers.len()].encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = NodeAnswer::decode(bytes.into());
    }
}
