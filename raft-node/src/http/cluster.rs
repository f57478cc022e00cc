//! `/v1/cluster`, `/v1/node`, `/v1/outcomes`, `/v1/limits`: what people and tools ask about the cluster itself.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use raft_core::ports::ReadError;
use raft_core::replica::Outcome;
use raft_core::types::{Entry, EntryKind, Index};
use raft_kv::{Command, Effect, Operation, Overview, Precondition, Query, Setting};
use serde_json::{Value, json};

use crate::handle::{Consistency, ReadAnswer};
use crate::http::leases;
use crate::http::marks::{marks_view, payload_view};
use crate::http::members::{configuration_view, membership_view, standing};
use crate::http::parameters::{Parameters, malformed};
use crate::http::problem::{Code, Problem};
use crate::http::reading;
use crate::http::shared::{Shared, json as json_response, millis, remaining};
use crate::http::token::Token;
use crate::http::view::{
    ClusterView, EntryView, LimitsView, LogView, MemberSnapshotView, MemberView, NodeView, OutcomeView, PeerView,
    SettingsView, SnapshotsView,
};
use crate::http::write::{Asked, carry_out};
use crate::status::{ClusterStatus, MemberStatus, NodeStatus, Phase};

/// Entries in an answer of `/v1/node/log` that names no `limit`.
const LOG_ENTRIES_DEFAULT: u64 = 100;
/// Bytes of keys and values that are shown of a command in `/v1/node/log`; the rest is cut.
const SHOWN_BYTES_MAX: usize = 256;
/// The longest body of `PUT /v1/cluster/settings`.
const SETTINGS_BODY_MAX: usize = 4096;

/// `GET /v1/cluster`.
pub(crate) async fn cluster(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let parameters = Parameters::read(&uri, &["timeout"])?;
    let timeout = parameters.timeout(shared.limits())?;
    Ok(json_response(&cluster_view(shared.node.cluster_status(timeout).await)))
}

fn cluster_view(status: ClusterStatus) -> ClusterView {
    ClusterView {
        cluster: status.cluster.map(|cluster| cluster.to_string()),
        healthy: status.healthy,
        reasons: status.reasons,
        failure_tolerance: status.failure_tolerance,
        leader: status.leader.map(|leader| leader.to_string()),
        term: status.term.0,
        commit_index: status.commit_index.0,
        last_index: status.last.index.0,
        answered_by: status.answered_by.to_string(),
        not_leader_view: status.not_leader_view,
        members: status.members.into_iter().map(member_view).collect(),
        membership: membership_view(status.membership),
    }
}

fn member_view(status: MemberStatus) -> MemberView {
    MemberView {
        name: status.member.name.to_string(),
        id: status.member.id.0,
        incarnation: status.member.incarnation.to_string(),
        pid: status.process_id,
        role: status.role.map(|role| role.name().into()),
        phase: status.phase,
        voter: status.voter,
        standing: standing(status.standing),
        next: standing(status.next),
        promotes: status.promotes,
        caught_up_ms: status.caught_up_for.map(millis),
        match_index: status.match_index.map(|index| index.0),
        applied_index: status.applied_index.map(|index| index.0),
        lag: status.lag_entries,
        last_contact_ms: status.last_contact.map(millis),
        version: status.version,
        storage_sync: status.storage_sync,
        fenced: status.fenced.map(|mark| mark.0),
        rebuilding: status.rebuilding,
        read_lease: status.read_lease,
        api_address: status.member.api_address,
        peer_address: status.member.peer_address,
        snapshot: status.snapshot.as_ref().map(MemberSnapshotView::of),
        unreachable: status.unreachable,
    }
}

/// `GET /v1/node`.
pub(crate) async fn node(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    Parameters::read(&uri, &[])?;
    Ok(json_response(&node_view(shared.node.status())))
}

fn node_view(status: NodeStatus) -> NodeView {
    let leader = status.leader().map(|leader| leader.name.to_string());
    let phase_detail = match &status.phase {
        Phase::Founding { waiting_for } => {
            waiting_for.iter().map(|(name, reason)| format!("waits for {name}, which {reason}")).collect()
        }
        Phase::Failed(why) => vec![why.clone()],
        _ => status.raft.removed.iter().map(|entry| format!("removed from the cluster by entry {entry}")).collect(),
    };
    let snapshots = SnapshotsView::of(&status);
    let configuration = configuration_view(&status);
    let read_lease = leases::lease_view(&status);
    let raft = &status.raft;
    NodeView {
        name: status.name.to_string(),
        id: status.id.map(|id| id.0),
        cluster: status.cluster.map(|cluster| cluster.to_string()),
        incarnation: status.incarnation.to_string(),
        start_count: status.start_count,
        phase: status.phase.name().into(),
        phase_detail,
        draining: status.draining,
        role: raft.role.name().into(),
        term: raft.term.0,
        leader,
        first_index: raft.first_index.0,
        log_bytes: raft.log_bytes,
        last_index: raft.last.index.0,
        last_term: raft.last.term.0,
        durable_index: raft.durable_index.0,
        commit_index: raft.commit_index.0,
        applied_index: raft.applied_index.0,
        applied_durable_index: raft.applied_durable_index.0,
        leader_contact_ms: raft.leader_contact.map(millis),
        broadcast_time_ms: raft.broadcast_time.map(|time| time.as_secs_f64() * 1000.0),
        caught_up: status.caught_up,
        storage_sync: status.storage_sync,
        disk_failed: status.disk_failed,
        marks: marks_view(status.marks),
        lost_index: raft.lost.map(|lost| lost.index.0),
        api_address: status.api_address,
        peer_address: status.peer_address,
        version: status.version.into(),
        pid: status.process_id,
        uptime_ms: millis(status.uptime),
        snapshots,
        configuration,
        read_lease,
        removed: raft.removed.map(|entry| entry.0),
        peers: status.peers.into_iter().map(|(name, peer)| peer_view(name.to_string(), peer)).collect(),
        refused: status.refusals.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

fn peer_view(name: String, peer: raft_core::ports::PeerStatus) -> PeerView {
    PeerView {
        name,
        connected: peer.connected,
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        sent_bytes: peer.sent_bytes,
        dropped: peer.dropped,
        last_error: peer.last_error,
    }
}

/// `GET /v1/node/log`.
pub(crate) async fn log(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let parameters = Parameters::read(&uri, &["from", "limit"])?;
    let limit = parameters.number("limit")?.unwrap_or(LOG_ENTRIES_DEFAULT);
    let max = shared.limits().log_entries_max;
    if limit == 0 || limit > max as u64 {
        return Err(malformed("limit", &format!("is {limit}"), &format!("set 1 to {max} (limits.log_entries_max)")));
    }
    let status = shared.node.status().raft;
    // Without a start the newest entries are shown.
    let newest = status.last.index.0.saturating_sub(limit - 1).max(status.first_index.0).max(1);
    let from = parameters.number("from")?.unwrap_or(newest);
    let entries = match shared.node.entries(Index(from), limit as usize).await {
        Ok(entries) => entries,
        Err(ReadError::Missing { .. }) if parameters.text("from").is_none() => Vec::new(),
        Err(error @ ReadError::Missing { .. }) => {
            let (first, last) = (status.first_index, status.last.index);
            let detail = format!("{error}; this node's log holds {first} to {last}");
            return Err(Problem::new(Code::EntryNotFound, detail));
        }
        Err(error) => return Err(Problem::new(Code::Internal, error.to_string())),
    };
    // Taken after the entries were read: what is committed by now is committed as shown.
    let status = shared.node.status().raft;
    Ok(json_response(&LogView {
        first_index: status.first_index.0,
        last_index: status.last.index.0,
        entries: entries
            .into_iter()
            .map(|entry| entry_view(entry, status.commit_index, status.applied_index))
            .collect(),
    }))
}

fn entry_view(entry: Entry, commit: Index, applied: Index) -> EntryView {
    EntryView {
        index: entry.id.index.0,
        term: entry.id.term.0,
        kind: match entry.kind {
            EntryKind::Noop => "noop".into(),
            EntryKind::Command => "command".into(),
            EntryKind::Mark => "mark".into(),
            EntryKind::Configuration => "configuration".into(),
            EntryKind::Unknown(code) => format!("unknown({code})"),
        },
        bytes: entry.payload.bytes().len() as u64,
        checksum: format!("{:08x}", entry.payload.checksum()),
        command: match entry.kind {
            EntryKind::Command => Some(command_view(&entry)),
            EntryKind::Mark => Some(payload_view(&entry)),
            EntryKind::Noop | EntryKind::Configuration | EntryKind::Unknown(_) => None,
        },
        committed: entry.id.index <= commit,
        applied: entry.id.index <= applied,
    }
}

fn command_view(entry: &Entry) -> Value {
    let command = match Command::decode(entry.payload.bytes().clone()) {
        Ok(command) => command,
        Err(error) => return json!({ "malformed": error.to_string() }),
    };
    let mut view = json!({ "stamp_ms": command.stamp_ms });
    if let Some(key) = &command.idempotency {
        view["idempotency_key"] = String::from_utf8_lossy(key.as_bytes()).into();
    }
    match command.operation {
        Operation::Write(changes) => view["changes"] = changes.iter().map(change_view).collect(),
        Operation::Settings(settings) => {
            view["settings"] =
                settings.iter().map(|(name, value)| json!({ "name": name.name(), "value": value })).collect();
        }
    }
    view
}

fn change_view(change: &raft_kv::Change) -> Value {
    let mut view = match &change.effect {
        Effect::Put(value) => {
            json!({ "op": "put", "value": shown(value), "value_bytes": value.len() })
        }
        Effect::Delete => json!({ "op": "delete" }),
    };
    view["key"] = shown(&change.key).into();
    match change.precondition {
        Precondition::None => {}
        Precondition::Revision(revision) => view["if_match"] = revision.0.into(),
        Precondition::Absent => view["if_absent"] = true.into(),
    }
    view
}

/// The beginning of some bytes, base64.
fn shown(bytes: &[u8]) -> String {
    STANDARD.encode(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)])
}

/// `GET /v1/outcomes/{token}`.
pub(crate) async fn outcome(
    State(shared): State<Arc<Shared>>,
    Path(token): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let timeout = Parameters::read(&uri, &["timeout"])?.timeout(shared.limits())?;
    let token: Token = token
        .parse()
        .map_err(|error: crate::http::token::TokenError| Problem::new(Code::MalformedToken, error.to_string()))?;
    let entry = shared.seen(token)?;
    let answer = shared.node.outcome(entry, timeout).await;
    Ok(json_response(&OutcomeView {
        outcome: match answer.outcome {
            Outcome::Applied => "applied",
            Outcome::NotApplied => "not_applied",
            Outcome::NotKnownYet => "not_known_yet",
        }
        .into(),
        revision: entry.index.0,
        term: entry.term.0,
        answered_by: answer.answered_by.to_string(),
    }))
}

/// The replicated settings as `consistency` allows to see them, with the position that they reflect.
async fn settings_view(
    shared: &Shared,
    consistency: Consistency,
    deadline: Instant,
) -> Result<(SettingsView, ReadAnswer), Problem> {
    let answer = shared.node.read(Query::Settings.encode(), consistency, remaining(deadline)).await;
    let answer = answer.map_err(|failure| reading::refused(shared, consistency, failure))?;
    let overview =
        Overview::decode(answer.bytes.clone()).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    let mut view: SettingsView =
        Setting::ALL.iter().map(|setting| (setting.name().to_owned(), overview.setting(*setting))).collect();
    // Part of the configuration, so what is applied here knows them.
    view.extend(leases::settings_view(&shared.node.status()));
    Ok((view, answer))
}

/// `GET /v1/cluster/settings`.
pub(crate) async fn settings(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::read(&uri, &["consistency", "timeout", "max_staleness"])?;
    let deadline = Instant::now() + parameters.timeout(shared.limits())?;
    let consistency = reading::consistency(&shared, &parameters, &headers)?;
    let (view, answer) = settings_view(&shared, consistency, deadline).await?;
    let mut response = json_response(&view);
    reading::set_headers(&shared, response.headers_mut(), consistency, &answer);
    Ok(response)
}

/// `PUT /v1/cluster/settings`.
pub(crate) async fn change_settings(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    put_settings(&shared, &parts.uri, &parts.headers, body).await.map_err(Problem::of_write)
}

async fn put_settings(
    shared: &Shared,
    uri: &Uri,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Problem> {
    let asked = Asked::read(shared, uri, headers)?;
    let too_large = || Problem::new(Code::BatchTooLarge, format!("the body is longer than {SETTINGS_BODY_MAX} bytes"));
    let (body, _permit) = shared.body(body, SETTINGS_BODY_MAX, too_large, asked.deadline).await?;
    let mut wanted: SettingsView = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(Code::MalformedBody, format!("the body is not an object of settings and numbers: {error}"))
    })?;
    if let Some(wishes) = leases::take_wishes(&mut wanted)? {
        return leases::change(shared, &asked, wishes).await;
    }
    let mut changes = Vec::with_capacity(wanted.len());
    for (name, value) in wanted {
        let setting = Setting::from_name(&name).ok_or_else(|| {
            let names = [&Setting::ALL.map(Setting::name)[..], &leases::SETTINGS].concat().join(", ");
            Problem::new(Code::SettingRefused, format!("`{name}` is no replicated setting; there are {names}"))
        })?;
        changes.push((setting, value));
    }
    let mut done = carry_out(shared, &asked, Command::settings(changes)).await?;
    done.view.results = None;
    Ok(done.respond(shared))
}

/// `GET /v1/limits`.
pub(crate) async fn limits(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let parameters = Parameters::read(&uri, &["timeout"])?;
    let deadline = Instant::now() + parameters.timeout(shared.limits())?;
    let limits = shared.limits();
    let time = |duration| Value::from(humantime::format_duration(duration).to_string());
    let node = [
        ("limits.key_bytes_max", limits.key_bytes_max.into()),
        ("limits.value_bytes_max", limits.value_bytes_max.into()),
        ("limits.batch_operations_max", limits.batch_operations_max.into()),
        ("limits.batch_bytes_max", limits.batch_bytes_max.into()),
        ("limits.requests_in_flight_max", limits.requests_in_flight_max.into()),
        ("limits.bytes_in_flight_max", limits.bytes_in_flight_max.into()),
        ("limits.connections_max", limits.connections_max.into()),
        ("limits.header_read_timeout", time(limits.header_read_timeout)),
        ("limits.request_timeout", time(limits.request_timeout)),
        ("limits.request_timeout_max", time(limits.request_timeout_max)),
        ("limits.log_entries_max", limits.log_entries_max.into()),
    ];
    // Local: the page has to answer without a leader too, and what it says of the cluster changes rarely.
    let (cluster, answer) = settings_view(&shared, Consistency::Local, deadline).await?;
    let node = node.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut response = json_response(&LimitsView { node, cluster });
    shared.set_position(response.headers_mut(), answer.applied);
    Ok(response)
}
