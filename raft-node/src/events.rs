//! What happened to this node lately, as a person would tell it: `GET /v1/events`. The newest are kept in memory; logs
//! keep the rest.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use raft_core::handover::HandoverStatus;
use raft_core::status::{Counters, Role, Status};
use raft_core::types::{LogId, NodeId, Term};

/// Events that are kept; the oldest go first.
pub const EVENTS_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The process began, or the node came to another phase of its life.
    Start,
    /// A campaign, a victory, a defeat.
    Election,
    /// Another leader, or none.
    Leader,
    /// The leadership is handed over, or was not.
    Handover,
    /// A snapshot was taken, sent or installed.
    Snapshot,
    /// A disk, a state or a peer is not as it should be, or is again.
    Fault,
    /// A peer was refused, or what it sent.
    Refusal,
    /// Certificates were replaced, or could not be.
    Certificate,
    /// The token file was replaced, or could not be.
    Access,
    /// Members come, go, or change their part. Whoever changes the membership tells of it by this kind.
    Membership,
}

impl EventKind {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Election => "election",
            Self::Leader => "leader",
            Self::Handover => "handover",
            Self::Snapshot => "snapshot",
            Self::Fault => "fault",
            Self::Refusal => "refusal",
            Self::Certificate => "certificate",
            Self::Access => "access",
            Self::Membership => "membership",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Counts from 1 in every process life; a gap means that events were dropped.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch by this node's clock.
    pub at_ms: u64,
    /// What it is about.
    pub kind: EventKind,
    /// What happened, in one sentence.
    pub text: String,
    /// The same for programs.
    pub fields: Vec<(&'static str, String)>,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tale {
    kind: EventKind,
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Tale {
    pub(crate) fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), fields: Vec::new() }
    }

    /// Adds a field for programs.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }
}

/// The newest events, in order.
#[derive(Debug, Default)]
pub(crate) struct Timeline(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    told: u64,
    events: VecDeque<NodeEvent>,
}

impl Timeline {
    pub(crate) fn tell(&self, tale: Tale) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.0.lock();
        kept.told += 1;
        let Tale { kind, text, fields } = tale;
        let number = kept.told;
        if kept.events.len() >= EVENTS_MAX {
            kept.events.pop_front();
        }
        kept.events.push_back(NodeEvent { number, at_ms, kind, text, fields });
    }

    /// The newest `limit` events, the oldest of them first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<NodeEvent> {
        let kept = self.0.lock();
        let skipped = kept.events.len().saturating_sub(limit);
        kept.events.iter().skip(skipped).cloned().collect()
    }
}

/// What of a replica makes an event when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    role: Role,
    term: Term,
    leader: Option<NodeId>,
    handover: Option<HandoverStatus>,
    fenced: bool,
    rebuilding: bool,
    drained: bool,
    lost: Option<LogId>,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    campaigns: u64,
    check_quorum: u64,
    stalls: u64,
    begun: u64,
    given_up: u64,
    taken: u64,
}

impl Seen {
    pub(crate) fn of(status: &Status) -> Self {
        let Counters {
            elections_started,
            check_quorum_step_downs,
            disk_stall_step_downs,
            handovers_begun,
            handovers_given_up,
            ..
        } = status.counters;
        Self {
            role: status.role,
            term: status.term,
            leader: status.leader,
            handover: status.handover,
            fenced: status.fenced,
            rebuilding: status.rebuilding,
            drained: status.drained,
            lost: status.lost,
            counts: Counts {
                campaigns: elections_started,
                check_quorum: check_quorum_step_downs,
                stalls: disk_stall_step_downs,
                begun: handovers_begun,
                given_up: handovers_given_up,
                taken: status.counters.handovers_taken,
            },
        }
    }
}

/// What happened between two looks at the replica of `own`. More may have than the looks show; what is counted is told.
pub(crate) fn tales(before: &Seen, now: &Seen, own: &str, name: impl Fn(NodeId) -> String) -> Vec<Tale> {
    let mut tales = Vec::new();
    if before == now {
        return tales;
    }
    tell_steps_down(before, now, own, &mut tales);
    tell_handover(before, now, own, &name, &mut tales);
    let term = now.term;
    if now.counts.campaigns > before.counts.campaigns {
        let why = if now.counts.taken > before.counts.taken {
            "since its leader hands over to it"
        } else {
            "since it heard of no leader"
        };
        tales.push(Tale::new(EventKind::Election, format!("{own} campaigns in term {term}, {why}")).with("term", term));
    }
    let led = before.role == Role::Leader && before.term == term;
    if now.role == Role::Leader && !led {
        let text = format!("{own} was elected leader of term {term}");
        tales.push(Tale::new(EventKind::Leader, text).with("leader", own).with("term", term));
    } else if let Some(leader) = now.leader.filter(|_| now.role != Role::Leader)
        && (before.leader, before.term) != (Some(leader), term)
    {
        let leader = name(leader);
        let text = format!("{own} follows {leader}, the leader of term {term}");
        tales.push(Tale::new(EventKind::Leader, text).with("leader", leader).with("term", term));
    } else if let (Some(leader), None) = (before.leader, now.leader) {
        let text = format!("{own} knows no leader any more; it was {} in term {}", name(leader), before.term);
        tales.push(Tale::new(EventKind::Leader, text).with("term", term));
    }
    tell_state(before, now, own, &mut tales);
    tales
}

fn tell_steps_down(before: &Seen, now: &Seen, own: &str, tales: &mut Vec<Tale>) {
    if now.counts.check_quorum > before.counts.check_quorum {
        let text = format!("{own} steps down: it heard from no quorum for an election timeout");
        tales.push(Tale::new(EventKind::Fault, text).with("term", before.term));
    }
    if now.counts.stalls > before.counts.stalls {
        let text = format!("{own} steps down: its disk stalls, and nobody took over");
        tales.push(Tale::new(EventKind::Fault, text).with("term", before.term));
    }
}

fn tell_handover(before: &Seen, now: &Seen, own: &str, name: &impl Fn(NodeId) -> String, tales: &mut Vec<Tale>) {
    if now.counts.begun > before.counts.begun {
        let tale = match now.handover {
            Some(HandoverStatus { to, cause, .. }) => {
                let (to, cause) = (name(to), cause.name());
                let text = format!("{own} hands the leadership of term {} over to {to} ({cause})", now.term);
                Tale::new(EventKind::Handover, text).with("to", to).with("cause", cause)
            }
            None => Tale::new(EventKind::Handover, format!("{own} hands the leadership of term {} over", before.term)),
        };
        tales.push(tale.with("term", before.term));
    }
    if now.counts.given_up > before.counts.given_up {
        let target = before.handover.map(|handover| name(handover.to));
        let who = target.as_deref().unwrap_or("nobody");
        let text = format!("the handover to {who} is given up; {own} leads on in term {}", now.term);
        tales.push(Tale::new(EventKind::Handover, text).with("to", who).with("term", now.term));
    }
    if before.drained != now.drained {
        let text = if now.drained {
            format!("{own} is drained: it is not to lead")
        } else {
            format!("{own} is drained no more: it may lead again")
        };
        tales.push(Tale::new(EventKind::Handover, text));
    }
}

fn tell_state(before: &Seen, now: &Seen, own: &str, tales: &mut Vec<Tale>) {
    let mut tell = |was: bool, is: bool, begins: String, ends: String| {
        if was != is {
            tales.push(Tale::new(EventKind::Fault, if is { begins } else { ends }));
        }
    };
    tell(
        before.fenced,
        now.fenced,
        format!("the state of {own} differs from the majority's: nobody reads it"),
        format!("the state of {own} is that of the others again"),
    );
    tell(
        before.rebuilding,
        now.rebuilding,
        format!("the state of {own} waits to be replaced by a snapshot"),
        format!("the state of {own} was replaced by a snapshot"),
    );
    let at = now.lost.or(before.lost).map(|lost| lost.index).unwrap_or_default();
    tell(
        before.lost.is_some(),
        now.lost.is_some(),
        format!("the disk of {own} has lost entries up to {at}: it gives no vote until it has them back"),
        format!("{own} has back what its disk had lost, up to {at}: it votes again"),
    );
}

/// A duration for people.
pub(crate) fn shown(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use raft_core::handover::Cause;

    use super::*;

    fn texts(before: &Seen, now: &Seen) -> Vec<String> {
        tales(before, now, "n1", |id| id.to_string()).into_iter().map(|tale| tale.text).collect()
    }

    #[test]
    fn a_change_is_told_once_and_no_change_never() {
        let alone = Seen::default();
        let elected = Seen {
            role: Role::Leader,
            term: Term(1),
            leader: Some(NodeId(1)),
            counts: Counts { campaigns: 1, ..Counts::default() },
            ..alone
        };
        let told = texts(&alone, &elected);
        assert_eq!(told, ["n1 campaigns in term 1, since it heard of no leader", "n1 was elected leader of term 1"]);
        assert!(texts(&elected, &elected).is_empty());
    }

    #[test]
    fn a_handover_is_told_from_both_ends() {
        let leads = Seen { role: Role::Leader, term: Term(3), leader: Some(NodeId(1)), ..Seen::default() };
        let begun = Seen {
            handover: Some(HandoverStatus { to: NodeId(2), cause: Cause::Drain, holds: true }),
            counts: Counts { begun: 1, ..leads.counts },
            ..leads
        };
        assert_eq!(texts(&leads, &begun), ["n1 hands the leadership of term 3 over to n2 (drain)"]);
        let follows = Seen { counts: begun.counts, leader: Some(NodeId(2)), term: Term(4), ..Seen::default() };
        assert_eq!(texts(&begun, &follows), ["n1 follows n2, the leader of term 4"]);
        let led_on = Seen { handover: None, counts: Counts { given_up: 1, ..begun.counts }, ..begun };
        assert_eq!(texts(&begun, &led_on), ["the handover to n2 is given up; n1 leads on in term 3"]);
        let wanted = Seen { counts: Counts { campaigns: 1, taken: 1, ..Counts::default() }, ..follows };
        let told = texts(&Seen { counts: Counts::default(), ..follows }, &wanted);
        assert_eq!(told, ["n1 campaigns in term 4, since its leader hands over to it"]);
    }

    #[test]
    fn faults_are_told_when_they_begin_and_when_they_end() {
        let sound = Seen::default();
        let fenced = Seen { fenced: true, ..sound };
        assert_eq!(texts(&sound, &fenced), ["the state of n1 differs from the majority's: nobody reads it"]);
        assert_eq!(texts(&fenced, &sound), ["the state of n1 is that of the others again"]);
    }

    #[test]
    fn the_oldest_go_first_and_numbers_show_it() {
        let timeline = Timeline::default();
        for nth in 0..=EVENTS_MAX {
            timeline.tell(Tale::new(EventKind::Start, format!("{nth}")));
        }
        let all = timeline.newest(usize::MAX);
        assert_eq!((all.len(), all[0].number, all[0].text.as_str()), (EVENTS_MAX, 2, "1"));
        let newest = timeline.newest(2);
        assert_eq!(newest.iter().map(|event| event.number).collect::<Vec<_>>(), [1024, 1025]);
    }
}
