//! A log store on redb, written from the documentation of the ports, and a node that runs on it.
