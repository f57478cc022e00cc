//! raft-benches
