//! While the node runs: reloads, secrets, stops.

use super::*;

#[test]
fn tokens_come_and_go_while_the_node_runs() {
    let (cluster, tokens) = start(1, &[]);
    let node = &cluster.nodes[0];
    let fresh = Secret::random().unwrap();
    let status = |token: &Secret| ask(node, token, "GET", "/v1/kv/a/x", b"").status;
    let reloads = |result: &str| node.metric(&format!("raft_access_reloads_total{{result=\"{result}\"}}")).unwrap();
    assert_eq!((status(&fresh), status(&tokens.writer_of_a)), (401, 404));
    assert_eq!((reloads("used"), reloads("unusable"), node.metric("raft_access_unusable")), (0.0, 0.0, Some(0.0)));
    assert_eq!(node.metric("raft_access_identities"), Some(5.0));
    // As Kubernetes does it: the name is a link, and what it names is another file at once.
    let real = tokens.path.with_extension("second");
    let grants = "grants = [{ role = \"read\", prefix = \"a/\" }]";
    put(&real, &block("fresh", &fresh, grants));
    let link = tokens.path.with_extension("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    std::fs::rename(&link, &tokens.path).unwrap();
    await_that("the fresh token", || status(&fresh) == 404);
    assert_eq!(status(&tokens.writer_of_a), 401, "what was taken out of the file is gone with the same look");
    await_that("a reload that is counted", || {
        reloads("used") == 1.0 && node.metric("raft_access_identities") == Some(1.0)
    });
    // What cannot be used changes nothing.
    put(&real, &format!("{}nonsense = 1\n", block("other", &tokens.writer_of_a, grants)));
    await_that("a fault that is told", || node.metric("raft_access_unusable") == Some(1.0));
    assert_eq!((status(&fresh), status(&tokens.writer_of_a), reloads("unusable")), (404, 401, 1.0));
    let events = ask(node, &fresh, "GET", "/v1/events?limit=50", b"").text();
    assert!(events.contains("changed token file cannot be used"), "{events}");
    // Whoever may see events need not know what is in the file; the log is for those who have it.
    assert!(!events.contains("line 5") && !events.contains("nonsense"), "{events}");
    assert!(node.log().contains("line 5: unknown field"), "{}", node.log());
    std::fs::remove_file(&real).unwrap();
    await_that("another fault", || reloads("unusable") == 2.0);
    assert_eq!(status(&fresh), 404);
    put(&real, &block("fresh", &fresh, grants));
    await_that("the good file", || node.metric("raft_access_unusable") == Some(0.0));
    assert_eq!((status(&fresh), reloads("used")), (404, 1.0), "nothing new is used");
}

#[test]
fn no_secret_is_in_anything_that_the_node_says() {
    let (mut cluster, tokens) = start(1, &["--log-filter", "trace"]);
    let node = &cluster.nodes[0];
    let mut said = String::new();
    for (_, token) in tokens.all() {
        for (method, path) in [
            ("GET", "/v1/kv/a/x"),
            ("PUT", "/v1/kv/a/x"),
            ("GET", "/v1/node"),
            ("GET", "/v1/cluster"),
            ("GET", "/v1/limits"),
            ("GET", "/v1/node/log"),
            ("GET", "/v1/cluster/settings"),
            ("POST", "/v1/cluster/mark"),
            ("GET", "/v1/nothing"),
        ] {
            let reply = ask(node, token, method, path, b"");
            said += &format!("{:?}\n{}\n", reply.headers, reply.text());
        }
    }
    // In the wrong place of the file, and in a file that cannot be used.
    let misplaced = format!("[[identity]]\nname = \"x\"\nadmin = \"{}\"\n", tokens.admin.expose());
    tokens.write(&misplaced);
    await_that("a fault that is told", || node.metric("raft_access_unusable") == Some(1.0));
    let path = tokens.path.to_str().unwrap();
    let checked = cli(&["token", "check", path]);
    assert_eq!(checked.status.code(), Some(3));
    tokens.write("");
    await_that("the good file", || node.metric("raft_access_unusable") == Some(0.0));
    let listed = cli(&["token", "check", path]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("EXPIRED"), "{listed:?}");
    let mut shown = command(BINARY);
    shown.args(["config", "show"]).args(node.args.iter().skip(1));
    let shown = shown.output().unwrap();
    for output in [&checked, &listed, &shown] {
        said += &String::from_utf8_lossy(&output.stdout);
        said += &String::from_utf8_lossy(&output.stderr);
    }
    said += &ask(node, &tokens.admin, "GET", "/v1/events?limit=1024", b"").text();
    said += &call(&node.ops, "GET", "/metrics", &[], b"").unwrap().text();
    let local = std::fs::read_to_string(node.data_dir.join("local.token")).unwrap();
    assert!(cluster.nodes[0].stop().success());
    said += &cluster.nodes[0].log();
    assert!(said.len() > 50_000, "hardly anything was said");
    assert!(said.contains("reader") && said.contains("cannot be used"), "the search looks at the right things");
    let secrets = tokens.all().map(|(_, token)| token.expose().to_owned());
    for secret in secrets.into_iter().chain([local]) {
        for text in [secret.clone(), TokenDigest::of(&secret).hex(), TokenDigest::of(&secret).hex().to_uppercase()] {
            let at = said.find(&text);
            assert!(at.is_none(), "a secret was said: {}", &said[at.unwrap().saturating_sub(200)..at.unwrap()]);
        }
    }
}

#[test]
fn a_node_is_stopped_with_its_local_token() {
    let (mut cluster, tokens) = start(3, &[]);
    let local = |node: &TestNode| node.data_dir.join("local.token");
    let pre_stop = |node: &TestNode, file: Option<&Path>, wait: &str| {
        let mut program = command(BINARY);
        program.args(["pre-stop", "--endpoint", &node.client, "--max-wait", wait]);
        if let Some(file) = file {
            program.env("RAFT_LOCAL_TOKEN_FILE", file);
        }
        let done = program.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        (done.status.code().unwrap(), said)
    };
    await_that("a healthy cluster", || {
        ask(&cluster.nodes[0], &tokens.looker, "GET", "/v1/cluster", b"").json()["healthy"] == true
    });
    let (leader, follower) = leader_and_follower(&cluster);
    let node = &cluster.nodes[leader];
    let (code, said) = pre_stop(node, None, "1s");
    assert!(code == 14 && said.contains("401") && said.contains("no token"), "{code} {said}");
    let (code, said) = pre_stop(node, Some(&local(&cluster.nodes[follower])), "1s");
    assert_eq!(code, 14, "the token of another node: {said}");
    let (code, said) = pre_stop(node, Some(&local(node)), "30s");
    assert!(code == 0 && said.contains("may stop"), "{code} {said}");
    // It is good for nothing else.
    assert_eq!(std::fs::metadata(local(node)).unwrap().permissions().mode() & 0o777, 0o600);
    let token = Secret::read(&std::fs::read_to_string(local(node)).unwrap()).unwrap();
    for route in ROUTES {
        let may = matches!(route.class, Class::Stop | Class::NodeStatus);
        let (method, path) = (route.method.to_uppercase(), path_of(route.path));
        let status = ask(node, &token, &method, &path, b"").status;
        assert_eq!(status != 403, may, "{method} {path}: {status}");
        assert_ne!(status, 401);
    }
    // It ends with its process, and the next one has another.
    let node = &mut cluster.nodes[leader];
    assert!(node.stop().success());
    assert!(!local(node).exists());
    node.start();
    await_ready(node);
    assert_ne!(std::fs::read_to_string(local(node)).unwrap(), token.expose());
    assert_eq!(ask(node, &token, "POST", "/v1/node/drain", b"").status, 401);
}

#[test]
fn a_token_file_that_cannot_be_used_keeps_the_node_from_starting() {
    let mut cluster = TestCluster::prepare(1, &[]);
    let node = &cluster.nodes[0];
    let path = cluster.dir.path().join("tokens.toml");
    let file = path.to_str().unwrap();
    let refused = node.refused_start(&[("auth-token-file", file)]);
    assert!(refused.code == Some(3) && refused.said.contains("auth.token_file"), "{refused:?}");
    let secret = Secret::random().unwrap();
    put(&path, &(block("a", &secret, "") + &block("a", &Secret::random().unwrap(), "")));
    let refused = node.refused_start(&[("auth-token-file", file)]);
    assert_eq!(refused.code, Some(3));
    for part in ["auth.token_file", "line 6", "that of line 2"] {
        assert!(refused.said.contains(part), "{part} in {}", refused.said);
    }
    let mut check = command(BINARY);
    check.args(["config", "check", "--auth-token-file", file]).args(node.args.iter().skip(1));
    let checked = check.output().unwrap();
    assert!(checked.status.code() == Some(3) && String::from_utf8_lossy(&checked.stderr).contains("line 6"));
    // Who else can read a good one is told of.
    std::fs::write(&path, block("a", &secret, "")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let node = &mut cluster.nodes[0];
    node.args.extend(["--auth-token-file".into(), file.into()]);
    node.start();
    await_that("a warning", || node.log().contains("can be read by others"));
}
