//! A container engine of the test's own: Docker's daemon in namespaces that end with the test.
//!
//! Its bridge, its packet filter and its mounts are nobody else's, and the kernel ends every container with the test.
//! An engine that runs on the machine already is left alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::namespaces::{isolated, tool, with_libraries};
use crate::support::{await_that, command};

/// Where the daemon listens: in a `/run` that only the test has.
const SOCKET: &str = "unix:///run/docker.sock";
/// What has to be there, and in which package.
const PROGRAMS: [(&str, &str); 5] = [
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("docker-proxy", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
];
/// One program under several names.
const FILTER: (&str, &str) = ("xtables-legacy-multi", "iptables");
const FILTER_NAMES: [&str; 4] = ["iptables", "ip6tables", "iptables-save", "iptables-restore"];

/// Runs `body` of the test named `test` with an engine of its own, one test of this binary at a time.
///
/// # Panics
/// When the test fails in there, or no engine can be started: with the reason and the remedy. It is never skipped.
pub(crate) fn with_engine(test: &str, body: impl FnOnce(&Engine)) {
    isolated(test, |directory| body(&Engine::start(directory)));
}

/// A running daemon. It ends with this value.
pub(crate) struct Engine {
    child: Child,
    path: std::ffi::OsString,
    /// The client's configuration: credentials and plugins of nobody.
    client: PathBuf,
}

impl Engine {
    fn start(directory: &Path) -> Self {
        let own = directory.join("bin");
        std::fs::create_dir(&own).unwrap();
        // The daemon asks for its parts by these names, whatever else they mean on this machine.
        let filters = FILTER_NAMES.map(|name| (name, FILTER));
        for (name, (program, package)) in PROGRAMS.map(|program| (program.0, program)).into_iter().chain(filters) {
            std::os::unix::fs::symlink(tool(program, package), own.join(name)).unwrap();
        }
        let rest = [tool("containerd-shim-runc-v2", "containerd").parent().unwrap().to_owned()];
        let path = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths([own].into_iter().chain(rest).chain(std::env::split_paths(&path))).unwrap();
        let (config, client) = (directory.join("daemon.json"), directory.join("client"));
        std::fs::write(&config, "{}").unwrap();
        std::fs::create_dir(&client).unwrap();
        let mut engine = Self { path, client, child: command("true").spawn().unwrap() };
        let log = directory.join("dockerd.log");
        engine.child = engine
            .program("dockerd")
            // Not the machine's own: what its daemon was told is nothing for this one.
            .arg("--config-file")
            .arg(&config)
            .arg("--data-root")
            .arg(directory.join("engine"))
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--host", SOCKET])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        await_that("the container engine", || {
            if let Some(ended) = engine.child.try_wait().unwrap() {
                let said = std::fs::read_to_string(&log).unwrap();
                let tail: Vec<&str> = said.lines().rev().take(5).collect();
                panic!("the container engine does not start here ({ended}): {tail:#?}");
            }
            engine.program("docker").arg("version").output().unwrap().status.success()
        });
        engine
    }

    /// A program of the engine's, with what it finds its own parts by.
    fn program(&self, name: &str) -> Command {
        let place = std::env::split_paths(&self.path).map(|place| place.join(name)).find(|path| path.exists());
        let mut command = command(place.unwrap_or_else(|| name.into()));
        self.reached_by(&mut command);
        with_libraries(&mut command);
        command
    }

    /// Lets a program reach this engine.
    pub(crate) fn reached_by(&self, command: &mut Command) {
        command.env("PATH", &self.path).env("DOCKER_HOST", SOCKET).env("DOCKER_BUILDKIT", "1");
        command.env("DOCKER_CONFIG", &self.client);
    }

    /// Runs `docker` to its end, whatever it is.
    pub(crate) fn tried(&self, args: &[&str]) -> Output {
        self.program("docker").args(args).output().unwrap()
    }

    /// Runs `docker` and demands success; what it prints.
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        let done = self.tried(args);
        let (output, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "docker {args:?} ended with {}: {output}{said}", done.status);
        output.trim_end().to_owned()
    }

    /// What the containers logged, for a message. Asked while a test fails, so it fails at nothing.
    fn logs(&self) -> String {
        let listed = self.tried(&["ps", "--all", "--format", "{{.Names}} {{.Status}}"]);
        String::from_utf8_lossy(&listed.stdout).lines().fold(String::new(), |mut all, line| {
            let name = line.split(' ').next().unwrap_or_default();
            let logs = self.tried(&["logs", "--tail", "15", name]);
            let _ = writeln!(all, "--- {line}\n{}", String::from_utf8_lossy(&logs.stderr));
            all
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // The containers are ended by the kernel with the namespaces; what they left in the kernel's groups by this.
        let named = String::from_utf8_lossy(&self.tried(&["ps", "--all", "--quiet"]).stdout).into_owned();
        for container in named.lines() {
            let _removed = self.tried(&["rm", "--force", "--volumes", container]);
        }
        let _sent = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ended = self.child.wait();
    }
}
