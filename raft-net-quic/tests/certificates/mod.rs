//! Certificates for tests, made anew in a directory that goes away with them; and addresses that nobody else uses.
#![allow(dead_code)] // Each test target uses a part.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

use crate::TlsFiles;

/// A loopback address of its own for each call, so that no other test can take a port there.
pub(crate) fn own_ip() -> IpAddr {
    static CALLS: AtomicU16 = AtomicU16::new(1);
    let [high, low] = CALLS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = std::process::id().to_be_bytes()[3].clamp(1, 254);
    // The last byte is never 0 or 255, in case that anybody takes it for a network or a broadcast.
    IpAddr::V4(Ipv4Addr::new(127, process, high * 2 + low / 128, low % 128 + 1))
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

/// A subject alternative name.
pub(crate) enum San<'a> {
    Uri(&'a str),
    Dns(&'a str),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Issues a certificate under `file` and gives its paths.
    pub(crate) fn issue(&self, file: &str, names: &[San<'_>]) -> TlsFiles {
        self.issue_with(file, names, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        file: &str,
        names: &[San<'_>],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name {
                San::Uri(uri) => SanType::URI((*uri).try_into().unwrap()),
                San::Dns(dns) => SanType::DnsName((*dns).try_into().unwrap()),
            })
            .collect();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            cert: self.path(&format!("{file}.pem")),
            key: self.path(&format!("{file}.key")),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// The usual certificate of a node.
    pub(crate) fn node(&self, cluster: &str, name: &str) -> TlsFiles {
        self.issue(name, &[San::Uri(&format!("raft://{cluster}/{name}"))])
    }
}
