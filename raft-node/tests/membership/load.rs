//! Clients that write and read while the members change: every operation is kept and checked for linearizability, and the
//! longest time without a successful write is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use raft_core::random::Random;
use raft_core::testing::linear::{Action, Client, History, Key, Operation, Outcome, check};

use crate::support::http::call;

pub const CLIENTS: u64 = 32;
/// Few enough that each is contended, many enough that a history can be checked.
const KEYS: u64 = 16;

/// What all clients share.
pub struct Load {
    begin: Instant,
    /// Whom to ask now.
    hosts: RwLock<Vec<String>>,
    stop: AtomicBool,
    pub acknowledged: AtomicU64,
    pub reads: AtomicU64,
    /// When the last write was acknowledged, in microseconds since the begin.
    last: AtomicU64,
    /// The longest time between two acknowledged writes since it was looked at last.
    gap: AtomicU64,
    history: Mutex<History>,
}

impl Load {
    pub fn new(hosts: Vec<String>) -> Self {
        Self {
            begin: Instant::now(),
            hosts: RwLock::new(hosts),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            last: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            history: Mutex::new(History::new()),
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap()
    }

    pub fn ask(&self, hosts: Vec<String>) {
        *self.hosts.write().unwrap() = hosts;
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// The longest time without an acknowledged write since this was asked last.
    pub fn gap(&self) -> Duration {
        let now = u64::try_from(self.begin.elapsed().as_micros()).unwrap();
        let open = now.saturating_sub(self.last.load(Ordering::Acquire));
        Duration::from_micros(self.gap.swap(0, Ordering::AcqRel).max(open))
    }

    fn acknowledge(&self) {
        let now = u64::try_from(self.begin.elapsed().as_micros()).unwrap();
        let before = self.last.fetch_max(now, Ordering::AcqRel);
        if before > 0 {
            self.gap.fetch_max(now.saturating_sub(before), Ordering::AcqRel);
        }
        self.acknowledged.fetch_add(1, Ordering::AcqRel);
    }

    fn host(&self, random: &mut Random) -> String {
        let hosts = self.hosts.read().unwrap();
        hosts[usize::try_from(random.below(hosts.len() as u64)).unwrap()].clone()
    }

    /// One client, until told to stop: two writes for each read.
    pub fn client(&self, number: u64) {
        let mut random = Random::new(number + 1);
        let mut operations = Vec::new();
        for nth in 0.. {
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            let key = random.below(KEYS);
            let done = if random.below(3) == 0 {
                self.read(&mut random, number, key)
            } else {
                // Unique, so that a value names its write.
                Some(self.write(&mut random, number, key, number << 32 | nth))
            };
            operations.extend(done);
        }
        let mut history = self.history.lock().unwrap();
        for operation in operations {
            history.record(operation);
        }
    }

    /// Puts a value under one idempotency key, again and again, to any node, until somebody acknowledges it.
    fn write(&self, random: &mut Random, number: u64, key: u64, value: u64) -> Operation {
        let idempotency_key = format!("members-{value}");
        let called = self.nanos();
        let mut returned = None;
        while returned.is_none() {
            let host = self.host(random);
            let headers = [("Idempotency-Key", idempotency_key.as_str())];
            match call(&host, "PUT", &format!("/v1/kv/k{key}?timeout=2s"), &headers, value.to_string().as_bytes()) {
                Some(reply) if reply.status == 200 => {
                    self.acknowledge();
                    returned = Some((self.nanos(), Outcome::Done));
                }
                Some(reply) if ![429, 503, 504].contains(&reply.status) => {
                    panic!("{}: {}", reply.status, reply.text())
                }
                _ if self.stop.load(Ordering::Acquire) => break,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        Operation { client: Client(number), key: Key(key), action: Action::Put(value), called, returned }
    }

    fn read(&self, random: &mut Random, number: u64, key: u64) -> Option<Operation> {
        let host = self.host(random);
        let called = self.nanos();
        let reply = call(&host, "GET", &format!("/v1/kv/k{key}?timeout=2s"), &[], b"")?;
        let seen = match reply.status {
            200 => Some(reply.text().parse().unwrap()),
            404 => None,
            _ => return None,
        };
        self.reads.fetch_add(1, Ordering::AcqRel);
        let returned = Some((self.nanos(), Outcome::Saw(seen)));
        Some(Operation { client: Client(number), key: Key(key), action: Action::Get, called, returned })
    }

    /// Checks all that the clients did, with a last read of every key from `host`; how many operations that were.
    pub fn check(&self, host: &str) -> u64 {
        let mut history = self.history.lock().unwrap();
        for key in 0..KEYS {
            let called = self.nanos();
            let reply = crate::support::await_some("the last reads", || {
                call(host, "GET", &format!("/v1/kv/k{key}"), &[], b"")
                    .filter(|reply| [200, 404].contains(&reply.status))
            });
            let seen = (reply.status == 200).then(|| reply.text().parse().unwrap());
            let returned = Some((self.nanos(), Outcome::Saw(seen)));
            let client = Client(CLIENTS);
            history.record(Operation { client, key: Key(key), action: Action::Get, called, returned });
        }
        if let Err(error) = check(&history) {
            panic!("{error}");
        }
        history.operations().len() as u64
    }
}
