//! Load for a cluster: puts or gets over raw HTTP/1.1 from one thread.
//!
//! In a *closed loop* each client sends its next request when it has the answer to the last one; the rate is what the
//! cluster makes of that. In an *open loop* requests leave when they are due, whether or not the ones before them are
//! answered, and latency counts from when a request was due: a server that stalls is charged for all that had to wait
//! (what is left out otherwise is known as coordinated omission).
//!
//! One thread serves all connections by epoll: a request costs one system call to send it and one to read its answer, no
//! allocation, and no copy of the value. What the generator spends itself, and how late it was by its own fault, is part of
//! every [`Summary`]; a run counts when the lag is small and nothing failed.
//!
//! ```
//! use std::time::Duration;
//!
//! use raft_load::{End, Load, Work};
//!
//! let load = Load {
//!     clients: 64,
//!     end: End::After(Duration::from_secs(10)),
//!     ..Load::new(vec!["127.0.0.1:7080".into()], Work::Put)
//! };
//! assert!(load.check().is_ok());
//! ```

mod client;
mod engine;
mod http;
mod load;
mod record;
mod schedule;
mod work;

pub use engine::run;
pub use load::{CLIENTS_MAX, End, Headers, KEYS_MAX, Load, LoadError, Pace, RATE_MAX, TIME_MAX, VALUE_BYTES_MAX};
pub use record::{Quantiles, Recorder, Summary};
pub use schedule::Schedule;
pub use work::{Keys, Values, Work};
