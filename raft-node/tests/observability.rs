//! What watches the product: every rule of `deploy/prometheus` and every panel of `deploy/grafana` is asked of a real
//! Prometheus that scrapes a real cluster, and every runbook's commands are run.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
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
    let ran = command(tool("promtool")).args(args).current_dir(repository().join("deploy/prometheus")).output();
    let ran = ran.unwrap_or_else(|error| panic!("promtool (.ci/setup test fetches it): {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "promtool {args:?}: {said}");
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
            assert!(!prometheus.query(series).is_empty(), "{name} goes by {series}, which no node has");
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
    let node = &cluster.nodes[0];
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
