//! `/v1/cluster/members` and `/v1/cluster/change`: who belongs to the cluster. Any node takes these; one that does not
//! lead passes them on to the leader.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use raft_core::membership::Standing;
use raft_core::types::NodeName;
use serde::de::DeserializeOwned;

use crate::http::parameters::Parameters;
use crate::http::problem::{Code, Problem, WriteOutcome};
use crate::http::shared::{SERVED_BY, Shared, insert_name, json as json_response, millis, remaining};
use crate::http::view::{
    AddMemberRequest, ConfigurationView, MembersChangeView, MembershipView, PendingView, ReplaceMemberRequest,
    SetMembersRequest,
};
use crate::members::{MembersAsk, MembersError, MembersOptions, MembersProblem};
use crate::status::{MembershipStatus, NodeStatus, PendingMember};

/// The longest body: names and addresses of some thousand members.
const BODY_MAX: usize = 256 << 10;
/// What every change takes.
const PARAMETERS: [&str; 3] = ["timeout", "less_tolerance", "force"];

/// `POST /v1/cluster/members`.
pub(crate) async fn add(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (asked, AddMemberRequest { name, peer_address, api_address, voter }) = read(&shared, request).await?;
    let name = named(&name)?;
    carry_out(&shared, asked, MembersAsk::Add { name, peer_address, api_address, voter }).await
}

/// `PUT /v1/cluster/members`.
pub(crate) async fn set(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (asked, SetMembersRequest { voters, learners }) = read(&shared, request).await?;
    let names = |texts: Vec<String>| texts.iter().map(|text| named(text)).collect::<Result<Vec<_>, _>>();
    carry_out(&shared, asked, MembersAsk::Set { voters: names(voters)?, learners: names(learners)? }).await
}

/// `POST /v1/cluster/members/{name}/promote`.
pub(crate) async fn promote(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    carry_out(&shared, Asked::read(&shared, &uri)?, MembersAsk::Promote(named(&name)?)).await
}

/// `POST /v1/cluster/members/{name}/demote`.
pub(crate) async fn demote(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    carry_out(&shared, Asked::read(&shared, &uri)?, MembersAsk::Demote(named(&name)?)).await
}

/// `POST /v1/cluster/members/{name}/replace`.
pub(crate) async fn replace(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (asked, ReplaceMemberRequest { with }) = read(&shared, request).await?;
    carry_out(&shared, asked, MembersAsk::Replace { old: named(&name)?, new: named(&with)? }).await
}

/// `DELETE /v1/cluster/members/{name}`.
pub(crate) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    carry_out(&shared, Asked::read(&shared, &uri)?, MembersAsk::Remove(named(&name)?)).await
}

/// `DELETE /v1/cluster/change`.
pub(crate) async fn cancel(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    carry_out(&shared, Asked::read(&shared, &uri)?, MembersAsk::Cancel).await
}

/// How a change is asked for.
struct Asked {
    deadline: Instant,
    less_tolerance: bool,
    force: bool,
}

impl Asked {
    fn read(shared: &Shared, uri: &Uri) -> Result<Self, Problem> {
        let read = || {
            let parameters = Parameters::read(uri, &PARAMETERS)?;
            Ok(Self {
                deadline: Instant::now() + parameters.timeout(shared.limits())?,
                less_tolerance: parameters.switch("less_tolerance")?,
                force: parameters.switch("force")?,
            })
        };
        read().map_err(Problem::of_write)
    }
}

async fn read<T: DeserializeOwned>(shared: &Shared, request: Request) -> Result<(Asked, T), Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::read(shared, &parts.uri)?;
    let too_large = || Problem::new(Code::BatchTooLarge, format!("the body is longer than {BODY_MAX} bytes"));
    let (body, _permit) = shared.body(body, BODY_MAX, too_large, asked.deadline).await.map_err(Problem::of_write)?;
    let wanted = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(Code::MalformedBody, format!("the body is not what this route takes: {error}")).of_write()
    })?;
    Ok((asked, wanted))
}

fn named(text: &str) -> Result<NodeName, Problem> {
    if text.is_empty() {
        let detail = "a member has no name; write the name that its certificate has";
        return Err(Problem::new(Code::MalformedBody, detail).of_write());
    }
    Ok(NodeName::new(text))
}

async fn carry_out(shared: &Shared, asked: Asked, ask: MembersAsk) -> Result<Response, Problem> {
    let Asked { deadline, less_tolerance, force } = asked;
    let options = MembersOptions { timeout: remaining(deadline), less_tolerance, force };
    let done = shared.node.change_members(ask, options).await.map_err(problem)?;
    let view = MembersChangeView { changed: done.changed, index: done.index.0, pending: done.pending };
    let mut response = json_response(&view);
    insert_name(response.headers_mut(), SERVED_BY, &done.served_by);
    Ok(if done.pending { (StatusCode::ACCEPTED, response).into_response() } else { response })
}

pub(crate) fn problem(error: MembersError) -> Problem {
    let code = match error.problem {
        MembersProblem::Preflight => Code::PreflightRefused,
        MembersProblem::Running => Code::ChangeRunning,
        MembersProblem::UnknownMember => Code::MemberNotFound,
        MembersProblem::Refused => Code::MembersRefused,
        MembersProblem::CannotCancel => Code::CannotCancel,
        MembersProblem::Cancelled => Code::ChangeCancelled,
        MembersProblem::NoLeader => Code::NoLeader,
        MembersProblem::NotReady => Code::NotReady,
        MembersProblem::Overloaded => Code::Overloaded,
        MembersProblem::Deadline | MembersProblem::Unknown => Code::Deadline,
    };
    let outcome =
        if error.problem == MembersProblem::Unknown { WriteOutcome::Unknown } else { WriteOutcome::NotApplied };
    Problem::new(code, error.text).outcome(outcome)
}

/// A standing in JSON.
pub(crate) fn standing(standing: Standing) -> String {
    match standing {
        Standing::Outside => "outside",
        Standing::Learner => "learner",
        Standing::Voter => "voter",
    }
    .to_owned()
}

/// What `/v1/cluster` says of the membership.
pub(crate) fn membership_view(status: MembershipStatus) -> MembershipView {
    MembershipView {
        index: status.index.0,
        committed: status.committed,
        phase: status.phase,
        change: status.change.0,
        leads_to: status.leads_to,
        pending: status.pending.into_iter().map(pending_view).collect(),
    }
}

fn pending_view(pending: PendingMember) -> PendingView {
    PendingView {
        name: pending.name.to_string(),
        peer_address: pending.peer_address,
        api_address: pending.api_address,
        voter: pending.voter,
        wanted: pending.wanted,
        heard_ago_ms: pending.heard_ago.map(millis),
        reason: pending.reason,
    }
}

/// What `/v1/node` says of the configuration in force.
pub(crate) fn configuration_view(status: &NodeStatus) -> ConfigurationView {
    let configuration = &status.raft.configuration;
    let name = |id: &raft_core::types::NodeId| {
        let member = status.members.iter().find(|member| member.id == *id);
        member.map_or_else(|| id.to_string(), |member| member.name.to_string())
    };
    ConfigurationView {
        index: configuration.index().0,
        committed: status.raft.configuration_committed,
        phase: configuration.phase().name().to_owned(),
        change: configuration.change().0,
        voters: configuration.voters().iter().map(name).collect(),
        outgoing: configuration.outgoing().iter().map(name).collect(),
        learners: configuration.learners().map(|id| name(&id)).collect(),
    }
}
