//! Making a cluster, and what can be seen of one.

use std::time::Duration;

use bytes::Bytes;

use super::arguments::{Arguments, duration, log_id, node, number};
use super::network::Filter;
use super::node::Node;
use super::{Harness, ScriptError, leases, members, raw, show};
use crate::config::{Config, LogRepair};
use crate::handover::Priority;
use crate::membership::Configuration;
use crate::replica::{Input, Outcome, Proposal};
use crate::types::{HardState, Index, NodeId, Payload, Term};

impl Harness {
    /// `cluster`, `given`.
    pub(super) fn set_up(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "cluster" => self.cluster(arguments)?,
            "given" => self.given(arguments)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn cluster(&mut self, arguments: &mut Arguments) -> Result<(), ScriptError> {
        let count = arguments.number("nodes")?.ok_or("`cluster` wants nodes=")?;
        let leader = arguments.node_key("leader")?;
        let founders = Configuration::new((1..=count).map(NodeId));
        let mut config = Config::new(NodeId(1), founders);
        let priorities = arguments.key("priorities").unwrap_or_default();
        let priorities: Vec<u64> =
            priorities.split('/').filter(|word| !word.is_empty()).map(number).collect::<Result<_, _>>()?;
        settings(&mut config, arguments)?;
        *self = Self::new();
        for id in (1..=count).map(NodeId) {
            let wanted = usize::try_from(id.0 - 1).ok().and_then(|at| priorities.get(at));
            let priority =
                wanted.map_or(config.priority, |priority| Priority(u8::try_from(*priority).unwrap_or(u8::MAX)));
            let node = Node::blank(Config { id, priority, ..config.clone() }, self.now_of(id))?;
            self.nodes.insert(id, node);
        }
        if let Some(leader) = leader {
            self.campaign(leader)?;
            self.deliver(&Filter::default())?;
            // Two rounds: the others learn what is committed, and the leader that they live.
            for _ in 0..2 {
                self.now += config.heartbeat_interval;
                self.step(leader, Input::Tick)?;
                self.deliver(&Filter::default())?;
            }
        }
        self.shown.clear();
        Ok(())
    }

    fn given(&mut self, arguments: &mut Arguments) -> Result<(), ScriptError> {
        let id = arguments.node()?;
        let vote = arguments.key("vote").map(|text| node(&text)).transpose()?;
        let term = arguments.number("term")?.map(Term);
        let commit = Index(arguments.number("commit")?.unwrap_or_default());
        let lost = arguments.log_id("lost")?;
        let entries = raw::entries(&arguments.words().join(" "))?;
        let term = term.or_else(|| entries.last().map(|entry| entry.id.term)).unwrap_or_default();
        let now = self.now_of(id);
        let node = self.node(id)?;
        node.crash();
        node.reformat(HardState { term, vote }, entries, commit)?;
        node.lost = lost;
        node.start(now)?;
        self.step(id, Input::Tick)?;
        self.shown.clear();
        Ok(())
    }

    pub(super) fn propose(&mut self, arguments: &mut Arguments) -> Result<(), ScriptError> {
        let id = arguments.node()?;
        let deadline = self.now + arguments.duration("deadline")?.unwrap_or(Duration::from_secs(60));
        let count = arguments.number("count")?.unwrap_or(1);
        let bytes = arguments.number("bytes")?.unwrap_or_default() as usize;
        let commands = arguments.words();
        let mut proposals = Vec::new();
        for command in (0..count).flat_map(|_| commands.iter()) {
            let mut command = command.clone().into_bytes();
            command.resize(command.len().max(bytes), b'.');
            let payload = Payload::new(Bytes::from(command));
            proposals.push(Proposal { payload, deadline, waiter: self.caller() });
        }
        self.step(id, Input::Propose(proposals))
    }

    /// `status`, `log`, `state`, `outcome`, `network`, `counters`.
    pub(super) fn look(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "status" => {
                let with_peers = arguments.flag("peers");
                for id in self.named_or_all(arguments)? {
                    let now = self.now_of(id);
                    let shown = match &self.node(id)?.replica {
                        Some(replica) => show::status(&replica.status(now), with_peers),
                        None => format!("{id} down"),
                    };
                    self.show(shown);
                }
            }
            "log" | "state" => {
                for id in self.named_or_all(arguments)? {
                    let node = self.node(id)?;
                    let entries = if name == "log" { node.log() } else { node.state.clone() };
                    let shown: Vec<String> = entries.iter().map(show::entry).collect();
                    let shown = match entries.as_slice() {
                        [] => "nothing".into(),
                        [first, .., last] if entries.len() > 20 => format!("{} .. {}", first.id, last.id),
                        _ => shown.join(", "),
                    };
                    self.show(format!("{id} {name}: {shown}"));
                }
            }
            "outcome" => {
                let id = arguments.node()?;
                let token = log_id(&arguments.word().ok_or("`outcome` wants a log id")?)?;
                let outcome = match self.running(id)?.outcome(token) {
                    Outcome::Applied => "applied",
                    Outcome::NotApplied => "not applied, and never will be",
                    Outcome::NotKnownYet => "not known yet",
                };
                self.show(format!("{id}: {token} {outcome}"));
            }
            "network" => {
                for message in self.network.waiting.clone() {
                    let text = self.message(&message);
                    self.show(text);
                }
            }
            "counters" => self.counters(arguments)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn counters(&mut self, arguments: &mut Arguments) -> Result<(), ScriptError> {
        for id in self.named_or_all(arguments)? {
            let now = self.now_of(id);
            let counters = self.running(id)?.status(now).counters;
            let counted = [
                ("elections_started", counters.elections_started),
                ("elections_won", counters.elections_won),
                ("pre_votes_started", counters.pre_votes_started),
                ("suffixes_fetched", counters.suffixes_fetched),
                ("leader_changes", counters.leader_changes),
                ("check_quorum_step_downs", counters.check_quorum_step_downs),
                ("disk_stall_step_downs", counters.disk_stall_step_downs),
                ("changes_rolled_back", counters.changes_rolled_back),
                ("handovers_begun", counters.handovers_begun),
                ("handovers_given_up", counters.handovers_given_up),
                ("handovers_taken", counters.handovers_taken),
                ("append_rejections", counters.append_rejections),
                ("messages_refused", counters.messages_refused),
                ("leases_held", counters.leases_held),
                ("leases_granted", counters.leases_granted),
                ("lease_requests_passed_over", counters.lease_requests_passed_over),
                ("lease_reads", counters.lease_reads),
                ("lease_holds_back", counters.lease_holds_back),
                ("clock_jumps", counters.clock_jumps),
            ];
            let counted = counted.iter().filter(|(_, count)| *count > 0);
            let shown: String = counted.map(|(counter, count)| format!(" {counter}={count}")).collect();
            self.show(format!("{id}{shown}"));
        }
        Ok(())
    }

    pub(super) fn named_or_all(&self, arguments: &mut Arguments) -> Result<Vec<NodeId>, ScriptError> {
        let named = arguments.nodes()?;
        Ok(if named.is_empty() { self.nodes.keys().copied().collect() } else { named })
    }
}

fn settings(config: &mut Config, arguments: &mut Arguments) -> Result<(), ScriptError> {
    for (key, value) in arguments.keys_left() {
        match key.as_str() {
            "seed" => config.seed = number(&value)?,
            "append_bytes_max" => config.append_bytes_max = number(&value)?,
            "append_entries_max" => config.append_entries_max = number(&value)?,
            "inflight_appends_max" => config.inflight_appends_max = number(&value)? as usize,
            "inflight_entries_max" => config.inflight_entries_max = number(&value)?,
            "inflight_bytes_max" => config.inflight_bytes_max = number(&value)?,
            "uncommitted_bytes_max" => config.uncommitted_bytes_max = number(&value)?,
            "applying_bytes_max" => config.applying_bytes_max = number(&value)?,
            "reads_pending_max" => config.reads_pending_max = number(&value)? as usize,
            "retain_entries_max" => config.retain_entries_max = number(&value)?,
            "retain_bytes_max" => config.retain_bytes_max = number(&value)?,
            "cache_bytes_max" => config.cache_bytes_max = number(&value)?,
            "disk_stall_timeout" => config.disk_stall_timeout = duration(&value)?,
            "log_repair" if value == "step_back" => config.log_repair = LogRepair::StepBack,
            "log_repair" if value == "term_hints" => config.log_repair = LogRepair::TermHints,
            _ if members::setting(config, &key, &value)? => {}
            _ if leases::setting(config, &key, &value)? => {}
            _ => return Err(format!("`cluster` does not know the setting {key}={value}").into()),
        }
    }
    Ok(())
}
