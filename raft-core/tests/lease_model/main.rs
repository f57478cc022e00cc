//! A bounded model of elections, the commit rule, leases and linearizable reads, searched state by state.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod action;
mod bounds;
mod broken;
mod election;
mod leases;
mod log;
mod model;
mod replication;
mod search;
mod state;

use bounds::{Bounds, SMALL};
use broken::Broken;
use model::Model;
use search::search;

#[test]
fn probe() {
    let max: u64 = std::env::var("PROBE_MAX").map_or(20_000_000, |t| t.parse().unwrap());
    for (e, d, w, r) in [(2u8,2u8,1u8,0u8),(3, 2, 1, 0), (3, 4, 1, 0), (3,2,2,0),(3, 2, 1, 1), (4, 2, 1, 0)] {
        let t = std::time::Instant::now();
        let b = Bounds { entries: e, duration: d, writes: w, restarts: r, ..SMALL };
        let x = search(&Model::new(b, None), max);
        println!("e={e} d={d} w={w} r={r}: states {} steps {} depth {} complete {} {:?}", x.states, x.steps, x.depth, x.complete, t.elapsed());
        if let Some(f) = x.found {
            println!("{f}");
        }
    }
    let _ = Broken::VoteTwice;
}
