//! Clients of the Service. Each request has one deadline, retries included, and so many tries: every one has to succeed.
//!
//! They know the pods behind the Service and ask another one at each try, as a client with a list of endpoints does.
//! A client that only knows the Service's one address may be sent to the same pod at every try, for as long as that
//! pod is listed: `deploy/README.md` says what it needs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use raft_core::random::Random;
use raft_core::testing::Report;

use super::kubelet::Kubelet;
use super::set::StatefulSet;
use super::support::connection::{Answer, Connection};

pub const CLIENTS: u64 = 6;
/// Of one request, with all its tries.
pub const DEADLINE: Duration = Duration::from_secs(5);
pub const TRIES_MAX: usize = 5;
/// Of one try: so that a pod that is gone, and says nothing, leaves time for another one.
const TRY_LIMIT: Duration = Duration::from_millis(1500);
/// Between two tries, times the number of the first.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two requests of a client.
const THINKING: Duration = Duration::from_millis(10);

/// What the clients did, and what they must find again.
pub struct Load<'a> {
    kubelet: &'a Kubelet,
    stop: AtomicBool,
    /// Requests that took one try, two tries and so on.
    tries: [AtomicU64; TRIES_MAX],
    slowest_millis: AtomicU64,
    /// Requests without an answer that counts: which, and how each try ended.
    failures: Mutex<Vec<String>>,
    /// Keys of acknowledged writes, with the revision that each was told.
    written: Mutex<BTreeMap<String, u64>>,
}

struct Client<'a> {
    load: &'a Load<'a>,
    number: u64,
    random: Random,
    /// Clients with an even number keep their connection while they can; the others make one for each try.
    kept: Option<Connection>,
    /// The highest revision that this client has seen.
    revision: u64,
}

impl<'a> Load<'a> {
    pub fn new(kubelet: &'a Kubelet) -> Self {
        Self {
            kubelet,
            stop: AtomicBool::new(false),
            tries: Default::default(),
            slowest_millis: AtomicU64::new(0),
            failures: Mutex::default(),
            written: Mutex::default(),
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// How many requests have succeeded.
    pub fn done(&self) -> u64 {
        self.tries.iter().map(|tries| tries.load(Ordering::Acquire)).sum()
    }

    /// How long the slowest request took that succeeded, with all its tries.
    pub fn slowest_millis(&self) -> u64 {
        self.slowest_millis.load(Ordering::Acquire)
    }

    /// Requests that failed, each with its reasons.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a key of its own, then reads an earlier one, until told to stop.
    pub fn client(&self, number: u64) {
        let mut client = Client { load: self, number, random: Random::new(number + 1), kept: None, revision: 0 };
        let mut written = Vec::new();
        for nth in 0.. {
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            let key = format!("load/{number}/{nth}");
            if let Some(revision) = client.write(&key) {
                written.push((key, revision));
            }
            let earlier = client.random.below(nth + 1);
            if let Some((key, revision)) = written.get(usize::try_from(earlier).unwrap()).cloned() {
                client.read(&key, revision);
            }
            std::thread::sleep(THINKING);
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).extend(written);
    }

    /// What came of it.
    pub fn report(&self, stage: &str, took: Duration) {
        let mut report = Report::new(stage);
        report.at_least("requests that succeeded", self.done(), 20 * CLIENTS);
        for (nth, tries) in self.tries.iter().enumerate() {
            report.count(&format!("of them at try {}", nth + 1), tries.load(Ordering::Acquire));
        }
        report
            .count("requests that failed", self.failures().len() as u64)
            .count("the slowest, in ms", self.slowest_millis())
            .count("seconds", took.as_secs());
        report.finish(Path::new(env!("CARGO_TARGET_TMPDIR")));
    }

    /// Reads every acknowledged write at every pod, each from its own state after that has caught up.
    pub fn check(&self, set: &StatefulSet) {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let revisions: std::collections::BTreeSet<&u64> = written.values().collect();
        assert_eq!(revisions.len(), written.len(), "two writes were told the same revision");
        std::thread::scope(|scope| {
            for ordinal in set.ordinals() {
                let (host, written) = (set.client(ordinal), &*written);
                scope.spawn(move || {
                    let mut connection = Connection::to(&host, DEADLINE).unwrap();
                    // What is acknowledged stands before this read; so it is here when the read is answered.
                    let first = connection.call("GET", "/v1/kv/none?timeout=5s", &[], b"", DEADLINE);
                    assert_eq!(first.as_ref().map(|answer| answer.status), Some(404), "{host}: {first:?}");
                    for (key, revision) in written {
                        let path = format!("/v1/kv/{key}?consistency=local");
                        let answer = connection.call("GET", &path, &[], b"", DEADLINE).expect("an answer");
                        let found = (answer.status, answer.text(), answer.header("etag").unwrap_or_default());
                        let wanted = (200, key.clone(), format!("\"{revision}\""));
                        assert_eq!(found, wanted, "a write that was acknowledged, read at {host}");
                    }
                });
            }
        });
        println!("{} acknowledged writes were found at each of {} pods", written.len(), set.ordinals().len());
    }
}

impl Client<'_> {
    /// The revision that the write was told.
    fn write(&mut self, key: &str) -> Option<u64> {
        let answer = self.request("PUT", key, key.as_bytes(), &[200])?;
        let revision = answer.json()["revision"].as_u64().unwrap();
        assert!(revision > self.revision, "{key} was written at {revision}, after {} was seen", self.revision);
        self.revision = revision;
        Some(revision)
    }

    fn read(&mut self, key: &str, revision: u64) {
        let Some(answer) = self.request("GET", key, b"", &[200, 404]) else { return };
        let etag = answer.header("etag").unwrap_or_default();
        assert_eq!((answer.status, etag), (200, format!("\"{revision}\"")), "{key}: a lost write");
        let seen: u64 = answer.header("raft-revision").unwrap().parse().unwrap();
        assert!(seen >= self.revision, "a read at {seen}, after {} was seen", self.revision);
        self.revision = seen;
    }

    /// One request with its tries; none when all of them failed, which is noted.
    fn request(&mut self, method: &str, key: &str, body: &[u8], wanted: &[u16]) -> Option<Answer> {
        let begin = Instant::now();
        let (mut asked, mut said) = (Vec::new(), Vec::new());
        let idempotency_key = [("Idempotency-Key", key)];
        let headers: &[(&str, &str)] = if method == "PUT" { &idempotency_key } else { &[] };
        for nth in 0..TRIES_MAX {
            let Some(host) = self.pick(&asked, begin) else { break };
            let limit = TRY_LIMIT.min(DEADLINE.saturating_sub(begin.elapsed()));
            if limit.is_zero() {
                break;
            }
            let path = format!("/v1/kv/{key}?timeout={}ms", limit.as_millis().max(1));
            let tried = Instant::now();
            match self.attempt(&host, method, &path, headers, body, limit) {
                Some(answer) if wanted.contains(&answer.status) => {
                    self.load.tries[nth].fetch_add(1, Ordering::AcqRel);
                    let took = begin.elapsed();
                    let millis = u64::try_from(took.as_millis()).unwrap();
                    self.load.slowest_millis.fetch_max(millis, Ordering::AcqRel);
                    if took > DEADLINE {
                        // It was answered all the same, so what it wrote has to be there.
                        self.fail(method, key, took, &[&said[..], &["answered, too late".to_owned()]].concat());
                    }
                    return Some(answer);
                }
                Some(answer) => {
                    said.push(format!("{host} {:.1?}: {} {}", tried.elapsed(), answer.status, answer.text()))
                }
                None => said.push(format!("{host} {:.1?}: no answer", tried.elapsed())),
            }
            asked.push(host);
            std::thread::sleep(PAUSE * u32::try_from(nth + 1).unwrap());
        }
        self.fail(method, key, begin.elapsed(), &said);
        None
    }

    fn fail(&self, method: &str, key: &str, took: Duration, said: &[String]) {
        let what = format!("client {} {method} {key}, {took:.1?}: {}", self.number, said.join("; "));
        self.load.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// One try: connection and answer together have so long.
    fn attempt(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> Option<Answer> {
        let begin = Instant::now();
        let kept = self.kept.take().filter(|kept| kept.host == host);
        let mut connection = kept.or_else(|| Connection::to(host, limit))?;
        let left = limit.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())?;
        let answer = connection.call(method, path, headers, body, left)?;
        if self.number.is_multiple_of(2) && !answer.closes() {
            self.kept = Some(connection);
        }
        Some(answer)
    }

    /// A pod of the Service that was not asked yet, if there is one; the one of the kept connection at first. Waits for a
    /// pod while the Service has none.
    fn pick(&mut self, asked: &[String], begin: Instant) -> Option<String> {
        if let Some(kept) = self.kept.as_ref().filter(|_| asked.is_empty()) {
            return Some(kept.host.clone());
        }
        loop {
            let all = self.load.kubelet.service();
            let fresh: Vec<&String> = all.iter().filter(|host| !asked.contains(*host)).collect();
            let from = if fresh.is_empty() { all.iter().collect() } else { fresh };
            if !from.is_empty() {
                return Some(from[usize::try_from(self.random.below(from.len() as u64)).unwrap()].clone());
            }
            if begin.elapsed() >= DEADLINE || self.load.stop.load(Ordering::Acquire) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
