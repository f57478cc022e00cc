//! The Kubernetes manifests: every overlay is built by kubectl, every object validated, and what a node would be started
//! with is checked by the node itself.
// A panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::manifests::{built, filter, kubernetes, object, objects, python};
use support::{BINARY, certificates, command};

const OVERLAYS: [&str; 5] = ["dev", "production", "cert-manager", "monitoring", "access"];
/// The version of Kubernetes whose schemas the objects have to fit.
const KUBERNETES: &str = "1.32";

#[test]
fn every_overlay_is_built_and_every_object_fits_its_schema() {
    for (overlay, wanted) in OVERLAYS.iter().zip([6, 6, 9, 12, 9]) {
        let mut validate = python();
        validate.arg(kubernetes().join("validate.py")).arg(KUBERNETES);
        let said = filter(validate, &format!("the validation of overlay {overlay}"), &built(overlay));
        assert_eq!(said.lines().filter(|line| line.ends_with(": fits")).count(), wanted, "{overlay}: {said}");
    }
    // And what does not fit is refused.
    let broken = built("dev").replace("terminationGracePeriodSeconds", "terminationGraceSeconds");
    let mut validate = python();
    validate.arg(kubernetes().join("validate.py")).arg(KUBERNETES);
    let validation = std::panic::AssertUnwindSafe(|| filter(validate, "the validation", &broken));
    let refused = std::panic::catch_unwind(validation);
    assert!(refused.is_err(), "a misspelled field was taken");
}

#[test]
fn the_objects_are_what_a_cluster_of_this_kind_needs() {
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let set = &object(&objects, "StatefulSet")["spec"];
        let pod = &set["template"]["spec"];
        let container = &pod["containers"][0];
        let labels = &set["template"]["metadata"]["labels"];
        assert_eq!(set["podManagementPolicy"], "Parallel");
        assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
        for selector in [
            &set["selector"]["matchLabels"],
            &object(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            &object(&objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ] {
            assert_eq!(selector, labels, "{overlay}: something selects other pods than the nodes");
        }
        // The restricted profile of Pod Security.
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        // The hook's own limit lies within the time that the pod has.
        let hook: Vec<&str> = container["lifecycle"]["preStop"]["exec"]["command"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(Value::as_str)
            .collect();
        assert_eq!(hook[..3], ["/raft-node", "pre-stop", "--max-wait"]);
        let seconds: u64 = hook[3].strip_suffix('s').unwrap().parse().unwrap();
        assert!(seconds + 60 <= pod["terminationGracePeriodSeconds"].as_u64().unwrap(), "{overlay}");
        let policy = object(&objects, "NetworkPolicy").to_string();
        assert!(policy.contains(r#""port":7082,"protocol":"UDP""#), "{overlay}: {policy}");
        let egress = object(&objects, "NetworkPolicy")["spec"]["egress"].as_array().unwrap();
        let peers = egress.iter().find(|rule| rule["to"][0]["podSelector"]["matchLabels"] == *labels).unwrap();
        let wanted = serde_json::json!([{"port": 7082, "protocol": "UDP"}, {"port": 7080, "protocol": "TCP"}]);
        assert_eq!(peers["ports"], wanted, "{overlay}: a node reaches others as a peer and as a client");
        let names = egress.iter().find(|rule| rule["ports"][0]["port"] == 53).unwrap();
        let servers = &names["to"][0]["podSelector"];
        assert_eq!(servers["matchLabels"], Value::Null, "{overlay}: no server of names has the labels of a node");
        assert_eq!(servers["matchExpressions"][0]["values"][0], "kube-dns");
        let peers = objects.iter().find(|object| object["metadata"]["name"] == "raft-peers").unwrap();
        assert_eq!(peers["spec"]["publishNotReadyAddresses"], true);
        assert_eq!(peers["spec"]["ports"][0]["protocol"], "UDP");
    }
}

#[test]
fn a_node_accepts_the_environment_of_its_pod() {
    let directory = support::scratch();
    certificates(directory.path(), "raft", &["raft-0", "tls"]);
    for (from, to) in [("ca.pem", "ca.crt"), ("raft-0.pem", "tls.crt"), ("raft-0.key", "tls.key")] {
        std::fs::copy(directory.path().join(from), directory.path().join(to)).unwrap();
    }
    std::fs::write(directory.path().join("tokens.toml"), "").unwrap();
    for overlay in OVERLAYS {
        let objects = objects(overlay);
        let container = &object(&objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
        let mut check = command(BINARY);
        check.args(["config", "check"]);
        let mut known: Vec<(String, String)> = Vec::new();
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap().to_owned();
            let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => "raft-0".to_owned(),
                Some("metadata.namespace") => "shop".to_owned(),
                _ => variable["value"].as_str().unwrap().to_owned(),
            };
            // As Kubernetes does it: only what stands before is known.
            for (name, replacement) in &known {
                value = value.replace(&format!("$({name})"), replacement);
            }
            assert!(!value.contains("$("), "{overlay}: {name} names a variable that stands behind it: {value}");
            for mounted in ["/etc/raft/peer", "/etc/raft/access"] {
                value = value.replace(mounted, directory.path().to_str().unwrap());
            }
            known.push((name, value));
        }
        let set = |name: &str| known.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let local = format!("{}/local.token", set("RAFT_DATA_DIR").unwrap());
        assert_eq!(set("RAFT_LOCAL_TOKEN_FILE"), Some(local.as_str()), "{overlay}: the hook looks elsewhere");
        assert_eq!(set("RAFT_AUTH_TOKEN_FILE").is_some(), overlay == "access");
        check.envs(known.iter().map(|(name, value)| (name, value)));
        let done = check.output().unwrap();
        assert!(done.status.success(), "{overlay}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_operators_rules_are_those_of_prometheus() {
    let deploy = kubernetes().join("..");
    let rules = std::fs::read_to_string(deploy.join("prometheus/rules.yaml")).unwrap();
    let groups = &rules[rules.find("groups:").unwrap()..];
    let rule = std::fs::read_to_string(deploy.join("kubernetes/components/monitoring/prometheus-rule.yaml")).unwrap();
    let spec: Vec<&str> =
        rule.split("\nspec:\n").nth(1).unwrap().lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    let wanted: Vec<&str> = groups.lines().collect();
    assert_eq!(
        spec, wanted,
        "components/monitoring/prometheus-rule.yaml is not prometheus/rules.yaml, indented by two"
    );
}
