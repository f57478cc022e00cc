//! What the built manifests say of the pods: the simulation does nothing that is not written there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::support::BINARY;
use super::support::manifests::{object, objects};

/// The namespace of the simulation.
pub const NAMESPACE: &str = "shop";
/// Kubernetes' own waits (probe periods, `minReadySeconds`) pass this many times faster than the manifest says. The nodes'
/// own waits, the hook's limit and the grace period are as they are written.
const FASTER: u32 = 10;

/// A probe over HTTP, with Kubernetes' defaults for what the manifest leaves out.
#[derive(Clone, Debug)]
pub struct Probe {
    pub path: String,
    pub port: u16,
    pub period: Duration,
    pub timeout: Duration,
    pub failures_max: u64,
}

/// The StatefulSet.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub replicas: usize,
    pub name: String,
    /// Of the Service that gives the pods their names.
    pub service: String,
    pub min_ready: Duration,
    pub grace: Duration,
    /// The hook's command, the binary first.
    pub pre_stop: Vec<String>,
    pub args: Vec<String>,
    pub startup: Probe,
    pub readiness: Probe,
    pub liveness: Probe,
    /// Where clients are served.
    pub port: u16,
    container: Value,
    volumes: Value,
}

impl Manifest {
    /// As kubectl builds the overlay.
    pub fn of(overlay: &str) -> Self {
        let objects = objects(overlay);
        let set = object(&objects, "StatefulSet");
        let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
        // What the controller of this simulation does, and nothing else.
        assert_eq!(spec["podManagementPolicy"], "Parallel");
        assert_eq!(spec["updateStrategy"]["type"], "RollingUpdate");
        assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
        assert_eq!(spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"], "Retain");
        let service = text(&spec["serviceName"]);
        let peers = objects.iter().find(|object| object["kind"] == "Service" && object["metadata"]["name"] == service);
        assert_eq!(peers.unwrap()["spec"]["publishNotReadyAddresses"], true, "names are there before a pod is ready");
        let container = pod["containers"][0].clone();
        let mut pre_stop = texts(&container["lifecycle"]["preStop"]["exec"]["command"]);
        assert_eq!(pre_stop[0], "/raft-node");
        BINARY.clone_into(&mut pre_stop[0]);
        Self {
            replicas: usize::try_from(spec["replicas"].as_u64().unwrap()).unwrap(),
            name: text(&set["metadata"]["name"]),
            service,
            min_ready: Duration::from_secs(spec["minReadySeconds"].as_u64().unwrap()) / FASTER,
            grace: Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap()),
            pre_stop,
            args: texts(&container["args"]),
            startup: probe(&container, "startupProbe"),
            readiness: probe(&container, "readinessProbe"),
            liveness: probe(&container, "livenessProbe"),
            port: port(&container, "http"),
            volumes: pod["volumes"].clone(),
            container,
        }
    }

    /// The name of a pod.
    pub fn pod(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// The names by which a pod is found.
    pub fn host_names(&self, pod: &str) -> String {
        let service = &self.service;
        format!("{pod}.{service}.{NAMESPACE}.svc {pod}.{service}.{NAMESPACE}.svc.cluster.local")
    }

    /// The environment of a pod, with the places where its volumes are mounted here.
    pub fn environment(&self, pod: &str, disk: &Path, certificates: &Path) -> Vec<(String, String)> {
        let places = self.places(disk, certificates);
        let mut known: Vec<(String, String)> = Vec::new();
        for variable in self.container["env"].as_array().unwrap() {
            let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => pod.to_owned(),
                Some("metadata.namespace") => NAMESPACE.to_owned(),
                Some(other) => panic!("the simulation knows no {other}"),
                None => text(&variable["value"]),
            };
            // As Kubernetes does it: only what stands before is known.
            for (name, replacement) in &known {
                value = value.replace(&format!("$({name})"), replacement);
            }
            for (mounted, here) in &places {
                value = value.replace(mounted, here.to_str().unwrap());
            }
            known.push((text(&variable["name"]), value));
        }
        known
    }

    /// Where the container sees a volume, and where it is here.
    fn places(&self, disk: &Path, certificates: &Path) -> Vec<(String, PathBuf)> {
        let place = |mount: &Value| {
            let secret = self.volumes.as_array().unwrap().iter().any(|volume| volume["name"] == mount["name"]);
            (text(&mount["mountPath"]), if secret { certificates } else { disk }.to_owned())
        };
        self.container["volumeMounts"].as_array().unwrap().iter().map(place).collect()
    }
}

fn probe(container: &Value, which: &str) -> Probe {
    let probe = &container[which];
    let seconds = |field: &str, default: u64| Duration::from_secs(probe[field].as_u64().unwrap_or(default));
    Probe {
        path: text(&probe["httpGet"]["path"]),
        port: port(container, probe["httpGet"]["port"].as_str().unwrap()),
        period: seconds("periodSeconds", 10) / FASTER,
        timeout: seconds("timeoutSeconds", 1),
        failures_max: probe["failureThreshold"].as_u64().unwrap_or(3),
    }
}

fn port(container: &Value, name: &str) -> u16 {
    let ports = container["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == name).unwrap();
    u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(text).collect()
}
