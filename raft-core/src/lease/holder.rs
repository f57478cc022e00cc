//! A follower's side of a read lease.

use std::time::Duration;

use super::LeaseSettings;
use crate::effect::Effect;
use crate::follower::Follower;
use crate::member::Member;
use crate::message::Message;
use crate::mutant::{Mutant, broken, unless};
use crate::types::{Index, NodeId};

/// Reads under a lease keep a follower asking for it for this many lease durations.
const WANTED_FOR: u32 = 10;

/// A lease that this follower was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// It ends then, on the clock that goes on while the machine sleeps.
    pub(crate) end: Duration,
    /// What was committed before it was given is in this log once it is verified up to here.
    named: Index,
}

/// A request that is out.
#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    /// When it was sent, on the clock that goes on while the machine sleeps: the lease counts from here.
    sent: Duration,
    /// It is given up and repeated then.
    until: Duration,
}

/// What a follower knows of its lease. It is gone with the leader and the term that it rests on, since the role is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holder {
    held: Option<Held>,
    asked: Option<Asked>,
    /// It asks for a lease, again and again, until then.
    wanted_until: Duration,
    /// No need to ask before.
    renew_at: Duration,
}

impl Holder {
    /// The lease, if it has not run out.
    pub(crate) fn running(&self, member: &Member) -> Option<Held> {
        self.held.filter(|held| member.boottime < held.end || broken(Mutant::LeaseUsedAfterEnd))
    }

    /// When the lease ends.
    #[cfg(feature = "testing")]
    pub(crate) fn end(&self) -> Option<Duration> {
        self.held.map(|held| held.end)
    }

    /// The clocks jumped, or this node is no member any more: back to reads that ask the leader, until it is renewed.
    pub(crate) fn drop_lease(&mut self) {
        (self.held, self.asked, self.renew_at) = (None, None, Duration::ZERO);
    }

    /// When to ask next, if it is to.
    pub(crate) fn due_at(&self, member: &Member) -> Option<Duration> {
        let asks = member.now < self.wanted_until && member.leases_in_use().is_on();
        asks.then(|| self.asked.map_or(self.renew_at, |asked| asked.until))
    }
}

impl Follower {
    /// The index at which a read that has begun may be served, if the lease is usable **now**: first this, then the last
    /// index of the log; the other way round an entry could be committed between the two. \[RL-READ\]
    pub(crate) fn read_under_lease(&mut self, member: &Member) -> Option<Index> {
        let wanted = member.leases_in_use().duration * WANTED_FOR;
        self.holder.wanted_until = self.holder.wanted_until.max(member.now + wanted);
        let named = self.holder.running(member).filter(|_| self.lease_is_usable(member))?.named;
        let index = unless(Mutant::LeaseReadAtCommit, member.log.last().index, member.commit_index);
        Some(unless(Mutant::LeaseReadAtNamedIndex, index, named))
    }

    /// Whether the lease has not run out, and this log holds all that was committed before it was given. \[RL-HOLDER\]
    pub(crate) fn lease_is_usable(&self, member: &Member) -> bool {
        let Some(held) = self.holder.running(member) else { return false };
        if broken(Mutant::LeaseOutlivesTerm) {
            return true;
        }
        let verified = self.verified >= held.named || broken(Mutant::LeaseBeforeNamedIndex);
        verified && self.leader.is_some() && member.may_hold_lease()
    }

    /// When a request for a lease is due, if one is.
    pub(crate) fn lease_due_at(&self, member: &Member) -> Option<Duration> {
        let may_ask = self.leader.is_some() && member.may_hold_lease() && !member.disk_stalls();
        self.holder.due_at(member).filter(|_| may_ask)
    }

    /// The leader wants this follower to hold a lease, whether anybody reads here or not.
    pub(crate) fn want_lease(&mut self, member: &Member) {
        self.holder.wanted_until = self.holder.wanted_until.max(member.now + member.config.election_timeout);
    }

    /// Asks for a lease, or for a new one well before the present one runs out. \[RL-RENEW\]
    pub(crate) fn ask_for_lease(&mut self, member: &mut Member, effects: &mut Vec<Effect>) {
        let due = self.lease_due_at(member).is_some_and(|due| member.now >= due);
        let Some(leader) = self.leader.filter(|_| due) else { return };
        let number = member.next_lease_number();
        let until = member.now + member.config.heartbeat_interval;
        self.holder.asked = Some(Asked { number, sent: member.boottime, until });
        member.say(leader, Message::LeaseRequest { number }, Index::ZERO, effects);
    }

    /// The leader lends `usable` of its time, from the sending of request `number` on; `named` is its last index.
    pub(crate) fn on_lease_grant(
        &mut self,
        member: &mut Member,
        from: NodeId,
        number: u64,
        usable: Duration,
        named: Index,
    ) {
        // One that answers an earlier request, of this process life or of another, counts from a time that is not known.
        let any = broken(Mutant::GrantOfEarlierLife);
        let Some(asked) = self.holder.asked.filter(|asked| asked.number == number || any) else { return };
        if self.leader != Some(from) || !member.may_hold_lease() {
            return;
        }
        let sent = unless(Mutant::FollowerLeaseFromReceipt, asked.sent, member.boottime);
        let end = sent + usable.min(LeaseSettings::LONGEST);
        // While the lease before it runs, all that was committed since is in this log or waits for it.
        let running = self.holder.running(member);
        let named = running.map_or(named, |held| held.named.min(named));
        self.holder.held = Some(Held { end: running.map_or(end, |held| held.end.max(end)), named });
        self.holder.asked = None;
        let left = end.saturating_sub(member.boottime);
        self.holder.renew_at = member.now + unless(Mutant::LeaseRenewedLate, left / 2, left);
        member.counters.leases_held += 1;
    }

    /// Entries of the leader were taken: one of them may leave this node out, and then the lease is over before they are
    /// acknowledged.
    pub(crate) fn drop_lease_if_left_out(&mut self, member: &Member) {
        if !member.may_hold_lease() {
            self.holder.drop_lease();
        }
    }
}
