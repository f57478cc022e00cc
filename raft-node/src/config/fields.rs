//! Every setting there is: one table gives the file's keys, the environment's names, the flags, the defaults and
//! `docs/config.md`.

use super::value::Kind;

/// One setting.
#[derive(Debug)]
pub struct Field {
    /// Its key in the file: `client.listen`. Tables nest by the dots.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its value when nothing is set; `None` when there is none.
    pub default: Option<&'static str>,
    /// What it does, in one line.
    pub meaning: &'static str,
}

impl Field {
    /// Its name in the environment: `RAFT_CLIENT_LISTEN`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("RAFT_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Its flag without the dashes: `client-listen`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }
}

const fn field(key: &'static str, kind: Kind, default: Option<&'static str>, meaning: &'static str) -> Field {
    Field { key, kind, default, meaning }
}

/// All settings, in the order in which `config show` prints them.
pub const FIELDS: &[Field] = &[
    field("name", Kind::Text, None, "This node's name; its certificate names it too. Required."),
    field("cluster", Kind::Text, Some("raft"), "The cluster's name, as certificates give it."),
    field(
        "data_dir",
        Kind::Path,
        None,
        "Where this node keeps its log and its state. One node per directory. Required.",
    ),
    field("client.listen", Kind::Address, Some("127.0.0.1:7080"), "Where clients are served."),
    field(
        "client.advertise",
        Kind::Address,
        None,
        "Where clients reach this node; what other nodes send them to. The address it listens on, unless set.",
    ),
    field(
        "client.tls.cert",
        Kind::Path,
        None,
        "Certificate chain (PEM) for clients. With it, clients are served over TLS only.",
    ),
    field("client.tls.key", Kind::Path, None, "Private key (PEM) of client.tls.cert."),
    field("client.tls.client_ca", Kind::Path, None, "Certificates (PEM) of which one must have signed a client's own."),
    field(
        "auth.token_file",
        Kind::Path,
        None,
        "Who may do what (TOML), by bearer token or client certificate: docs/access.md. Without it, anybody who reaches client.listen may do everything.",
    ),
    field("ops.listen", Kind::Address, Some("127.0.0.1:7081"), "Where probes and metrics are served, in plain HTTP."),
    field("peer.listen", Kind::Address, Some("0.0.0.0:7082"), "Where other nodes are served: QUIC, so UDP."),
    field(
        "peer.advertise",
        Kind::Address,
        None,
        "Where other nodes reach this one. Its address in bootstrap, unless set.",
    ),
    field("peer.tls.ca", Kind::Path, None, "Certificates (PEM) that sign the nodes' certificates. Required."),
    field("peer.tls.cert", Kind::Path, None, "This node's certificate chain (PEM). Required."),
    field("peer.tls.key", Kind::Path, None, "Private key (PEM) of peer.tls.cert. Required."),
    field(
        "bootstrap",
        Kind::List,
        None,
        "The founders, this node among them, or members of the cluster that it is to join, each as name=host:port of its peer address. Used to found or to join; later only for addresses that are tried beside those that the cluster knows. Name other members too once a cluster of one has grown: a lone founder that loses its disk founds another cluster.",
    ),
    field(
        "join.voter",
        Kind::Switch,
        Some("true"),
        "Whether this node, when it joins a cluster by itself, votes once it has caught up. Who adds it by name decides otherwise.",
    ),
    field(
        "removed.exit",
        Kind::Switch,
        Some("false"),
        "Whether the process ends (with code 13) once this node was removed from its cluster; else it idles and says so.",
    ),
    field(
        "election_timeout",
        Kind::Duration,
        Some("200ms"),
        "T: a follower that hears of no leader for T to 2T campaigns. 10ms to 60s.",
    ),
    field(
        "heartbeat_interval",
        Kind::Duration,
        Some("40ms"),
        "How often a leader speaks. At most a third of election_timeout.",
    ),
    field("limits.key_bytes_max", Kind::Size, Some("8KiB"), "Longest key that this node takes."),
    field("limits.value_bytes_max", Kind::Size, Some("1.5MiB"), "Longest value that this node takes."),
    field("limits.batch_operations_max", Kind::Count, Some("128"), "Most operations in one batch."),
    field("limits.batch_bytes_max", Kind::Size, Some("2MiB"), "Longest keys and values of one batch together."),
    field("limits.requests_in_flight_max", Kind::Count, Some("4096"), "Requests served at a time; more get 429."),
    field(
        "limits.bytes_in_flight_max",
        Kind::Size,
        Some("64MiB"),
        "Bytes of request bodies held at a time; more get 429.",
    ),
    field("limits.connections_max", Kind::Count, Some("8192"), "Client connections; more wait to be accepted."),
    field(
        "limits.header_read_timeout",
        Kind::Duration,
        Some("15s"),
        "How long a client may take over its request's head.",
    ),
    field("limits.request_timeout", Kind::Duration, Some("5s"), "Deadline of a request that names none."),
    field("limits.request_timeout_max", Kind::Duration, Some("60s"), "Longest deadline that a request may name."),
    field("limits.log_entries_max", Kind::Count, Some("1000"), "Most entries in one answer of /v1/node/log."),
    field(
        "idempotency.window",
        Kind::Count,
        Some("1000000"),
        "Idempotency keys that the cluster remembers. Replicated: the file only seeds it at founding.",
    ),
    field(
        "kv.key_bytes_max",
        Kind::Size,
        Some("8KiB"),
        "Longest key that the cluster takes. Replicated: the file only seeds it at founding.",
    ),
    field(
        "kv.value_bytes_max",
        Kind::Size,
        Some("1.5MiB"),
        "Longest value that the cluster takes. Replicated: the file only seeds it at founding.",
    ),
    field(
        "versions.window",
        Kind::Count,
        Some("200000"),
        "Entries behind the newest at which older versions of keys can be read; 0 keeps none. Replicated: the file only seeds it at founding.",
    ),
    field(
        "mark.interval",
        Kind::Duration,
        Some("10s"),
        "How often the leader makes a mark while anything is written. Replicated, as mark.interval_ms: the file only seeds it at founding.",
    ),
    field(
        "mark.entries",
        Kind::Count,
        Some("100000"),
        "The leader makes a mark after so many entries at the latest. Replicated: the file only seeds it at founding.",
    ),
    field(
        "read_lease.duration",
        Kind::Duration,
        None,
        "How long a read lease is promised for at most; 0s turns leases off. Follows election_timeout unless set. Replicated, as read_lease.duration_ms: the first leader's file seeds it.",
    ),
    field(
        "read_lease.clock_drift_max",
        Kind::Count,
        Some("10"),
        "How much faster or slower than true time any clock may run, in percent. Replicated, as read_lease.clock_drift_percent: the first leader's file seeds it.",
    ),
    field(
        "read_lease.min_holders",
        Kind::Count,
        Some("0"),
        "How many followers are to hold a read lease at any time, whether anybody reads there or not. Replicated: the first leader's file seeds it.",
    ),
    field(
        "storage.sync",
        Kind::Switch,
        Some("true"),
        "Whether the log is synced before anything is acknowledged. Without, a loss of power may lose acknowledged writes.",
    ),
    field(
        "log.bytes_max",
        Kind::Size,
        Some("1GiB"),
        "Disk that the log may take. Entries of 3/16 of it are kept at least, for members that were away.",
    ),
    field(
        "snapshot.interval_entries",
        Kind::Count,
        Some("1000000"),
        "A snapshot is taken when so many entries were applied since the last.",
    ),
    field(
        "snapshot.interval_bytes",
        Kind::Size,
        Some("1GiB"),
        "A snapshot is taken when so many bytes of entries were applied since the last.",
    ),
    field(
        "snapshot.interval",
        Kind::Duration,
        None,
        "A snapshot is taken when the last is so old and anything was applied since. Not unless set.",
    ),
    field(
        "snapshot.keep_entries",
        Kind::Count,
        Some("1000000"),
        "Entries that the log keeps for members that were away, if log.bytes_max allows. Who misses more gets a snapshot.",
    ),
    field(
        "snapshot.max_bytes_per_second",
        Kind::Size,
        Some("32MiB"),
        "Bytes of snapshots that this node sends in a second, to all members together. 0 for no limit.",
    ),
    field(
        "snapshot.concurrency",
        Kind::Count,
        Some("2"),
        "Members to which this node sends a snapshot at a time; more wait.",
    ),
    field("shutdown_timeout", Kind::Duration, Some("10s"), "How long a stopping node lets requests in flight finish."),
    field(
        "raft.priority",
        Kind::Count,
        Some("50"),
        "How much this node is wanted as leader, 0 to 100. Leaders hand over to a member of higher priority that is up to date; with 0 it campaigns only when nobody else does.",
    ),
    field(
        "runtime.threads",
        Kind::Count,
        Some("1"),
        "Threads that serve HTTP, peers and the driver. 1 keeps them on one core, without wake-ups between cores.",
    ),
    field(
        "log.filter",
        Kind::Text,
        Some("info"),
        "What is logged: a level, or target=level pairs. RAFT_LOG is short for it.",
    ),
    field("log.format", Kind::Text, Some("text"), "How it is logged to stderr: text or json."),
];

/// The setting with this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

/// The candidate that was probably meant by `wrong`, if one is near enough.
pub(crate) fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (distance(wrong, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2 + candidate.len() / 5)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(left[i - 1] != right[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_names_of_its_own_and_a_default_that_parses() {
        let mut names = std::collections::BTreeSet::new();
        for field in FIELDS {
            assert!(names.insert(field.key.to_owned()), "{}", field.key);
            assert!(names.insert(field.variable()), "{}", field.variable());
            assert!(names.insert(format!("--{}", field.flag())), "{}", field.flag());
            if let Some(default) = field.default {
                field.kind.parse(default).unwrap_or_else(|problem| panic!("{} {problem}", field.key));
            }
        }
    }

    #[test]
    fn a_misspelled_key_is_guessed() {
        let guess = |wrong| nearest(wrong, FIELDS.iter().map(|field| field.key));
        assert_eq!(guess("election_timout"), Some("election_timeout"));
        assert_eq!(guess("client.lsiten"), Some("client.listen"));
        assert_eq!(guess("peer.tls.cet"), Some("peer.tls.cert"));
        assert_eq!(guess("snapshot.intervall_entries"), Some("snapshot.interval_entries"));
        assert_eq!(guess("backup.directory"), None);
    }
}
