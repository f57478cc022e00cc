//! What watches the product: every rule of `deploy/prometheus` and every panel of `deploy/grafana` is asked of a real
//! Prometheus that scrapes a real cluster, and every runbook's commands are run.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use support::http::call;
use support::prometheus::{Prometheus, repository, tool};
use support::{BINARY, TestCluster, await_that, cli, command};

/// Series that a healthy cluster does not have: their cases in `rules.test.yaml` are all there is to them.
const ONLY_AT_TIMES: &[&str] = &[
    // While a snapshot is taken or travels.
    "raft_snapshot_progress_ratio",
    // From the first one on.
    "raft_transport_refusals_total",
    "raft_inbound_dropped_total",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs promtool beside the rules and demands success.
fn promtool(args: &[&str]) {
    let ran = promtool_command(args).output();
    let ran = ran.unwrap_or_else(|error| panic!("promtool (.ci/setup test fetches it): {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "promtool {args:?}: {said}");
}

fn promtool_command(args: &[&str]) -> std::process::Command {
    let mut promtool = command(tool("promtool"));
    promtool.args(args).current_dir(repository().join("deploy/prometheus"));
    promtool
}

/// The names after `- alert:`.
fn alerts() -> Vec<String> {
    let rules = read("deploy/prometheus/rules.yaml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn rules_are_well_formed_and_fire_in_their_cases_only() {
    promtool(&["check", "rules", "rules.yaml"]);
    promtool(&["test", "rules", "rules.test.yaml"]);
}

#[test]
fn every_alert_has_a_case_and_a_runbook_and_no_runbook_is_without_one() {
    let (rules, cases) = (read("deploy/prometheus/rules.yaml"), read("deploy/prometheus/rules.test.yaml"));
    let alerts = alerts();
    assert!(alerts.len() > 30, "only {} alerts were found", alerts.len());
    for alert in &alerts {
        assert!(cases.contains(&format!("  - name: {alert}\n")), "{alert} has no case in rules.test.yaml");
        let page = format!("docs/runbooks/{alert}.md");
        assert!(rules.contains(&format!("/{page}\n")), "{alert} does not name {page} as its runbook_url");
        let page = read(&page);
        for part in [&format!("# {alert}\n"), "## Look", "```sh", "## Do"] {
            assert!(page.contains(part), "the runbook of {alert} has no {part:?}");
        }
    }
    let named: BTreeSet<String> = alerts.iter().map(|alert| format!("{alert}.md")).collect();
    for page in std::fs::read_dir(repository().join("docs/runbooks")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("Raft") || named.contains(&name), "{name} is the runbook of no alert");
    }
}

/// The panels' queries, with what the variables stand for when everything is chosen.
fn panel_queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/raft.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap().to_owned();
            let mut query = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in [("$namespace", ".*"), ("$job", ".*"), ("$pod", ".*"), ("$__rate_interval", "15s")]
            {
                query = query.replace(variable, value);
            }
            assert!(!query.contains('$'), "{title}: a variable that is not known: {query}");
            queries.push((title, query));
        }
    }
    queries
}

/// Names of series in a query: ours and the process's.
fn series_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
    words.filter(|word| word.starts_with("raft_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Makes something of everything that is measured: writes, reads of each kind, a snapshot, a handover.
fn keep_busy(cluster: &TestCluster, round: usize) {
    let node = &cluster.nodes[round % cluster.nodes.len()];
    let written = node.put("key", b"value");
    let token = written.and_then(|reply| reply.header("raft-token").map(str::to_owned)).unwrap_or_default();
    for mode in ["linearizable", "lease", "local", "snapshot"] {
        let _reply = node.get(&format!("/v1/kv/key?consistency={mode}"));
    }
    let _reply = call(&node.client, "GET", "/v1/kv/key?consistency=verified", &[("Raft-Token", &token)], b"");
    if round % 10 == 5 {
        let _reply = call(&node.client, "POST", "/v1/node/snapshot", &[], b"");
    }
    if round % 40 == 20 {
        let _reply = call(&node.client, "POST", "/v1/cluster/leader", &[], b"{}");
    }
}

#[test]
fn every_panel_and_every_rule_is_answered_by_a_real_cluster() {
    let cluster = TestCluster::start(3);
    let directory = support::scratch();
    let targets: Vec<(&str, &str)> = cluster.nodes.iter().map(|node| (&*node.name, &*node.ops)).collect();
    let host = cluster.nodes[0].ops.split(':').next().unwrap();
    let prometheus = Prometheus::start(&targets, host, directory.path());
    let queries = panel_queries();
    assert!(queries.len() > 50, "the dashboard has lost its panels: {}", queries.len());
    let mut round = 0;
    let mut silent: Vec<(String, String)> = queries;
    await_that("series for every panel", || {
        keep_busy(&cluster, round);
        round += 1;
        if round % 20 == 0 {
            silent.retain(|(_, query)| prometheus.query(query).is_empty());
            eprintln!("round {round}: {} queries are still without an answer: {:?}", silent.len(), silent.first());
        }
        silent.is_empty()
    });
    let mut pending = prometheus.rules();
    assert!(pending.len() > 35, "only {} rules were loaded", pending.len());
    await_that("an evaluation of every rule", || {
        keep_busy(&cluster, round);
        round += 1;
        pending = prometheus.rules();
        pending.retain(|rule| rule["health"] != "ok");
        pending.is_empty()
    });
    for rule in prometheus.rules() {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        for series in series_in(query).iter().filter(|series| !ONLY_AT_TIMES.contains(&series.as_str())) {
            // What only a leader shows is gone for a scrape while the leadership is handed over.
            await_that(&format!("{series}, which {name} goes by"), || !prometheus.query(series).is_empty());
        }
        if rule["type"] == "alerting" {
            assert_ne!(rule["state"], "firing", "{name} fires at a healthy cluster: {rule}");
        } else {
            assert!(!prometheus.query(name).is_empty(), "{name} is recorded and has no value");
        }
    }
}

#[test]
fn the_commands_of_every_runbook_run() {
    let cluster = TestCluster::start(3);
    // What only a leader shows is asked for, too; the index of the runbooks says so.
    let node = &cluster.nodes[cluster.await_leader()];
    // So that every counter that a runbook looks for is there.
    (0..3).for_each(|round| keep_busy(&cluster, round));
    let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for alert in alerts() {
        let page = read(&format!("docs/runbooks/{alert}.md"));
        let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        for line in block.lines() {
            let mut shell = command("sh");
            shell.args(["-c", line]).env("PATH", &path);
            shell
                .env("RAFT_ENDPOINT", format!("http://{}", node.client))
                .env("RAFT_OPS", format!("http://{}", node.ops));
            let done = shell.output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && !said.is_empty(), "{alert}: `{line}` ended with {}: {said}", done.status);
            ran += 1;
        }
    }
    assert!(ran > 60, "only {ran} commands were found");
    // The commands are told where to look by the environment, as the index says.
    assert!(cli(&["status", "--endpoint", &node.client]).status.success());
}

/// Labels that a metric may have. None of them comes from a client; what each may be is bounded by the code or the members.
const LABELS: [&str; 14] = [
    "bound",
    "direction",
    "kind",
    "le",
    "mode",
    "peer",
    "phase",
    "reason",
    "result",
    "role",
    "route",
    "standing",
    "status",
    "usage",
];
/// Different values of one label, of a metric on one node.
const VALUES_MAX: usize = 40;
/// Words for units that are not the base ones (seconds, bytes, entries, ratio).
const OTHER_UNITS: [&str; 12] = [
    "milliseconds",
    "millis",
    "ms",
    "microseconds",
    "us",
    "nanoseconds",
    "minutes",
    "hours",
    "kilobytes",
    "kib",
    "mib",
    "percent",
];

/// What is wrong with the text of `/metrics`, a sentence each.
fn lint(text: &str, documented: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let described = |kind: &str| -> std::collections::BTreeMap<&str, &str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(kind)?.trim().split_once(' '));
        lines.collect()
    };
    let (help, types) = (described("HELP"), described("TYPE"));
    for (name, kind) in &types {
        let bad = |what: &str| format!("{name} ({kind}): {what}");
        let ours = name.starts_with("raft_");
        let legal = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !legal || !ours && !name.starts_with("process_") {
            wrong.push(bad("its name does not begin with raft_ or process_, or has other letters than a-z, 0-9 and _"));
        }
        if (*kind == "counter") != name.ends_with("_total") {
            wrong.push(bad("_total is for counters, and for all of them"));
        }
        if name.split('_').any(|word| OTHER_UNITS.contains(&word)) {
            wrong.push(bad("its unit is no base unit"));
        }
        if name.contains("_duration") && !name.ends_with("_seconds") {
            wrong.push(bad("a duration is in seconds"));
        }
        if help.get(name).is_none_or(|help| help.is_empty()) {
            wrong.push(bad("there is no help"));
        }
        if ours && !documented.contains(&format!("`{name}`")) {
            wrong.push(bad("docs/metrics.md does not have it"));
        }
    }
    let mut values: std::collections::BTreeMap<(String, String), BTreeSet<String>> = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        if !types.contains_key(name) && types.get(family) != Some(&"histogram") {
            wrong.push(format!("{name} has no type"));
        }
        let Some((_, rest)) = line.split_once('{') else { continue };
        for pair in rest.rsplit_once('}').unwrap().0.split("\",").map(|pair| pair.trim_end_matches('"')) {
            let (label, value) = pair.split_once("=\"").unwrap();
            let known = LABELS.contains(&label) || name == "raft_build_info" && label == "version";
            if !known {
                wrong
                    .push(format!("{name} has the label {label}: is it bounded? then add it to the list of this test"));
            }
            values.entry((name.to_owned(), label.to_owned())).or_default().insert(value.to_owned());
        }
    }
    for ((name, label), found) in values {
        if found.len() > VALUES_MAX {
            wrong.push(format!("{name} has {} values of {label}", found.len()));
        }
    }
    wrong
}

#[test]
fn metrics_keep_the_rules_of_names_and_no_label_comes_from_a_client() {
    const PLANTED: &str = "planted-by-a-client";
    let cluster = TestCluster::start(3);
    let node = &cluster.nodes[0];
    (0..12).for_each(|round| keep_busy(&cluster, round));
    let planted = [
        ("PUT", format!("/v1/kv/{PLANTED}")),
        ("GET", format!("/{PLANTED}")),
        (PLANTED, "/v1/kv/key".to_owned()),
        ("GET", format!("/v1/kv/key?{PLANTED}={PLANTED}")),
        ("GET", format!("/v1/kv/key?consistency={PLANTED}")),
        ("DELETE", format!("/v1/cluster/members/{PLANTED}")),
        ("GET", format!("/v1/outcomes/{PLANTED}")),
    ];
    for (method, path) in planted {
        let headers = [("Idempotency-Key", PLANTED), ("User-Agent", PLANTED), ("Raft-Token", PLANTED)];
        assert!(call(&node.client, method, &path, &headers, PLANTED.as_bytes()).is_some(), "{method} {path}");
    }
    let documented = read("docs/metrics.md");
    for node in &cluster.nodes {
        let text = call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text();
        assert!(text.lines().count() > 200, "hardly any metrics: {text}");
        assert_eq!(lint(&text, &documented), Vec::<String>::new(), "of {}", node.name);
        assert!(!text.contains(PLANTED), "what a client said is in the metrics");
    }
    let text = call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text();
    support::manifests::filter(promtool_command(&["check", "metrics"]), "promtool check metrics", &text);
    // And what breaks a rule is found.
    for (broken, wanted) in [
        ("# HELP raft_term The term.\n# TYPE raft_term counter\nraft_term 1", "_total is for counters"),
        ("# HELP http_sent_bytes Bytes sent.\n# TYPE http_sent_bytes gauge\nhttp_sent_bytes 1", "does not begin"),
        ("# HELP raft_wait_ms How long it waits.\n# TYPE raft_wait_ms gauge\nraft_wait_ms 1", "no base unit"),
        ("# TYPE raft_term gauge\nraft_term 1", "no help"),
        ("# HELP raft_term The term.\n# TYPE raft_term gauge\nraft_term{key=\"a\"} 1", "the label key"),
        ("raft_term 1", "has no type"),
        ("# HELP raft_new Something new.\n# TYPE raft_new gauge\nraft_new 1", "docs/metrics.md"),
    ] {
        let found = lint(broken, &documented).join("; ");
        assert!(found.contains(wanted), "{broken}: {found}");
    }
}
