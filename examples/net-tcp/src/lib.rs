//! A transport over TCP and TLS, written from the documentation of the ports, and a node that runs on it.
