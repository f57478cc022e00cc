//! Probes, and the client Service that goes by them.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::manifest::{Manifest, Probe};
use super::support::http::call_within;

/// How long it takes until all clients know that a pod has become ready, or is none any more. In between they come to pods
/// that refuse, or are gone.
const PROPAGATION: Duration = Duration::from_millis(500);

/// One pod as the kubelet sees it.
#[derive(Debug)]
struct Watched {
    name: String,
    address: Ipv4Addr,
    terminating: bool,
    started: bool,
    ready_since: Option<Instant>,
    failures: u64,
    liveness_failures: u64,
}

/// What clients know of the pods.
#[derive(Debug, Default)]
struct Known {
    now: Vec<String>,
    /// What they will know, and when.
    coming: VecDeque<(Instant, Vec<String>)>,
}

/// Probes every pod, and keeps the Service.
#[derive(Debug)]
pub struct Kubelet {
    manifest: Manifest,
    pods: Mutex<Vec<Watched>>,
    known: Mutex<Known>,
    stop: AtomicBool,
    /// Pods that a liveness probe would have restarted.
    restarts: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kubelet {
    /// Probes in a thread of its own until [`Kubelet::stop`].
    pub fn start(manifest: Manifest) -> (Arc<Self>, JoinHandle<()>) {
        let kubelet = Arc::new(Self {
            manifest,
            pods: Mutex::default(),
            known: Mutex::default(),
            stop: AtomicBool::new(false),
            restarts: Mutex::default(),
        });
        let probing = Arc::clone(&kubelet);
        let thread = std::thread::spawn(move || {
            while !probing.stop.load(Ordering::Acquire) {
                probing.round();
                // A period, not a wait for something.
                std::thread::sleep(probing.manifest.readiness.period);
            }
        });
        (kubelet, thread)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn add(&self, name: &str, address: Ipv4Addr) {
        let watched = Watched {
            name: name.to_owned(),
            address,
            terminating: false,
            started: false,
            ready_since: None,
            failures: 0,
            liveness_failures: 0,
        };
        lock(&self.pods).push(watched);
    }

    /// The pod is told to stop: clients are to go elsewhere.
    pub fn terminating(&self, address: Ipv4Addr) {
        lock(&self.pods).iter_mut().filter(|pod| pod.address == address).for_each(|pod| pod.terminating = true);
        self.publish();
    }

    /// The pod is gone. Clients may not know it yet.
    pub fn gone(&self, address: Ipv4Addr) {
        lock(&self.pods).retain(|pod| pod.address != address);
        self.publish();
    }

    /// Whether this pod has been ready for at least so long.
    pub fn available(&self, name: &str, at_least: Duration) -> bool {
        let is = |pod: &Watched| {
            pod.name == name && !pod.terminating && pod.ready_since.is_some_and(|since| since.elapsed() >= at_least)
        };
        lock(&self.pods).iter().any(is)
    }

    /// The addresses that clients know now.
    pub fn service(&self) -> Vec<String> {
        let mut known = lock(&self.known);
        while known.coming.front().is_some_and(|(when, _)| *when <= Instant::now()) {
            known.now = known.coming.pop_front().unwrap().1;
        }
        known.now.clone()
    }

    /// Which pods a liveness probe would have restarted.
    pub fn restarts(&self) -> Vec<String> {
        lock(&self.restarts).clone()
    }

    fn round(&self) {
        let asked: Vec<(Ipv4Addr, bool)> = lock(&self.pods).iter().map(|pod| (pod.address, pod.started)).collect();
        std::thread::scope(|scope| {
            for (address, started) in asked {
                scope.spawn(move || self.probe(address, started));
            }
        });
        self.publish();
    }

    fn probe(&self, address: Ipv4Addr, started: bool) {
        let probes =
            if started { [&self.manifest.readiness, &self.manifest.liveness] } else { [&self.manifest.startup; 2] };
        let [ready, lives] = probes.map(|probe| passes(address, probe));
        let mut pods = lock(&self.pods);
        let Some(pod) = pods.iter_mut().find(|pod| pod.address == address) else { return };
        if !started {
            pod.started = ready;
            return;
        }
        pod.failures = if ready { 0 } else { pod.failures + 1 };
        if ready {
            pod.ready_since.get_or_insert_with(Instant::now);
        } else if pod.failures >= self.manifest.readiness.failures_max {
            pod.ready_since = None;
        }
        // A container that is told to stop is not probed for its life any more.
        pod.liveness_failures = if lives || pod.terminating { 0 } else { pod.liveness_failures + 1 };
        if pod.liveness_failures == self.manifest.liveness.failures_max {
            lock(&self.restarts).push(pod.name.clone());
        }
    }

    /// Tells the clients, who hear it later.
    fn publish(&self) {
        let pods = lock(&self.pods);
        let ready = pods.iter().filter(|pod| pod.ready_since.is_some() && !pod.terminating);
        let addresses: Vec<String> = ready.map(|pod| format!("{}:{}", pod.address, self.manifest.port)).collect();
        let mut known = lock(&self.known);
        if *known.coming.back().map_or(&known.now, |(_, addresses)| addresses) != addresses {
            known.coming.push_back((Instant::now() + PROPAGATION, addresses));
        }
    }
}

fn passes(address: Ipv4Addr, probe: &Probe) -> bool {
    let host = format!("{address}:{}", probe.port);
    call_within(probe.timeout, &host, "GET", &probe.path, &[], b"").is_ok_and(|reply| reply.status == 200)
}
