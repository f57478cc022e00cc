//! What a node counts and measures.
//!
//! With the feature `metrics` these are Prometheus metrics in a registry of their own; without it they are nothing, at
//! no cost, so that an embedder without Prometheus does not build it.

#[cfg(feature = "metrics")]
mod access;
#[cfg(feature = "metrics")]
mod certificates;
#[cfg(feature = "metrics")]
mod leases;
#[cfg(feature = "metrics")]
mod marks;
#[cfg(feature = "metrics")]
mod members;
#[cfg(feature = "metrics")]
mod peers;
#[cfg(feature = "metrics")]
mod registered;
#[cfg(not(feature = "metrics"))]
mod silent;
#[cfg(feature = "metrics")]
mod snapshots;

#[cfg(feature = "metrics")]
pub use registered::Metrics;
#[cfg(not(feature = "metrics"))]
pub use silent::Metrics;
