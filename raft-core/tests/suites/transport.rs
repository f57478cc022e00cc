//! The transport suite on memory, and on transports with one fault each.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use raft_core::message::{Message, PeerMessage};
use raft_core::ports::{
    Inbound, LocalIdentity, Peer, PeerStatus, RefusalCounts, RemoteIdentity, RequestError, Transport,
};
use raft_core::testing::MemNet;
use raft_core::testing::transport_suite::{self, TransportLab};
use raft_core::types::{EntryKind, NodeId, NodeName};

use super::assert_refused;

/// The smallest executor: one future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

/// Gives the executor a turn, after a nap on a thread: other futures of the same thread go on meanwhile.
async fn nap(time: Duration) {
    let mut sleeper = None;
    std::future::poll_fn(|context| {
        if sleeper.is_none() {
            let waker = context.waker().clone();
            sleeper = Some(std::thread::spawn(move || {
                std::thread::sleep(time);
                waker.wake();
            }));
            return Poll::Pending;
        }
        match sleeper.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            true => Poll::Ready(()),
            false => {
                std::thread::yield_now();
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await;
}

struct MemLab(MemNet);

#[async_trait]
impl TransportLab for MemLab {
    fn make(&mut self, name: &NodeName) -> Arc<dyn Transport> {
        self.0.transport(name)
    }

    fn address(&mut self, name: &NodeName) -> String {
        format!("memory:{name}")
    }

    async fn pause(&self, time: Duration) {
        nap(time).await;
    }

    fn stall(&mut self, name: &NodeName, stalled: bool) -> bool {
        self.0.stall(name, stalled);
        true
    }
}

#[test]
fn the_transport_in_memory_passes() {
    block_on(transport_suite::run(&mut || Box::new(MemLab(MemNet::new()))));
}
