//! The disk under a data directory: who may write there, how much room there is, how long a sync takes.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raft_node::config::Settings;
use rustix::fs::{Access, access, statvfs};

use super::Thresholds;
use super::finding::{Check, Report};

/// Syncs that are timed.
const SYNCS: usize = 32;
/// Which of them, in order, says how long a sync takes: nine of ten are faster.
const SLOW_SYNC: usize = 28;
/// Bytes of each: about what a batch of a few entries is.
const SYNC_BYTES: usize = 4096;
/// A vote costs two syncs, the candidate's and the voter's, and both have to end long before the timeout: a sync longer
/// than this part of it is too long (Raft §5.6, broadcast time ≪ election timeout).
const SYNC_PART: u32 = 5;
/// Files and directories that are looked at for their owner.
const ENTRIES_MAX: usize = 10_000;

/// The directory that exists, the one that was named or the nearest above it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."))
}

/// Room on the disk.
pub(super) fn examine_space(settings: &Settings, thresholds: &Thresholds, report: &mut Report) {
    let path = existing(&settings.data_dir);
    let Ok(disk) = statvfs(path) else { return };
    let (free, all) = (disk.f_bavail * disk.f_frsize, (disk.f_blocks * disk.f_frsize).max(1));
    let percent = free as f64 * 100.0 / all as f64;
    report.looked_at.push(format!("the disk of {}: {percent:.1} % free", path.display()));
    if percent < f64::from(thresholds.disk_free_min) {
        let mib = |bytes: u64| bytes >> 20;
        let evidence = format!("{} of {} MiB are free, {percent:.1} %; less than --disk-free-min", mib(free), mib(all));
        let bound = settings.log_bytes_max >> 20;
        let fix = format!(
            "make room, or enlarge the disk: `df -h {0}; du -xh --max-depth=2 {0} | sort -h`\nthe log itself keeps \
             below log.bytes_max ({bound} MiB); RAFT_LOG_BYTES_MAX lowers it",
            path.display()
        );
        report.find(Check::DiskNearlyFull, "the disk is nearly full", path.display().to_string(), evidence, fix);
    }
}

/// How long a sync takes there, against the election timeout.
pub(super) fn examine_sync(settings: &Settings, report: &mut Report) {
    let path = existing(&settings.data_dir);
    match time_syncs(path) {
        Ok(slow) => {
            report.looked_at.push(format!("a sync of {}: nine of ten take less than {slow:?}", path.display()));
            let evidence = format!("one of ten of {SYNCS} syncs at {} took {slow:?} or longer", path.display());
            judge_sync(slow, settings.election_timeout, &path.display().to_string(), evidence, report);
        }
        Err(error) => report.not_looked_at.push(format!("the time of a sync: {}: {error}", path.display())),
    }
}

/// Whether syncs are too slow for an election timeout.
pub(super) fn judge_sync(slow: Duration, timeout: Duration, place: &str, evidence: String, report: &mut Report) {
    if slow * SYNC_PART <= timeout {
        return;
    }
    // Twice what would just do, in steps that are easy to say.
    let millis = u64::try_from((slow * SYNC_PART * 2).as_millis()).unwrap_or(u64::MAX).clamp(50, 60_000);
    let wanted = millis.next_multiple_of(50).min(60_000);
    let fix = format!(
        "set on all nodes, one after the other: election_timeout = \"{wanted}ms\" and heartbeat_interval = \"{}ms\"; \
         or give data_dir a faster disk",
        wanted / 5
    );
    let what = format!("the election timeout of {timeout:?} is too short for this disk");
    report.find(Check::ElectionTimeoutShort, what, place, evidence, fix);
}

/// How long the slow ones of some syncs take.
fn time_syncs(directory: &Path) -> std::io::Result<Duration> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let mut file = File::create_new(&path)?;
    // At once: whatever becomes of this process, nothing is left in a blank directory, which a start would take for
    // somebody else's.
    std::fs::remove_file(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[0; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[SLOW_SYNC])
}

/// Who may do what in the data directory. `owner` is whose process has it open, if one has.
pub(super) fn examine_permissions(path: &Path, owner: Option<u32>, report: &mut Report) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let place = path.display().to_string();
    let owner = owner.unwrap_or_else(|| metadata.uid());
    let group = metadata.gid();
    let restore = format!("chown -R {owner}:{group} {place}");
    if metadata.mode() & 0o700 != 0o700 || metadata.mode() & 0o002 != 0 {
        let mode = metadata.mode() & 0o7777;
        let what = "the data directory has wrong permissions";
        let evidence = format!("its mode is {mode:04o}: its owner has to read, write and enter it, and not everybody");
        report.find(Check::DataDirectoryPermissions, what, place.as_str(), evidence, format!("chmod 0700 {place}"));
        return;
    }
    if access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let me = rustix::process::geteuid().as_raw();
        let evidence = format!("it belongs to user {}, and this is user {me}, who may not write there", metadata.uid());
        let fix = format!(
            "run doctor and the node as user {}; or give it to this one: chown -R {me} {place}",
            metadata.uid()
        );
        report.find(
            Check::DataDirectoryPermissions,
            "the data directory belongs to somebody else",
            place,
            evidence,
            fix,
        );
        return;
    }
    let strangers = strangers(path, owner);
    if let Some((first, uid)) = strangers.first() {
        let evidence = format!(
            "{} belongs to user {uid}, and the directory to user {owner}; so do {} of what was looked at",
            first.display(),
            strangers.len()
        );
        let what = "files in the data directory belong to another user than the directory";
        let fix = format!("stop the node, then: {restore}\n(a node was probably started once as user {uid})");
        report.find(Check::DataDirectoryPermissions, what, place, evidence, fix);
    }
}

/// What belongs to another user than it should.
fn strangers(path: &Path, owner: u32) -> Vec<(PathBuf, u32)> {
    let (mut left, mut looked_at, mut found) = (vec![path.to_owned()], 0, Vec::new());
    while let Some(directory) = left.pop() {
        // A running node makes and drops files meanwhile.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            looked_at += 1;
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.uid() != owner {
                found.push((entry.path(), metadata.uid()));
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
        if looked_at > ENTRIES_MAX {
            break;
        }
    }
    found.sort();
    found
}
