//! A node of parts of its own builds nothing of the product.

use std::process::Command;

/// What only the product needs.
const UNWANTED: [&str; 10] =
    ["rocksdb", "librocksdb-sys", "quinn", "axum", "hyper", "prometheus", "reqwest", "rcgen", "clap", "raft-kv"];

#[test]
fn no_dependency_is_one_of_the_default_parts() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "own-parts", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    // What the tree shows at all is the right one.
    for wanted in ["raft-core", "raft-node", "redb", "rustls"] {
        assert!(crates.contains(&wanted), "{wanted} is not in:\n{tree}");
    }
    let found: Vec<&&str> = crates.iter().filter(|name| UNWANTED.contains(*name)).collect();
    assert!(found.is_empty(), "{found:?} are dependencies of a node that brings its own parts:\n{tree}");
}
