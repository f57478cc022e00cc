//! Read leases as people and tools see them: their settings, and who holds one.

use std::time::Duration;

use axum::response::Response;
use raft_core::lease::LeaseSettings;

use crate::http::members::problem as members_problem;
use crate::http::problem::{Code, Problem, WriteOutcome};
use crate::http::shared::{SERVED_BY, Shared, insert_name, json as json_response, millis, remaining};
use crate::http::view::{LeaseHolderView, LeaseView, SettingsView, WriteView};
use crate::http::write::Asked;
use crate::members::{LeaseWishes, MembersAsk, MembersError, MembersOptions, MembersProblem};
use crate::status::NodeStatus;

const DURATION: &str = "read_lease.duration_ms";
const DRIFT: &str = "read_lease.clock_drift_percent";
const HOLDERS: &str = "read_lease.min_holders";
/// The names of the settings.
pub(crate) const SETTINGS: [&str; 3] = [DURATION, DRIFT, HOLDERS];

/// The settings as they are known here.
pub(crate) fn settings_view(status: &NodeStatus) -> SettingsView {
    let settings = status.raft.leases.settings;
    let values = [
        (DURATION, millis(settings.duration)),
        (DRIFT, u64::from(settings.drift_permille / 10)),
        (HOLDERS, settings.min_holders.into()),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Takes the settings of read leases out of what somebody wants; `None` when there are none among it.
///
/// # Errors
/// When a value is outside its range, or other settings stand beside them: those are an entry of another kind.
pub(crate) fn take_wishes(wanted: &mut SettingsView) -> Result<Option<LeaseWishes>, Problem> {
    let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let wishes = LeaseWishes {
        duration: wanted.remove(DURATION).map(Duration::from_millis),
        drift_permille: wanted.remove(DRIFT).map(|percent| small(percent.saturating_mul(10))),
        min_holders: wanted.remove(HOLDERS).map(small),
    };
    if wishes == LeaseWishes::default() {
        return Ok(None);
    }
    if let Some(other) = wanted.keys().next() {
        let detail = format!(
            "`{other}` stands beside read_lease.*, which are changed by an entry of their own; send two requests"
        );
        return Err(Problem::new(Code::SettingRefused, detail));
    }
    wishes.over(LeaseSettings::OFF).check().map_err(|error| {
        let detail = match error.field {
            "read_lease.duration" => format!("{DURATION} cannot be {}; set 0, or 10 to 60000", error.value),
            "read_lease.clock_drift_max" => format!("{DRIFT} cannot be {}; set 1 to 50", error.value / 10),
            _ => error.to_string(),
        };
        Problem::new(Code::SettingRefused, detail)
    })?;
    Ok(Some(wishes))
}

/// Has the settings changed.
pub(crate) async fn change(shared: &Shared, asked: &Asked, wishes: LeaseWishes) -> Result<Response, Problem> {
    let options = MembersOptions { timeout: remaining(asked.deadline), less_tolerance: false, force: false };
    let done = shared.node.change_members(MembersAsk::Leases(wishes), options).await.map_err(problem)?;
    let term = shared.node.position().term.0;
    let view = WriteView { revision: done.index.0, term, replayed: !done.changed, deleted: None, results: None };
    let mut response = json_response(&view);
    insert_name(response.headers_mut(), SERVED_BY, &done.served_by);
    Ok(response)
}

/// Why they are not changed.
fn problem(error: MembersError) -> Problem {
    match error.problem {
        MembersProblem::Refused => Problem::new(Code::SettingRefused, error.text).outcome(WriteOutcome::NotApplied),
        _ => members_problem(error),
    }
}

/// What `/v1/node` says of them.
pub(crate) fn lease_view(status: &NodeStatus) -> LeaseView {
    let leases = &status.raft.leases;
    let name = |id: raft_core::types::NodeId| {
        let member = status.members.iter().find(|member| member.id == id);
        member.map_or_else(|| id.to_string(), |member| member.name.to_string())
    };
    let holder = |holder: &raft_core::lease::HolderStatus| LeaseHolderView {
        name: name(holder.id),
        ends_in_ms: millis(holder.ends_in),
    };
    LeaseView {
        valid: leases.valid,
        ends_in_ms: leases.ends_in.map(millis),
        holders: leases.holders.iter().map(holder).collect(),
        holds_back: leases.holds_back,
        predecessors_wait_ms: leases.predecessors_wait.map(millis),
        held_back_ms: status.raft.counters.lease_held_back_for.as_secs_f64() * 1000.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    fn wanted(settings: &[(&str, u64)]) -> SettingsView {
        settings.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn wishes_are_taken_out_and_checked() {
        let taken =
            |settings: &[(&str, u64)]| take_wishes(&mut wanted(settings)).map_err(|problem| problem.body().detail);
        assert_eq!(taken(&[("mark.entries", 7)]).unwrap(), None);
        let duration = Some(Duration::from_millis(50));
        assert_eq!(taken(&[(DURATION, 50)]).unwrap(), Some(LeaseWishes { duration, ..LeaseWishes::default() }));
        for (settings, named) in [
            (&[(DURATION, 9)][..], "0, or 10 to 60000"),
            (&[(DURATION, 60_001)], "0, or 10 to 60000"),
            (&[(DRIFT, 0)], "1 to 50"),
            (&[(DRIFT, 51)], "1 to 50"),
            (&[(HOLDERS, 17)], "0 to 16"),
            (&[(HOLDERS, 1 << 40)], "0 to 16"),
            (&[(HOLDERS, 1), ("mark.entries", 7)], "`mark.entries` stands beside"),
        ] {
            let detail = taken(settings).unwrap_err();
            assert!(detail.contains(named), "{settings:?}: {detail}");
        }
    }
}
