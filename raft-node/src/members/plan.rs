//! From what people ask, by names, to what the core is asked for, by ids. Pure.

use std::collections::BTreeSet;

use raft_core::membership::{Change, ChangeRefusal, Configuration, Phase, Standing, Wanted, WantedMember};
use raft_core::types::{Index, NodeId, NodeName};

use super::ask::{MembersAsk, MembersError, MembersOptions, MembersProblem};
use super::context;
use super::known::Known;
use crate::events::{EventKind, Tale};
use crate::status::Member;

/// What to do for what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is so already.
    Nothing,
    /// The change that is under way leads there: wait for its end.
    Follow(Index),
    /// Have this done.
    Change(Change),
    /// Wait until this node is heard.
    Await(NodeName),
    /// Forget this node, which is no member.
    Forget(NodeName),
}

/// A node that is no member and was heard lately, as it would become one; its id is filled in.
pub(super) type Heard<'a> = &'a dyn Fn(&NodeName) -> Option<Member>;

/// Finds out what to do.
///
/// # Errors
/// When a name is that of nobody, or the members would be no set.
pub(super) fn plan(
    known: &Known,
    heard: Heard<'_>,
    ask: &MembersAsk,
    options: MembersOptions,
) -> Result<Plan, MembersError> {
    let mut wanted = Editing::new(known, heard);
    match ask {
        MembersAsk::Add { name, voter, .. } => match wanted.standing(name) {
            Some(Standing::Voter) => return Ok(Plan::Nothing),
            Some(_) if !voter || wanted.promotes(name) => return Ok(Plan::Nothing),
            Some(_) => wanted.set(name, Standing::Learner, true)?,
            None if heard(name).is_none() => return Ok(Plan::Await(name.clone())),
            None => wanted.set(name, Standing::Learner, *voter)?,
        },
        MembersAsk::Set { voters, learners } => {
            let all: Vec<&NodeName> = voters.iter().chain(learners).collect();
            if let Some(twice) = all.iter().enumerate().find(|(at, name)| all[..*at].contains(name)) {
                return Err(MembersError::new(MembersProblem::Refused, format!("{} is named twice", twice.1)));
            }
            let promoting: BTreeSet<&NodeName> = learners.iter().filter(|name| wanted.promotes(name)).collect();
            wanted.clear();
            for name in voters {
                wanted.set(name, Standing::Voter, false)?;
            }
            for name in learners {
                wanted.set(name, Standing::Learner, promoting.contains(name))?;
            }
        }
        MembersAsk::Promote(name) => wanted.set(name, Standing::Voter, false)?,
        // Who is a learner already stays one, and is not promoted any more.
        MembersAsk::Demote(name) => wanted.set(name, Standing::Learner, false)?,
        MembersAsk::Remove(name) if !wanted.remove(name) => {
            return Ok(match known.named(name) {
                // It leaves with the change that is under way.
                Some(_) => Plan::Follow(known.configuration.change()),
                None => Plan::Forget(name.clone()),
            });
        }
        MembersAsk::Remove(_) => {}
        MembersAsk::Replace { old, new } => {
            let standing = wanted.standing(old);
            if !wanted.remove(old) && wanted.standing(new).is_some() {
                return Ok(wanted.finish(options));
            }
            let standing = standing.ok_or_else(|| unknown(old))?;
            wanted.set(new, standing, false)?;
        }
        MembersAsk::Cancel => return Ok(Plan::Change(Change::Cancel)),
        MembersAsk::Leases(wishes) => {
            let present = known.configuration.lease_settings();
            let settings = wishes.over(present);
            let is_so = settings == present && known.configuration.has_lease_settings();
            return Ok(if is_so { Plan::Nothing } else { Plan::Change(Change::Leases(settings)) });
        }
    }
    Ok(wanted.finish(options))
}

/// The wanted members, being edited by names.
struct Editing<'a> {
    known: &'a Known,
    heard: Heard<'a>,
    wanted: Wanted,
}

impl<'a> Editing<'a> {
    fn new(known: &'a Known, heard: Heard<'a>) -> Self {
        Self { known, heard, wanted: Wanted::of(&known.configuration) }
    }

    /// The id of who stays or comes under this name.
    fn id(&self, name: &NodeName) -> Option<NodeId> {
        let named = |id: NodeId| self.known.member(id).is_some_and(|member| member.name == *name);
        self.wanted.voters.iter().chain(&self.wanted.learners).map(|member| member.id).rfind(|id| named(*id))
    }

    fn standing(&self, name: &NodeName) -> Option<Standing> {
        let id = self.id(name)?;
        let votes = self.wanted.voters.iter().any(|voter| voter.id == id);
        Some(if votes { Standing::Voter } else { Standing::Learner })
    }

    fn promotes(&self, name: &NodeName) -> bool {
        let id = self.id(name);
        self.wanted.learners.iter().any(|learner| Some(learner.id) == id && learner.promotes)
    }

    fn clear(&mut self) {
        (self.wanted.voters, self.wanted.learners) = (Vec::new(), Vec::new());
    }

    /// Whether there was somebody to remove.
    fn remove(&mut self, name: &NodeName) -> bool {
        let leaves: Vec<NodeId> = self
            .known
            .list
            .iter()
            .filter(|member| member.name == *name)
            .map(|member| member.id)
            .filter(|id| self.wanted.voters.iter().chain(&self.wanted.learners).any(|member| member.id == *id))
            .collect();
        self.wanted.voters.retain(|member| !leaves.contains(&member.id));
        self.wanted.learners.retain(|member| !leaves.contains(&member.id));
        !leaves.is_empty()
    }

    fn set(&mut self, name: &NodeName, standing: Standing, promotes: bool) -> Result<(), MembersError> {
        let present = self.known.named(name).map(|member| member.id);
        let mut member = match present.filter(|id| self.stays_possible(*id)) {
            Some(id) => WantedMember::known(id),
            None => {
                let newcomer = (self.heard)(name).ok_or_else(|| unknown(name))?;
                let id = self.next_id();
                WantedMember::with_context(id, context::encode(&Member { id, ..newcomer }))
            }
        };
        self.wanted.voters.retain(|other| other.id != member.id);
        self.wanted.learners.retain(|other| other.id != member.id);
        member.promotes = promotes && standing == Standing::Learner;
        match standing {
            Standing::Voter => self.wanted.voters.push(member),
            _ => self.wanted.learners.push(member),
        }
        Ok(())
    }

    /// Whether this seat is not about to be left by the change that is under way.
    fn stays_possible(&self, id: NodeId) -> bool {
        self.known.configuration.seat(id).is_some_and(|seat| seat.next != Standing::Outside)
    }

    fn next_id(&self) -> NodeId {
        let next = self.known.configuration.next_id();
        let newcomers = self.wanted.voters.iter().chain(&self.wanted.learners).filter(|member| member.id >= next);
        NodeId(next.0 + newcomers.count() as u64)
    }

    fn finish(self, options: MembersOptions) -> Plan {
        let Self { known, mut wanted, .. } = self;
        let configuration = &known.configuration;
        if same(&wanted, &Wanted::of(configuration)) {
            return match configuration.phase() {
                Phase::Settled => Plan::Nothing,
                Phase::CatchingUp | Phase::Joint => Plan::Follow(configuration.change()),
            };
        }
        (wanted.less_tolerance, wanted.force) = (options.less_tolerance, options.force);
        Plan::Change(Change::Members(wanted))
    }
}

/// Whether two sets of members are the same, in whatever order.
fn same(one: &Wanted, other: &Wanted) -> bool {
    let sorted = |wanted: &Wanted| {
        let mut voters: Vec<NodeId> = wanted.voters.iter().map(|member| member.id).collect();
        let mut learners: Vec<_> = wanted.learners.iter().map(|member| (member.id, member.promotes)).collect();
        voters.sort();
        learners.sort();
        (voters, learners)
    };
    sorted(one) == sorted(other)
}

fn unknown(name: &NodeName) -> MembersError {
    let text = format!(
        "there is no member {name}, and no node of that name has asked for admission; start it with a bootstrap list that \
         names a member, or look at GET /v1/cluster for the names"
    );
    MembersError::new(MembersProblem::UnknownMember, text)
}

/// A refusal of the core for people: its own words, with the names of the ids in them.
pub(super) fn refusal(known: &Known, why: &ChangeRefusal) -> MembersError {
    let problem = match why {
        ChangeRefusal::Preflight(_) => MembersProblem::Preflight,
        ChangeRefusal::Running { .. } => MembersProblem::Running,
        ChangeRefusal::NothingToCancel | ChangeRefusal::TooLateToCancel { .. } => MembersProblem::CannotCancel,
        ChangeRefusal::Cancelled { .. } => MembersProblem::Cancelled,
        ChangeRefusal::NoMember { .. } => MembersProblem::UnknownMember,
        ChangeRefusal::NotReady => MembersProblem::NotReady,
        ChangeRefusal::TooManyKept { .. } => MembersProblem::Overloaded,
        _ => MembersProblem::Refused,
    };
    let mut text = why.to_string();
    match why {
        ChangeRefusal::Preflight(_) => text.push_str(&names(&known.configuration, known, &why.to_string())),
        ChangeRefusal::Running { .. } => text.push_str(&format!("; {}", running(known))),
        _ => {}
    }
    MembersError::new(problem, text)
}

/// Who is who of those that a text names by their ids, in brackets, where ids are not the names.
fn names(configuration: &Configuration, known: &Known, text: &str) -> String {
    let words: Vec<&str> = text.split(|character: char| !character.is_alphanumeric()).collect();
    let named = configuration.seats().iter().filter(|seat| words.contains(&seat.id.to_string().as_str()));
    let shown = named.filter_map(|seat| match known.member(seat.id) {
        Some(member) if member.name.as_str() == seat.id.to_string() => None,
        Some(member) => Some(format!("{} is {}", seat.id, member.name)),
        None => Some(format!("{} has no name", seat.id)),
    });
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) }
}

/// The configuration in force, as it is told among the events.
pub(crate) fn tale(known: &Known) -> Tale {
    let configuration = &known.configuration;
    Tale::new(EventKind::Membership, describe(known))
        .with("what", "configuration")
        .with("index", configuration.index())
        .with("phase", configuration.phase().name())
        .with("committed", known.is_committed)
}

/// The configuration in force in one sentence.
fn describe(known: &Known) -> String {
    let configuration = &known.configuration;
    let names = |ids: &[NodeId]| ids.iter().map(|id| name_of(known, *id)).collect::<Vec<_>>().join(", ");
    let mut text = format!("entry {}: {} vote", configuration.index(), names(configuration.voters()));
    if configuration.is_joint() {
        text.push_str(&format!(" together with {}", names(configuration.outgoing())));
    }
    let learners: Vec<NodeId> = configuration.learners().collect();
    if !learners.is_empty() {
        text.push_str(&format!(", {} learn", names(&learners)));
    }
    let standing = if known.is_committed { "committed" } else { "not committed yet" };
    text + &format!(" ({}, {standing})", configuration.phase().name())
}

fn name_of(known: &Known, id: NodeId) -> String {
    known.member(id).map_or_else(|| id.to_string(), |member| member.name.to_string())
}

/// What the change that is under way leads to.
pub(crate) fn running(known: &Known) -> String {
    let name = |id: NodeId| name_of(known, id);
    let after = |standing: Standing| {
        let seats = known.configuration.seats().iter().filter(|seat| seat.next == standing);
        seats.map(|seat| name(seat.id)).collect::<Vec<_>>().join(", ")
    };
    let joining: Vec<String> = known.configuration.joining().map(name).collect();
    let mut text = format!("afterwards {} vote", after(Standing::Voter));
    if known.configuration.phase() == Phase::CatchingUp && !joining.is_empty() {
        text.push_str(&format!("; still to catch up: {}", joining.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft_core::membership::PreflightRefusal;
    use raft_core::types::Incarnation;

    use super::*;

    fn member(id: u64, name: &str) -> Member {
        let (peer_address, api_address) = (format!("{name}:1"), String::new());
        let (id, incarnation) = (NodeId(id), Incarnation(id.into()));
        Member { id, name: NodeName::new(name), incarnation, peer_address, api_address }
    }

    fn of(configuration: Configuration) -> Known {
        let members = super::super::Members::default();
        members.set(&Arc::new(configuration), true);
        Known::clone(&members.now())
    }

    fn founders(names: &[&str]) -> Configuration {
        let members = (1..).zip(names).map(|(id, name)| member(id, name));
        Configuration::founders(members.map(|member| (member.id, context::encode(&member))))
    }

    const OPTIONS: MembersOptions =
        MembersOptions { timeout: std::time::Duration::ZERO, less_tolerance: false, force: false };

    fn planned(known: &Known, ask: &MembersAsk) -> Result<Plan, MembersError> {
        let heard = |name: &NodeName| (name.as_str().starts_with("new")).then(|| member(0, name.as_str()));
        plan(known, &heard, ask, OPTIONS)
    }

    fn wanted(plan: Result<Plan, MembersError>) -> (Vec<u64>, Vec<(u64, bool)>) {
        let Ok(Plan::Change(Change::Members(wanted))) = plan else { panic!("no change of members: {plan:?}") };
        let voters = wanted.voters.iter().map(|member| member.id.0).collect();
        (voters, wanted.learners.iter().map(|member| (member.id.0, member.promotes)).collect())
    }

    fn name(name: &str) -> NodeName {
        NodeName::new(name)
    }

    fn add(who: &str, voter: bool) -> MembersAsk {
        let (peer_address, api_address) = (String::new(), String::new());
        MembersAsk::Add { name: name(who), peer_address, api_address, voter }
    }

    #[test]
    fn adding_is_proposed_once_it_is_heard_and_done_once() {
        let known = of(founders(&["n1", "n2"]));
        assert_eq!(planned(&known, &add("n9", true)), Ok(Plan::Await(name("n9"))));
        assert_eq!(wanted(planned(&known, &add("new3", true))), (vec![1, 2], vec![(3, true)]));
        assert_eq!(wanted(planned(&known, &add("new3", false))), (vec![1, 2], vec![(3, false)]));
        assert_eq!(planned(&known, &add("n2", true)), Ok(Plan::Nothing));
    }

    #[test]
    fn three_are_replaced_by_three_others_in_one_change() {
        let known = of(founders(&["n1", "n2", "n3"]));
        let ask = MembersAsk::Set { voters: ["new4", "new5", "new6"].map(name).to_vec(), learners: Vec::new() };
        assert_eq!(wanted(planned(&known, &ask)), (vec![4, 5, 6], Vec::new()));
        let ask = MembersAsk::Replace { old: name("n2"), new: name("new4") };
        assert_eq!(wanted(planned(&known, &ask)), (vec![1, 3, 4], Vec::new()));
    }

    #[test]
    fn one_is_promoted_demoted_and_removed_by_name() {
        let known = of(founders(&["n1", "n2", "n3"]));
        assert_eq!(planned(&known, &MembersAsk::Promote(name("n2"))), Ok(Plan::Nothing));
        assert_eq!(wanted(planned(&known, &MembersAsk::Demote(name("n2")))), (vec![1, 3], vec![(2, false)]));
        assert_eq!(wanted(planned(&known, &MembersAsk::Remove(name("n3")))), (vec![1, 2], Vec::new()));
        assert_eq!(planned(&known, &MembersAsk::Remove(name("n9"))), Ok(Plan::Forget(name("n9"))));
        let nobody = planned(&known, &MembersAsk::Promote(name("n9"))).map_err(|error| error.problem);
        assert_eq!(nobody, Err(MembersProblem::UnknownMember));
    }

    #[test]
    fn names_are_named_once() {
        let known = of(founders(&["n1", "n2"]));
        let ask = MembersAsk::Set { voters: vec![name("n1")], learners: vec![name("n1")] };
        assert_eq!(planned(&known, &ask).map_err(|error| error.problem), Err(MembersProblem::Refused));
        let ask = MembersAsk::Set { voters: ["n2", "n1"].map(name).to_vec(), learners: Vec::new() };
        assert_eq!(planned(&known, &ask), Ok(Plan::Nothing));
    }

    #[test]
    fn asking_again_for_what_is_under_way_waits_for_it() {
        let settled = founders(&["n1", "n2", "n3"]);
        let remove = MembersAsk::Remove(name("n3"));
        let Ok(Plan::Change(Change::Members(wanted))) = planned(&of(settled.clone()), &remove) else {
            panic!("no change")
        };
        let Ok(changing) = settled.changed(Index(7), &wanted, 64) else { panic!("no configuration") };
        assert!(planned(&of(changing.clone()), &MembersAsk::Demote(name("n2"))).is_ok());
        let ask = MembersAsk::Set { voters: ["n1", "n2"].map(name).to_vec(), learners: Vec::new() };
        assert_eq!(planned(&of(changing.clone()), &ask), Ok(Plan::Follow(Index(7))));
        // It is a member until then, and no stranger.
        assert_eq!(planned(&of(changing), &remove), Ok(Plan::Follow(Index(7))));
    }

    #[test]
    fn asking_again_for_a_replacement_that_is_under_way_waits_for_it() {
        let settled = founders(&["n1", "n2", "n3"]);
        let replace = MembersAsk::Replace { old: name("n3"), new: name("new4") };
        let Ok(Plan::Change(Change::Members(wanted))) = planned(&of(settled.clone()), &replace) else {
            panic!("no change")
        };
        let Ok(changing) = settled.changed(Index(7), &wanted, 64) else { panic!("no configuration") };
        assert_eq!(changing.phase(), Phase::CatchingUp);
        assert_eq!(planned(&of(changing), &replace), Ok(Plan::Follow(Index(7))));
    }

    #[test]
    fn ids_in_a_refusal_are_explained_where_they_are_not_the_names() {
        let known = of(founders(&["n1", "a", "b"]));
        let why = PreflightRefusal::OldQuorumSilent { silent: vec![NodeId(1), NodeId(3)], answering: 1, needed: 2 };
        let error = refusal(&known, &ChangeRefusal::Preflight(why.clone()));
        assert_eq!(error.problem, MembersProblem::Preflight);
        assert_eq!(error.text, format!("{} (n3 is b)", ChangeRefusal::Preflight(why)));
    }

    #[test]
    fn refusals_say_who_is_meant() {
        let known = of(founders(&["n1", "n2"]));
        let why = ChangeRefusal::Running { change: Index(3), phase: Phase::Joint };
        let error = refusal(&known, &why);
        assert_eq!(error.problem, MembersProblem::Running);
        assert!(error.text.starts_with(&why.to_string()), "{}", error.text);
        assert!(error.text.contains("afterwards n1, n2 vote"), "{}", error.text);
    }
}
