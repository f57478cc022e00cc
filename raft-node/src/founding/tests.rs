//! Founding as a decision: what may be written, when, and by whom.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn blank(name: &str, incarnation: u128) -> BlankNode {
    BlankNode {
        name: NodeName::new(name),
        incarnation: Incarnation(incarnation),
        peer_address: format!("{name}:7082"),
        api_address: format!("http://{name}:7080"),
        list: NAMES.iter().map(NodeName::new).collect(),
    }
}

fn founders() -> Vec<BlankNode> {
    NAMES.iter().zip(1..).map(|(name, incarnation)| blank(name, incarnation)).collect()
}

fn record(cluster: u128) -> FoundingRecord {
    FoundingRecord::new(ClusterId(cluster), founders(), Bytes::from_static(b"settings"))
}

fn answers<const N: usize>(given: [(&str, FounderAnswer); N]) -> BTreeMap<NodeName, FounderAnswer> {
    given.into_iter().map(|(name, answer)| (NodeName::new(name), answer)).collect()
}

#[test]
fn a_record_survives_its_bytes_and_numbers_the_founders_by_their_names() {
    let mut shuffled = founders();
    shuffled.rotate_left(1);
    let record = FoundingRecord::new(ClusterId(7), shuffled, Bytes::from_static(b"settings"));
    assert_eq!(FoundingRecord::decode(&record.encode()).unwrap(), record);
    let ids: Vec<_> = record.members.iter().map(|member| (member.id.0, member.name.as_str())).collect();
    assert_eq!(ids, [(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(record.configuration().voters(), [NodeId(1), NodeId(2), NodeId(3)]);
}

#[test]
fn bytes_that_are_no_record_of_this_version_are_refused_by_name() {
    assert!(matches!(FoundingRecord::decode(b"\xff\xff"), Err(RecordError::Malformed(_))));
    assert_eq!(FoundingRecord::decode(b""), Err(RecordError::Version { found: 0 }));
    let mut twice = record(7);
    twice.members[1] = twice.members[0].clone();
    assert_eq!(FoundingRecord::decode(&twice.encode()), Err(RecordError::Order));
    let mut gap = record(7);
    gap.members[2].id = NodeId(9);
    assert_eq!(FoundingRecord::decode(&gap.encode()), Err(RecordError::Order));
}

#[test]
fn the_smallest_name_founds_when_all_are_blank_and_agree_and_the_others_wait_for_it() {
    let [a, b, c] = [0, 1, 2].map(|at| founders()[at].clone());
    let others = answers([("b", FounderAnswer::Blank(b.clone())), ("c", FounderAnswer::Blank(c.clone()))]);
    let Decision::Write(mut written) = decide(&a, &others) else { panic!("a has to write") };
    written.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(written, founders());
    let others = answers([("a", FounderAnswer::Blank(a.clone())), ("c", FounderAnswer::Blank(c))]);
    assert_eq!(decide(&b, &others), Decision::Wait(vec![(a.name, WaitReason::HasToWriteTheRecord)]));
}

#[test]
fn a_single_name_founds_alone() {
    let alone = BlankNode { list: vec![NodeName::new("a")], ..blank("a", 1) };
    assert_eq!(decide(&alone, &BTreeMap::new()), Decision::Write(vec![alone]));
}

#[test]
fn each_reason_to_wait_is_told_with_its_name() {
    let a = blank("a", 1);
    let other_list = BlankNode { list: vec![NodeName::new("c")], ..blank("c", 3) };
    let given =
        answers([("b", FounderAnswer::Silent("timed out".into())), ("c", FounderAnswer::Blank(other_list.clone()))]);
    let waiting = vec![
        (NodeName::new("b"), WaitReason::Silent("timed out".into())),
        (NodeName::new("c"), WaitReason::ShowsAnotherList(other_list.list)),
    ];
    assert_eq!(decide(&a, &given), Decision::Wait(waiting));

    // A running cluster that names another disk of this name.
    let stranger = blank("a", 99);
    let given = answers([("b", FounderAnswer::Founded(record(7))), ("c", FounderAnswer::Blank(blank("c", 3)))]);
    let waiting = vec![(NodeName::new("b"), WaitReason::BelongsToCluster(ClusterId(7)))];
    assert_eq!(decide(&stranger, &given), Decision::Wait(waiting));

    let given = answers([("b", FounderAnswer::Blank(blank("x", 2))), ("c", FounderAnswer::Unusable("odd".into()))]);
    let Decision::Wait(waiting) = decide(&a, &given) else { panic!("it has to wait") };
    assert_eq!(waiting[0].1, WaitReason::Refuses("it answers as x".into()));
    assert_eq!(waiting[1].1, WaitReason::Refuses("odd".into()));
}

#[test]
fn a_record_that_names_this_disk_is_accepted_from_whoever_holds_it_however_silent_the_rest_is() {
    let c = blank("c", 3);
    let given = answers([("a", FounderAnswer::Silent("down".into())), ("b", FounderAnswer::Founded(record(7)))]);
    assert_eq!(decide(&c, &given), Decision::Accept(record(7)));
}

#[test]
fn two_records_that_both_name_this_disk_are_neither_accepted_nor_replaced() {
    let c = blank("c", 3);
    let given = answers([("a", FounderAnswer::Founded(record(7))), ("b", FounderAnswer::Founded(record(8)))]);
    let Decision::Wait(waiting) = decide(&c, &given) else { panic!("it has to wait") };
    assert_eq!(waiting.len(), 2);
}

fn any_answer(name: &'static str) -> impl Strategy<Value = Option<FounderAnswer>> {
    prop_oneof![
        Just(None),
        Just(Some(FounderAnswer::Silent("down".into()))),
        Just(Some(FounderAnswer::Unusable("odd".into()))),
        (1_u128..5).prop_map(move |incarnation| Some(FounderAnswer::Blank(blank(name, incarnation)))),
        Just(Some(FounderAnswer::Blank(BlankNode { list: vec![NodeName::new(name)], ..blank(name, 2) }))),
        (7_u128..9).prop_map(|cluster| Some(FounderAnswer::Founded(record(cluster)))),
    ]
}

proptest! {
    /// Nobody founds while a founder is silent, odd, of another mind or in a cluster.
    #[test]
    fn a_record_is_written_only_when_all_others_are_blank_and_agree(
        own in 0_usize..3,
        given in [any_answer("a"), any_answer("b"), any_answer("c")],
    ) {
        let own_node = founders()[own].clone();
        let answers: BTreeMap<_, _> = NAMES
            .iter()
            .zip(given)
            .enumerate()
            .filter(|(at, _)| *at != own)
            .filter_map(|(_, (name, answer))| Some((NodeName::new(name), answer?)))
            .collect();
        let agreeing = answers.values().filter(|answer| {
            matches!(answer, FounderAnswer::Blank(node) if node.list == own_node.list)
        });
        let all_agree = agreeing.count() == 2;
        match decide(&own_node, &answers) {
            Decision::Write(founders) => {
                prop_assert!(all_agree && own == 0);
                prop_assert_eq!(founders.len(), 3);
            }
            Decision::Accept(record) => prop_assert!(record.member(&own_node.name, own_node.incarnation).is_some()),
            Decision::Wait(waiting) => {
                prop_assert!(!waiting.is_empty());
                prop_assert!(!(all_agree && own == 0));
            }
        }
    }
}

/// What happens to three nodes that found, in any order, with answers as old as a round can make them.
#[derive(Clone, Debug)]
enum Happening {
    /// The first asks the second and keeps the answer.
    Ask(usize, usize),
    /// It decides from the answers that it has, and begins a new round.
    Decide(usize),
    /// It restarts: the answers are gone, the disk is not.
    Crash(usize),
    /// It restarts with a blank disk.
    Wipe(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        12 => (0_usize..3, 0_usize..3).prop_map(|(from, to)| Happening::Ask(from, to)),
        8 => (0_usize..3).prop_map(Happening::Decide),
        1 => (0_usize..3).prop_map(Happening::Crash),
        1 => (0_usize..3).prop_map(Happening::Wipe),
    ]
}

struct Disk {
    node: BlankNode,
    accepted: Option<FoundingRecord>,
    answers: BTreeMap<NodeName, FounderAnswer>,
}

struct World {
    disks: Vec<Disk>,
    drawn: u128,
}

impl World {
    fn new() -> Self {
        let disk = |node| Disk { node, accepted: None, answers: BTreeMap::new() };
        Self { disks: founders().into_iter().map(disk).collect(), drawn: 100 }
    }

    fn happens(&mut self, happening: &Happening) {
        match *happening {
            Happening::Ask(from, to) if from != to => {
                let asked = &self.disks[to];
                let answer = match &asked.accepted {
                    Some(record) => FounderAnswer::Founded(record.clone()),
                    None => FounderAnswer::Blank(asked.node.clone()),
                };
                let name = asked.node.name.clone();
                self.disks[from].answers.insert(name, answer);
            }
            Happening::Ask(..) => {}
            Happening::Decide(at) => self.decide(at),
            Happening::Crash(at) => self.disks[at].answers.clear(),
            Happening::Wipe(at) => {
                self.drawn += 1;
                let disk = &mut self.disks[at];
                disk.node.incarnation = Incarnation(self.drawn);
                disk.accepted = None;
                disk.answers.clear();
            }
        }
    }

    fn decide(&mut self, at: usize) {
        let disk = &mut self.disks[at];
        let answers = std::mem::take(&mut disk.answers);
        if disk.accepted.is_some() {
            return;
        }
        match decide(&disk.node, &answers) {
            Decision::Accept(record) => disk.accepted = Some(record),
            Decision::Write(founders) => {
                self.drawn += 1;
                disk.accepted = Some(FoundingRecord::new(ClusterId(self.drawn), founders, Bytes::new()));
            }
            Decision::Wait(_) => {}
        }
    }

    /// Clusters of which a majority of the named disks exists and has accepted.
    fn working(&self) -> Vec<ClusterId> {
        let mut accepted: BTreeMap<ClusterId, usize> = BTreeMap::new();
        for disk in &self.disks {
            if let Some(record) = &disk.accepted {
                assert!(record.member(&disk.node.name, disk.node.incarnation).is_some(), "accepted, but not named");
                *accepted.entry(record.cluster).or_default() += 1;
            }
        }
        accepted.into_iter().filter(|(_, count)| *count >= 2).map(|(cluster, _)| cluster).collect()
    }
}

proptest! {
    /// Whatever is asked, crashes and is wiped when: two clusters never work at a time.
    #[test]
    fn two_clusters_never_work_at_a_time(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new();
        for happening in &happenings {
            world.happens(happening);
            prop_assert!(world.working().len() <= 1, "{:?}", world.working());
        }
    }

    /// Crashes alone cost time, no more: once they end, all are in one cluster.
    #[test]
    fn a_founding_that_crashes_cut_short_is_finished(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new();
        for happening in happenings.iter().filter(|happening| !matches!(happening, Happening::Wipe(_))) {
            world.happens(happening);
        }
        for _round in 0..2 {
            for at in 0..3 {
                for other in 0..3 {
                    world.happens(&Happening::Ask(at, other));
                }
                world.happens(&Happening::Decide(at));
            }
        }
        let clusters: Vec<_> = world.disks.iter().map(|disk| disk.accepted.as_ref().map(|it| it.cluster)).collect();
        prop_assert!(clusters[0].is_some() && clusters.iter().all(|it| *it == clusters[0]), "{clusters:?}");
    }
}
