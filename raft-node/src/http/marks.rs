//! `/v1/cluster/mark`, `/v1/node/rebuild`, and what is shown of marks and fences elsewhere.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use raft_core::types::Entry;
use serde_json::{Value, json};

use crate::handle::WriteOptions;
use crate::http::parameters::Parameters;
use crate::http::problem::{Code, Problem};
use crate::http::shared::{SERVED_BY, Shared, insert_name, json as json_response, remaining};
use crate::http::view::{FenceView, MarkView, MarksView, MismatchView, RebuildView};
use crate::http::write::{Asked, problem_of};
use crate::marks::{Fence, MarkPayload, MarkStatus, RebuildRefused, hex};

/// `POST /v1/cluster/mark`.
pub(crate) async fn mark(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let asked = Asked::read(&shared, &parts.uri, &parts.headers).map_err(Problem::of_write)?;
    let options = WriteOptions { timeout: remaining(asked.deadline), forward: asked.forward, idempotent: true };
    let made = shared.node.mark(options).await.map_err(|error| problem_of(&shared, &asked, error))?;
    let mut response = json_response(&MarkView { index: made.id.index.0, term: made.id.term.0 });
    shared.set_position(response.headers_mut(), made.id);
    insert_name(response.headers_mut(), SERVED_BY, &made.served_by);
    Ok(response)
}

/// `POST /v1/node/rebuild`.
pub(crate) async fn rebuild(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let force = Parameters::read(&uri, &["force"])?.switch("force")?;
    match shared.node.rebuild(force) {
        Ok(()) => Ok((StatusCode::ACCEPTED, json_response(&RebuildView { rebuilding: true })).into_response()),
        Err(refused) => {
            let code = match refused {
                RebuildRefused::NotReady(_) => Code::NotReady,
                RebuildRefused::NotFenced | RebuildRefused::Alone => Code::RebuildRefused,
            };
            Err(Problem::new(code, refused.to_string()))
        }
    }
}

/// What `/v1/node` says of marks.
pub(crate) fn marks_view(status: MarkStatus) -> MarksView {
    MarksView {
        newest: status.newest.map(|mark| mark.0),
        rebuilding: status.rebuilding,
        fenced: status.fence.map(fence_view),
        mismatch: status.mismatch.map(|found| MismatchView {
            mark: found.mark.0,
            members: found.members.iter().map(ToString::to_string).collect(),
            majority: found.majority,
        }),
    }
}

fn fence_view(fence: Fence) -> FenceView {
    FenceView {
        mark: fence.mark.0,
        own_digest: hex(&fence.own),
        majority_digest: hex(&fence.majority),
        found_ms: fence.found_ms,
    }
}

/// What a mark carries, for `/v1/node/log`.
pub(crate) fn payload_view(entry: &Entry) -> Value {
    match MarkPayload::decode(entry.payload.bytes()) {
        Err(error) => json!({ "malformed": error.to_string() }),
        Ok(payload) => json!({
            "previous": payload.previous.0,
            "stamp_ms": payload.stamp_ms,
            "digests": payload
                .digests
                .iter()
                .map(|(node, digest)| json!({ "id": node.0, "digest": hex(digest) }))
                .collect::<Value>(),
            "acknowledged": payload
                .acknowledged
                .iter()
                .map(|(node, index)| json!({ "id": node.0, "index": index.0 }))
                .collect::<Value>(),
        }),
    }
}
