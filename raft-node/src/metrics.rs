//! What a node counts and measures.

/// The node's metrics, with a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: prometheus::Registry,
}

impl Metrics {
    /// The registry, to register more with.
    #[must_use]
    pub fn registry(&self) -> &prometheus::Registry {
        &self.registry
    }
}
