//! The bodies of requests and answers (`docs/http.md`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::client::error::{Error, ErrorKind};
use crate::{Change, Effect, Precondition};

/// A write's answer.
#[derive(Debug, Deserialize)]
pub(super) struct WriteBody {
    pub(super) revision: u64,
    pub(super) term: u64,
    pub(super) replayed: bool,
    pub(super) deleted: Option<bool>,
    pub(super) results: Option<Vec<ResultBody>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ResultBody {
    pub(super) existed: bool,
}

/// An error.
#[derive(Debug, Deserialize)]
pub(super) struct ProblemBody {
    pub(super) detail: String,
    pub(super) code: String,
    pub(super) leader: Option<String>,
    pub(super) retry_after_ms: Option<u64>,
    pub(super) outcome: Option<OutcomeBody>,
    pub(super) token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutcomeBody {
    NotApplied,
    Unknown,
}

#[derive(Serialize)]
struct BatchBody {
    operations: Vec<OperationBody>,
}

#[derive(Serialize)]
struct OperationBody {
    op: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    if_absent: bool,
}

/// The body of a batch.
pub(super) fn batch(changes: &[Change]) -> Result<Vec<u8>, Error> {
    let operations = changes.iter().map(operation).collect::<Result<_, _>>()?;
    serde_json::to_vec(&BatchBody { operations }).map_err(|error| Error::new(ErrorKind::Usage, error.to_string()))
}

fn operation(change: &Change) -> Result<OperationBody, Error> {
    let (op, value) = match &change.effect {
        Effect::Put(value) => ("put", Some(STANDARD.encode(value))),
        Effect::Delete => ("delete", None),
    };
    let if_absent = change.precondition == Precondition::Absent;
    if if_absent && op == "delete" {
        let detail = "a delete under Precondition::Absent changes nothing; leave it out";
        return Err(Error::new(ErrorKind::Usage, detail));
    }
    let if_match = match change.precondition {
        Precondition::Revision(revision) => Some(revision.0),
        Precondition::None | Precondition::Absent => None,
    };
    Ok(OperationBody { op, key: STANDARD.encode(&change.key), value, if_match, if_absent })
}

/// The path of a key: everything but letters, digits, `-`, `_` and `~` is escaped, and a `.` at its beginning.
pub(super) fn path(key: &[u8]) -> Result<String, Error> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    match key {
        b"" => return Err(Error::new(ErrorKind::Usage, "the key is empty; give it at least one byte")),
        b"." | b".." => {
            let detail = "the keys `.` and `..` cannot stand in a URL; write them in a batch";
            return Err(Error::new(ErrorKind::Usage, detail));
        }
        _ => {}
    }
    let mut path = String::from("/v1/kv/");
    for (position, byte) in key.iter().enumerate() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(byte) || (*byte == b'.' && position > 0) {
            path.push(char::from(*byte));
        } else {
            path.extend(['%', char::from(HEX[usize::from(byte >> 4)]), char::from(HEX[usize::from(byte & 15)])]);
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use raft_core::types::Index;

    use super::*;

    #[test]
    fn keys_are_escaped_as_the_server_reads_them() {
        assert_eq!(path(b"a/b c").unwrap(), "/v1/kv/a%2Fb%20c");
        assert_eq!(path(b".x.y").unwrap(), "/v1/kv/%2Ex.y");
        assert_eq!(path(&[0, 255]).unwrap(), "/v1/kv/%00%FF");
        for wrong in ["", ".", ".."] {
            assert_eq!(path(wrong.as_bytes()).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_batch_is_written_as_documented() {
        let changes = [
            Change::put("greeting", "hello").only_if(Precondition::Absent),
            Change::put("counter", "2").only_if(Precondition::Revision(Index(17))),
            Change::delete("old"),
        ];
        let body: serde_json::Value = serde_json::from_slice(&batch(&changes).unwrap()).unwrap();
        let documented = serde_json::json!({"operations": [
            {"op": "put", "key": "Z3JlZXRpbmc=", "value": "aGVsbG8=", "if_absent": true},
            {"op": "put", "key": "Y291bnRlcg==", "value": "Mg==", "if_match": 17},
            {"op": "delete", "key": "b2xk"},
        ]});
        assert_eq!(body, documented);
        assert!(batch(&[Change::delete("k").only_if(Precondition::Absent)]).is_err());
    }
}
