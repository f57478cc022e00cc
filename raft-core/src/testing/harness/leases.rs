//! Read leases in a script, and the clocks that they rest on.

use std::fmt::Write;
use std::time::Duration;

use super::arguments::{Arguments, duration, number};
use super::{Harness, ScriptError};
use crate::config::Config;
use crate::event::Now;
use crate::lease::{LeaseSettings, LeaseStatus};
use crate::membership::Change;
use crate::status::{Role, Status};
use crate::testing::clock::nanos;
use crate::types::NodeId;

impl Harness {
    /// `leases`, `lease`, `sleep`, `rate`.
    pub(super) fn leases(&mut self, name: &str, arguments: &mut Arguments) -> Result<bool, ScriptError> {
        match name {
            "leases" => {
                let id = arguments.node()?;
                let mut settings = LeaseSettings { duration: Duration::ZERO, ..LeaseSettings::OFF };
                if !arguments.flag("off") {
                    settings.duration = duration(&arguments.word().ok_or("`leases` wants a duration, or `off`")?)?;
                }
                settings.drift_permille = small(arguments.number("drift")?.unwrap_or(100));
                settings.min_holders = small(arguments.number("holders")?.unwrap_or(0));
                self.ask(id, Change::Leases(settings), arguments)?;
            }
            "lease" => {
                for id in self.named_or_all(arguments)? {
                    let now = self.now_of(id);
                    let status = self.running(id)?.status(now);
                    let shown = lease(&status);
                    self.show(format!("{id} {shown}"));
                }
            }
            "sleep" => {
                let (id, time) = (arguments.node()?, arguments.word().ok_or("`sleep` wants a duration")?);
                let (now, time) = (nanos(self.now), duration(&time)?);
                self.node(id)?.clock.sleep(now, now + nanos(time));
                self.now += time;
            }
            "rate" => {
                let (id, now) = (arguments.node()?, nanos(self.now));
                let rate = number(&arguments.word().ok_or("`rate` wants thousandths of true time")?)?;
                self.node(id)?.clock.run_at(rate, now);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the clocks of a node say.
    pub(super) fn now_of(&self, id: NodeId) -> Now {
        self.nodes.get(&id).map_or_else(|| Now::at(self.now), |node| node.clock.read(nanos(self.now)))
    }
}

fn small(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// The seed of leases, as settings of a cluster.
pub(super) fn setting(config: &mut Config, key: &str, value: &str) -> Result<bool, ScriptError> {
    let mut seed = config.lease_seed.unwrap_or(LeaseSettings::OFF);
    match key {
        "lease" => seed.duration = duration(value)?,
        "lease_drift" => seed.drift_permille = small(number(value)?),
        "lease_holders" => seed.min_holders = small(number(value)?),
        _ => return Ok(false),
    }
    config.lease_seed = Some(seed);
    Ok(true)
}

/// `may read for 160ms; commits wait for n2 (220ms)`.
fn lease(status: &Status) -> String {
    let LeaseStatus { settings, valid, ends_in, holders, holds_back, predecessors_wait } = &status.leases;
    let mut text = match ends_in {
        _ if !settings.is_on() => "has leases off".to_owned(),
        None => "has no lease".to_owned(),
        Some(left) if *valid => format!("may read for {left:?}"),
        Some(left) => format!("has a lease for {left:?}, and may not read"),
    };
    if status.role == Role::Leader {
        let holders: Vec<String> =
            holders.iter().map(|holder| format!("{} ({:?})", holder.id, holder.ends_in)).collect();
        if !holders.is_empty() {
            let _ = write!(text, "; commits need {}", holders.join(", "));
        }
        if let Some(left) = predecessors_wait {
            let _ = write!(text, "; leases of earlier leaders may run for {left:?}");
        }
        if *holds_back {
            text += "; a quorum has what may not be committed";
        }
    }
    text
}
