//! For authors of ports: the suites that define them, in-memory ports to test against, and nothing that a product
//! would ship. Switch it on with the feature `testing`, as a dev-dependency:
//!
//! ```toml
//! [dev-dependencies]
//! raft-core = { version = "0.1", features = ["testing"] }
//! ```
pub mod random;
mod rule;

pub use rule::Rule;
