//! What a token opens, and what it does not: by key, by role, by route.

use super::*;

#[test]
fn a_token_of_role_read_cannot_write() {
    let (cluster, tokens, all) = start_with_a_secret();
    let (leader, follower) = leader_and_follower(&cluster);
    for node in [&cluster.nodes[leader], &cluster.nodes[follower]] {
        let reader = &tokens.reader;
        let read = ask(node, reader, "GET", "/v1/kv/b/secret", b"");
        assert_eq!((read.status, read.text().as_str()), (200, "treasure"));
        for forward in ["", "?forward=never"] {
            for method in ["PUT", "DELETE"] {
                let problem = refused(
                    &ask(node, reader, method, &format!("/v1/kv/b/secret{forward}"), b"mine"),
                    403,
                    "forbidden",
                    true,
                );
                let detail = problem["detail"].as_str().unwrap();
                for part in ["`reader`", "writes a key", "read every key"] {
                    assert!(detail.contains(part), "{part} in {detail}");
                }
            }
            let reply = ask(node, reader, "POST", &format!("/v1/kv/batch{forward}"), &batch(&["b/secret"]));
            refused(&reply, 403, "forbidden", true);
        }
        assert_eq!(ask(node, &all, "GET", "/v1/kv/b/secret", b"").text(), "treasure");
    }
}

#[test]
fn a_token_of_one_prefix_does_not_see_another() {
    let (cluster, tokens, all) = start_with_a_secret();
    let (leader, follower) = leader_and_follower(&cluster);
    let writer = &tokens.writer_of_a;
    for (node, follows) in [(&cluster.nodes[leader], false), (&cluster.nodes[follower], true)] {
        let mine = ask(node, writer, "PUT", "/v1/kv/a/mine", b"1");
        assert_eq!(mine.status, 200, "{}", mine.text());
        assert_eq!(ask(node, writer, "GET", "/v1/kv/a/mine", b"").text(), "1");
        // As it stands, in other spellings, and by every way to read.
        for path in ["b/secret", "b%2Fsecret", "%62/secret", "a", "A/x"] {
            let modes = ["", "?consistency=local", "?consistency=lease", "?consistency=snapshot", "?at_revision=2"];
            for mode in modes {
                let reply = ask(node, writer, "GET", &format!("/v1/kv/{path}{mode}"), b"");
                refused(&reply, 403, "forbidden", false);
                assert!(reply.header("etag").is_none() && !reply.text().contains("treasure"));
            }
            assert_eq!(head(node, writer, &format!("/v1/kv/{path}")), "HTTP/1.1 403 Forbidden");
        }
        // Whether it exists makes no difference, however it is asked.
        let (there, absent) = ("/v1/kv/b/secret", "/v1/kv/b/absent");
        let answers = |method: &str, more: &[(&str, &str)]| {
            [there, absent].map(|path| {
                let reply = ask_with(node, writer, method, path, more, b"");
                assert_eq!(reply.status, 403, "{method} {path} {more:?}: {}", reply.text());
                reply.body
            })
        };
        for (method, more) in [
            ("GET", vec![]),
            ("PUT", vec![("If-None-Match", "*")]),
            ("PUT", vec![("If-Match", "\"2\"")]),
            ("DELETE", vec![("If-Match", "\"2\"")]),
        ] {
            let [there, absent] = answers(method, &more);
            assert_eq!(there, absent, "{method} {more:?} tells whether the key exists");
        }
        // A path is bytes: nothing walks up in it.
        assert_eq!(ask(node, writer, "GET", "/v1/kv/a/../b/secret", b"").status, 404);
        // One foreign key, and nothing of the batch is applied.
        let reply = ask(node, writer, "POST", "/v1/kv/batch", &batch(&["a/beside", "b/secret"]));
        let problem = refused(&reply, 403, "forbidden", true);
        assert!(problem["detail"].as_str().unwrap().contains("operation 1"), "{problem}");
        assert_eq!(ask(node, writer, "GET", "/v1/kv/a/beside", b"").status, 404);
        assert_eq!(ask(node, writer, "POST", "/v1/kv/batch", &batch(&["a/1", "a/2"])).status, 200);
        assert_eq!(ask(node, writer, "DELETE", "/v1/kv/a/1", b"").status, 200);
        // Judged before anybody is sent elsewhere.
        refused(&ask(node, writer, "PUT", "/v1/kv/b/secret?forward=never", b"x"), 403, "forbidden", true);
        let own = ask(node, writer, "PUT", "/v1/kv/a/mine?forward=never", b"2");
        assert_eq!(own.status, if follows { 307 } else { 200 }, "{}", own.text());
    }
    assert_eq!(ask(&cluster.nodes[follower], &all, "GET", "/v1/kv/b/secret", b"").text(), "treasure");
}

#[test]
fn every_route_has_its_class_and_nobody_without_admin_reaches_an_admin_route() {
    let (cluster, tokens) = start(1, &[]);
    let node = &cluster.nodes[0];
    assert!(ROUTES.len() > 30, "the table of routes has shrunk to {}", ROUTES.len());
    for route in ROUTES {
        let (method, path) = (route.method.to_uppercase(), path_of(route.path));
        let write = method != "GET";
        let open = call(&node.client, &method, &path, &[], b"").unwrap();
        refused(&open, 401, "unauthenticated", write);
        assert_eq!(open.header("www-authenticate"), Some("Bearer"));
        assert!(open.headers.iter().all(|(name, _)| !name.starts_with("raft-")), "{:?}", open.headers);
        let answers = tokens.all().map(|(name, token)| (name, ask(node, token, &method, &path, b"").status));
        let forbidden: Vec<&str> = answers.iter().filter(|(_, status)| *status == 403).map(|(name, _)| *name).collect();
        let expected: &[&str] = match route.class {
            Class::ReadKey if path.starts_with("/v1/kv/a/") => &["looker", "admin"],
            Class::ReadKey => &["writer-of-a", "looker", "admin"],
            Class::WriteKey if path.starts_with("/v1/kv/a/") => &["reader", "looker", "admin"],
            Class::WriteKey => &["reader", "writer-of-a", "looker", "admin"],
            Class::WriteBatch => &["reader", "looker", "admin"],
            Class::NoKey | Class::NodeStatus | Class::Status => &[],
            Class::Stop | Class::Admin => &["reader", "writer-of-a", "looker"],
        };
        assert_eq!(forbidden, expected, "{method} {path}");
        assert_eq!(answers[4], ("expired", 401), "{method} {path}");
    }
    // What is no route is none for anybody.
    for route in ROUTES {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONE"] {
            if ROUTES.iter().any(|other| other.path == route.path && other.method.eq_ignore_ascii_case(method)) {
                continue;
            }
            let reply = ask(node, &tokens.admin, method, &path_of(route.path), b"");
            assert_eq!(reply.status, 405, "{method} {}: {}", route.path, reply.text());
            assert!(reply.header("allow").is_some_and(|allow| !allow.is_empty()), "{method} {}", route.path);
            assert_eq!(call(&node.client, method, &path_of(route.path), &[], b"").unwrap().status, 401);
        }
    }
    assert_eq!(ask(node, &tokens.looker, "GET", "/v1/nothing", b"").status, 404);
    assert_eq!(call(&node.client, "GET", "/v1/nothing", &[], b"").unwrap().status, 401);
    assert!(node.metric("raft_access_refused_total{reason=\"unauthenticated\"}").unwrap() > 100.0);
    assert!(node.metric("raft_access_refused_total{reason=\"forbidden\"}").unwrap() > 50.0);
}

#[test]
fn every_route_and_its_class_are_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/access.md")).unwrap();
    for route in ROUTES {
        let needs = match route.class {
            Class::ReadKey => "read of the key",
            Class::WriteKey => "write of the key",
            Class::WriteBatch => "write of every key in it",
            Class::NoKey | Class::Status => "any identity",
            Class::NodeStatus => "any identity, the local token",
            Class::Stop => "admin, the local token",
            Class::Admin => "admin",
        };
        let row = format!("| `{} {}` | {needs} |", route.method.to_uppercase(), route.path);
        assert!(page.contains(&row), "docs/access.md should have the row {row}");
    }
}
