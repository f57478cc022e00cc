//! What the controllers of Kubernetes do with the StatefulSet: pods that come, go and are replaced.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::kubelet::Kubelet;
use super::manifest::Manifest;
use super::sandbox::{Network, Sandbox};
use super::support::{BINARY, await_that, certificates, scratch};

/// Certificates are made for so many pods.
const PODS_MAX: usize = 5;

/// The set, its disks and its network. What still runs is killed when it goes.
pub struct StatefulSet {
    pub manifest: Manifest,
    pub kubelet: Arc<Kubelet>,
    pub directory: tempfile::TempDir,
    pods: BTreeMap<usize, Pod>,
    network: Arc<Network>,
    probing: Option<JoinHandle<()>>,
}

/// A pod that runs.
struct Pod {
    name: String,
    sandbox: Sandbox,
    node: Child,
    environment: Vec<(String, String)>,
}

/// How a pod ended.
#[derive(Debug)]
pub struct Ended {
    /// The hook's exit code; none when the grace period ended it.
    pub hook: Option<i32>,
    /// What the hook said.
    pub said: String,
    /// Of the node.
    pub status: ExitStatus,
    pub took: Duration,
}

impl StatefulSet {
    /// The manifest's replicas, all at once, as `Parallel` says; returns when all are available.
    pub fn start(replicas: usize) -> Self {
        let manifest = Manifest::of("dev");
        let directory = scratch();
        let names: Vec<String> = (0..PODS_MAX).map(|ordinal| manifest.pod(ordinal)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        certificates(&directory.path().join("certificates"), "raft", &names);
        let network = Arc::new(Network::new(directory.path()));
        let (kubelet, probing) = Kubelet::start(manifest.clone());
        let pods = BTreeMap::new();
        let mut set = Self { manifest, kubelet, directory, pods, network, probing: Some(probing) };
        set.scale_up(replicas);
        set
    }

    /// Creates what is missing, all at once, and waits until all are available.
    pub fn scale_up(&mut self, replicas: usize) {
        for ordinal in 0..replicas {
            if !self.pods.contains_key(&ordinal) {
                self.create(ordinal);
            }
        }
        self.await_available();
    }

    pub fn ordinals(&self) -> Vec<usize> {
        self.pods.keys().copied().collect()
    }

    /// The client listener of a pod.
    pub fn client(&self, ordinal: usize) -> String {
        format!("{}:{}", self.pods[&ordinal].sandbox.address, self.manifest.port)
    }

    /// The ops listener of a pod.
    pub fn ops(&self, ordinal: usize) -> String {
        format!("{}:{}", self.pods[&ordinal].sandbox.address, self.manifest.readiness.port)
    }

    fn disk(&self, ordinal: usize) -> PathBuf {
        self.directory.path().join(format!("disk-{ordinal}"))
    }

    /// A pod, with the disk of its name and an address that nobody had before.
    pub fn create(&mut self, ordinal: usize) {
        let (name, disk) = (self.manifest.pod(ordinal), self.disk(ordinal));
        std::fs::create_dir_all(&disk).unwrap();
        let certificates = self.directory.path().join("certificates");
        let environment = self.manifest.environment(&name, &disk, &certificates);
        let sandbox = self.network.sandbox();
        self.network.name(&self.manifest.host_names(&name), sandbox.address);
        let log = self.directory.path().join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut node = sandbox.enter(BINARY);
        node.args(&self.manifest.args).envs(environment.iter().cloned()).stdout(Stdio::null()).stderr(log);
        let node = node.spawn().unwrap();
        self.kubelet.add(&name, sandbox.address);
        assert!(self.pods.insert(ordinal, Pod { name, sandbox, node, environment }).is_none());
    }

    /// Waits until every pod has been ready for as long as the manifest wants.
    pub fn await_available(&mut self) {
        for ordinal in self.ordinals() {
            let name = self.pods[&ordinal].name.clone();
            await_that(&format!("{name} to be available"), || {
                let pod = self.pods.get_mut(&ordinal).unwrap();
                if let Some(status) = pod.node.try_wait().unwrap() {
                    panic!("{name} has ended by itself: {status}");
                }
                self.kubelet.available(&name, self.manifest.min_ready)
            });
        }
    }

    /// `kubectl delete pod`: the hook, SIGTERM, and SIGKILL when the grace period is over. Does not wait.
    pub fn begin_delete(&mut self, ordinal: usize) -> JoinHandle<Ended> {
        let pod = self.pods.remove(&ordinal).unwrap();
        self.kubelet.terminating(pod.sandbox.address);
        let (network, kubelet, manifest) = (self.network.clone(), self.kubelet.clone(), self.manifest.clone());
        std::thread::spawn(move || {
            let (names, address) = (manifest.host_names(&pod.name), pod.sandbox.address);
            let ended = pod.end(&manifest);
            kubelet.gone(address);
            network.forget(&names, address);
            ended
        })
    }

    /// The same, to its end, which has to be an orderly one.
    pub fn delete(&mut self, ordinal: usize) -> Ended {
        let ended = self.begin_delete(ordinal).join().unwrap();
        assert!(
            ended.hook == Some(0) && ended.status.success(),
            "{} ended badly: {ended:?}",
            self.manifest.pod(ordinal)
        );
        ended
    }

    /// The machine of a pod is lost: it is silent at once. The network goes first, or the kernel would say good-bye
    /// for the process.
    pub fn lose(&mut self, ordinal: usize) {
        let mut pod = self.pods.remove(&ordinal).unwrap();
        pod.sandbox.cut();
        pod.node.kill().unwrap();
        pod.node.wait().unwrap();
        self.kubelet.gone(pod.sandbox.address);
        self.network.forget(&self.manifest.host_names(&pod.name), pod.sandbox.address);
    }

    /// The claim of a pod that does not run is deleted.
    pub fn delete_claim(&self, ordinal: usize) {
        assert!(!self.pods.contains_key(&ordinal), "a claim that is in use is not deleted");
        std::fs::remove_dir_all(self.disk(ordinal)).unwrap();
    }

    /// `kubectl rollout restart`: one after the other, the highest ordinal first, the next one when the last is available.
    pub fn rolling_restart(&mut self) {
        for ordinal in self.ordinals().into_iter().rev() {
            let ended = self.delete(ordinal);
            self.create(ordinal);
            let begin = Instant::now();
            self.await_available();
            let name = self.manifest.pod(ordinal);
            println!("{name}: stopped in {:.1?}, available again in {:.1?}", ended.took, begin.elapsed());
        }
    }

    /// The ends of all logs, for a message.
    fn logs(&self) -> String {
        let mut all = String::new();
        for ordinal in 0..PODS_MAX {
            let name = self.manifest.pod(ordinal);
            let log = std::fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            all += &format!("--- {name}\n{}\n", tail.join("\n"));
        }
        all
    }
}

impl Pod {
    fn end(mut self, manifest: &Manifest) -> Ended {
        let begin = Instant::now();
        let left = || manifest.grace.saturating_sub(begin.elapsed());
        let mut hook = self.sandbox.enter(&manifest.pre_stop[0]);
        hook.args(&manifest.pre_stop[1..]).envs(self.environment.iter().cloned());
        let mut hook = hook.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let done = wait(&mut hook, left()).and_then(|status| status.code());
        let _over = hook.kill();
        let output = hook.wait_with_output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = std::process::Command::new("kill").args(["-TERM", &self.node.id().to_string()]).status().unwrap();
        assert!(told.success());
        let status = wait(&mut self.node, left()).unwrap_or_else(|| {
            self.node.kill().unwrap();
            self.node.wait().unwrap()
        });
        Ended { hook: done, said, status, took: begin.elapsed() }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _gone = self.node.kill();
        let _ended = self.node.wait();
    }
}

impl Drop for StatefulSet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.kubelet.stop();
        self.probing.take().map(JoinHandle::join);
    }
}

/// How a process ends within `limit`; none when it does not.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            None if begin.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            ended => return ended,
        }
    }
}
