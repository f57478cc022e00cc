//! What the benchmarks share: a cluster of real processes, a client that speaks raw HTTP/1.1, and the accounting of CPU.
//!
//! Figures drift with the machine: compare only within one run, and quote medians.
//!
//! ```
//! use raft_benches::http::put_request;
//!
//! let request = put_request("127.0.0.1:7080", "a", b"1");
//! assert!(request.starts_with(b"PUT /v1/kv/a HTTP/1.1\r\n"));
//! ```

pub mod cluster;
pub mod etcd;
pub mod http;
pub mod load;
pub mod log;
pub mod members;
pub mod nodes;
pub mod quic;
pub mod rounds;
pub mod rows;
