//! Who somebody is: by token, by certificate, at the command line; and pages that are nobody.

use super::*;

/// What is changed about a command before it runs.
type Change<'a> = &'a dyn Fn(&mut Command);

#[test]
fn what_names_nobody_is_refused_by_name() {
    let (cluster, tokens) = start(1, &[]);
    let node = &cluster.nodes[0];
    let with = |header: &str| call(&node.client, "GET", "/v1/kv/a/x", &[("Authorization", header)], b"");
    let good = tokens.writer_of_a.expose();
    assert_eq!(with(&format!("bearer {good}")).unwrap().status, 404, "the scheme is the same in any case");
    let digest = tokens.writer_of_a.digest().hex();
    let mut typo = good.to_owned();
    typo.pop();
    for (header, part) in [
        (format!("Bearer {typo}"), "known to nobody"),
        (format!("Bearer {good}x"), "known to nobody"),
        (format!("Bearer {}", good.to_uppercase()), "known to nobody"),
        // Who has read the file has no token.
        (format!("Bearer {digest}"), "known to nobody"),
        (format!("Bearer {}", tokens.expired.expose()), "`expired` has expired"),
        (format!("Bearer {}", "x".repeat(60_000)), "known to nobody"),
        (good.to_owned(), "no bearer token"),
        (format!("Basic {}", STANDARD.encode(format!("user:{good}"))), "no bearer token"),
        ("Bearer".into(), "no bearer token"),
        ("Bearer ".into(), "no bearer token"),
        (format!("Bearer {good} {good}"), "no bearer token"),
        (format!("Bearer {good},"), "no bearer token"),
        (String::new(), "no bearer token"),
    ] {
        let reply = with(&header).unwrap();
        let problem = refused(&reply, 401, "unauthenticated", false);
        assert!(problem["detail"].as_str().unwrap().contains(part), "{part} in {problem}");
        assert!(!reply.text().contains(good), "{problem}");
    }
    let two = [("Authorization", format!("Bearer {good}")), ("Authorization", format!("Bearer {good}"))];
    let two = two.each_ref().map(|(name, value)| (*name, value.as_str()));
    refused(&call(&node.client, "GET", "/v1/kv/a/x", &two, b"").unwrap(), 401, "unauthenticated", false);
    // Longer than any head may be: the answer is not this door's.
    let beyond = with(&format!("Bearer {}", "x".repeat(200_000)));
    assert!(beyond.is_none_or(|reply| reply.status == 431), "a head without end was taken");
    assert_eq!(with(&format!("Bearer {good}")).unwrap().status, 404, "the node goes on");
}

#[test]
fn client_certificates_name_identities() {
    let mut cluster = TestCluster::prepare(1, &[]);
    let directory = cluster.dir.path().to_owned();
    let node = &mut cluster.nodes[0];
    let host = node.client.split(':').next().unwrap().to_owned();
    let web = directory.join("web");
    let made = cli(&[
        "init-certs",
        "--dir",
        web.to_str().unwrap(),
        "--cluster",
        "web",
        "--names",
        "server,alice,bob",
        "--hosts",
        &format!("server={host}"),
    ]);
    assert!(made.status.success(), "{made:?}");
    // Another authority gives the same name to anybody.
    certificates(&directory.join("other"), "web", &["alice"]);
    let tokens = directory.join("tokens.toml");
    let known = Secret::random().unwrap();
    let grants = "grants = [{ role = \"write\", prefix = \"a/\" }]";
    let alice = format!("[[identity]]\nname = \"alice\"\ncertificate = \"raft://web/alice\"\n{grants}\n");
    put(&tokens, &(alice + &block("known", &known, "grants = [{ role = \"read\", prefix = \"\" }]")));
    let pem = |file: &str| web.join(file).to_str().unwrap().to_owned();
    for (flag, value) in [
        ("--client-tls-cert", pem("server.pem")),
        ("--client-tls-key", pem("server.key")),
        ("--client-tls-client-ca", pem("ca.pem")),
        ("--auth-token-file", tokens.to_str().unwrap().to_owned()),
    ] {
        node.args.extend([flag.to_owned(), value]);
    }
    node.start();
    await_ready(node);
    let token_file = directory.join("token");
    std::fs::write(&token_file, known.expose()).unwrap();
    let run = |who: &Path, token: bool, args: &[&str]| {
        let endpoint = format!("https://{}", node.client);
        let mut client = command(BINARY);
        client.args(args).args(["--endpoint", &endpoint, "--ca", &pem("ca.pem")]);
        client.arg("--cert").arg(who.with_extension("pem")).arg("--key").arg(who.with_extension("key"));
        if token {
            client.env("RAFT_TOKEN_FILE", &token_file);
        }
        let done = client.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        (done.status.code().unwrap(), said)
    };
    let (alice, bob) = (web.join("alice"), web.join("bob"));
    let (code, said) = run(&alice, false, &["kv", "put", "a/x", "1"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&alice, false, &["kv", "get", "b/x"]);
    assert!(code == 5 && said.contains("forbidden") && said.contains("`alice`"), "{code} {said}");
    let (code, said) = run(&alice, false, &["drain"]);
    assert!(code == 5 && said.contains("administrator"), "{code} {said}");
    let (code, said) = run(&bob, false, &["kv", "get", "a/x"]);
    assert!(code == 5 && said.contains("unauthenticated") && said.contains("names nobody"), "{code} {said}");
    // A token goes before the certificate, whoever has it.
    let (code, said) = run(&bob, true, &["kv", "get", "a/x"]);
    assert!(code == 0 && said.starts_with('1'), "{code} {said}");
    let (code, said) = run(&alice, true, &["kv", "put", "a/x", "2"]);
    assert!(code == 5 && said.contains("`known`"), "{code} {said}");
    let (code, said) = run(&directory.join("other/alice"), false, &["kv", "get", "a/x"]);
    assert_eq!(code, 6, "the handshake refuses who is signed by another authority: {said}");
    assert!(!said.contains(known.expose()));
}

#[test]
fn the_command_line_shows_its_token_to_the_node_and_to_nobody_else() {
    let (cluster, tokens) = start(1, &[]);
    let node = &cluster.nodes[0];
    let file = cluster.dir.path().join("token");
    std::fs::write(&file, format!("{}\n", tokens.writer_of_a.expose())).unwrap();
    let run = |set: Change<'_>, args: &[&str]| {
        let mut client = command(BINARY);
        client.args(args).args(["--endpoint", &node.client]);
        set(&mut client);
        let done = client.output().unwrap();
        (done.status.code().unwrap(), format!("{done:?}"))
    };
    let with_file = |client: &mut Command| {
        client.arg("--token-file").arg(&file);
    };
    let with_token = |client: &mut Command| {
        client.env("RAFT_ACCESS_TOKEN", tokens.writer_of_a.expose());
    };
    let with_nothing = |_: &mut Command| {};
    let cases: [(Change<'_>, i32); 3] = [(&with_file, 0), (&with_token, 0), (&with_nothing, 5)];
    for (set, code) in cases {
        let (ended, said) = run(set, &["kv", "put", "a/x", "1"]);
        assert_eq!(ended, code, "{said}");
        assert!(!said.contains(tokens.writer_of_a.expose()), "{said}");
    }
    for args in [&["kv", "put", "b/x", "1"][..], &["drain"], &["members", "remove", "n1"], &["snapshot"]] {
        let (ended, said) = run(&with_file, args);
        assert!(ended == 5 && said.contains("forbidden"), "{args:?}: {said}");
    }
    assert_eq!(run(&with_file, &["events"]).0, 0);
    // What is no token is not sent, nor shown.
    std::fs::write(&file, "pass word").unwrap();
    let (ended, said) = run(&with_file, &["events"]);
    assert!(ended == 2 && !said.contains("pass word"), "{said}");
    // Tokens are made, and made good, by the same program.
    let made = cli(&["token", "new", "--name", "app", "--read", "a/", "--write", "c/", "-o", "json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    tokens.write(made["identity"].as_str().unwrap());
    let app = Secret::read(made["token"].as_str().unwrap()).unwrap();
    await_that("the token that was made", || ask(node, &app, "GET", "/v1/kv/a/x", b"").status == 200);
    assert_eq!(ask(node, &app, "PUT", "/v1/kv/a/x", b"").status, 403);
    assert_eq!(ask(node, &app, "PUT", "/v1/kv/c/x", b"").status, 200);
}

#[test]
fn pages_of_other_sites_reach_nothing_where_anybody_may_do_everything() {
    let cluster = TestCluster::start(1);
    let node = &cluster.nodes[0];
    let raw = |method: &str, host: &str, more: &str| {
        let request = format!(
            "{method} /v1/kv/k HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        support::http::raw(&node.client, request.as_bytes()).unwrap()
    };
    let ours = node.client.as_str();
    for (method, host, more) in [
        // A form or a script of another page.
        ("PUT", ours, "Origin: https://evil.example\r\n"),
        ("PUT", ours, "Origin: null\r\n"),
        ("DELETE", ours, "Origin: http://127.0.0.1:3000\r\n"),
        ("GET", ours, "Sec-Fetch-Site: cross-site\r\n"),
        // A name that resolves to the loopback address by now.
        ("GET", "evil.example:7080", "Origin: http://evil.example:7080\r\nSec-Fetch-Site: same-origin\r\n"),
        ("PUT", "evil.example:7080", ""),
    ] {
        let reply = raw(method, host, more);
        refused(&reply, 403, "cross_origin", method != "GET");
        assert!(reply.header("raft-revision").is_none(), "{:?}", reply.headers);
    }
    assert_eq!(raw("GET", ours, "").status, 404, "nothing was written");
    assert_eq!(raw("PUT", ours, &format!("Origin: http://{ours}\r\nSec-Fetch-Site: same-origin\r\n")).status, 200);
    assert_eq!(raw("GET", "localhost:7080", "").status, 200);
    assert_eq!(node.metric("raft_access_refused_total{reason=\"cross_origin\"}"), Some(6.0));
    assert!(!node.data_dir.join("local.token").exists(), "nobody needs one here");
}
