//! A running cluster, as its nodes tell of it over HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use raft_node::http::view::{ClusterView, NodeView};
use tokio::task::JoinSet;

use super::Thresholds;
use super::finding::{Check, Report};
use super::members;
use crate::cli::client::{Client, Endpoints};
use crate::cli::exit::{CliError, Exit};

/// A connection that has just broken, or a node that has just started, is given so long before it counts.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A node's `Date` is behind its clock by less than this: it is cut to seconds, and may be kept for one.
const DATE_STEP: Duration = Duration::from_secs(2);

/// What one address answered.
pub(super) struct Seen {
    pub(super) url: String,
    pub(super) node: Result<NodeView, Unseen>,
    /// By how much its clock is ahead of ours at least and at most, in seconds.
    ahead: Option<(f64, f64)>,
}

/// Why a node was not seen, in words.
#[derive(Clone)]
pub(super) enum Unseen {
    /// Nobody answers, or not as a node does.
    Silent(String),
    /// Somebody is there and does not serve us: it does not know us, or no session over TLS comes about.
    Refused(String),
}

/// Whom is shown who asks.
pub(super) struct Asking<'a> {
    /// How to reach nodes, and with which credentials.
    pub(super) endpoints: &'a Endpoints,
    /// The addresses that were given.
    pub(super) given: &'a [String],
    /// Whether the addresses that members advertise are trusted as those that were given.
    pub(super) trust_members: bool,
}

impl Asking<'_> {
    /// An address that a member advertises is that member's word: whoever may join as a learner could collect the
    /// tokens of operators with it. So only addresses that were given are shown any.
    fn shows_credentials(&self, url: &String) -> bool {
        self.trust_members || self.given.contains(url)
    }

    fn client(&self, url: &String) -> Result<Client, CliError> {
        if self.shows_credentials(url) {
            return Client::new(&self.endpoints.at(url));
        }
        Client::to(vec![url.clone()], self.endpoints.timeout())
    }
}

/// What was seen of a cluster.
pub(super) struct Cluster {
    /// The addresses that were given.
    given: Vec<String>,
    /// Whether those that members advertise were shown who asks too.
    trust_members: bool,
    /// One node's view of all, the leader's if there is one.
    pub(super) view: Option<ClusterView>,
    /// Every address that was given or that a member is known by.
    pub(super) seen: Vec<Seen>,
    /// Connections that were down at both looks, as from, to, and what was said last.
    pub(super) unconnected: Vec<(String, String, String)>,
}

impl Cluster {
    /// Asks the nodes at the addresses that were given, and those that they know.
    pub(super) async fn look(asking: &Asking<'_>) -> Result<Self, CliError> {
        let urls = asking.given;
        let mut view: Option<ClusterView> = None;
        for url in urls {
            let client = match asking.client(url) {
                Ok(client) => client,
                Err(error) if error.exit == Exit::Usage => return Err(error),
                // Told below.
                Err(_) => continue,
            };
            let Ok((status, reply)) = client.answer("/v1/cluster?timeout=2s").await else { continue };
            let Some(found) = reply.json().ok().filter(|_: &ClusterView| status.is_success()) else { continue };
            // A node without a leader is heard when there is no other.
            if found.leader.is_some() || view.is_none() {
                view = Some(found);
            }
            if view.as_ref().is_some_and(|view| view.leader.is_some()) {
                break;
            }
        }
        let mut all: Vec<String> = urls.to_vec();
        // Who asks over TLS is not led to an address without.
        let is_tls = |url: &str| url.starts_with("https://");
        let known = view.iter().flat_map(|view| &view.members).map(|member| member.api_address.clone());
        for url in known.filter(|url| is_tls(url) || !urls.iter().any(|given| is_tls(given))) {
            if !all.iter().any(|other| bare(other) == bare(&url)) {
                all.push(url);
            }
        }
        let seen = ask_all(asking, &all).await?;
        let mut unconnected = unconnected(&seen);
        if !unconnected.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            let still = self::unconnected(&ask_all(asking, &all).await?);
            unconnected.retain(|(from, to, _)| still.iter().any(|(other, at, _)| other == from && at == to));
        }
        Ok(Self { given: urls.to_vec(), trust_members: asking.trust_members, view, seen, unconnected })
    }

    /// Those that answered.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.seen.iter().filter_map(|seen| seen.node.as_ref().ok())
    }

    /// Why one of them did not answer, when nobody did, not even with a refusal.
    pub(super) fn silence(&self) -> Option<&str> {
        let mut silence = None;
        for seen in &self.seen {
            match &seen.node {
                Err(Unseen::Silent(why)) => silence = silence.or(Some(why.as_str())),
                Ok(_) | Err(Unseen::Refused(_)) => return None,
            }
        }
        silence
    }

    /// Whether somebody refuses us and nobody serves us.
    pub(super) fn is_refused(&self) -> bool {
        self.nodes().next().is_none() && self.silence().is_none()
    }

    /// The cluster's id, once it is founded.
    pub(super) fn id(&self) -> Option<&str> {
        self.nodes().find_map(|node| node.cluster.as_deref())
    }

    /// Judges what was seen.
    pub(super) fn examine(&self, thresholds: &Thresholds, report: &mut Report) {
        self.examine_silence(report);
        if self.view.is_none() && self.nodes().next().is_some() {
            report.not_looked_at.push(
                "the members and their leader: no node tells us of them; the local token shows its own node only, so \
                 give --token-file"
                    .to_owned(),
            );
        }
        members::examine(self, thresholds, report);
        self.examine_connections(report);
        self.examine_versions(report);
        self.examine_clocks(thresholds.clock_difference_max, report);
    }

    /// Addresses at which nobody answers; of members that are down too it is told with them.
    fn examine_silence(&self, report: &mut Report) {
        for seen in &self.seen {
            let error = match &seen.node {
                Ok(_) => continue,
                Err(Unseen::Refused(why)) => {
                    self.tell_refusal(&seen.url, why, report);
                    continue;
                }
                Err(Unseen::Silent(why)) => why,
            };
            let members = self.view.iter().flat_map(|view| &view.members);
            let mut down = members.filter(|member| bare(&member.api_address) == bare(&seen.url));
            if down.any(|member| member.unreachable.is_some()) {
                continue;
            }
            let whose = if self.given.contains(&seen.url) { "that was given" } else { "that a member names" };
            report.find(
                Check::EndpointSilent,
                format!("no node answers at an address {whose}"),
                seen.url.as_str(),
                error.as_str(),
                "start the node there, or correct the address: --endpoint here, client.advertise at the node; is TCP \
                 let through? Over TLS give --ca",
            );
        }
    }

    /// Somebody answers, and not us.
    fn tell_refusal(&self, url: &String, why: &str, report: &mut Report) {
        let is_given = self.given.contains(url);
        let seen_elsewhere = |incarnation: &str| self.nodes().any(|node| node.incarnation == incarnation);
        let mut members = self.view.iter().flat_map(|view| &view.members);
        if !is_given && members.any(|it| bare(&it.api_address) == bare(url) && seen_elsewhere(&it.incarnation)) {
            return;
        }
        if !is_given && !self.trust_members {
            report.not_looked_at.push(format!(
                "the node at {url}: a member advertises this address, so it was not shown who asks, and answers nobody \
                 else: {why}; name it in --endpoint, or give --trust-members"
            ));
            return;
        }
        report.find(
            Check::EndpointRefuses,
            "a node answers and refuses us",
            url.as_str(),
            why,
            "say who you are: --token-file F (or RAFT_TOKEN_FILE), or --cert F --key F where nodes want certificates \
             of clients; and over TLS whom to trust: --ca F",
        );
    }

    /// Connections that are down though both ends run: UDP is in the way, or one refuses the other.
    fn examine_connections(&self, report: &mut Report) {
        for (from, to, error) in &self.unconnected {
            let address =
                self.nodes().find(|node| node.name == *to).map_or(String::new(), |node| node.peer_address.clone());
            let (place, evidence) = (format!("{from} -> {to} ({address})"), format!("{from} says: {error}"));
            let refused = ["certificate", "refuse", "incarnation", "removed"];
            if refused.iter().any(|word| error.contains(word)) {
                let fix =
                    format!("what the message says; then look at both ends: raft-node events, at {from} and at {to}");
                report.find(Check::PeerRefused, format!("{from} and {to} refuse each other"), place, evidence, fix);
                continue;
            }
            let port = address.rsplit_once(':').map_or("7082", |(_, port)| port).to_owned();
            report.find(
                Check::PeerUnreachable,
                format!("{from} does not reach {to} over UDP, though both run"),
                place,
                evidence,
                format!(
                    "let UDP to port {port} through in both directions, with payloads of 1200 bytes: `nft insert \
                     rule inet filter input udp dport {port} accept`, the security groups, and in Kubernetes a \
                     NetworkPolicy that says `protocol: UDP`; is {address} the present address of {to}?"
                ),
            );
        }
    }

    fn examine_versions(&self, report: &mut Report) {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for node in self.nodes() {
            versions.entry(&node.version).or_default().push(&node.name);
        }
        if versions.len() < 2 {
            return;
        }
        let told: Vec<String> =
            versions.iter().map(|(version, names)| format!("{version}: {}", names.join(", "))).collect();
        report.find(
            Check::VersionsDiffer,
            "nodes run different versions",
            "the cluster",
            told.join("; "),
            "finish the upgrade: one node after the other, `raft-node pre-stop`, stop it, start the new version, wait \
             until `raft-node status` is healthy",
        );
    }

    /// Dates are cut to seconds and take a moment to arrive, so two clocks are known to differ only when what each may
    /// say at most and at least do not meet.
    fn examine_clocks(&self, difference_max: Duration, report: &mut Report) {
        let clocks: Vec<(&str, f64, f64)> = self
            .seen
            .iter()
            .filter_map(|seen| Some((seen.node.as_ref().ok()?.name.as_str(), seen.ahead?.0, seen.ahead?.1)))
            .collect();
        let first = clocks.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let last = clocks.iter().min_by(|a, b| a.2.total_cmp(&b.2));
        let (Some((ahead, least, _)), Some((behind, _, most))) = (first, last) else { return };
        let difference = least - most;
        if difference <= difference_max.as_secs_f64() {
            return;
        }
        let told: Vec<String> =
            clocks.iter().map(|(name, least, most)| format!("{name} {least:+.1} to {most:+.1} s")).collect();
        report.find(
            Check::ClocksDiffer,
            format!("the clocks of {ahead} and {behind} are at least {difference:.1} s apart"),
            format!("{ahead}, {behind}"),
            format!("against the clock here: {}", told.join(", ")),
            "have every machine's clock follow the same servers: `timedatectl set-ntp true`, then `chronyc tracking` \
             (or `timedatectl timesync-status`) on each",
        );
    }
}

/// An address without its scheme.
fn bare(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/')
}

/// Connections that a running node has not, to others that run.
fn unconnected(seen: &[Seen]) -> Vec<(String, String, String)> {
    let nodes: Vec<&NodeView> = seen.iter().filter_map(|seen| seen.node.as_ref().ok()).collect();
    let runs = |name: &str| nodes.iter().any(|node| node.name == name && node.removed.is_none());
    let mut found: Vec<(String, String, String)> = Vec::new();
    for node in nodes.iter().filter(|node| node.removed.is_none()) {
        for peer in node.peers.iter().filter(|peer| !peer.connected && runs(&peer.name)) {
            // One of the two ends is enough.
            if !found.iter().any(|(from, to, _)| *from == peer.name && *to == node.name) {
                let error = peer.last_error.clone().unwrap_or_else(|| "no connection is up".to_owned());
                found.push((node.name.clone(), peer.name.clone(), error));
            }
        }
    }
    found
}

async fn ask_all(asking: &Asking<'_>, urls: &[String]) -> Result<Vec<Seen>, CliError> {
    let (mut tasks, mut seen) = (JoinSet::new(), BTreeMap::new());
    for (position, url) in urls.iter().enumerate() {
        let (made, url) = (asking.client(url), url.clone());
        match made {
            Ok(client) => {
                tasks.spawn(async move { (position, ask(&client, url).await) });
            }
            // Without what the flags say of TLS there may be no client for it.
            Err(error) if !asking.shows_credentials(&url) => {
                seen.insert(position, Seen { url, node: Err(Unseen::Refused(error.to_string())), ahead: None });
            }
            Err(error) if error.exit == Exit::Usage => return Err(error),
            Err(error) => {
                seen.insert(position, Seen { url, node: Err(Unseen::Silent(error.to_string())), ahead: None });
            }
        }
    }
    while let Some(asked) = tasks.join_next().await {
        let (position, answered) = asked.map_err(CliError::failed)?;
        seen.insert(position, answered);
    }
    // A node that is known under two addresses is one node.
    let mut all: Vec<Seen> = Vec::new();
    for seen in seen.into_values() {
        let name = seen.node.as_ref().ok().map(|node| &node.incarnation);
        if name
            .is_none_or(|name| !all.iter().any(|other| other.node.as_ref().is_ok_and(|node| node.incarnation == *name)))
        {
            all.push(seen);
        }
    }
    Ok(all)
}

async fn ask(client: &Client, url: String) -> Seen {
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let before = seconds();
    let answered = client.answer("/v1/node").await;
    let after = seconds();
    let (status, reply) = match answered {
        Ok(answered) => answered,
        Err(error) => return Seen { url, node: Err(unanswered(error.to_string())), ahead: None },
    };
    if !status.is_success() {
        let why = format!("{url} answers {status}: {}", String::from_utf8_lossy(&reply.body).trim());
        let is_refusal = matches!(status.as_u16(), 401 | 403);
        let node = Err(if is_refusal { Unseen::Refused(why) } else { Unseen::Silent(why) });
        return Seen { url, node, ahead: None };
    }
    let date = reply.header("date").and_then(seconds_of_date);
    let ahead = date.map(|date| (date - after, date + DATE_STEP.as_secs_f64() - before));
    Seen { url, node: reply.json().map_err(|error| Unseen::Silent(error.to_string())), ahead }
}

/// What the lack of an answer means. A handshake that fails has somebody at its other end, and so has TLS that is
/// spoken to with plain HTTP.
fn unanswered(why: String) -> Unseen {
    // As rustls and hyper call it.
    const TLS: [&str; 6] =
        ["certificate", "fatal alert", "corrupt message", "peer is incompatible", "peer misbehaved", "invalid HTTP"];
    if TLS.iter().any(|word| why.contains(word)) { Unseen::Refused(why) } else { Unseen::Silent(why) }
}

/// What a `Date` says, in seconds since the Unix epoch (IMF-fixdate, RFC 9110, section 5.6.7).
fn seconds_of_date(text: &str) -> Option<f64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Sun, 06 Nov 1994 08:49:37 GMT
    let mut words = text.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let written = format!("{year}-{month:02}-{day}T{time}Z");
    let at = humantime::parse_rfc3339(&written).ok()?;
    Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_no_silence() {
        let refused = |why: &str| matches!(unanswered(format!("https://n1 gave no answer: {why}")), Unseen::Refused(_));
        assert!(refused("invalid peer certificate: UnknownIssuer"));
        assert!(refused("received fatal alert: CertificateRequired"));
        assert!(refused("received corrupt message of type InvalidContentType"));
        assert!(!refused("Connection refused (os error 111)"));
        assert!(!refused("operation timed out"));
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(seconds_of_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777.0));
        assert_eq!(seconds_of_date("yesterday"), None);
        assert_eq!(seconds_of_date("Sun, 06 Nov 1994 GMT"), None);
    }
}
