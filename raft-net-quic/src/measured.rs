//! The codec alone, for benchmarks and their guard. No part of the interface: it changes as the codec does.

use bytes::{Bytes, BytesMut};
use raft_core::message::PeerMessage;

use crate::config::Limits;
use crate::wire::message::{Batch, decode as message_of};
use crate::wire::take_frame;

/// The pieces that a lane would write for these messages; none when one of them breaks the limits.
#[must_use]
pub fn encode(messages: &[PeerMessage], limits: &Limits) -> Option<Vec<Bytes>> {
    let mut batch = Batch::with_room_for(messages);
    messages.iter().all(|message| batch.push(message, limits)).then(|| batch.finish().0)
}

/// Takes all whole frames off the front of `buffer` and hands their messages to `each`. Returns false at the first that is
/// none of this protocol.
pub fn decode(buffer: &mut BytesMut, limits: &Limits, mut each: impl FnMut(PeerMessage)) -> bool {
    loop {
        match take_frame(buffer, limits) {
            Ok(None) => return true,
            Ok(Some(frame)) => match message_of(frame, limits) {
                Ok(Some(message)) => each(message),
                Ok(None) | Err(_) => return false,
            },
            Err(_) => return false,
        }
    }
}
