//! Writes that are passed on, and what became of them, as bytes.

use std::borrow::Cow;

use super::{ForwardedWrite, PassedWrite, WireError, log_id, millis, position, wire};
use crate::handle::{Doubt, Refusal};

pub(super) fn wire_write(write: &PassedWrite) -> wire::Write {
    wire::Write { command: write.command.clone(), timeout_millis: millis(write.timeout) }
}

pub(super) fn encode_ended(ended: &ForwardedWrite) -> wire::Told {
    match ended {
        ForwardedWrite::Applied { id, answer } => {
            wire::Told::Applied(wire::Applied { id: position(*id), answer: answer.clone() })
        }
        ForwardedWrite::NotApplied(why) => wire::Told::NotApplied(encode_refusal(why)),
        ForwardedWrite::Unknown { why, token } => {
            let (code, text) = encode_doubt(why);
            wire::Told::Unknown(wire::Unknown { why: code, text, token: token.map(position) })
        }
    }
}

pub(super) fn decode_ended(told: wire::Told) -> Result<ForwardedWrite, WireError> {
    Ok(match told {
        wire::Told::Applied(applied) => ForwardedWrite::Applied { id: log_id(applied.id), answer: applied.answer },
        wire::Told::NotApplied(refusal) => ForwardedWrite::NotApplied(decode_refusal(refusal)?),
        wire::Told::Unknown(unknown) => {
            ForwardedWrite::Unknown { why: decode_doubt(unknown.why, unknown.text), token: unknown.token.map(log_id) }
        }
        _ => return Err(WireError::Malformed("an answer that says nothing of a write".into())),
    })
}

fn encode_refusal(why: &Refusal) -> wire::NotApplied {
    let plain = |why: u32| wire::NotApplied { why, text: String::new(), bytes: 0, limit: 0 };
    match why {
        Refusal::NotLeader => plain(1),
        Refusal::NoLeader => plain(2),
        Refusal::Overloaded { bound } => wire::NotApplied { text: bound.to_string(), ..plain(3) },
        Refusal::LeaderUnreachable(why) => wire::NotApplied { text: why.clone(), ..plain(4) },
        Refusal::Deadline => plain(5),
        Refusal::Stopping => plain(6),
        Refusal::NotReady(why) => wire::NotApplied { text: why.clone(), ..plain(7) },
        Refusal::Overwritten => plain(8),
        Refusal::HandingOver => plain(10),
        Refusal::TooLarge { bytes, limit, setting } => {
            wire::NotApplied { text: setting.to_string(), bytes: *bytes, limit: *limit, ..plain(9) }
        }
    }
}

fn decode_refusal(refusal: wire::NotApplied) -> Result<Refusal, WireError> {
    let text = refusal.text;
    Ok(match refusal.why {
        1 => Refusal::NotLeader,
        2 => Refusal::NoLeader,
        3 => Refusal::Overloaded { bound: Cow::Owned(text) },
        4 => Refusal::LeaderUnreachable(text),
        5 => Refusal::Deadline,
        6 => Refusal::Stopping,
        7 => Refusal::NotReady(text),
        8 => Refusal::Overwritten,
        9 => Refusal::TooLarge { bytes: refusal.bytes, limit: refusal.limit, setting: Cow::Owned(text) },
        10 => Refusal::HandingOver,
        other => return Err(WireError::Malformed(format!("refusal {other}"))),
    })
}

fn encode_doubt(why: &Doubt) -> (u32, String) {
    match why {
        Doubt::Deadline => (1, String::new()),
        Doubt::LeaderChanged => (2, String::new()),
        Doubt::NoAnswer(why) => (3, why.clone()),
        Doubt::Stopping => (4, String::new()),
    }
}

/// A doubt of a newer version is still a doubt, so this never fails.
fn decode_doubt(code: u32, text: String) -> Doubt {
    match code {
        1 => Doubt::Deadline,
        2 => Doubt::LeaderChanged,
        4 => Doubt::Stopping,
        _ => Doubt::NoAnswer(text),
    }
}
