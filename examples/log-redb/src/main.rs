//! The program of this example.

fn main() {}
