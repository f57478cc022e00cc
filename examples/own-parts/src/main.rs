//! A node of nothing but parts of its own: redb, TCP and a counter.

fn main() {}
