//! A state machine that is no key-value store, and a node that runs it on the default parts.
