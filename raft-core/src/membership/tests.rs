//! Quorums and changes against twins that look at everything.

// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::random::Random;

/// The voters before and after, as a reader of the entry would list them.
fn sets(configuration: &Configuration) -> Vec<Vec<NodeId>> {
    let voters = |standing: fn(&Seat) -> Standing| -> Vec<NodeId> {
        configuration.seats().iter().filter(|seat| standing(seat) == Standing::Voter).map(|seat| seat.id).collect()
    };
    match configuration.phase() {
        Phase::Settled | Phase::CatchingUp => vec![voters(|seat| seat.now)],
        Phase::Joint => vec![voters(|seat| seat.now), voters(|seat| seat.next)],
    }
}

/// Counts voter by voter.
fn is_quorum(configuration: &Configuration, yes: impl Fn(NodeId) -> bool) -> bool {
    sets(configuration).iter().all(|set| 2 * set.iter().filter(|id| yes(**id)).count() > set.len())
}

fn wanted(configuration: &Configuration, random: &mut Random) -> Wanted {
    let new = random.below(4);
    let known = configuration.seats().iter().map(|seat| seat.id.0);
    let next = configuration.next_id().0;
    let mut wanted = Wanted { force: true, ..Wanted::default() };
    for id in known.chain(next..next + new) {
        let member = WantedMember::with_context(NodeId(id), Bytes::from(vec![7; random.below(40) as usize]));
        let is_new = id >= next;
        match random.below(3) {
            0 => wanted.voters.push(member),
            1 => wanted.learners.push(WantedMember { promotes: random.below(2) == 0, ..member }),
            // Ids of new members have no gaps.
            _ if is_new => wanted.voters.push(member),
            _ => {}
        }
    }
    if wanted.voters.is_empty() {
        wanted.learners.retain(|member| member.id.0 < next);
        wanted.voters.push(WantedMember::known(NodeId(next)));
    }
    wanted
}

/// A chain of configurations as leaders append them, each with the entry that sets it.
fn chain(seed: u64) -> Vec<Configuration> {
    let mut random = Random::new(seed);
    let mut chain = vec![Configuration::new((1..=1 + random.below(5)).map(NodeId))];
    for index in (1..14).map(Index) {
        let last = chain.last().unwrap();
        let next = match last.phase() {
            Phase::Settled => match last.changed(index, &wanted(last, &mut random), MEMBERS_MAX) {
                Ok(changed) => changed,
                Err(ChangeRefusal::NothingChanges) => continue,
                Err(why) => panic!("seed {seed}: {why}"),
            },
            _ if random.below(4) == 0 => last.cancelled(index),
            Phase::CatchingUp => last.joined(index),
            Phase::Joint => last.settled(index),
        };
        chain.push(next);
    }
    chain
}

#[test]
fn quorums_agree_with_counting_voter_by_voter() {
    let mut random = Random::new(3);
    let (mut joint, mut checked) = (0, 0);
    for configuration in (0..300).flat_map(chain) {
        joint += u32::from(configuration.is_joint());
        for _ in 0..12 {
            let values: Vec<u64> = (0..64).map(|_| random.below(6)).collect();
            let value = |id: NodeId| values[id.0 as usize % 64];
            let reached = (0..6).rev().find(|least| is_quorum(&configuration, |id| value(id) >= *least)).unwrap();
            assert_eq!(configuration.reached(value), reached, "{configuration:?} with {values:?}");
            let yes = |id: NodeId| value(id) > 2;
            assert_eq!(configuration.is_quorum(yes), is_quorum(&configuration, yes), "{configuration:?}");
            assert_eq!(configuration.is_blocked(yes), !is_quorum(&configuration, |id| !yes(id)), "{configuration:?}");
            checked += 1;
        }
    }
    assert!(joint > 300 && checked > 20_000, "{joint} joint ones, {checked} checks");
    let nobody = Configuration::default();
    assert!(!nobody.is_quorum(|_| true) && nobody.is_blocked(|_| false));
}

/// Who appends a configuration knows that the one before is committed; others may still go by that one, or by the one that
/// follows. So quorums of two that follow each other must have a common member; and those of three where C_old follows a
/// joint one that is not committed.
#[test]
fn quorums_of_configurations_that_follow_each_other_meet() {
    let mut pairs = 0;
    for seed in 0..120 {
        let chain = chain(seed);
        let two = chain.windows(2).map(|pair| (&pair[0], &pair[1]));
        let back = chain.windows(3).filter(|three| three[1].is_joint() && three[2].voters() == three[1].outgoing());
        for (a, b) in two.chain(back.map(|three| (&three[0], &three[2]))) {
            let mut ids: Vec<NodeId> = [a, b].iter().flat_map(|it| sets(it)).flatten().collect();
            ids.sort_unstable();
            ids.dedup();
            if ids.len() > 10 {
                continue;
            }
            let subset = |bits: usize| {
                let ids = ids.clone();
                move |id: NodeId| ids.iter().position(|known| *known == id).is_some_and(|at| bits >> at & 1 == 1)
            };
            // Two sets without a common member: if one is a quorum here, the rest must be none there.
            for bits in 0..1_usize << ids.len() {
                let (one, rest) = (subset(bits), subset(!bits));
                assert!(
                    !(a.is_quorum(one) && b.is_quorum(rest)),
                    "{bits:b} of {ids:?} decides apart in {a:?} and {b:?}"
                );
            }
            pairs += 1;
        }
    }
    assert!(pairs > 500, "only {pairs} pairs");
}

#[test]
fn a_change_ends_with_what_was_wanted_or_with_what_there_was() {
    let standing = |configuration: &Configuration, id: NodeId| match configuration.seat(id) {
        None => Standing::Outside,
        Some(_) if configuration.is_voter(id) => Standing::Voter,
        Some(_) => Standing::Learner,
    };
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let before = chain(seed).into_iter().rfind(|it| it.phase() == Phase::Settled).unwrap();
        let wanted = wanted(&before, &mut random);
        let Ok(begun) = before.changed(Index(50), &wanted, MEMBERS_MAX) else { continue };
        let joint = if begun.phase() == Phase::CatchingUp { begun.joined(Index(51)) } else { begun.clone() };
        let end = if joint.is_joint() { joint.settled(Index(52)) } else { joint.clone() };
        assert_eq!((end.phase(), end.change()), (Phase::Settled, Index(50)));
        let voters: Vec<NodeId> = wanted.voters.iter().map(|member| member.id).collect();
        let learners: Vec<NodeId> = wanted.learners.iter().map(|member| member.id).collect();
        for id in (1..=end.highest_id().0).map(NodeId) {
            let expected = match () {
                () if voters.contains(&id) => Standing::Voter,
                () if learners.contains(&id) => Standing::Learner,
                () => Standing::Outside,
            };
            assert_eq!(standing(&end, id), expected, "seed {seed}, {id}: {end:?}");
            assert_eq!(end.was_removed(id), expected == Standing::Outside);
            for half in [&begun, &joint].into_iter().filter(|half| half.phase() != Phase::Settled) {
                let back = half.cancelled(Index(53));
                assert_eq!(standing(&back, id), standing(&before, id), "seed {seed}, {id}: {back:?}");
            }
        }
    }
}

#[test]
fn bytes_come_back_and_every_cut_and_nonsense_is_refused() {
    let mut random = Random::new(11);
    for configuration in (0..60).flat_map(chain) {
        let bytes = configuration.encode();
        assert_eq!(Configuration::decode(&bytes), Ok(configuration.clone()));
        let index = configuration.index();
        assert_eq!(Configuration::of_entry(index, &bytes), Ok(configuration.clone()));
        let other = ConfigurationError::OtherIndex { found: index };
        assert_eq!(Configuration::of_entry(index.next(), &bytes), Err(other));
        for cut in 0..bytes.len() {
            assert!(Configuration::decode(&bytes[..cut]).is_err(), "{configuration:?} cut at {cut}");
        }
        assert_eq!(Configuration::decode(&[&bytes[..], &[0]].concat()), Err(ConfigurationError::Length));
        // Whatever stands there: an error, or a configuration that is written as it was read.
        for _ in 0..200 {
            let mut changed = bytes.to_vec();
            let at = usize::try_from(random.below(changed.len() as u64)).unwrap();
            changed[at] ^= 1 << random.below(8);
            if let Ok(read) = Configuration::decode(&changed) {
                assert_eq!(read.encode(), changed);
                assert!(read.is_quorum(|_| true), "{read:?}");
            }
        }
    }
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Configuration::new([NodeId(1), NodeId(2)]).encode().to_vec();
        change(&mut bytes);
        Configuration::decode(&bytes).unwrap_err()
    };
    assert_eq!(refused(&|bytes| bytes[0] = 9), ConfigurationError::Version { found: 9 });
    assert_eq!(refused(&|bytes| bytes[1] = 3), ConfigurationError::Field { field: "phase", found: 3 });
    let bound = ConfigurationError::Bound { field: "members", found: 1025, limit: 1024 };
    assert_eq!(refused(&|bytes| bytes[2..4].copy_from_slice(&[4, 1])), bound);
    assert_eq!(refused(&|bytes| bytes[4] = 255), ConfigurationError::Field { field: "index", found: 255 << 56 });
    assert_eq!(refused(&|bytes| bytes[19] = 1), ConfigurationError::Field { field: "change", found: 1 });
    assert_eq!(refused(&|bytes| bytes[27] = 1), ConfigurationError::Order { id: NodeId(2) });
    assert_eq!(refused(&|bytes| bytes[35] = 0), ConfigurationError::Order { id: NodeId(0) });
    assert_eq!(refused(&|bytes| bytes[36] = 1), ConfigurationError::Member { id: NodeId(1) });
    assert_eq!(refused(&|bytes| bytes[36] = 7), ConfigurationError::Field { field: "standing", found: 7 });
    assert_eq!(refused(&|bytes| bytes[38] = 2), ConfigurationError::Field { field: "flags", found: 2 });
    assert_eq!(refused(&|bytes| bytes[38] = 1), ConfigurationError::Member { id: NodeId(1) });
    let context = ConfigurationError::Bound { field: "context", found: 65_280, limit: 1024 };
    assert_eq!(refused(&|bytes| bytes[40] = 255), context);
    let learners_only = |bytes: &mut Vec<u8>| {
        for at in [36, 37, 50, 51] {
            bytes[at] = 1;
        }
    };
    assert_eq!(refused(&learners_only), ConfigurationError::NoVoters);
}

#[test]
fn the_bytes_are_those_of_the_page_on_formats() {
    let founders = Configuration::founders([(NodeId(1), Bytes::from_static(b"one")), (NodeId(2), Bytes::new())]);
    let wanted = Wanted {
        voters: vec![WantedMember::known(NodeId(1)), WantedMember::with_context(NodeId(3), Bytes::from_static(b"3"))],
        learners: vec![WantedMember { promotes: true, ..WantedMember::known(NodeId(4)) }],
        ..Wanted::default()
    };
    let begun = founders.changed(Index(7), &wanted, 9).unwrap();
    let expected: &[&[u8]] = &[
        &[1, 1, 0, 4],
        &[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4],
        &[0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 0, 3],
        b"one",
        &[0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 3, 0, 2, 0, 0, 0, 1],
        b"3",
        &[0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 1, 0, 0, 0],
    ];
    assert_eq!(begun.encode(), expected.concat());
}

/// Looks at every way in which voters may fail: how many failures of voters that answer are survived in any case.
fn survives(voters: &[NodeId], answers: impl Fn(NodeId) -> bool) -> Option<usize> {
    let up = voters.iter().filter(|id| answers(**id)).count();
    (0..=up).rev().find(|failures| 2 * (up - failures) > voters.len())
}

#[test]
fn the_pre_flight_refuses_what_would_do_harm_and_nothing_else() {
    let mut random = Random::new(5);
    let mut refused = [0; 4];
    for seed in 0..4_000 {
        let current = chain(seed).into_iter().rfind(|it| it.phase() == Phase::Settled).unwrap();
        let wanted = Wanted { force: false, less_tolerance: random.below(4) == 0, ..wanted(&current, &mut random) };
        let patience = Patience { silence: Duration::from_millis(200), last: Index(100), lag_entries_max: 10 };
        let answered: Vec<Answered> = current
            .seats()
            .iter()
            .map(|seat| Answered {
                id: seat.id,
                ago: (random.below(10) > 0).then(|| Duration::from_millis(random.below(220))),
                matched: Index(100 - random.below(12)),
            })
            .collect();
        let up = |id: NodeId| {
            answered
                .iter()
                .any(|it| it.id == id && it.ago.is_some_and(|ago| ago.as_millis() < 200) && it.matched >= Index(90))
        };
        let (old, new) = (current.voters(), wanted.voters.iter().map(|member| member.id).collect::<Vec<_>>());
        let joins = |id: NodeId| !old.contains(&id) || up(id);
        let mut sorted = new.clone();
        sorted.sort_unstable();
        let (before, after) = (survives(old, up), survives(&new, joins));
        let verdict = preflight(&current, &wanted, &answered, patience);
        match &verdict {
            Ok(()) if sorted == old => {}
            Ok(()) => assert!(before.is_some() && after.is_some() && (after >= before || wanted.less_tolerance)),
            Err(PreflightRefusal::OldQuorumSilent { .. }) => assert_eq!(before, None),
            Err(PreflightRefusal::NewQuorumSilent { keep, .. }) => {
                assert_eq!(after, None);
                let kept = [&new[..], keep].concat();
                assert!(keep.is_empty() || survives(&kept, joins).is_some(), "{kept:?} would not be safe");
            }
            Err(PreflightRefusal::LessTolerance { missing, .. }) => {
                assert!(after < before && !wanted.less_tolerance);
                let more: Vec<NodeId> = (900..900 + *missing as u64).map(NodeId).collect();
                assert!(survives(&[&new[..], &more].concat(), joins) >= before, "{missing} more are not enough");
            }
        }
        refused[match verdict {
            Ok(()) => 0,
            Err(PreflightRefusal::OldQuorumSilent { .. }) => 1,
            Err(PreflightRefusal::NewQuorumSilent { .. }) => 2,
            Err(PreflightRefusal::LessTolerance { .. }) => 3,
        }] += 1;
        assert_eq!(preflight(&current, &Wanted { force: true, ..wanted }, &answered, patience), Ok(()));
    }
    assert!(refused.iter().all(|count| *count > 50), "{refused:?}");
}

/// The first change writes the founders into an entry, and everybody reads it back.
#[test]
fn founders_that_fit_into_no_entry_are_refused_at_the_start() {
    let refused = |founders| crate::config::Config::new(NodeId(1), founders).check().err().map(|error| error.field);
    let context = |bytes| Configuration::founders([(NodeId(1), Bytes::from(vec![0; bytes]))]);
    let members = |count| Configuration::new((1..=count).map(NodeId));
    assert_eq!(refused(context(CONTEXT_BYTES_MAX)), None);
    assert_eq!(refused(context(CONTEXT_BYTES_MAX + 1)), Some("founders"));
    assert_eq!(refused(members(MEMBERS_MAX as u64)), None);
    assert_eq!(refused(members(MEMBERS_MAX as u64 + 1)), Some("founders"));
    assert_eq!(refused(members(1 << 16)), Some("founders"));
    assert_eq!(refused(Configuration::new([NodeId(1), NodeId(1 << 62)])), Some("founders"));
    assert_eq!(refused(Configuration::default()), None);
}
