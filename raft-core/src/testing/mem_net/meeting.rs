//! Who may have a connection with whom, as a handshake decides it.

use super::{Net, Node};
use crate::ports::Peer;
use crate::types::NodeName;

impl Net {
    /// Whether two nodes can have a connection.
    pub(super) fn judge(&mut self, one: &NodeName, other: &NodeName) -> Result<(), &'static str> {
        let ends = (self.nodes.get(one), self.nodes.get(other));
        let (Some(first), Some(second)) = ends else { return Err("no such node") };
        if first.inbound.is_none() || second.inbound.is_none() || first.local.is_none() || second.local.is_none() {
            return Err("not running");
        }
        if self.cuts.contains(&(one.clone(), other.clone())) {
            return Err("the link is cut");
        }
        // A guest knows its host, and only its host decides whether it lets it in.
        let verdicts = [(one, first.accepts(second)), (other, second.accepts(first))];
        let lets_in = |host: &Node, verdict: &Result<(), &str>| {
            host.admits_guests && matches!(verdict, Err("unknown_name" | "other_incarnation" | "other_id"))
        };
        if (verdicts[0].1.is_ok() && lets_in(second, &verdicts[1].1) && first.may_visit(second))
            || (verdicts[1].1.is_ok() && lets_in(first, &verdicts[0].1) && second.may_visit(first))
        {
            return Ok(());
        }
        for (name, verdict) in verdicts {
            if let Err(why) = verdict {
                let node = self.nodes.get_mut(name);
                *node.expect("both ends were found above").refusals.entry(why).or_default() += 1;
                return Err(why);
            }
        }
        Ok(())
    }

    /// The receiver of a message, when there is a connection on which messages may go.
    pub(super) fn messages_to(&self, name: &NodeName, peer: &Peer) -> Result<(), &'static str> {
        if !self.links.contains(&(name.clone(), peer.name.clone())) {
            return Err("not connected");
        }
        let members = [name, &peer.name].map(|name| self.nodes.get(name).and_then(|node| node.local.as_ref()));
        let [Some(local), Some(remote)] = members else { return Err("not connected") };
        let founded = local.cluster.is_some() && local.cluster == remote.cluster;
        if !founded || local.id.is_none() || remote.id != peer.id {
            return Err("a blank node can only ask and be asked");
        }
        let receiver = self.nodes.get(&peer.name);
        let knows = |known: &Peer| known.name == *name && known.id == local.id;
        if !receiver.is_some_and(|receiver| receiver.peers.iter().any(knows)) {
            return Err("a guest can only ask");
        }
        Ok(())
    }
}

impl Node {
    /// Whether this node takes a connection with that one. Both sides ask, as in a handshake.
    fn accepts(&self, remote: &Self) -> Result<(), &'static str> {
        let (Some(local), Some(found)) = (&self.local, &remote.local) else { return Err("not running") };
        let Some(known) = self.peers.iter().find(|peer| peer.name == found.name) else { return Err("unknown_name") };
        if known.incarnation.is_some_and(|incarnation| incarnation != found.incarnation) {
            return Err("other_incarnation");
        }
        if local.cluster.zip(found.cluster).is_some_and(|(ours, theirs)| ours != theirs) {
            return Err("other_cluster");
        }
        if known.id.zip(found.id).is_some_and(|(known, found)| known != found) {
            return Err("other_id");
        }
        Ok(())
    }

    /// Whether this node may be a guest there: it is of no cluster or of the same one.
    fn may_visit(&self, host: &Self) -> bool {
        let cluster = |node: &Self| node.local.as_ref().and_then(|local| local.cluster);
        cluster(self).is_none_or(|own| Some(own) == cluster(host))
    }
}
