//! Members that come and go in a script.

use std::time::Duration;

use bytes::Bytes;

use super::arguments::{Arguments, duration, node, number};
use super::node::Node;
use super::{Harness, ScriptError, show};
use crate::config::Config;
use crate::membership::{Change, Wanted, WantedMember};
use crate::replica::Input;
use crate::types::NodeId;

/// How long a caller waits for a change unless it is said.
const DEADLINE: Duration = Duration::from_secs(600);

impl Harness {
    /// `new`, `change`, `contexts`, `cancel`, `members`.
    pub(super) fn members(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "new" => {
                for id in arguments.nodes()? {
                    self.new_node(id)?;
                }
            }
            "change" => {
                let id = arguments.node()?;
                let wanted = wanted(arguments)?;
                self.ask(id, Change::Members(wanted), arguments)?;
            }
            "contexts" => {
                let id = arguments.node()?;
                let deadline = arguments.duration("deadline")?.unwrap_or(DEADLINE);
                let mut contexts = Vec::new();
                for (member, context) in arguments.keys_left() {
                    contexts.push((node(&member)?, Bytes::from(context)));
                }
                let deadline = self.now + deadline;
                let waiter = self.caller();
                self.step(id, Input::ChangeMembership { change: Change::Contexts(contexts), deadline, waiter })?;
            }
            "cancel" => {
                let id = arguments.node()?;
                self.ask(id, Change::Cancel, arguments)?;
            }
            "members" => {
                for id in self.named_or_all(arguments)? {
                    let now = self.now_of(id);
                    let status = self.running(id)?.status(now);
                    let fate = if status.configuration_committed { "committed" } else { "in force" };
                    let shown = show::configuration(&status.configuration);
                    let removed = status.removed.map_or_else(String::new, |by| format!(", removed by {by}"));
                    self.show(format!("{id} {shown}: set by {}, {fate}{removed}", status.configuration.index()));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn ask(&mut self, id: NodeId, change: Change, arguments: &mut Arguments) -> Result<(), ScriptError> {
        let deadline = self.now + arguments.duration("deadline")?.unwrap_or(DEADLINE);
        let waiter = self.caller();
        self.step(id, Input::ChangeMembership { change, deadline, waiter })
    }

    /// A node with a blank disk that knows who founded the cluster, and nothing else.
    fn new_node(&mut self, id: NodeId) -> Result<(), ScriptError> {
        if self.nodes.contains_key(&id) {
            return Err(format!("there is a node {id} already").into());
        }
        let known = self.nodes.values().next().ok_or("make a cluster first")?;
        let config = Config { id, life: 0, ..known.config.clone() };
        let node = Node::blank(config, self.now_of(id))?;
        self.nodes.insert(id, node);
        Ok(())
    }
}

/// `voters=1,2,3 learners=4,5+ force less_tolerance`: all members that are wanted; a `+` behind those that are promoted by
/// themselves.
fn wanted(arguments: &mut Arguments) -> Result<Wanted, ScriptError> {
    let (force, less_tolerance) = (arguments.flag("force"), arguments.flag("less_tolerance"));
    let voters = members(&arguments.key("voters").unwrap_or_default())?;
    let learners = members(&arguments.key("learners").unwrap_or_default())?;
    Ok(Wanted { voters, learners, less_tolerance, force })
}

fn members(text: &str) -> Result<Vec<WantedMember>, ScriptError> {
    let member = |word: &str| {
        let (id, promotes) = word.strip_suffix('+').map_or((word, false), |id| (id, true));
        Ok(WantedMember { promotes, ..WantedMember::known(node(id)?) })
    };
    text.split(',').filter(|word| !word.is_empty()).map(member).collect()
}

/// Settings of changes.
pub(super) fn setting(config: &mut Config, key: &str, value: &str) -> Result<bool, ScriptError> {
    match key {
        "members_max" => config.members_max = number(value)? as usize,
        "catch_up_entries_max" => config.catch_up_entries_max = number(value)?,
        "catch_up_time" => config.catch_up_time = duration(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}
