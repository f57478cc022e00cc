//! What a pod stands in: a network namespace with an address of its own on a bridge, and a file of names that the
//! simulation rewrites. As with Kubernetes, the namespaces belong to a process that does nothing, and the containers enter
//! them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::support::command;

const BRIDGE: &str = "pods";
/// The address of this process, that is of the clients and the kubelet.
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The network of the pods.
#[derive(Debug)]
pub struct Network {
    hosts: PathBuf,
    no_servers: PathBuf,
    names: Mutex<BTreeMap<String, String>>,
    /// Addresses are never given twice.
    given: AtomicU32,
}

impl Network {
    pub fn new(directory: &Path) -> Self {
        let (hosts, no_servers) = (directory.join("hosts"), directory.join("resolv.conf"));
        // Names that are not in the file are asked of nobody: there is no server.
        std::fs::write(&no_servers, "").unwrap();
        run(&["ip", "link", "add", BRIDGE, "type", "bridge"]);
        run(&["ip", "address", "add", &format!("{HERE}/16"), "dev", BRIDGE]);
        run(&["ip", "link", "set", BRIDGE, "up"]);
        let network = Self { hosts, no_servers, names: Mutex::default(), given: AtomicU32::new(0) };
        network.write(&BTreeMap::new());
        network
    }

    /// A sandbox with the next address.
    pub fn sandbox(&self) -> Sandbox {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let (third, fourth) = (u8::try_from(1 + number / 200).unwrap(), u8::try_from(1 + number % 200).unwrap());
        let address = Ipv4Addr::new(10, 77, third, fourth);
        let script =
            "ip link set lo up; mount --bind \"$1\" /etc/hosts; mount --bind \"$2\" /etc/resolv.conf; echo; exec cat";
        let mut unshare = command("unshare");
        unshare.args(["--net", "--mount", "--", "sh", "-euc", script, "sh"]).args([&self.hosts, &self.no_servers]);
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut entered = [0];
        holder.stdout.as_mut().unwrap().read_exact(&mut entered).expect("unshare has said why it made no sandbox");
        let (here, pid) = (format!("pod{number}"), holder.id().to_string());
        run(&["ip", "link", "add", &here, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run(&["ip", "link", "set", &here, "master", BRIDGE, "up"]);
        let sandbox = Sandbox { address, link: here, holder };
        let script = format!("ip address add {address}/16 dev eth0; ip link set eth0 up");
        let done = sandbox.enter("sh").args(["-euc", &script]).status().unwrap();
        assert!(done.success(), "{address} got no address: {done}");
        sandbox
    }

    /// From now on `names` are at `address`.
    pub fn name(&self, names: &str, address: Ipv4Addr) {
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(names.to_owned(), address.to_string());
        self.write(&all);
    }

    /// From now on `names` are nowhere, if they still are at `address`.
    pub fn forget(&self, names: &str, address: Ipv4Addr) {
        let mut all = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(names) == Some(&address.to_string()) {
            all.remove(names);
            self.write(&all);
        }
    }

    /// In place: the sandboxes have mounted this very file.
    fn write(&self, names: &BTreeMap<String, String>) {
        let mut text = String::from("127.0.0.1 localhost\n");
        for (names, address) in names {
            let _ = writeln!(text, "{address} {names}");
        }
        std::fs::write(&self.hosts, text).unwrap();
    }
}

/// The namespaces of one pod. They end with this value, and with the test.
#[derive(Debug)]
pub struct Sandbox {
    pub address: Ipv4Addr,
    /// Its end of the network on the bridge.
    link: String,
    holder: Child,
}

impl Sandbox {
    /// From now on nothing goes in and nothing comes out.
    pub fn cut(&self) {
        run(&["ip", "link", "set", &self.link, "down"]);
    }

    /// A command that runs in there.
    pub fn enter(&self, program: &str) -> Command {
        let mut nsenter = command("nsenter");
        nsenter.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--", program]);
        nsenter
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _ended = self.holder.wait();
    }
}

fn run(words: &[&str]) {
    let done = command(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
}
