//! raft-net-quic
