//! A bounded model of elections, the commit rule, leases and linearizable reads, searched state by state.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod action;
mod bounds;
mod broken;
mod cases;
mod election;
mod leases;
mod log;
mod model;
mod replication;
mod search;
mod state;

use broken::Broken;
use model::Model;
use search::search;

#[test]
fn mutants() {
    let max: u64 = std::env::var("PROBE_MAX").map_or(20_000_000, |t| t.parse().unwrap());
    for b in Broken::ALL {
        if let Ok(only) = std::env::var("ONLY") && !format!("{b:?}").contains(&only) { continue; }
        let t = std::time::Instant::now();
        let x = search(&Model::new(cases::bounds_for(b), Some(b)), max);
        println!("{b:?}: states {} steps {} depth {} complete {} {:?}", x.states, x.steps, x.depth, x.complete, t.elapsed());
        match x.found {
            Some(f) if std::env::var("TRACE").is_ok() => println!("{f}"),
            Some(f) => println!("    {} {}", f.trace.len(), f.violation),
            None => println!("    NOT FOUND"),
        }
    }
}

#[test]
fn probe() {
    let max: u64 = std::env::var("PROBE_MAX").map_or(20_000_000, |t| t.parse().unwrap());
    for b in [Broken::VoteTwice, Broken::WaitsOnlyForVoters, Broken::PreviousConfigurationNotCounted, Broken::RestartedVoterSaysLongAgo, Broken::GrantBeyondOwnLease, Broken::GrantToUncommittedMember] {
        if let Ok(only) = std::env::var("ONLY") && !format!("{b:?}").contains(&only) { continue; }
        let t = std::time::Instant::now();
        let x = search(&Model::new(cases::bounds_for(b), None), max);
        println!("honest {b:?}: states {} steps {} depth {} complete {} {:?}", x.states, x.steps, x.depth, x.complete, t.elapsed());
        if let Some(f) = x.found {
            println!("{f}");
        }
    }
    let _ = Broken::VoteTwice;
}
