//! `GET /v1/events`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use crate::events::{EVENTS_MAX, NodeEvent};
use crate::http::parameters::{Parameters, malformed};
use crate::http::problem::Problem;
use crate::http::shared::{Shared, json};

/// Events in an answer that names no `limit`.
const EVENTS_DEFAULT: u64 = 100;

/// The answer of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsView {
    /// The node that tells.
    pub node: String,
    /// The newest events, the oldest of them first.
    pub events: Vec<EventView>,
}

/// One event in [`EventsView`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Counts from 1 in every process life.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch by the node's clock.
    pub at_ms: u64,
    /// `start`, `election`, `leader`, `handover`, `snapshot`, `fault`, `refusal` or `membership`.
    pub kind: String,
    /// What happened, in one sentence.
    pub text: String,
    /// The same for programs.
    pub fields: BTreeMap<String, String>,
}

pub(crate) async fn events(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let limit = Parameters::read(&uri, &["limit"])?.number("limit")?.unwrap_or(EVENTS_DEFAULT);
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=EVENTS_MAX).contains(limit)).ok_or_else(|| {
        malformed("limit", &format!("is {limit}"), &format!("set 1 to {EVENTS_MAX}; more are not kept"))
    })?;
    let events = shared.node.events(limit).into_iter().map(view).collect();
    Ok(json(&EventsView { node: shared.name.to_string(), events }))
}

fn view(event: NodeEvent) -> EventView {
    let NodeEvent { number, at_ms, kind, text, fields } = event;
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    EventView { number, at_ms, kind: kind.name().into(), text, fields }
}
