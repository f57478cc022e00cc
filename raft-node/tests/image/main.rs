//! The container image: its last stage is built from the binary under test, and three containers of it form a cluster.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod compose;
mod engine;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use engine::{Engine, with_engine};
use serde_json::Value;
use support::{BINARY, await_some, await_that, certificates, command, scratch};

const IMAGE: &str = "raft-node:test";
/// A page of a registry says how large an image is; ours stays below this.
const IMAGE_BYTES_MAX: u64 = 60_000_000;
/// Who the node is in its container.
const USER: u32 = 65532;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// What `deploy/image/Dockerfile` and the manifests take away from a container: it writes to its volume, and nowhere
/// else.
const CONFINED: [&str; 5] = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// Builds the image out of the binary under test.
fn build(engine: &Engine) {
    let context = scratch();
    let assembled = command(deploy().join("image/assemble")).arg(BINARY).arg(context.path().join("layout")).output();
    let assembled = assembled.unwrap();
    assert!(assembled.status.success(), "{}", String::from_utf8_lossy(&assembled.stderr));
    let file = deploy().join("image/Dockerfile");
    let (file, context) = (file.to_str().unwrap(), context.path().to_str().unwrap());
    engine.docker(&["build", "--file", file, "--build-arg", "BINARIES=given", "--tag", IMAGE, context]);
}

fn inspected(engine: &Engine, what: &str) -> Value {
    let all: Value = serde_json::from_str(&engine.docker(&["inspect", what])).unwrap();
    all[0].clone()
}

#[test]
fn the_image_is_small_and_holds_nothing_but_the_node() {
    with_engine("the_image_is_small_and_holds_nothing_but_the_node", |engine| {
        build(engine);
        let image = inspected(engine, IMAGE);
        let bytes = image["Size"].as_u64().unwrap();
        println!("the image has {:.1} MB", bytes as f64 / 1e6);
        assert!(bytes < IMAGE_BYTES_MAX, "the image has {bytes} bytes");

        let config = &image["Config"];
        assert_eq!(config["User"], format!("{USER}:{USER}"));
        assert_eq!(config["Entrypoint"], serde_json::json!(["/raft-node"]));
        assert_eq!(config["Cmd"], serde_json::json!(["start"]));
        assert_eq!(config["StopSignal"], "SIGTERM");
        assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", "/raft-node", "healthcheck"]));
        assert!(config["Volumes"]["/var/lib/raft"].is_object(), "{config}");
        for port in ["7080/tcp", "7081/tcp", "7082/udp"] {
            assert!(config["ExposedPorts"][port].is_object(), "{port} is not named: {config}");
        }
        let version = engine.docker(&["run", "--rm", IMAGE, "--version"]);
        assert_eq!(version.strip_prefix("raft-node "), config["Labels"]["org.opencontainers.image.version"].as_str());

        // Every file: the binary, what it names, and what looks names up.
        engine.docker(&["create", "--name", "looked-at", IMAGE]);
        let export = scratch();
        let archive = export.path().join("image.tar");
        engine.docker(&["export", "--output", archive.to_str().unwrap(), "looked-at"]);
        let listed = command("tar").arg("-tf").arg(&archive).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let names_a_library = |file: &str| file.contains(".so") && file.contains("lib");
        // The engine lays its own over these.
        let engines = ["dev/", "etc/", "proc/", "sys/", ".dockerenv"];
        let strange: Vec<&str> = listed
            .lines()
            .filter(|file| !file.ends_with('/') && *file != "raft-node" && !names_a_library(file))
            .filter(|file| !engines.iter().any(|engines| file.starts_with(engines)))
            .collect();
        assert!(strange.is_empty(), "the image holds more than the node: {strange:?}");
        assert!(listed.contains("etc/nsswitch.conf"), "{listed}");
    });
}

/// A cluster of containers.
struct Containers<'a> {
    engine: &'a Engine,
    /// Their certificates, mounted.
    _certificates: tempfile::TempDir,
}

impl<'a> Containers<'a> {
    /// Starts one container per name, on a network of their own, each with its own certificate and volume.
    fn start(engine: &'a Engine) -> Self {
        let directory = scratch();
        certificates(directory.path(), "raft", &NODES);
        engine.docker(&["network", "create", "raft"]);
        // They find each other by names that the engine's own server knows: `files dns` of the image has to work.
        let bootstrap = NODES.map(|name| format!("{name}={name}:7082")).join(",");
        for name in NODES {
            let own = directory.path().join("of").join(name);
            std::fs::create_dir_all(&own).unwrap();
            for (from, to) in [("ca.pem".to_owned(), "ca.pem"), (format!("{name}.pem"), "node.pem")] {
                std::fs::copy(directory.path().join(from), own.join(to)).unwrap();
            }
            let key = own.join("node.key");
            std::fs::copy(directory.path().join(format!("{name}.key")), &key).unwrap();
            chown(&key, Some(USER), Some(USER)).unwrap();
            assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let mount = format!("{}:/etc/raft/peer:ro", own.display());
            let volume = format!("disk-{name}:/var/lib/raft");
            let mut args = vec!["run", "--detach", "--name", name, "--hostname", name, "--network", "raft"];
            args.extend(CONFINED);
            args.extend(["--volume", &mount, "--volume", &volume, "--health-interval", "1s"]);
            let settings = [
                ("NAME", name.to_owned()),
                ("CLIENT_LISTEN", "0.0.0.0:7080".to_owned()),
                ("CLIENT_ADVERTISE", format!("{name}:7080")),
                ("BOOTSTRAP", bootstrap.clone()),
                ("PEER_TLS_CA", "/etc/raft/peer/ca.pem".to_owned()),
                ("PEER_TLS_CERT", "/etc/raft/peer/node.pem".to_owned()),
                ("PEER_TLS_KEY", "/etc/raft/peer/node.key".to_owned()),
            ];
            let settings = settings.map(|(setting, value)| format!("RAFT_{setting}={value}"));
            args.extend(settings.iter().flat_map(|setting| ["--env", setting]));
            args.push(IMAGE);
            engine.docker(&args);
        }
        Self { engine, _certificates: directory }
    }

    /// Runs the command line in a container: there is nothing else in it.
    fn node(&self, name: &str, args: &[&str]) -> Option<String> {
        let done = self.engine.tried(&[&["exec", name, "/raft-node"], args].concat());
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap().trim_end().to_owned())
    }

    fn await_healthy(&self, name: &str) {
        await_that("a healthy container", || inspected(self.engine, name)["State"]["Health"]["Status"] == "healthy");
    }

    /// The cluster as `name` sees it, once it is healthy.
    fn await_cluster(&self, name: &str) -> Value {
        await_some("a healthy cluster", || {
            serde_json::from_str(&self.node(name, &["status", "--output", "json"])?).ok()
        })
    }

    /// Its number and the life of its disk.
    fn identity(&self, of: &str, asked: &str) -> (u64, String) {
        let cluster = self.await_cluster(asked);
        let member = cluster["members"].as_array().unwrap().iter().find(|member| member["name"] == of).unwrap();
        (member["id"].as_u64().unwrap(), member["incarnation"].as_str().unwrap().to_owned())
    }

    /// What the kernel says of its process.
    fn confinement(&self, name: &str) {
        let pid = inspected(self.engine, name)["State"]["Pid"].as_u64().unwrap();
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let status = read("status");
        let line = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line("Uid:"), vec![USER.to_string(); 4], "{name} is somebody else");
        assert_eq!(line("CapEff:"), ["0000000000000000"], "{name} has capabilities");
        assert_eq!(line("NoNewPrivs:"), ["1"]);
        let mounts = read("mountinfo");
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.split(' ').nth(5).unwrap().split(',').any(|option| option == "ro"), "{name} may write: {root}");
    }
}

#[test]
fn three_containers_form_a_cluster_that_survives_a_stop_and_a_kill() {
    with_engine("three_containers_form_a_cluster_that_survives_a_stop_and_a_kill", |engine| {
        build(engine);
        let cluster = Containers::start(engine);
        NODES.iter().for_each(|name| cluster.await_healthy(name));
        NODES.iter().for_each(|name| cluster.confinement(name));
        let view = cluster.await_cluster("n1");
        assert_eq!(view["members"].as_array().unwrap().len(), 3, "{view}");

        cluster.node("n1", &["kv", "put", "greeting", "hello"]).expect("a put");
        assert_eq!(cluster.node("n3", &["kv", "get", "greeting"]).as_deref(), Some("hello"));

        // The leader is told to stop: it hands over, ends by itself and with 0, and the others go on.
        let leader = view["leader"].as_str().unwrap().to_owned();
        let others: Vec<&str> = NODES.into_iter().filter(|name| *name != leader).collect();
        engine.docker(&["stop", "--time", "60", &leader]);
        let state = inspected(engine, &leader)["State"].clone();
        assert_eq!((&state["ExitCode"], &state["OOMKilled"]), (&0.into(), &false.into()), "{state}");
        await_some("a put without the old leader", || cluster.node(others[0], &["kv", "put", "second", "two"]));
        assert_eq!(cluster.node(others[1], &["kv", "get", "second"]).as_deref(), Some("two"));
        engine.docker(&["start", &leader]);
        cluster.await_healthy(&leader);
        await_that("the stopped node to serve again", || {
            cluster.node(&leader, &["kv", "get", "second"]).as_deref() == Some("two")
        });

        // Another one is killed: it comes back as who it was, with what it had.
        let killed = others[0];
        let before = cluster.identity(killed, others[1]);
        engine.docker(&["kill", "--signal", "KILL", killed]);
        assert_eq!(inspected(engine, killed)["State"]["ExitCode"], 137);
        await_some("a put without the killed node", || cluster.node(others[1], &["kv", "put", "third", "three"]));
        engine.docker(&["start", killed]);
        cluster.await_healthy(killed);
        for (key, value) in [("greeting", "hello"), ("second", "two"), ("third", "three")] {
            await_that("the killed node to serve again", || {
                cluster.node(killed, &["kv", "get", key]).as_deref() == Some(value)
            });
        }
        assert_eq!(cluster.identity(killed, others[1]), before, "the killed node came back with another disk");
    });
}
