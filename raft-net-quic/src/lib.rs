//! guide
#![forbid(unsafe_code)]

mod config;
mod handshake;
mod lane;
mod link;
mod refusals;
mod request;
mod session;
mod shared;
mod socket;
mod tls;
mod transport;
mod wire;

#[cfg(test)]
mod tests;

pub use config::{Limits, QuicConfig, SetupError, Timing, TlsFiles};
pub use transport::QuicTransport;
