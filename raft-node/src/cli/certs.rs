//! `init-certs`: a development authority and node certificates.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::cli::exit::{CliError, Exit};
use crate::cli::output;

/// How long a development authority holds.
const AUTHORITY_DAYS: u32 = 3650;
/// Clocks may differ: certificates hold from this much before they are made.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Makes a development authority and node certificates. For production, have your own authority sign certificates
/// with the same names.
#[derive(Debug, Args)]
pub(crate) struct InitCertsArgs {
    /// Where the files go: ca.pem, ca.key, and NAME.pem, NAME.key for each node.
    #[arg(long)]
    dir: PathBuf,
    /// The nodes' names, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    names: Vec<String>,
    /// The cluster's name, which the certificates carry.
    #[arg(long, default_value = "raft")]
    cluster: String,
    /// Hosts or IP addresses that a node's certificate names too, as NAME=HOST, separated by commas: needed only where
    /// the certificate serves clients too.
    #[arg(long, value_delimiter = ',', value_name = "NAME=HOST")]
    hosts: Vec<String>,
    /// How long the nodes' certificates hold.
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// Replace an authority and certificates that are there. Nodes of the old authority and of the new one refuse each
    /// other.
    #[arg(long)]
    replace: bool,
}

impl InitCertsArgs {
    pub(crate) fn run(self) -> Result<(), CliError> {
        for name in self.names.iter().chain([&self.cluster]) {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
                let message = format!("`{name}` cannot be a name; use letters, digits, `-`, `_` and `.`");
                return Err(CliError::new(Exit::Usage, message));
            }
        }
        let mut plan = Plan::new(&self.dir, &self.cluster);
        plan.node_days = self.days;
        plan.replace = self.replace;
        for host in &self.hosts {
            let Some((name, host)) = host.split_once('=').filter(|(name, _)| self.names.iter().any(|n| n == name))
            else {
                let message = format!("--hosts `{host}` names no node of --names; write NAME=HOST");
                return Err(CliError::new(Exit::Usage, message));
            };
            plan.hosts.push((name.into(), host.into()));
        }
        plan.make(&self.names)?.iter().try_for_each(output::line)
    }
}

/// What to make.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    directory: &'a Path,
    cluster: &'a str,
    hosts: Vec<(String, String)>,
    node_days: u32,
    replace: bool,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(directory: &'a Path, cluster: &'a str) -> Self {
        Self { directory, cluster, hosts: Vec::new(), node_days: 365, replace: false }
    }

    /// Makes what is not there, and says for each file what was done.
    pub(crate) fn make(&self, names: &[String]) -> Result<Vec<String>, CliError> {
        std::fs::create_dir_all(self.directory)
            .map_err(|error| CliError::failed(format!("{} cannot be made: {error}", self.directory.display())))?;
        let mut report = Vec::new();
        let (authority, fresh) = self.authority(&mut report)?;
        for name in names {
            self.node(name, &authority, fresh, &mut report)?;
        }
        Ok(report)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// The authority, and whether it was made now.
    fn authority(&self, report: &mut Vec<String>) -> Result<(Issuer<'static, KeyPair>, bool), CliError> {
        let (cert_path, key_path) = (self.path("ca.pem"), self.path("ca.key"));
        let there = (cert_path.exists(), key_path.exists());
        if there != (false, false) && !self.replace {
            if there != (true, true) {
                let message = format!(
                    "{} and {} belong together and one is missing; put it back, or use --replace",
                    cert_path.display(),
                    key_path.display()
                );
                return Err(CliError::new(Exit::Config, message));
            }
            let key = KeyPair::from_pem(&read(&key_path)?).map_err(|error| unusable(&key_path, &error))?;
            let issuer =
                Issuer::from_ca_cert_pem(&read(&cert_path)?, key).map_err(|error| unusable(&cert_path, &error))?;
            report.push(format!("kept the authority that was there: {}", cert_path.display()));
            return Ok((issuer, false));
        }
        let key = KeyPair::generate().map_err(CliError::failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("raft development authority of {}", self.cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        hold(&mut params, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key).map_err(CliError::failed)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&cert_path, &certificate.pem(), 0o644)?;
        let what = if there == (false, false) { "made an authority" } else { "REPLACED the authority that was there" };
        report.push(format!("{what}: {}", cert_path.display()));
        Ok((Issuer::new(params, key), true))
    }

    fn node(
        &self,
        name: &str,
        authority: &Issuer<'_, KeyPair>,
        fresh: bool,
        report: &mut Vec<String>,
    ) -> Result<(), CliError> {
        let (cert_path, key_path) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        // Certificates of an authority that is gone are of no use.
        if !fresh && !self.replace && cert_path.exists() && key_path.exists() {
            report.push(format!("kept the certificate that was there: {}", cert_path.display()));
            return Ok(());
        }
        let key = KeyPair::generate().map_err(CliError::failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let uri = format!("raft://{}/{name}", self.cluster);
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(CliError::failed)?));
        for (_, host) in self.hosts.iter().filter(|(node, _)| node == name) {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(CliError::failed)?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        hold(&mut params, self.node_days);
        let certificate = params.signed_by(&key, authority).map_err(CliError::failed)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&cert_path, &certificate.pem(), 0o644)?;
        report.push(format!("made a certificate for {uri}: {}", cert_path.display()));
        Ok(())
    }
}

/// Sets from when to when a certificate holds.
fn hold(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SLACK);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 24 * 3600);
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    let message = format!("{} cannot be used: {error}; put a good one there, or use --replace", path.display());
    CliError::new(Exit::Config, message)
}

/// Writes a file beside its place and moves it there, so that it is never half there and never readable by others
/// before it may be.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: std::io::Error| CliError::failed(format!("{} cannot be written: {error}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    if beside.exists() {
        std::fs::remove_file(&beside).map_err(failed)?; // left over from a run that was cut short
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_is_kept_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let read = |file: &str| std::fs::read_to_string(directory.path().join(file)).unwrap();
        let mut plan = Plan::new(directory.path(), "raft");
        plan.make(&["n1".into()]).unwrap();
        let (authority, n1) = (read("ca.pem"), read("n1.pem"));

        let report = plan.make(&["n1".into(), "n2".into()]).unwrap();
        assert!(report[0].starts_with("kept the authority"), "{report:?}");
        assert!(report[1].starts_with("kept the certificate") && report[2].starts_with("made"), "{report:?}");
        assert_eq!((read("ca.pem"), read("n1.pem")), (authority.clone(), n1));

        plan.replace = true;
        let report = plan.make(&["n1".into()]).unwrap();
        assert!(report[0].starts_with("REPLACED"), "{report:?}");
        assert_ne!(read("ca.pem"), authority);
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        Plan::new(directory.path(), "raft").make(&["n1".into()]).unwrap();
        for file in ["ca.key", "n1.key"] {
            let mode = std::fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn half_an_authority_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan::new(directory.path(), "raft");
        plan.make(&["n1".into()]).unwrap();
        std::fs::remove_file(directory.path().join("ca.key")).unwrap();
        assert_eq!(plan.make(&["n2".into()]).unwrap_err().exit, Exit::Config);
    }
}
