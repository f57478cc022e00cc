//! `deploy/compose`: what it mounts is there and fits together, and its nodes form a cluster. The images of Prometheus
//! and Grafana are others', and are not started here.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::engine::{Engine, with_engine};
use crate::support::http::call;
use crate::support::namespaces::{tool, tools};
use crate::support::{await_some, await_that, command, scratch};
use crate::{IMAGE, build, deploy, inspected};

/// Python with the packages that `.ci/setup test` has fetched.
fn python(script: &str) -> Command {
    let mut python = command("python3");
    python.env("PYTHONPATH", tools().join("compose")).args(["-c", script]);
    python
}

/// A file of YAML as JSON.
fn yaml(path: &Path) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let done = python(script).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{} (.ci/setup test fetches python's yaml): {said}", path.display());
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Arguments for the compose file, run by compose.
fn compose(file: &Path, args: &[&str]) -> Command {
    let mut compose = python("import sys; from compose.cli.main import main; sys.argv[0] = 'docker-compose'; main()");
    compose.arg("--project-name").arg("raft").arg("-f").arg(file).args(args);
    compose
}

fn succeed(mut command: Command) -> String {
    let done = command.output().unwrap();
    let (output, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(
        done.status.success(),
        "{command:?} (.ci/setup test fetches it) ended with {}: {output}{said}",
        done.status
    );
    output.into_owned()
}

fn compose_file() -> PathBuf {
    deploy().join("compose/compose.yaml")
}

#[test]
fn what_compose_mounts_is_there_and_fits_together() {
    let file = compose_file();
    succeed(compose(&file, &["config", "--quiet"]));
    let services = yaml(&file)["services"].as_object().unwrap().clone();
    for (name, service) in &services {
        assert_eq!(service["read_only"], true, "{name} may write to its root");
        assert_eq!(service["cap_drop"][0], "ALL", "{name} keeps capabilities");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} is reached from other machines: {port}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let there = !source.starts_with('.') || file.parent().unwrap().join(source).is_file();
            assert!(there, "{name} mounts {source}, which is not there");
        }
    }
    // The dashboard asks what its variable stands for: the default data source of its kind.
    let source = yaml(&deploy().join("compose/grafana/datasource.yaml"))["datasources"][0].clone();
    assert_eq!((&source["type"], &source["isDefault"]), (&"prometheus".into(), &true.into()));
    let dashboard = std::fs::read_to_string(deploy().join("grafana/raft.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!((&variable["type"], &variable["query"]), (&"datasource".into(), &source["type"]));
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["targets"].is_array()) {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
    let provider = yaml(&deploy().join("compose/grafana/dashboards.yaml"))["providers"][0]["options"]["path"].clone();
    let home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap();
    assert_eq!(Path::new(home).parent().unwrap().to_str(), provider.as_str());

    // As they lie in the container of Prometheus.
    let directory = scratch();
    let config = directory.path().join("prometheus.yml");
    std::fs::copy(deploy().join("compose/prometheus.yaml"), &config).unwrap();
    std::fs::copy(deploy().join("prometheus/rules.yaml"), directory.path().join("rules.yaml")).unwrap();
    let mut check = command(tool("promtool", "prometheus"));
    check.args(["check", "config"]).arg(&config);
    assert!(succeed(check).contains("SUCCESS"));
    for target in yaml(&config)["scrape_configs"][0]["static_configs"].as_array().unwrap() {
        let node = target["targets"][0].as_str().unwrap().strip_suffix(":7081").unwrap();
        assert!(services.contains_key(node) && target["labels"]["pod"] == node, "{target}");
    }
}

/// The state of a service's container.
fn state(engine: &Engine, service: &str) -> Value {
    let filter = format!("label=com.docker.compose.service={service}");
    let container = engine.docker(&["ps", "--all", "--quiet", "--filter", &filter]);
    inspected(engine, container.trim())["State"].clone()
}

#[test]
fn the_nodes_of_the_compose_file_form_a_cluster() {
    with_engine("compose::the_nodes_of_the_compose_file_form_a_cluster", |engine| {
        build(engine);
        engine.docker(&["tag", IMAGE, "raft-node:local"]);
        let file = compose_file();
        let run = |args: &[&str]| {
            let mut command = compose(&file, args);
            engine.reached_by(&mut command);
            command
        };
        succeed(run(&["up", "--detach", "--no-build", "n1", "n2", "n3"]));
        assert_eq!(state(engine, "certificates")["ExitCode"], 0);
        for node in ["n1", "n2", "n3"] {
            await_that("a healthy container", || state(engine, node)["Health"]["Status"] == "healthy");
        }
        let node = |name: &str, args: &[&str]| -> Option<String> {
            let done = run(&[&["exec", "-T", name, "/raft-node"], args].concat()).output().unwrap();
            done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
        };
        await_some("a healthy cluster", || node("n1", &["status"]));
        await_some("a put", || node("n1", &["kv", "put", "greeting", "hello"]));
        assert_eq!(node("n3", &["kv", "get", "greeting"]).as_deref(), Some("hello"));
        // As its README says, from this machine.
        let read = call("127.0.0.1:7280", "GET", "/v1/kv/greeting", &[], b"").unwrap();
        assert_eq!((read.status, read.text().as_str()), (200, "hello"));
        succeed(run(&["stop", "n2"]));
        assert_eq!(state(engine, "n2")["ExitCode"], 0);
        succeed(run(&["down", "--volumes"]));
    });
}
