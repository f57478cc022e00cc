//! Clients: they put, read, delete and swap a few contested keys through any node, and keep what they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_core::random::Random;
use serde_json::Value;

use super::history::{Action, Operation, Outcome, Seen};
use super::looks::{Look, Mode};
use super::support::http::{NoReply, Reply, call_within};

/// Keys that are contested at a time.
const KEYS: u64 = 4;
/// After this long other keys are contested, so that a key's history stays short enough to be checked.
const GENERATION: Duration = Duration::from_secs(3);
/// What a request gives itself, and the nodes.
const TIMEOUT: &str = "500ms";
/// How long a client waits for a node that may stand still.
const REPLY_LIMIT: Duration = Duration::from_millis(700);
/// Attempts at one operation before a client gives it up.
const ATTEMPTS_MAX: u32 = 12;
/// Pause between attempts, and at most between operations.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a client mostly leaves a node alone that had no good answer.
const AVOIDED: Duration = Duration::from_millis(400);
/// How many operations are reads that promise less than the newest value.
const LOOKS_PERCENT: u64 = 25;
/// How many writes carry an idempotency key; the others are tried only once when their outcome is unknown.
const IDEMPOTENT_PERCENT: u64 = 50;

/// What the clients of one run share.
#[derive(Debug)]
pub struct Load {
    pub hosts: Vec<String>,
    /// Makes idempotency keys of one run.
    pub seed: u64,
    pub begin: Instant,
    pub stop: AtomicBool,
    /// Acknowledged operations so far: a sign of life.
    pub acknowledged: AtomicU64,
    pub not_applied: AtomicU64,
    pub reads_failed: AtomicU64,
    pub retries: AtomicU64,
    /// Retries that were answered with what an earlier attempt had done.
    pub replayed: AtomicU64,
    /// Linearizable reads that a follower answered.
    pub follower_reads: AtomicU64,
    /// Of all reads those that a lease vouched for, at the leader and at followers.
    pub lease_reads: AtomicU64,
    pub follower_lease_reads: AtomicU64,
}

impl Load {
    pub fn new(hosts: Vec<String>, seed: u64) -> Self {
        Self {
            hosts,
            seed,
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            not_applied: AtomicU64::new(0),
            reads_failed: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            follower_reads: AtomicU64::new(0),
            lease_reads: AtomicU64::new(0),
            follower_lease_reads: AtomicU64::new(0),
        }
    }

    pub fn nanos(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap()
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// How one attempt ended.
#[derive(Debug)]
enum Attempt {
    Ended(Outcome),
    /// Surely without effect; for a read: without an answer.
    Nothing,
    Unknown(Option<String>),
}

/// One client.
#[derive(Debug)]
pub struct Client<'a> {
    load: &'a Load,
    number: usize,
    random: Random,
    nth: u64,
    /// The node that was last asked, and the one that last had no good answer.
    asked: usize,
    avoided: Option<(usize, Instant)>,
    /// What it last saw of each key, for swaps.
    seen: BTreeMap<String, Option<Seen>>,
    operations: Vec<Operation>,
    /// The newest position of all answers, and its token.
    newest: Option<(u64, String)>,
    looks: Vec<Look>,
}

impl<'a> Client<'a> {
    pub fn new(load: &'a Load, number: usize) -> Self {
        let random = Random::new(load.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        Self {
            load,
            number,
            random,
            nth: 0,
            asked: 0,
            avoided: None,
            seen: BTreeMap::new(),
            operations: Vec::new(),
            newest: None,
            looks: Vec::new(),
        }
    }

    /// Works until it is told to stop. Gives its operations, and its other reads.
    pub fn run(mut self) -> (Vec<Operation>, Vec<Look>) {
        while !self.load.stops() {
            let generation = u64::try_from(self.load.begin.elapsed().as_millis() / GENERATION.as_millis()).unwrap();
            self.one(generation);
            std::thread::sleep(PAUSE.mul_f64(self.random.below(1000) as f64 / 1000.0));
        }
        (self.operations, self.looks)
    }

    fn one(&mut self, generation: u64) {
        let kind = self.random.below(100);
        // Some reads look at keys of the past: what was acknowledged must still be there.
        let old = kind < 5;
        let generation = if old { self.random.below(generation + 1) } else { generation };
        let key = key(generation, self.random.below(KEYS));
        self.nth += 1;
        if self.random.below(100) < LOOKS_PERCENT {
            return self.look(&key);
        }
        let value = format!("c{}-{}", self.number, self.nth);
        let action = match kind {
            0..40 => Action::Get,
            40..68 => Action::Put(value),
            68..78 => Action::Delete,
            _ => match self.seen.get(&key) {
                Some(seen) => Action::Swap(seen.clone(), value),
                None => Action::Get,
            },
        };
        self.perform(&key, action);
    }

    /// Does one operation and records it.
    pub fn perform(&mut self, key: &str, action: Action) {
        let called = self.load.nanos();
        let is_read = action == Action::Get;
        let outcome = if is_read { self.read(key) } else { self.write(key, &action) };
        let returned = self.load.nanos();
        match outcome {
            Attempt::Ended(outcome) => {
                self.load.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.remember(key, &action, &outcome);
                self.record(key, action, called, returned, outcome);
            }
            Attempt::Unknown(token) => {
                self.seen.remove(key);
                self.record(key, action, called, returned, Outcome::Unknown(token));
            }
            Attempt::Nothing => {
                let count = if is_read { &self.load.reads_failed } else { &self.load.not_applied };
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn record(&mut self, key: &str, action: Action, called: u64, returned: u64, outcome: Outcome) {
        self.operations.push(Operation { client: self.number, key: key.to_owned(), action, called, returned, outcome });
    }

    fn remember(&mut self, key: &str, action: &Action, outcome: &Outcome) {
        let now = match (action, outcome) {
            (_, Outcome::Found(found)) => Some(found.clone()),
            (Action::Put(value) | Action::Swap(_, value), Outcome::Written { revision, .. }) => {
                Some(Some((value.clone(), *revision)))
            }
            (_, Outcome::Deleted { .. }) => Some(None),
            _ => None,
        };
        match now {
            Some(now) => self.seen.insert(key.to_owned(), now),
            None => self.seen.remove(key),
        };
    }

    /// Any node; not again at once, but for one time in eight, the one that could not help.
    fn host(&mut self) -> String {
        let count = self.load.hosts.len();
        self.asked = usize::try_from(self.random.below(count as u64)).unwrap();
        let avoided = self.avoided.filter(|(_, since)| since.elapsed() < AVOIDED);
        if avoided.is_some_and(|(node, _)| node == self.asked) && self.random.below(8) > 0 {
            self.asked = (self.asked + 1) % count;
        }
        self.load.hosts[self.asked].clone()
    }

    fn avoid(&mut self) {
        self.avoided = Some((self.asked, Instant::now()));
    }

    /// A read that promises less than the newest value. Without an answer it says nothing.
    fn look(&mut self, key: &str) {
        let mode = Mode::ALL[usize::try_from(self.random.below(3)).unwrap()];
        let (had_seen, token) = match &self.newest {
            Some((position, token)) => (*position, token.clone()),
            None if mode == Mode::Verified => return,
            None => (0, String::new()),
        };
        let host = self.host();
        let path = format!("/v1/kv/{key}?timeout={TIMEOUT}&consistency={}", mode.name());
        let headers = [("Raft-Token", token.as_str())];
        let headers = if mode == Mode::Verified { &headers[..] } else { &[] };
        let Ok(reply) = call_within(REPLY_LIMIT, &host, "GET", &path, headers, b"") else { return self.avoid() };
        let Some(found) = found(&reply) else {
            // The history was never rewritten, so no token may be told that it was.
            assert!([429, 503, 504].contains(&reply.status), "{mode:?}: {}: {}", reply.status, reply.text());
            return self.avoid();
        };
        let position = reply.header(mode.position_header()).and_then(|text| text.parse().ok());
        let position = position.unwrap_or_else(|| panic!("{mode:?} without a position: {reply:?}"));
        if mode != Mode::Snapshot {
            self.note_position(&reply);
        }
        self.looks.push(Look { asked: (self.number, host), mode, key: key.to_owned(), had_seen, position, found });
    }

    /// Keeps the newest token of all answers.
    fn note_position(&mut self, reply: &Reply) {
        let position: Option<u64> = reply.header("raft-revision").and_then(|text| text.parse().ok());
        let (Some(position), Some(token)) = (position, reply.header("raft-token")) else { return };
        if self.newest.as_ref().is_none_or(|(newest, _)| *newest < position) {
            self.newest = Some((position, token.to_owned()));
        }
    }

    /// One attempt: a read without an answer says nothing.
    fn read(&mut self, key: &str) -> Attempt {
        let host = self.host();
        // Both promise the same.
        let mode = if self.random.below(2) == 0 { "linearizable" } else { "lease" };
        let path = format!("/v1/kv/{key}?timeout={TIMEOUT}&consistency={mode}");
        let Ok(reply) = call_within(REPLY_LIMIT, &host, "GET", &path, &[], b"") else {
            self.avoid();
            return Attempt::Nothing;
        };
        let Some(found) = found(&reply) else {
            self.avoid();
            assert!([429, 503, 504].contains(&reply.status), "a read was answered {}: {}", reply.status, reply.text());
            return Attempt::Nothing;
        };
        self.note_position(&reply);
        let at_follower =
            reply.header("raft-leader").is_some_and(|leader| reply.header("raft-served-by") != Some(leader));
        self.load.follower_reads.fetch_add(u64::from(at_follower), Ordering::Relaxed);
        if reply.header("raft-consistency") == Some("lease") {
            self.load.lease_reads.fetch_add(1, Ordering::Relaxed);
            self.load.follower_lease_reads.fetch_add(u64::from(at_follower), Ordering::Relaxed);
        }
        Attempt::Ended(Outcome::Found(found))
    }

    /// Attempts until one has an end. Without an idempotency key the first one whose outcome is unknown is the last.
    fn write(&mut self, key: &str, action: &Action) -> Attempt {
        let idempotent = self.random.below(100) < IDEMPOTENT_PERCENT;
        let idempotency_key = format!("{}-{}-{}", self.load.seed, self.number, self.nth);
        let (method, condition, value) = request(action);
        let mut headers = Vec::new();
        headers.extend(condition.as_ref().map(|(name, value)| (*name, value.as_str())));
        headers.extend(idempotent.then_some(("Idempotency-Key", idempotency_key.as_str())));
        let path = format!("/v1/kv/{key}?timeout={TIMEOUT}");
        let mut doubt = None;
        for _ in 0..ATTEMPTS_MAX {
            let host = self.host();
            let reply = call_within(REPLY_LIMIT, &host, method, &path, &headers, value.as_bytes());
            if let Some(reply) = reply.as_ref().ok().filter(|reply| reply.status == 200) {
                self.note_position(reply);
            }
            match judge(reply, &self.load.replayed) {
                Attempt::Ended(outcome) => return Attempt::Ended(outcome),
                Attempt::Unknown(token) if !idempotent => return Attempt::Unknown(token),
                // A token names one attempt; another one may have the effect.
                Attempt::Unknown(_) => doubt = Some(()),
                Attempt::Nothing => {}
            }
            self.avoid();
            if self.load.stops() {
                break;
            }
            self.load.retries.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        if doubt.is_some() { Attempt::Unknown(None) } else { Attempt::Nothing }
    }
}

/// A contested key.
pub fn key(generation: u64, nth: u64) -> String {
    format!("g{generation}-{nth}")
}

/// Method, precondition and body.
fn request(action: &Action) -> (&'static str, Option<(&'static str, String)>, &str) {
    match action {
        Action::Get => ("GET", None, ""),
        Action::Put(value) => ("PUT", None, value),
        Action::Delete => ("DELETE", None, ""),
        Action::Swap(None, value) => ("PUT", Some(("If-None-Match", "*".into())), value),
        Action::Swap(Some((_, revision)), value) => ("PUT", Some(("If-Match", format!("\"{revision}\""))), value),
    }
}

/// What a read found; none when it was not answered.
pub fn found(reply: &Reply) -> Option<Option<Seen>> {
    match reply.status {
        200 => {
            let revision = reply.header("etag").unwrap().trim_matches('"').parse().unwrap();
            Some(Some((reply.text(), revision)))
        }
        404 => Some(None),
        _ => None,
    }
}

/// What the answer to a write means.
fn judge(reply: Result<Reply, NoReply>, replayed: &AtomicU64) -> Attempt {
    let reply = match reply {
        Ok(reply) => reply,
        Err(NoReply::NotSent) => return Attempt::Nothing,
        Err(NoReply::NoAnswer) => return Attempt::Unknown(None),
    };
    let said = reply.json();
    let number = |field: &str| said[field].as_u64().unwrap_or_else(|| panic!("no {field} in {said}"));
    match reply.status {
        200 => {
            replayed.fetch_add(u64::from(said["replayed"] == true), Ordering::Relaxed);
            let (revision, term) = (number("revision"), number("term"));
            Attempt::Ended(match &said["deleted"] {
                Value::Bool(existed) => Outcome::Deleted { existed: *existed, revision, term },
                _ => Outcome::Written { revision, term },
            })
        }
        412 => Attempt::Ended(Outcome::Refused),
        429 | 503 | 504 => match said["outcome"].as_str() {
            Some("not_applied") => Attempt::Nothing,
            // A 429 or 503 must never be in doubt: clients retry those by themselves.
            Some("unknown") if reply.status == 504 => Attempt::Unknown(said["token"].as_str().map(str::to_owned)),
            _ => panic!("{} with this outcome: {said}", reply.status),
        },
        status => panic!("a write was answered {status}: {said}"),
    }
}
