//! The loop: sends what is due, reads what has come, until the load is over.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Answer, Client, State};
use crate::http::RequestHead;
use crate::load::{End, Load, LoadError, Pace};
use crate::record::{Recorder, Summary};
use crate::schedule::Schedule;
use crate::work::{Values, Work};

/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// Events that are taken at once.
const EVENTS_MAX: usize = 256;
/// How often requests without an answer are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Pause before a broken connection is made again, and of a client that was refused: a node that is away or full would
/// else be asked in a tight loop.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Runs a load to its end, on this thread.
///
/// # Errors
/// When a setting is out of its bounds, a node cannot be reached at the beginning, or the machine refuses sockets. Requests
/// that fail are no such error: they are counted.
pub fn run(load: &Load) -> Result<Summary, LoadError> {
    load.check()?;
    raise_file_limit();
    let mut engine = Engine::connect(load)?;
    while !engine.is_over() {
        engine.wait()?;
        engine.resume();
        engine.sweep();
        engine.dispatch()?;
    }
    Ok(engine.recorder.summary())
}

/// Each connection is an open file; where the limit stays too low, connecting says so.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The first address of a name at which somebody listens.
fn resolve(host: &str, timeout: Duration) -> Result<SocketAddr, LoadError> {
    let unreachable = |source| LoadError::Unreachable { host: host.to_owned(), source };
    let mut failed = io::Error::other("the name has no address");
    for address in host.to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(address),
            Err(error) => failed = error,
        }
    }
    Err(unreachable(failed))
}

struct Engine<'a> {
    load: &'a Load,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    /// Clients with a connection and no request, those that have waited longest first: that spreads an open loop over all
    /// nodes.
    free: VecDeque<usize>,
    /// Clients that pause, and until when; then those without a connection make one again.
    down: VecDeque<(Instant, usize)>,
    /// Requests that were begun.
    begun: u64,
    under_way: usize,
    end: Option<Instant>,
    /// When a request was answered last, whatever the answer was.
    answered: Instant,
    schedule: Option<Schedule>,
    next_sweep: Instant,
    values: Values,
    recorder: Recorder,
}

impl<'a> Engine<'a> {
    fn connect(load: &'a Load) -> Result<Self, LoadError> {
        let resolved = load.hosts.iter().map(|host| Ok((host, resolve(host, load.timeout)?)));
        let hosts = resolved.collect::<Result<Vec<_>, LoadError>>()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let mut clients = Vec::with_capacity(load.clients);
        for nth in 0..load.clients {
            let (host, address) = hosts[nth % hosts.len()];
            let mut client = Client::new(address, RequestHead::new(load, host));
            let unreachable = |source| LoadError::Unreachable { host: host.clone(), source };
            client.connect(load.timeout).map_err(unreachable)?;
            listen(&epoll, &client, nth, epoll::EventFlags::IN)?;
            clients.push(client);
        }
        let begin = Instant::now();
        let counted_from = begin + load.warm_up;
        let end = match load.end {
            End::After(time) => Some(counted_from + time),
            End::Requests(_) => None,
        };
        Ok(Self {
            load,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_BYTES],
            free: (0..clients.len()).collect(),
            clients,
            down: VecDeque::new(),
            begun: 0,
            under_way: 0,
            end,
            answered: begin,
            schedule: match load.pace {
                Pace::Closed => None,
                Pace::Open { per_second } => Some(Schedule::new(begin, per_second)),
            },
            next_sweep: begin + SWEEP_INTERVAL,
            values: Values::new(if load.work == Work::Put { load.value_bytes } else { 0 }),
            recorder: Recorder::new(counted_from, end),
        })
    }

    /// How many requests belong to the load, where that is known beforehand.
    fn most(&self) -> Option<u64> {
        match (self.load.end, self.end, &self.schedule) {
            (End::Requests(most), _, _) => Some(most),
            (_, Some(end), Some(schedule)) => Some(schedule.before(end)),
            _ => None,
        }
    }

    /// Whether there is nothing more to begin.
    fn is_exhausted(&self, now: Instant) -> bool {
        match self.most() {
            Some(most) => self.begun >= most || self.is_given_up(now),
            None => self.end.is_some_and(|end| now >= end),
        }
    }

    /// Whether what is left is not begun any more: its time is over, or nobody has listened for too long.
    fn is_given_up(&self, now: Instant) -> bool {
        let alone = self.under_way == 0 && self.free.is_empty();
        self.end.is_some_and(|end| now > end + self.load.timeout) || (alone && now > self.answered + self.load.timeout)
    }

    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        if self.under_way > 0 || !self.is_exhausted(now) {
            return false;
        }
        for _ in self.begun..self.most().unwrap_or_default() {
            self.recorder.failed("not sent: no connection was free in time");
        }
        true
    }

    /// Waits for something to happen, or for the next time at which something is to be done, and reads what has come.
    fn wait(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        let mut until = self.next_sweep;
        if let Some((at, _)) = self.down.front() {
            until = until.min(*at);
        }
        let mut precise = false;
        if let Some(schedule) = &self.schedule
            && !self.free.is_empty()
            && !self.is_exhausted(now)
        {
            until = until.min(schedule.due(self.begun));
            precise = true;
        }
        self.await_events(until.saturating_duration_since(now), precise)?;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let nth = event.data.u64() as usize;
            self.on_event(nth, event.flags)?;
        }
        self.events = events;
        Ok(())
    }

    fn await_events(&mut self, timeout: Duration, precise: bool) -> Result<(), LoadError> {
        let timespec = |time: Duration| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        let now = timespec(Duration::ZERO);
        let first = if precise { now } else { timespec(timeout) };
        self.poll_events(&first)?;
        if precise && self.events.is_empty() && !timeout.is_zero() {
            // The timeout of epoll goes by milliseconds, that of ppoll by nanoseconds.
            let mut ready = [PollFd::new(&self.epoll, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&timespec(timeout))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            self.poll_events(&now)?;
        }
        Ok(())
    }

    fn poll_events(&mut self, timeout: &Timespec) -> Result<(), LoadError> {
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn on_event(&mut self, nth: usize, flags: epoll::EventFlags) -> Result<(), LoadError> {
        let client = &mut self.clients[nth];
        let outcome = match client.state {
            State::Down => return Ok(()),
            State::Connecting => match client.stream.as_ref().map(TcpStream::take_error) {
                Some(Ok(None)) => {
                    client.state = State::Free;
                    watch(&self.epoll, client, nth, epoll::EventFlags::IN)?;
                    self.free.push_back(nth);
                    return self.dispatch();
                }
                Some(Ok(Some(error)) | Err(error)) => Err(error),
                None => return Ok(()),
            },
            State::Sending if flags.contains(epoll::EventFlags::OUT) => {
                let body = self.values.value(client.number);
                let sent = client.send(body);
                if client.state == State::Awaiting {
                    watch(&self.epoll, client, nth, epoll::EventFlags::IN)?;
                }
                sent.map(|()| Answer::Partial)
            }
            State::Free | State::Sending | State::Awaiting => client.read(&mut self.buffer),
        };
        match outcome {
            Ok(Answer::Partial) => Ok(()),
            Ok(Answer::Whole { status, code, closes }) => {
                self.on_answer(nth, status, code, closes);
                self.dispatch()
            }
            Err(error) => {
                self.on_broken(nth, &error.to_string());
                Ok(())
            }
        }
    }

    fn on_answer(&mut self, nth: usize, status: u16, code: Option<String>, closes: bool) {
        let now = Instant::now();
        self.answered = now;
        let client = &mut self.clients[nth];
        if client.state != State::Awaiting {
            return self.on_broken(nth, "an answer that nobody asked for");
        }
        let missing = status == 404 && self.load.work != Work::Put;
        if (200..300).contains(&status) || missing {
            self.recorder.answered(client.due, now, missing);
        } else {
            self.recorder.failed(&format!("{status} {}", code.unwrap_or_default()));
        }
        self.under_way -= 1;
        if closes {
            client.disconnect();
            return self.down.push_back((now, nth));
        }
        (client.state, client.since) = (State::Free, now);
        if status >= 400 && !missing {
            // Who is refused comes back after a pause, as a real client would.
            self.down.push_back((now + RETRY_PAUSE, nth));
        } else {
            self.free.push_back(nth);
        }
    }

    fn on_broken(&mut self, nth: usize, why: &str) {
        let client = &mut self.clients[nth];
        match client.state {
            State::Sending | State::Awaiting => {
                self.under_way -= 1;
                self.recorder.failed(why);
            }
            State::Connecting => self.recorder.failed(&format!("connecting: {why}")),
            // A server may close what nobody uses.
            State::Free => self.free.retain(|free| *free != nth),
            State::Down => return,
        }
        client.disconnect();
        self.down.retain(|(_, down)| *down != nth);
        self.down.push_back((Instant::now() + RETRY_PAUSE, nth));
    }

    /// Brings back clients whose pause is over.
    fn resume(&mut self) {
        let now = Instant::now();
        while let Some((at, nth)) = self.down.front().copied()
            && at <= now
        {
            self.down.pop_front();
            let client = &mut self.clients[nth];
            if client.state == State::Free {
                client.since = now;
                self.free.push_back(nth);
                continue;
            }
            let begun = client.begin_connecting();
            let listening = begun.and_then(|()| listen(&self.epoll, client, nth, epoll::EventFlags::OUT));
            if let Err(error) = listening {
                self.recorder.failed(&format!("connecting: {error}"));
                client.disconnect();
                self.down.push_back((now + RETRY_PAUSE, nth));
            }
        }
    }

    /// Gives up requests and connections that have taken too long.
    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_INTERVAL;
        for nth in 0..self.clients.len() {
            let client = &self.clients[nth];
            let waits = matches!(client.state, State::Connecting | State::Sending | State::Awaiting);
            if waits && now.saturating_duration_since(client.since) > self.load.timeout {
                self.on_broken(nth, "no answer in time");
            }
        }
    }

    /// Begins requests as long as one is due and a client is free.
    fn dispatch(&mut self) -> Result<(), LoadError> {
        while let Some(nth) = self.free.front().copied() {
            let now = Instant::now();
            if self.is_exhausted(now) {
                return Ok(());
            }
            let due = self.schedule.map_or(now, |schedule| schedule.due(self.begun));
            if due > now {
                return Ok(());
            }
            self.free.pop_front();
            let number = self.load.first + self.begun;
            self.begun += 1;
            self.under_way += 1;
            let client = &mut self.clients[nth];
            if self.schedule.is_some() {
                // What waited for a client waited for the server, not for us.
                self.recorder.sent(due.max(client.since), now);
            }
            client.begin(number, self.load.keys.of(number), due, now);
            match client.send(self.values.value(number)) {
                Ok(()) if client.state == State::Sending => {
                    watch(&self.epoll, client, nth, epoll::EventFlags::IN | epoll::EventFlags::OUT)?;
                }
                Ok(()) => {}
                Err(error) => self.on_broken(nth, &error.to_string()),
            }
        }
        Ok(())
    }
}

fn listen(epoll: &OwnedFd, client: &Client, nth: usize, flags: epoll::EventFlags) -> io::Result<()> {
    let Some(stream) = &client.stream else { return Ok(()) };
    Ok(epoll::add(epoll, stream, epoll::EventData::new_u64(nth as u64), flags)?)
}

fn watch(epoll: &OwnedFd, client: &Client, nth: usize, flags: epoll::EventFlags) -> io::Result<()> {
    let Some(stream) = &client.stream else { return Ok(()) };
    Ok(epoll::modify(epoll, stream, epoll::EventData::new_u64(nth as u64), flags)?)
}
