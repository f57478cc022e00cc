//! A network of its own for a test: the test binary runs itself once more inside fresh namespaces.
//!
//! Addresses and ports then clash with nobody's, no datagram leaves, and where the processes have a namespace too, the
//! kernel ends all nodes with the test, however it ends.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Set for the inner run.
const INSIDE: &str = "RAFT_CHAOS_INSIDE";
/// `off` runs on the machine's own loopback network: for machines that give no namespaces, said aloud.
const SWITCH: &str = "RAFT_CHAOS_NAMESPACE";
/// Ways to ask for namespaces, the best first. The second half is for users who are not root.
const WAYS: [&[&str]; 4] = [
    &["--net", "--pid", "--fork", "--kill-child", "--mount-proc"],
    &["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"],
    &["--net"],
    &["--map-root-user", "--net"],
];

/// Runs `body` of the test named `test` in namespaces of its own, one test of this binary at a time.
///
/// # Panics
/// When the test fails in there, or there are no namespaces: with the reason and the remedy. It is never skipped.
pub fn run(test: &str, body: impl FnOnce()) {
    enter(test, false, body);
}

/// The same for a test that makes network devices, and so cannot do without a namespace.
///
/// # Panics
/// As [`run`].
pub fn run_isolated(test: &str, body: impl FnOnce()) {
    enter(test, true, body);
}

fn enter(test: &str, always: bool, body: impl FnOnce()) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let off = std::env::var(SWITCH).is_ok_and(|switch| switch == "off");
    if std::env::var_os(INSIDE).is_some() || off && !always {
        return body();
    }
    let way = way();
    let mut inner = unshare(way, "exec \"$@\"");
    inner.arg(std::env::current_exe().unwrap());
    inner.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1").stdin(Stdio::null());
    let status = inner.status().unwrap();
    assert!(status.success(), "{test} failed in its namespace ({}): see above; {status}", way.join(" "));
}

/// The first way that this machine permits.
fn way() -> &'static [&'static str] {
    let mut reasons = String::new();
    for way in WAYS {
        match unshare(way, "true").output() {
            Ok(tried) if tried.status.success() => return way,
            Ok(tried) => {
                let said = String::from_utf8_lossy(&tried.stderr);
                reasons += &format!("\n  unshare {}: {}", way.join(" "), said.trim());
            }
            Err(error) => reasons += &format!("\n  unshare cannot be run: {error}"),
        }
    }
    panic!(
        "this machine gives no network namespace:{reasons}\nrun as root or allow unprivileged user namespaces, and \
         install util-linux (unshare) and iproute2 (ip); or, for the tests of chaos, set \
         {SWITCH}=off to use the machine's own loopback network"
    );
}

/// `unshare`, and in there a shell that switches the loopback device on and runs `script`.
fn unshare(way: &[&str], script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(way).args(["--", "sh", "-euc", &format!("ip link set lo up; {script}"), "sh"]);
    command
}
