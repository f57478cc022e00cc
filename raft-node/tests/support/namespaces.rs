//! Network, processes and mounts of a test's own, for tests that have to be root: the test binary runs itself once more
//! inside of fresh namespaces, and the kernel ends everything in there with the test, however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::{command, scratch};

/// Where the inner run keeps its files; set for that run only.
const INSIDE: &str = "RAFT_TEST_INSIDE";

/// Runs `body` of the test named `test` in namespaces of its own, with a directory on the disk and a `/run` and
/// `/etc/docker` that are nobody else's; one test of this binary at a time.
///
/// # Panics When the test fails in there, or this machine gives no namespaces: with the reason and the remedy. It is
/// never skipped.
pub fn isolated(test: &str, body: impl FnOnce(&Path)) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = std::env::var_os(INSIDE) {
        return body(Path::new(&directory));
    }
    // Removed out here, where nothing that was mounted in there holds on to it.
    let directory = scratch();
    let mut inner = unshare("exec \"$@\"");
    inner.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let status = inner.env(INSIDE, directory.path()).status().unwrap();
    assert!(status.success(), "{test} failed in its namespaces: see above; {status}");
}

/// A shell in namespaces of its own that runs `script` there; what the script is given is added to it as arguments.
fn unshare(script: &str) -> Command {
    let way = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let script = format!(
        "ip link set lo up; mount -t tmpfs -o mode=0755 tmpfs /run; \
         [ ! -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker; {script}"
    );
    let tried = command("unshare").args(way).args(["--", "sh", "-euc", &script, "sh", "true"]).output();
    let refused = match &tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = refused {
        panic!(
            "this machine gives no namespaces to test in: {why}\nrun the test as root, with unshare (util-linux) and \
             ip (iproute2)"
        );
    }
    let mut command = command("unshare");
    command.args(way).args(["--", "sh", "-euc", &script, "sh"]);
    command
}

/// Where `.ci/setup test` puts what it takes out of packages.
pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools")
}

/// A program of these, else the system's: where it is.
///
/// # Panics
/// When there is none, with the remedy.
pub fn tool(program: &str, package: &str) -> PathBuf {
    let own = [tools().join("usr/sbin"), tools().join("usr/bin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = own.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.map(|place| place.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no {program}: `.ci/setup test` fetches it, or apt-get install {package}"))
}

/// Gives a program what it finds its own libraries by, where it was taken out of a package.
pub fn with_libraries(command: &mut Command) -> &mut Command {
    // Their directories are named after the architecture: x86_64-linux-gnu and its like.
    let listed = [tools().join("usr/lib"), tools().join("lib")].into_iter().filter_map(|all| all.read_dir().ok());
    let named = |place: &PathBuf| place.to_string_lossy().ends_with("-linux-gnu");
    let found: Vec<PathBuf> = listed.flatten().flatten().map(|place| place.path()).filter(named).collect();
    if let Some(first) = found.first() {
        command.env("XTABLES_LIBDIR", first.join("xtables"));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(&found).unwrap());
    }
    command
}
