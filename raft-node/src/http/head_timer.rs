//! The time that a client may take for the head of a request, at next to no cost for those that take none.
//!
//! hyper asks for a timer before each head and drops it when the head is there. A timer of the runtime takes a lock to be set
//! and another one to be dropped; one of these is two writes of a number. What wakes the connection when a head is late is
//! one long-lived timer of the connection, which looks at that number once a period.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// No head is waited for.
const NONE: u64 = u64::MAX;
/// Until the next look, when a head is late already.
const AGAIN: Duration = Duration::from_millis(1);

/// The timer of one connection, for hyper. Whoever polls the connection has to poll [`HeadTimer::looks`] in the same task.
#[derive(Clone)]
pub(super) struct HeadTimer {
    began: Instant,
    /// Nanoseconds from `began` to when the head that is waited for is late.
    late_at: Arc<AtomicU64>,
}

impl HeadTimer {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), late_at: Arc::new(AtomicU64::new(NONE)) }
    }

    /// Never ends. It wakes its task when a head is late; hyper, polled then, finds out and ends the connection. `period` is
    /// the time that a head may take: one that is waited for after a look cannot be late before the next.
    pub(super) async fn looks(self, period: Duration) {
        loop {
            tokio::time::sleep_until(self.next_look(Instant::now(), period).into()).await;
        }
    }

    fn next_look(&self, now: Instant, period: Duration) -> Instant {
        match self.late_at.load(Ordering::Relaxed) {
            NONE => now + period,
            // hyper was polled just before this and has ended the connection, unless that was a moment too soon.
            late_at => (self.began + Duration::from_nanos(late_at)).max(now + AGAIN),
        }
    }

    /// Notes when the head is late that is waited for from now on.
    fn arm(&self, deadline: Instant) {
        let late_at = u64::try_from(deadline.saturating_duration_since(self.began).as_nanos()).unwrap_or(NONE);
        self.late_at.store(late_at, Ordering::Relaxed);
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.arm(deadline);
        Box::pin(Head { deadline, late_at: Arc::clone(&self.late_at) })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        // The old one says that none is waited for when it goes, so it goes first.
        drop(std::mem::replace(sleep, self.sleep_until(deadline)));
        self.arm(deadline);
    }
}

/// A head that is waited for.
struct Head {
    deadline: Instant,
    late_at: Arc<AtomicU64>,
}

impl Future for Head {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Sleep for Head {}

impl Drop for Head {
    fn drop(&mut self) {
        self.late_at.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_come_when_a_head_is_late_and_once_a_period_otherwise() {
        let (timer, period) = (HeadTimer::new(), Duration::from_secs(10));
        let (now, soon) = (timer.began + period, Duration::from_secs(3));
        assert_eq!(timer.next_look(now, period), now + period);
        let head = timer.sleep_until(now + soon);
        assert_eq!(timer.next_look(now, period), now + soon);
        // hyper has not seen it yet.
        assert_eq!(timer.next_look(now + soon, period), now + soon + AGAIN);
        let mut head = head;
        timer.reset(&mut head, now + 2 * soon);
        assert_eq!(timer.next_look(now, period), now + 2 * soon);
        drop(head);
        assert_eq!(timer.next_look(now, period), now + period);
    }

    #[test]
    fn a_head_is_late_from_its_deadline_on() {
        let timer = HeadTimer::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(timer.sleep(Duration::from_secs(3600)).as_mut().poll(&mut context).is_pending());
        assert!(timer.sleep(Duration::ZERO).as_mut().poll(&mut context).is_ready());
    }
}
