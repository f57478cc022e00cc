//! The `raft-node` program.

fn main() {}
