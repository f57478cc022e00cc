//! How many messages are on their way: a sender that stops at a bound, and a receiver that lets it go on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Bytes of a small message, or of the one entry in it.
pub const MESSAGE_BYTES: usize = 256;
/// Messages on their way when messages are pipelined.
pub const PIPELINED: u64 = 256;

/// Counts what arrived. The sender is woken when half the window is free, as a window is used, and not once for every
/// message.
#[derive(Debug, Default)]
pub struct Window {
    arrived: AtomicU64,
    /// The sender waits until this many have arrived; the highest number when it does not wait.
    wanted: AtomicU64,
    waits: AtomicBool,
    freed: Notify,
}

impl Window {
    /// Begins to count anew.
    pub fn begin(&self) {
        self.arrived.store(0, Ordering::SeqCst);
        self.waits.store(false, Ordering::SeqCst);
    }

    /// So many messages more have arrived.
    pub fn arrive(&self, messages: u64) {
        let arrived = self.arrived.fetch_add(messages, Ordering::SeqCst) + messages;
        if self.waits.load(Ordering::SeqCst)
            && arrived >= self.wanted.load(Ordering::SeqCst)
            && self.waits.swap(false, Ordering::SeqCst)
        {
            self.freed.notify_one();
        }
    }

    /// Waits until this many have arrived.
    pub async fn reach(&self, wanted: u64) {
        while self.arrived.load(Ordering::SeqCst) < wanted {
            self.wanted.store(wanted, Ordering::SeqCst);
            self.waits.store(true, Ordering::SeqCst);
            // Whoever came between the look and the word did not see it.
            if self.arrived.load(Ordering::SeqCst) >= wanted {
                return;
            }
            self.freed.notified().await;
        }
    }

    /// Waits until there is room for more than half of the window behind `sent` messages; says for how many.
    pub async fn room(&self, sent: u64) -> u64 {
        let free = |arrived: u64| PIPELINED - (sent - arrived);
        if free(self.arrived.load(Ordering::SeqCst)) == 0 {
            self.reach(sent - PIPELINED / 2).await;
        }
        free(self.arrived.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_window_waits_for_its_half() {
        let window = Window::default();
        assert_eq!(window.room(0).await, PIPELINED);
        let waiting = async { window.room(PIPELINED).await };
        let arriving = async { (0..PIPELINED / 2).for_each(|_| window.arrive(1)) };
        assert_eq!(tokio::join!(waiting, arriving).0, PIPELINED / 2);
    }
}
