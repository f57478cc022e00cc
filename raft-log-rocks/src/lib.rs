//! raft-log-rocks
