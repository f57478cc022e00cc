//! How a cluster admits a node that asks for it.
//!
//! The certificate, which names the node, is the right to become a learner under that name. Whether the learner is made a
//! voter once it has caught up says who asked for it ([`MembersAsk::Add`](super::MembersAsk::Add)), else the node itself
//! (`join.voter`). A member that does not lead passes the wish on, once.
//!
//! A node whose name is that of a member and whose disk is another one has lost its disk. It gets a new id, since what
//! the old one acknowledged is gone, and takes the old one's place in one joint change: as a learner until it has caught
//! up. Only one after the other, not faster than [`REPLACE_PAUSE`], never while the old disk answers, and only as long
//! as the pre-flight finds a quorum without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_core::membership::{Change, Phase, Wanted, WantedMember};
use raft_core::ports::RemoteIdentity;
use raft_core::types::{Incarnation, NodeId, NodeName, Term};

use super::ask::{MembersAsk, MembersOptions};
use super::change::{Obstacle, heard, submit};
use super::known::{Candidate, Known};
use super::plan::{Plan, plan, refusal};
use super::{check_context, encode_context};
use crate::events::{EventKind, Tale};
use crate::requests::{NodeAnswer, NodeRequest};
use crate::shared::{Shared, deadline_after};
use crate::status::Member;

/// Between two disks that are replaced by themselves. A storage that loses one disk after the other shall not take the
/// whole cluster with it before somebody looks.
pub(crate) const REPLACE_PAUSE: Duration = Duration::from_secs(10);
/// How long the leader works at one admission; the node asks again. Catching up may take longer: it goes on.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long the leader tries to take a change back whose disk is lost; the node asks again.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may take; the node asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);

/// A node's wish to be admitted. Name and incarnation are those of its certificate and handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinRequest {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) peer_address: String,
    pub(crate) api_address: String,
    /// Whether it wants to vote once it has caught up.
    pub(crate) voter: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JoinAnswer {
    /// The entry that names it is committed.
    Admitted {
        /// Its number from now on.
        id: NodeId,
        /// The founding record of the cluster, encoded.
        record: Bytes,
        /// Whom to talk to.
        members: Vec<Member>,
    },
    /// Ask again later; why.
    NotYet(String),
}

/// What a leader keeps of admissions that it works at.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    /// One at a time.
    working: AtomicBool,
    replaced: Mutex<Option<Instant>>,
}

/// Ends the work at an admission, however that ends.
struct Working(Arc<Shared>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.admissions.working.store(false, Ordering::Release);
    }
}

fn not_yet(why: impl Into<String>) -> JoinAnswer {
    JoinAnswer::NotYet(why.into())
}

/// Answers a node's wish, or passes it on to the leader. `from` has proved who it is: the node, or a member that passes
/// the wish on.
pub(crate) async fn serve(shared: &Arc<Shared>, from: &RemoteIdentity, join: JoinRequest) -> NodeAnswer {
    let by_itself = from.name == join.name && from.incarnation == join.incarnation;
    let by_member = shared.is_member(from);
    if !by_itself && !by_member {
        return NodeAnswer::Failure(format!("{} may not ask for {}", from.name, join.name));
    }
    let leadership = *shared.leadership.borrow();
    if leadership.leads {
        return NodeAnswer::Join(admit(shared, &join).await);
    }
    let leader = leadership.leader.and_then(|id| shared.member(id));
    let Some(leader) = leader.filter(|_| !by_member || by_itself) else {
        return NodeAnswer::Join(not_yet(format!("{} does not lead", shared.name)));
    };
    let asked = shared.transport.request(&leader.name, NodeRequest::Join(join).encode(), ANSWER_TIMEOUT).await;
    let why = match asked.map(NodeAnswer::decode) {
        Ok(Ok(answer @ NodeAnswer::Join(_))) => return answer,
        Ok(Ok(NodeAnswer::Failure(why))) => why,
        Ok(Ok(_)) => "it answered something else".into(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    NodeAnswer::Join(not_yet(format!("the leader {} cannot be asked: {why}", leader.name)))
}

/// The leader's answer.
async fn admit(shared: &Arc<Shared>, join: &JoinRequest) -> JoinAnswer {
    if let Err(error) = check_context(join.name.as_str(), &join.peer_address, &join.api_address) {
        return not_yet(error.to_string());
    }
    let known = shared.members.now();
    if let Some(answer) = admitted(shared, &known, join) {
        return answer;
    }
    if !note(shared, join) {
        return not_yet("too many nodes wait for admission; remove some of them, or stop them");
    }
    let answer = match known.named(&join.name) {
        Some(old) => replace(shared, &known, old, join),
        None => add(shared, &known, join),
    };
    if let Ok(()) = answer {
        // Most admissions are committed by the time that the answer has to be there.
        let mut members = shared.members.subscribe();
        let done = members.wait_for(|known| seat_is_committed(known, join));
        if tokio::time::timeout(ANSWER_TIMEOUT / 2, done).await.is_ok() {
            let known = shared.members.now();
            return admitted(shared, &known, join).unwrap_or_else(|| not_yet("its admission is being committed"));
        }
    }
    let why = match answer {
        Ok(()) => shared.members.candidate(&join.name).and_then(|candidate| candidate.reason),
        Err(why) => {
            shared.members.explain_candidate(&join.name, &why);
            Some(why)
        }
    };
    not_yet(why.unwrap_or_else(|| "its admission is being committed".into()))
}

/// Notes that a node was heard, and says so to whoever waits for that.
fn note(shared: &Shared, join: &JoinRequest) -> bool {
    let heard = (join.incarnation, Instant::now());
    let term = shared.leadership.borrow().term;
    shared.members.note_candidate(&join.name, |before| {
        let since = waited_since(before.as_ref(), heard, term);
        Candidate {
            peer_address: join.peer_address.clone(),
            api_address: join.api_address.clone(),
            heard: Some(heard),
            since: Some(since),
            voter: before.as_ref().filter(|before| before.wanted).map_or(join.voter, |before| before.voter),
            wanted: before.as_ref().is_some_and(|before| before.wanted),
            reason: before.and_then(|before| before.reason),
        }
    })
}

/// Since when a node has been heard with this disk by the leader of this term, which hears it now.
fn waited_since(before: Option<&Candidate>, heard: (Incarnation, Instant), term: Term) -> (Instant, Term) {
    let same = before.filter(|before| before.heard.is_some_and(|(found, _)| found == heard.0));
    same.and_then(|before| before.since).filter(|(_, noted)| *noted == term).unwrap_or((heard.1, term))
}

fn seat_is_committed(known: &Known, join: &JoinRequest) -> bool {
    member_of(known, join).is_some_and(|member| known.is_committed_member(member))
}

fn member_of<'a>(known: &'a Known, join: &JoinRequest) -> Option<&'a Arc<Member>> {
    known.list.iter().find(|member| member.name == join.name && member.incarnation == join.incarnation)
}

/// The answer to a node that is a member already, or about to be.
fn admitted(shared: &Shared, known: &Known, join: &JoinRequest) -> Option<JoinAnswer> {
    let member = member_of(known, join)?;
    if !seat_is_committed(known, join) {
        return Some(not_yet("its admission is being committed"));
    }
    let founded = shared.founded.get()?;
    shared.members.forget_candidate(&join.name);
    Some(JoinAnswer::Admitted { id: member.id, record: founded.record.encode(), members: known.to_tell() })
}

/// Begins to admit a node under a name that is free.
fn add(shared: &Arc<Shared>, known: &Known, join: &JoinRequest) -> Result<(), String> {
    let voter = shared.members.candidate(&join.name).map_or(join.voter, |candidate| candidate.voter);
    let ask = MembersAsk::Add {
        name: join.name.clone(),
        peer_address: join.peer_address.clone(),
        api_address: join.api_address.clone(),
        voter,
    };
    let options = MembersOptions { timeout: ADMISSION_TIMEOUT, less_tolerance: false, force: false };
    match plan(known, &|name| heard(shared, name), &ask, options).map_err(|error| error.text)? {
        Plan::Change(change) => begin(shared, change, join.name.clone()),
        _ => Err("its admission is being worked at".into()),
    }
}

/// Begins to put a new disk in the place of one that is lost.
fn replace(shared: &Arc<Shared>, known: &Known, old: &Member, join: &JoinRequest) -> Result<(), String> {
    let view = shared.view();
    let timeout = shared.config.raft.election_timeout;
    let contact = view.status.peers.iter().find(|peer| peer.id == old.id).and_then(|peer| peer.last_contact);
    let contact = match contact {
        _ if old.name == shared.name => Some(Duration::ZERO),
        ago => ago.map(|ago| ago + view.taken.elapsed()),
    };
    let since = shared.members.candidate(&join.name).and_then(|candidate| candidate.since);
    is_lost(old, contact, since.map(|(since, _)| since.elapsed()), 2 * timeout)?;
    let configuration = &known.configuration;
    if configuration.phase() == Phase::CatchingUp && configuration.joining().any(|id| id == old.id) {
        give_up(shared, &join.name);
        return Err("the disk before this one was lost before it had caught up; that change is given up first".into());
    }
    let mut replaced = shared.admissions.replaced.lock();
    in_turn(replaced.map(|at| at.elapsed()))?;
    begin(shared, Change::Members(replacement(known, old.id, join)), join.name.clone())?;
    *replaced = Some(Instant::now());
    tracing::warn!(
        node = %shared.name, member = %join.name, old = %old.incarnation, new = %join.incarnation,
        "a member came back with another disk: it joins as a new learner and takes the place of the old one"
    );
    let text = format!("{} came back with another disk, which takes the place of the old one", join.name);
    shared.events.tell(tale("replaced", &join.name, text));
    Ok(())
}

/// Whether the disk that a name had may be taken for lost: it has not answered for `silence`, and for as long has this
/// leader, in this term, known of the new one. `contact` is how long ago the old one was heard; none if never in this
/// term, which says nothing as long as the term is young.
fn is_lost(old: &Member, contact: Option<Duration>, waited: Option<Duration>, silence: Duration) -> Result<(), String> {
    if contact.is_some_and(|ago| ago <= silence) {
        return Err(format!(
            "{} is the name of a member that answers, with another disk ({}); stop that one, or give this node another name",
            old.name, old.incarnation
        ));
    }
    if waited.is_none_or(|waited| waited < silence) {
        return Err(format!("the disk that {} had is given a moment to answer before it is replaced", old.name));
    }
    Ok(())
}

/// Whether another disk may be replaced, so long after the last one was.
fn in_turn(replaced: Option<Duration>) -> Result<(), String> {
    match replaced.filter(|ago| *ago < REPLACE_PAUSE) {
        None => Ok(()),
        Some(ago) => {
            let left = REPLACE_PAUSE.saturating_sub(ago);
            Err(format!("a disk was replaced {ago:.1?} ago; this one is at the earliest in {left:.1?}"))
        }
    }
}

/// Takes a change back that waits for a disk which is lost: it would wait for ever. That disk never counted, so the next
/// one need not wait either.
fn give_up(shared: &Arc<Shared>, name: &NodeName) {
    let (shared, name) = (shared.clone(), name.clone());
    tokio::spawn(async move {
        if let Ok(index) = submit(&shared, Change::Cancel, deadline_after(GIVE_UP_TIMEOUT)).await {
            *shared.admissions.replaced.lock() = None;
            tracing::warn!(
                node = %shared.name, member = %name, entry = %index,
                "a member has lost its disk again before it had caught up: the change that waited for it is taken back"
            );
            let text =
                format!("{name} has lost its disk again before it had caught up; the change for it is taken back");
            shared.events.tell(tale("given_up", &name, text).with("index", index));
        }
    });
}

/// The members with a new disk in the place of an old one.
fn replacement(known: &Known, old: NodeId, join: &JoinRequest) -> Wanted {
    let mut wanted = Wanted::of(&known.configuration);
    let id = known.configuration.next_id();
    let JoinRequest { name, incarnation, peer_address, api_address, .. } = join.clone();
    let member = Member { id, name, incarnation, peer_address, api_address };
    let new = WantedMember::with_context(id, encode_context(&member));
    if wanted.voters.iter().any(|voter| voter.id == old) {
        wanted.voters.retain(|voter| voter.id != old);
        wanted.voters.push(new);
    } else {
        let promotes = wanted.learners.iter().any(|learner| learner.id == old && learner.promotes);
        wanted.learners.retain(|learner| learner.id != old);
        wanted.learners.push(WantedMember { promotes, ..new });
    }
    wanted
}

/// Hands the change to the core and waits for its end in a task of its own.
fn begin(shared: &Arc<Shared>, change: Change, name: NodeName) -> Result<(), String> {
    if shared.admissions.working.swap(true, Ordering::AcqRel) {
        return Err("another node is being admitted".into());
    }
    let working = Working(shared.clone());
    tokio::spawn(async move {
        let shared = &working.0;
        let mut lost = shared.leadership.subscribe();
        let ended = tokio::select! {
            ended = submit(shared, change, deadline_after(ADMISSION_TIMEOUT)) => ended,
            _ = lost.wait_for(|known| !known.leads) => return,
        };
        match ended {
            Ok(index) => {
                tracing::info!(node = %shared.name, member = %name, entry = %index, "a node is admitted");
                let text = format!("{name} is admitted by entry {index}");
                shared.events.tell(tale("admitted", &name, text).with("index", index));
            }
            Err(Obstacle::Again) => {}
            Err(Obstacle::Refused(why)) => delayed(shared, &name, &refusal(&shared.members.now(), &why).text),
            Err(Obstacle::Error(error)) => delayed(shared, &name, &error.text),
        }
    });
    Ok(())
}

/// Says why a node is not admitted yet, once per reason.
fn delayed(shared: &Shared, name: &NodeName, why: &str) {
    if shared.members.explain_candidate(name, why) {
        tracing::info!(node = %shared.name, member = %name, why, "a node is not admitted yet");
        shared.events.tell(tale("waits", name, format!("{name} is not admitted yet: {why}")));
    }
}

fn tale(what: &str, member: &NodeName, text: String) -> Tale {
    Tale::new(EventKind::Membership, text).with("what", what).with("member", member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_lost_only_when_it_is_silent_for_as_long_as_the_new_one_is_known() {
        let old = Member {
            id: NodeId(3),
            name: NodeName::new("n3"),
            incarnation: Incarnation(7),
            peer_address: String::new(),
            api_address: String::new(),
        };
        let after = |contact: Option<u64>, waited: Option<u64>| {
            let millis = |of: Option<u64>| of.map(Duration::from_millis);
            is_lost(&old, millis(contact), millis(waited), Duration::from_millis(400))
        };
        assert_eq!(after(Some(401), Some(400)), Ok(()));
        let answers = after(Some(400), Some(9000)).unwrap_err();
        assert!(answers.contains("a member that answers"), "{answers}");
        // A leader that was just elected has heard of nobody yet.
        for (contact, waited) in [(None, None), (None, Some(399)), (Some(500), Some(399))] {
            assert!(after(contact, waited).unwrap_err().contains("given a moment"), "{contact:?}, {waited:?}");
        }
        assert_eq!(after(None, Some(400)), Ok(()));
    }

    #[test]
    fn a_leader_waits_for_the_old_disk_anew_in_every_term_and_for_every_new_disk() {
        let (begin, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let before = Candidate {
            peer_address: String::new(),
            api_address: String::new(),
            heard: Some((Incarnation(1), begin)),
            since: Some((begin, Term(4))),
            voter: true,
            wanted: false,
            reason: None,
        };
        let since = |disk, term| waited_since(Some(&before), (Incarnation(disk), later), Term(term));
        assert_eq!(since(1, 4), (begin, Term(4)));
        assert_eq!(since(1, 5), (later, Term(5)), "another term");
        assert_eq!(since(2, 4), (later, Term(4)), "another disk");
        assert_eq!(waited_since(None, (Incarnation(1), later), Term(4)), (later, Term(4)));
    }

    #[test]
    fn disks_are_replaced_one_after_the_other() {
        assert_eq!(in_turn(None), Ok(()));
        assert_eq!(in_turn(Some(REPLACE_PAUSE)), Ok(()));
        let early = in_turn(Some(Duration::from_secs(1))).unwrap_err();
        assert_eq!(early, "a disk was replaced 1.0s ago; this one is at the earliest in 9.0s");
    }
}
