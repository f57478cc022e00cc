//! What the doctor found, and how it says so.

use serde::Serialize;

use crate::cli::exit::CliError;
use crate::cli::output::{self, Format};

/// Where the pages are that findings name.
const PAGES: &str = "https://github.com/raft-kit/raft-kit/blob/main/docs/";

/// What the doctor looks for. Names and exit code are stable: programs go by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    ConfigurationRefused,
    CertificateRefused,
    CertificateExpired,
    CertificateExpires,
    CertificateNotReloaded,
    DataDirectoryPermissions,
    DataDirectoryInUse,
    DataDirectoryOfAnother,
    DataDirectoryUnusable,
    DiskNearlyFull,
    ElectionTimeoutShort,
    ClientListenerOpen,
    StorageSyncOff,
    EndpointSilent,
    EndpointRefuses,
    NoLeader,
    MemberDown,
    MemberLags,
    NoFaultTolerance,
    EvenVoters,
    PeerUnreachable,
    PeerRefused,
    FoundingWaits,
    BootstrapDiffers,
    VersionsDiffer,
    ClocksDiffer,
    NodeFailed,
    NodeDrained,
    NodeRemoved,
    StateDiffers,
}

impl Check {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 30] = [
        Self::ConfigurationRefused,
        Self::CertificateRefused,
        Self::CertificateExpired,
        Self::CertificateExpires,
        Self::CertificateNotReloaded,
        Self::DataDirectoryPermissions,
        Self::DataDirectoryInUse,
        Self::DataDirectoryOfAnother,
        Self::DataDirectoryUnusable,
        Self::DiskNearlyFull,
        Self::ElectionTimeoutShort,
        Self::ClientListenerOpen,
        Self::StorageSyncOff,
        Self::EndpointSilent,
        Self::EndpointRefuses,
        Self::NoLeader,
        Self::MemberDown,
        Self::MemberLags,
        Self::NoFaultTolerance,
        Self::EvenVoters,
        Self::PeerUnreachable,
        Self::PeerRefused,
        Self::FoundingWaits,
        Self::BootstrapDiffers,
        Self::VersionsDiffer,
        Self::ClocksDiffer,
        Self::NodeFailed,
        Self::NodeDrained,
        Self::NodeRemoved,
        Self::StateDiffers,
    ];

    /// Its name, and the page below `docs/` that says more.
    pub(crate) fn name_and_page(self) -> (&'static str, &'static str) {
        match self {
            Self::ConfigurationRefused => ("configuration-refused", "config.md"),
            Self::CertificateRefused => ("certificate-refused", "runbooks/certificates.md"),
            Self::CertificateExpired => ("certificate-expired", "runbooks/certificates.md"),
            Self::CertificateExpires => ("certificate-expires", "runbooks/certificates.md"),
            Self::CertificateNotReloaded => ("certificate-not-reloaded", "runbooks/RaftCertificateUnusable.md"),
            Self::DataDirectoryPermissions => ("data-directory-permissions", "runbooks/replace-a-node.md"),
            Self::DataDirectoryInUse => ("data-directory-in-use", "runbooks/replace-a-node.md"),
            Self::DataDirectoryOfAnother => ("data-directory-of-another", "runbooks/replace-a-node.md"),
            Self::DataDirectoryUnusable => ("data-directory-unusable", "runbooks/lost-disk.md"),
            Self::DiskNearlyFull => ("disk-nearly-full", "runbooks/RaftDiskFillsUp.md"),
            Self::ElectionTimeoutShort => ("election-timeout-short", "runbooks/RaftElectionTimeoutTooShort.md"),
            Self::ClientListenerOpen => ("client-listener-open", "access.md"),
            Self::StorageSyncOff => ("storage-sync-off", "config.md"),
            Self::EndpointSilent => ("endpoint-silent", "runbooks/RaftMembersMissing.md"),
            Self::EndpointRefuses => ("endpoint-refuses", "access.md"),
            Self::NoLeader => ("no-leader", "runbooks/RaftNoLeader.md"),
            Self::MemberDown => ("member-down", "runbooks/replace-a-node.md"),
            Self::MemberLags => ("member-lags", "runbooks/RaftFollowerLags.md"),
            Self::NoFaultTolerance => ("no-fault-tolerance", "runbooks/RaftNoFaultTolerance.md"),
            Self::EvenVoters => ("even-voters", "runbooks/RaftEvenVoters.md"),
            Self::PeerUnreachable => ("peer-unreachable", "runbooks/blocked-udp-and-mtu.md"),
            Self::PeerRefused => ("peer-refused", "runbooks/RaftConnectionsRefused.md"),
            Self::FoundingWaits => ("founding-waits", "config.md"),
            Self::BootstrapDiffers => ("bootstrap-differs", "config.md"),
            Self::VersionsDiffer => ("versions-differ", "runbooks/RaftVersionsDiffer.md"),
            Self::ClocksDiffer => ("clocks-differ", "runbooks/RaftClockJumps.md"),
            Self::NodeFailed => ("node-failed", "runbooks/RaftStorageFailed.md"),
            Self::NodeDrained => ("node-drained", "cli.md"),
            Self::NodeRemoved => ("node-removed", "runbooks/RaftRemovedNodeRuns.md"),
            Self::StateDiffers => ("state-differs", "runbooks/RaftStateDiffers.md"),
        }
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    check: &'static str,
    what: String,
    #[serde(rename = "where")]
    place: String,
    evidence: String,
    fix: String,
    runbook: String,
}

/// What was found, what was looked at, and what was not and why.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) looked_at: Vec<String>,
    pub(crate) not_looked_at: Vec<String>,
}

impl Report {
    /// Notes a finding: what is wrong, where, by what that is known, and what to do.
    pub(crate) fn find(
        &mut self,
        check: Check,
        what: impl Into<String>,
        place: impl Into<String>,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (name, page) = check.name_and_page();
        let (what, place) = (what.into(), place.into());
        let (evidence, fix, runbook) = (evidence.into(), fix.into(), format!("{PAGES}{page}"));
        self.findings.push(Finding { check: name, what, place, evidence, fix, runbook });
    }

    pub(crate) fn print(&self, format: Format) -> Result<(), CliError> {
        match format {
            Format::Json => output::json(self),
            Format::Table => output::bytes(self.text().as_bytes()),
        }
    }

    fn text(&self) -> String {
        let mut text = match self.findings.len() {
            0 => "nothing is wrong with what was looked at\n".to_owned(),
            1 => "1 finding\n".to_owned(),
            many => format!("{many} findings\n"),
        };
        for Finding { check, what, place, evidence, fix, runbook } in &self.findings {
            text.push_str(&format!("\n{check}: {what}\n"));
            for (name, value) in [("where", place), ("evidence", evidence), ("fix", fix), ("runbook", runbook)] {
                // What has several lines stays under its name.
                let value = value.replace('\n', "\n            ");
                text.push_str(&format!("  {name:<8}  {value}\n"));
            }
        }
        text.push('\n');
        for (name, list) in [("looked at", &self.looked_at), ("not looked at", &self.not_looked_at)] {
            list.iter().for_each(|item| text.push_str(&format!("{name}: {item}\n")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_described_and_its_page_is_there() {
        let page = include_str!("../../../../docs/doctor.md");
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let mut names = std::collections::BTreeSet::new();
        for check in Check::ALL {
            let (name, runbook) = check.name_and_page();
            assert!(names.insert(name), "{name} is the name of two checks");
            assert!(page.contains(&format!("| `{name}` |")), "docs/doctor.md does not describe {name}");
            assert!(docs.join(runbook).exists(), "{name} names {runbook}, which is not there");
        }
    }

    #[test]
    fn a_finding_is_told_with_its_fix_under_it() {
        let mut report = Report::default();
        report.find(Check::NoLeader, "nobody leads", "the cluster", "n1 knows none", "start n2\nstart n3");
        let text = report.text();
        assert!(text.starts_with("1 finding\n\nno-leader: nobody leads\n  where     the cluster\n"), "{text}");
        assert!(text.contains("  fix       start n2\n            start n3\n"), "{text}");
        assert!(text.contains("docs/runbooks/RaftNoLeader.md\n"), "{text}");
    }
}
