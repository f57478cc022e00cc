//! The load of `raft_load`, of the same keys and values, in gRPC.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_load::{End, Load, Pace, Recorder, Schedule, Summary, Values, Work};
use rustix::time::{TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::grpc::{Channel, Method};
use super::proto;

/// Connections over which all clients are spread, as streams.
const CONNECTIONS_MAX: usize = 16;
/// Pause of a client whose request failed.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Runs a load to its end, on this thread.
///
/// # Errors
/// When a node cannot be reached at the beginning. Requests that fail are counted.
pub async fn run(load: &Load) -> io::Result<Summary> {
    let mut channels = Vec::new();
    for nth in 0..CONNECTIONS_MAX.min(load.clients.max(1)) {
        let host = &load.hosts[nth % load.hosts.len()];
        channels.push(Slot { host: host.clone(), channel: RefCell::new(Some(Channel::connect(host).await?)) });
    }
    let begin = Instant::now();
    let counted_from = begin + load.warm_up;
    let end = match load.end {
        End::After(time) => Some(counted_from + time),
        End::Requests(_) => None,
    };
    let shared = Rc::new(Shared {
        load: load.clone(),
        channels,
        values: Values::new(load.value_bytes),
        recorder: RefCell::new(Recorder::new(counted_from, end)),
        begun: Cell::new(0),
        under_way: Cell::new(0),
        freed: Notify::new(),
        end,
    });
    let local = LocalSet::new();
    match load.pace {
        Pace::Closed => {
            for nth in 0..load.clients {
                let shared = shared.clone();
                local.spawn_local(async move { shared.closed(nth).await });
            }
        }
        Pace::Open { per_second } => {
            let shared = shared.clone();
            local.spawn_local(shared.open(Schedule::new(begin, per_second)));
        }
    }
    let patience = end.map(|end| end + load.timeout);
    let finished = match patience {
        Some(patience) => tokio::time::timeout_at(patience.into(), local).await.is_ok(),
        None => {
            local.await;
            true
        }
    };
    let mut recorder = shared.recorder.replace(Recorder::new(counted_from, end));
    if !finished {
        for _ in 0..shared.under_way.get() {
            recorder.failed("no answer in time");
        }
    }
    Ok(recorder.summary())
}

/// A connection that is made again when it breaks.
struct Slot {
    host: String,
    channel: RefCell<Option<Channel>>,
}

struct Shared {
    load: Load,
    channels: Vec<Slot>,
    values: Values,
    recorder: RefCell<Recorder>,
    begun: Cell<u64>,
    under_way: Cell<usize>,
    freed: Notify,
    end: Option<Instant>,
}

impl Shared {
    /// The number of the next request; none when the load is over.
    fn next(&self, now: Instant) -> Option<u64> {
        let begun = self.begun.get();
        let over = match self.load.end {
            End::Requests(most) => begun >= most,
            End::After(_) => self.end.is_some_and(|end| now >= end),
        };
        if over {
            return None;
        }
        self.begun.set(begun + 1);
        Some(self.load.first + begun)
    }

    async fn closed(&self, nth: usize) {
        while let Some(number) = self.next(Instant::now()) {
            self.under_way.set(self.under_way.get() + 1);
            if !self.request(nth, number, Instant::now()).await {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }

    async fn open(self: Rc<Self>, schedule: Schedule) {
        let most = match (self.load.end, self.end) {
            (End::Requests(most), _) => most,
            (_, end) => end.map_or(0, |end| schedule.before(end)),
        };
        let Ok(timer) = Timer::new() else { return self.recorder.borrow_mut().failed("no timer") };
        while self.begun.get() < most {
            let number = self.begun.get();
            let due = schedule.due(number);
            if due > Instant::now() {
                timer.sleep_until(due).await;
            }
            // As many as ours may have under way: one a client.
            let mut could = due;
            while self.under_way.get() >= self.load.clients {
                self.freed.notified().await;
                could = due.max(Instant::now());
            }
            self.begun.set(number + 1);
            self.under_way.set(self.under_way.get() + 1);
            let shared = self.clone();
            tokio::task::spawn_local(async move {
                let nth = usize::try_from(number).unwrap_or(0);
                shared.recorder.borrow_mut().sent(could, Instant::now());
                shared.request(nth, shared.load.first + number, due).await;
                shared.freed.notify_one();
            });
        }
    }

    async fn request(&self, nth: usize, number: u64, due: Instant) -> bool {
        let answered = self.call(nth, number).await;
        self.under_way.set(self.under_way.get() - 1);
        let mut recorder = self.recorder.borrow_mut();
        match &answered {
            Ok(missing) => recorder.answered(due, Instant::now(), *missing),
            Err(error) => recorder.failed(&error.to_string()),
        }
        answered.is_ok()
    }

    /// Whether the key was missing.
    async fn call(&self, nth: usize, number: u64) -> io::Result<bool> {
        let slot = &self.channels[nth % self.channels.len()];
        let known = slot.channel.borrow().clone();
        let channel = match known {
            Some(channel) => channel,
            None => {
                let made = Channel::connect(&slot.host).await?;
                slot.channel.replace(Some(made.clone()));
                made
            }
        };
        let key = self.load.keys.key(number);
        let (method, message): (Method, Bytes) = match &self.load.work {
            Work::Put => (Method::Put, proto::put(key.as_bytes(), self.values.value(number))),
            Work::Get { consistency } => (Method::Range, proto::range(key.as_bytes(), consistency != "linearizable")),
        };
        let answer = channel.call(method, message).await.inspect_err(|error| {
            if error.kind() != io::ErrorKind::InvalidData {
                slot.channel.replace(None);
            }
        })?;
        Ok(method == Method::Range && proto::range_count(&answer)? == 0)
    }
}

/// A timer finer than the runtime's, which goes by milliseconds.
struct Timer(AsyncFd<rustix::fd::OwnedFd>);

impl Timer {
    #[allow(deprecated, reason = "its successor is unsafe; this descriptor is owned, and closed by nobody else")]
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(AsyncFd::new(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    async fn sleep_until(&self, due: Instant) {
        let wait = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = rustix::time::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = rustix::time::Itimerspec { it_interval: none, it_value: value };
        // Neither fails for a timer and a time that are valid.
        let _ = rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once);
        if let Ok(mut ready) = self.0.readable().await {
            let mut expirations = [0_u8; 8];
            let _ = rustix::io::read(self.0.get_ref(), &mut expirations);
            ready.clear_ready();
        }
    }
}
