//! A node's own configuration, certificates and data directory, as its start would see them.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use raft_log_rocks::{DataDir, DataDirError, Inspection};
use raft_node::config::{ConfigRefused, Layers, Settings};
use raft_node::product::{ProductError, check_files};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::cluster::Cluster;
use super::finding::{Check, Report};
use super::{Thresholds, disk};
use crate::cli::settings::SettingsArgs;

/// A node that may be looked at from within.
pub(super) struct Local {
    pub(super) settings: Settings,
    inspection: Option<Inspection>,
}

/// Looks at everything that needs no running node. `None` when the settings say too little.
pub(super) fn examine(args: &SettingsArgs, thresholds: &Thresholds, report: &mut Report) -> Option<Local> {
    let mut layers = args.merged().map_err(|refused| refuse_configuration(&refused, report)).ok()?;
    let settings = Settings::new(&mut layers).map_err(|refused| refuse_configuration(&refused, report)).ok()?;
    report.looked_at.push(format!("the configuration of {}", settings.name));
    examine_certificates(&settings, thresholds, report);
    examine_client_listener(&settings, &layers, report);
    if !settings.storage_sync {
        report.find(
            Check::StorageSyncOff,
            "acknowledged writes may be lost with the power",
            origin(&layers, "storage.sync"),
            "storage.sync is false",
            "set storage.sync = true (RAFT_STORAGE_SYNC=true) on every node, and restart one after the other",
        );
    }
    let inspection = examine_data_directory(&settings, report);
    disk::examine_space(&settings, thresholds, report);
    disk::examine_sync(&settings, report);
    Some(Local { settings, inspection })
}

/// Where a setting was given.
fn origin(layers: &Layers, key: &str) -> String {
    layers.origin(key).map_or_else(|| key.to_owned(), |origin| format!("{key} ({origin})"))
}

fn refuse_configuration(refused: &ConfigRefused, report: &mut Report) {
    for problem in &refused.0 {
        let place = problem.origin.as_ref().map_or_else(|| problem.key.clone(), |origin| origin.to_string());
        let evidence = format!("`{}` {}", problem.key, problem.problem);
        report.find(
            Check::ConfigurationRefused,
            "the node would not start with this configuration",
            place,
            evidence,
            format!("{}\nthen: raft-node config check", problem.remedy),
        );
    }
}

/// A certificate that has ended is told as that; whatever else is wrong with the files in the words of the start.
fn examine_certificates(settings: &Settings, thresholds: &Thresholds, report: &mut Report) {
    let before = report.findings.len();
    let peer = &settings.peer;
    let renew = format!(
        "have the authority sign a new one for raft://{}/{}, and put certificate and key in their places; no restart \
         is needed. With a development authority: raft-node init-certs --dir D --cluster {} --names {} where {}.pem \
         and its key are moved away",
        settings.cluster, settings.name, settings.cluster, settings.name, settings.name
    );
    let rotate = "make a new authority, and give all nodes a bundle of the old and the new one first";
    let renew_client = renewal_for_clients(settings);
    let fix_of = |setting: &str, is_authority: bool| match (is_authority, setting.starts_with("client.")) {
        (true, false) => rotate.to_owned(),
        (true, true) => {
            "make a new authority for clients, put it beside the old one in client.tls.client_ca, then give \
                         the clients certificates of the new one"
                .to_owned()
        }
        (false, false) => renew.clone(),
        (false, true) => renew_client.clone(),
    };
    let client = settings.client.tls.iter().map(|files| ("client.tls.cert", files.cert.as_path(), false));
    let client_ca = settings.client.client_ca.iter().map(|path| ("client.tls.client_ca", path.as_path(), true));
    let files = [("peer.tls.cert", peer.tls.cert.as_path(), false), ("peer.tls.ca", peer.ca.as_path(), true)];
    for (setting, path, is_authority) in files.into_iter().chain(client).chain(client_ca) {
        // What cannot be read is found below.
        for end in ends_of(path) {
            judge_end(setting, path, end, thresholds, &fix_of(setting, is_authority), report);
        }
    }
    if report.findings.len() > before {
        return;
    }
    report.looked_at.push(format!("the certificates of {}", settings.name));
    if let Err(error) = check_files(settings) {
        refuse_files(settings, &error, &renew, report);
    }
}

/// What puts new files for the client listener in their places.
fn renewal_for_clients(settings: &Settings) -> String {
    format!(
        "have the authority that clients trust sign a new one for the names by which they reach {}, and put \
         certificate and key in the places of client.tls.cert and client.tls.key; no restart is needed",
        settings.client.url()
    )
}

/// Files that a start would refuse, told of the setting that names them.
fn refuse_files(settings: &Settings, error: &ProductError, renew_peer: &str, report: &mut Report) {
    let shown = |path: Option<&Path>| path.map_or(String::new(), |path| path.display().to_string());
    let (check, what, place, fix) = match error {
        ProductError::Listen(_) => (
            Check::CertificateRefused,
            "the node would not start with these certificates for clients",
            shown(settings.client.tls.as_ref().map(|files| files.cert.as_path())),
            renewal_for_clients(settings),
        ),
        ProductError::Access(_) => (
            Check::ConfigurationRefused,
            "the node would not start with this token file",
            shown(settings.token_file.as_deref()),
            format!(
                "correct what auth.token_file names: raft-node token check {}",
                shown(settings.token_file.as_deref())
            ),
        ),
        _ => (
            Check::CertificateRefused,
            "the node would not start with these certificates",
            shown(Some(&settings.peer.tls.cert)),
            renew_peer.to_owned(),
        ),
    };
    report.find(check, what, place, error.to_string(), format!("{fix}\nthen: raft-node config check"));
}

/// When the certificates in a file end.
fn ends_of(path: &Path) -> Vec<SystemTime> {
    let Ok(found) = CertificateDer::pem_file_iter(path) else { return Vec::new() };
    found
        .filter_map(|certificate| {
            let certificate = certificate.ok()?;
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
            let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        })
        .collect()
}

fn judge_end(setting: &str, path: &Path, end: SystemTime, thresholds: &Thresholds, fix: &str, report: &mut Report) {
    let evidence = format!("{setting} holds until {}", humantime::format_rfc3339_seconds(end));
    let place = path.display().to_string();
    match end.duration_since(SystemTime::now()) {
        Err(_) => report.find(Check::CertificateExpired, "a certificate has expired", place, evidence, fix),
        Ok(left) => {
            let days = left.as_secs() / (24 * 3600);
            if days < u64::from(thresholds.certificate_days) {
                let what = format!("a certificate expires in {days} days");
                report.find(Check::CertificateExpires, what, place, evidence, fix);
            }
        }
    }
}

/// Who may reach the keys.
fn examine_client_listener(settings: &Settings, layers: &Layers, report: &mut Report) {
    let listen = &settings.client.listen;
    let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
    let is_loopback = match listen.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => host.parse::<IpAddr>().map_or(host == "localhost", |address| address.is_loopback()),
    };
    let has_access = settings.token_file.is_some();
    let has_names = settings.client.client_ca.is_some();
    if is_loopback || has_names || (has_access && settings.client.tls.is_some()) {
        return;
    }
    let lacks = match (settings.client.tls.is_some(), has_access) {
        (false, false) => "it has neither TLS nor access control: whoever reaches the port reads and writes everything",
        (false, true) => "it has no TLS: tokens and values travel in the clear",
        (true, _) => "it has TLS and no access control: whoever reaches the port reads and writes everything",
    };
    report.find(
        Check::ClientListenerOpen,
        "clients are served beyond this machine without protection",
        origin(layers, "client.listen"),
        format!("client.listen is {listen}; {lacks}"),
        "set auth.token_file, which says who may do what, and client.tls.cert and client.tls.key, so that no token \
         travels in the clear; or client.tls.client_ca with these, so that only certificates of your authority are \
         served; or set client.listen to 127.0.0.1:7080",
    );
}

fn examine_data_directory(settings: &Settings, report: &mut Report) -> Option<Inspection> {
    let path = &settings.data_dir;
    let place = path.display().to_string();
    let inspected = DataDir::inspect(path);
    let before = report.findings.len();
    let in_use = inspected.as_ref().ok().and_then(Option::as_ref).filter(|inspection| inspection.in_use);
    disk::examine_permissions(path, in_use.and_then(|inspection| owner_of(holder_of(path, inspection)?)), report);
    match inspected {
        Ok(inspection) => {
            report.looked_at.push(format!("the data directory {place}"));
            let found = inspection.as_ref().and_then(|inspection| inspection.identity.as_ref());
            if let Some((name, _)) = found.filter(|(name, _)| *name != settings.name) {
                let (found, expected) = (name.clone(), settings.name.clone());
                let error = DataDirError::OtherNode { path: path.clone(), found, expected };
                let fix = format!("set data_dir to this node's own directory, or name to {name} (RAFT_NAME={name})");
                let what = "the data directory belongs to another node";
                report.find(Check::DataDirectoryOfAnother, what, place, error.to_string(), fix);
            }
            inspection
        }
        // Who may not read it was told above.
        Err(_) if report.findings.len() > before => None,
        Err(error) => {
            let fix = "what the message says; or let this node begin anew with a blank disk: move the directory away \
                       and start it (never two nodes of a cluster at once)";
            let what = "the data directory cannot be used";
            report.find(Check::DataDirectoryUnusable, what, place, error.to_string(), fix);
            None
        }
    }
}

/// Who runs a process.
fn owner_of(pid: u32) -> Option<u32> {
    Some(std::fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

impl Local {
    /// What only shows beside the running cluster.
    pub(super) fn compare(&self, cluster: Option<&Cluster>, report: &mut Report) {
        let Some(inspection) = &self.inspection else { return };
        let place = self.settings.data_dir.display().to_string();
        let running = cluster.and_then(Cluster::id);
        let own = inspection.cluster.map(|(cluster, _)| cluster.to_string());
        if let (Some(running), Some(own)) = (running, own.filter(|own| running.is_some_and(|running| running != own))) {
            report.find(
                Check::DataDirectoryOfAnother,
                "the data directory belongs to another cluster",
                place.as_str(),
                format!("it belongs to cluster {own}, and the cluster that answers is {running}"),
                format!("set data_dir to this node's own directory; to join with a blank disk: mv {place} {place}.old"),
            );
        }
        if !inspection.in_use || self.is_running(inspection, cluster) {
            return;
        }
        // Who does not answer us may well be the one that has it.
        let answered = cluster.is_some_and(|cluster| cluster.nodes().next().is_some());
        if !answered {
            report.not_looked_at.push(format!(
                "whose process has {place} open: no node has answered that could say that it is its own"
            ));
        } else {
            let (holder, command, stop) =
                described(holder_of(&self.settings.data_dir, inspection), &lock_in(&self.settings.data_dir));
            report.find(
                Check::DataDirectoryInUse,
                "another process has the data directory open",
                place,
                format!(
                    "{holder} holds its lock ({command}), and is not the node that answers as {}",
                    self.settings.name
                ),
                format!("stop that process, if it is not wanted: {stop}; or set another data_dir for this node"),
            );
        }
    }

    /// Whether the process that has the directory is the node that answers: the same disk.
    fn is_running(&self, inspection: &Inspection, cluster: Option<&Cluster>) -> bool {
        let Some((name, incarnation)) = &inspection.identity else { return false };
        let incarnation = incarnation.to_string();
        cluster.is_some_and(|cluster| {
            cluster.nodes().any(|node| node.name == name.as_str() && node.incarnation == incarnation)
        })
    }
}

/// The file whose lock a node holds.
fn lock_in(data_dir: &Path) -> PathBuf {
    data_dir.join("LOCK")
}

/// The process that has the directory open. What it wrote down is believed only if that process has the file open: a
/// number that was written in a container means another process out here, or this one.
fn holder_of(data_dir: &Path, inspection: &Inspection) -> Option<u32> {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let lock = file(&lock_in(data_dir))?;
    inspection.holder.filter(|pid| {
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten().any(|entry| file(&entry.path()) == Some(lock))
    })
}

/// A process, by its number and what it was called with, and the command that stops it.
fn described(pid: Option<u32>, lock: &Path) -> (String, String, String) {
    let Some(pid) = pid else {
        let stop = format!("fuser -v {0} shows it, fuser -k {0} ends it", lock.display());
        return ("a process".into(), "which one cannot be seen from here".into(), stop);
    };
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|byte| *byte == 0).take(4).map(String::from_utf8_lossy).collect();
    (format!("process {pid}"), words.join(" ").trim().to_owned(), format!("kill {pid}"))
}
