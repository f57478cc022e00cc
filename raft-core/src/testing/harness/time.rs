//! Time, and what goes wrong in it.

use std::time::Duration;

use super::arguments::{Arguments, duration, number};
use super::network::Filter;
use super::node::Node;
use super::{Harness, ScriptError};
use crate::replica::Input;
use crate::types::{Index, NodeId};

/// How far the clocks move at least when a timer is due again at once.
const SMALLEST_STEP: Duration = Duration::from_millis(1);

impl Harness {
    /// `elapse`, `tick`, `campaign`, `run`.
    pub(super) fn pass_time(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "elapse" => self.now += duration(&arguments.word().ok_or("`elapse` wants a duration")?)?,
            "tick" => {
                let mut named = Vec::new();
                for word in arguments.words() {
                    match duration(&word) {
                        Ok(time) => self.now += time,
                        Err(_) => named.push(super::arguments::node(&word)?),
                    }
                }
                let all = self.nodes.iter().filter(|(_, node)| node.replica.is_some()).map(|(id, _)| *id);
                let looking = if named.is_empty() { all.collect() } else { named };
                for id in looking {
                    self.step(id, Input::Tick)?;
                }
            }
            "campaign" => {
                let id = arguments.node()?;
                self.campaign(id)?;
            }
            "run" => {
                let end = self.now + duration(&arguments.word().ok_or("`run` wants a duration")?)?;
                self.run_until(end)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The clocks move until this node's election timer is over, and only this node looks.
    pub(super) fn campaign(&mut self, id: NodeId) -> Result<(), ScriptError> {
        let now = self.now_of(id);
        let before = self.running(id)?.status(now).counters.pre_votes_started;
        let due = self.running(id)?.raft().deadline();
        self.now = self.now.max(self.true_time(id, due));
        self.step(id, Input::Tick)?;
        let after = self.running(id)?.status(now).counters.pre_votes_started;
        if before == after {
            self.show(format!("{id} does not campaign"));
        }
        Ok(())
    }

    /// When the clock of a node shows `time`.
    fn true_time(&self, id: NodeId, time: Duration) -> Duration {
        self.nodes.get(&id).map_or(time, |node| Duration::from_nanos(node.clock.when(time)))
    }

    fn run_until(&mut self, end: Duration) -> Result<(), ScriptError> {
        loop {
            self.deliver(&Filter::default())?;
            let due = |(id, node): (&NodeId, &Node)| {
                Some((*id, Duration::from_nanos(node.clock.when(node.replica.as_ref()?.deadline()))))
            };
            let running = self.nodes.iter().filter_map(due);
            let Some((id, due)) = running.min_by_key(|(id, due)| (*due, *id)).filter(|(_, due)| *due <= end) else {
                self.now = self.now.max(end);
                return Ok(());
            };
            self.now = self.now.max(due);
            self.step(id, Input::Tick)?;
            let still_due = self.nodes.get(&id).and_then(|node| node.replica.as_ref()).map(|it| it.deadline());
            if still_due.is_some_and(|due| self.true_time(id, due) <= self.now) {
                self.now += SMALLEST_STEP;
            }
        }
    }

    /// Network, disks and processes.
    pub(super) fn disturb(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "partition" => {
                let apart = arguments.nodes()?;
                let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| !apart.contains(id)).collect();
                for (a, b) in apart.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
                    self.network.cut(a, b);
                }
            }
            "cut" => {
                let (a, b) = (arguments.node()?, arguments.node()?);
                self.network.cut(a, b);
            }
            "heal" => self.network.heal(),
            "crash" => self.crash(arguments.node()?)?,
            "restart" => {
                let id = arguments.node()?;
                let now = self.now_of(id);
                if self.node(id)?.replica.is_some() {
                    return Err(format!("{id} is running: `crash` it first").into());
                }
                self.node(id)?.start(now)?;
                self.step(id, Input::Tick)?;
            }
            "lose" => {
                let (id, keep) = (arguments.node()?, arguments.number("keep")?.ok_or("`lose` wants keep=")?);
                self.node(id)?.lose(Index(keep))?;
            }
            _ => return self.disturb_disk(name, arguments),
        }
        Ok(true)
    }

    fn disturb_disk(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        if !["stall", "resume", "persist", "tell", "fail", "hold", "apply", "flush"].contains(&name) {
            return Ok(false);
        }
        let id = arguments.node()?;
        match name {
            "stall" => self.node(id)?.disk_stalls = true,
            "resume" => {
                self.node(id)?.disk_stalls = false;
                self.work(id)?;
            }
            "persist" => {
                let told = !arguments.flag("untold");
                let count = match arguments.key("count").as_deref() {
                    Some("all") => self.node(id)?.writes.len() as u64,
                    Some(count) => number(count)?,
                    None => 1,
                };
                for _ in 0..count {
                    self.complete_write(id, told)?;
                }
            }
            "tell" => {
                let write = self.node(id)?.untold.take().ok_or_else(|| format!("{id} knows of all its writes"))?;
                self.step(id, Input::Persisted { write, result: Ok(()) })?;
            }
            "fail" => self.node(id)?.disk_fails = true,
            "hold" => self.node(id)?.applier_stalls = true,
            "apply" => {
                self.node(id)?.applier_stalls = false;
                self.work(id)?;
            }
            _ => {
                let node = self.node(id)?;
                node.flushed = node.state.len();
                let applied = Index(node.flushed as u64);
                if node.replica.is_some() {
                    self.step(id, Input::Applied { index: applied, durable: applied })?;
                }
            }
        }
        Ok(true)
    }

    fn crash(&mut self, id: NodeId) -> Result<(), ScriptError> {
        let waiting = self.running(id)?.waiting();
        self.node(id)?.crash();
        let callers = if waiting == 0 { String::new() } else { format!(", {waiting} callers without an answer") };
        self.show(format!("{id} is down{callers}"));
        Ok(())
    }
}
