//! Two processes that live on copies of one disk.
//!
//! A later start than the known one is a restart, and then the process before it is dead; or it is a copy of the disk,
//! and then that process lives. Where QUIC does not know yet, it is asked: whoever lives acknowledges a packet within a
//! round trip, and nobody sends from a dead process's connection.

use std::time::Duration;

use crate::link::{PeerLink, Session};
use crate::wire::hello::{Hello, Refusal};

/// How long what a dead process has sent may still be on its way.
const DRAIN: Duration = Duration::from_millis(20);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Refuses a later start of a disk whose earlier start is a process that still answers, within `acknowledge_timeout` and
/// the round trip.
pub(crate) async fn rule_out(link: &PeerLink, hello: &Hello, acknowledge_timeout: Duration) -> Result<(), Refusal> {
    let Some(session) = link.sessions().borrow().clone().filter(|session| is_later_life(link, session, hello)) else {
        return Ok(());
    };
    tokio::time::sleep(DRAIN).await;
    // Datagrams would count before they are decrypted, and replayed ones too. An acknowledgement is counted when its
    // packet is sound and seen for the first time.
    let acknowledged = || session.connection.stats().frame_rx.acks;
    let before = acknowledged();
    // An empty stream that is reset at once is nothing to the other side, but a packet that it acknowledges.
    if let Ok(Ok(mut stream)) = tokio::time::timeout(acknowledge_timeout, session.connection.open_uni()).await {
        let _ = stream.reset(0u32.into());
    }
    let limit = acknowledge_timeout + 2 * session.connection.rtt();
    let answers = async {
        while acknowledged() == before && session.connection.close_reason().is_none() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(limit, answers).await;
    if acknowledged() == before || session.connection.close_reason().is_some() {
        return Ok(());
    }
    Err(Refusal::TwinDisk { count: hello.start.as_ref().map_or(0, |start| start.count) })
}

/// Whether a later start of the disk says hello than that of this session, which is not known to be over. What is no
/// later start is judged by its number alone.
fn is_later_life(link: &PeerLink, session: &Session, hello: &Hello) -> bool {
    let incarnation = session.remote.incarnation;
    let same_disk = hello.identity().is_ok_and(|remote| remote.incarnation == incarnation);
    let later = hello.start.as_ref().is_some_and(|start| link.is_later_start(incarnation, start.count));
    same_disk && later && session.process != hello.process && session.connection.close_reason().is_none()
}
