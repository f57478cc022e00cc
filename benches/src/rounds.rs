//! What the programs of comparisons have in common: their flags, alternating rounds, CPU time.
//!
//! `benches/peers`, a package outside of this workspace, includes this file too.

use std::error::Error;
use std::time::Duration;

use crate::rows::{Row, Side, table};

/// Whatever goes wrong.
pub type Anything = Box<dyn Error + Send + Sync>;

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// Which rows.
    pub rows: Vec<u64>,
    /// Rounds of each case.
    pub rounds: usize,
    /// How long one side takes in one round.
    pub time: Duration,
    /// Where the figures go for programs.
    pub json: Option<String>,
    /// Flags of one program alone, with their values.
    pub others: Vec<(String, String)>,
}

impl Arguments {
    /// Reads flags; `others` names those of this program alone. Without `--rows` it is `rows`.
    ///
    /// # Errors
    /// Names the flag.
    pub fn parse(mut words: impl Iterator<Item = String>, rows: &[u64], others: &[&str]) -> Result<Self, Anything> {
        let mut arguments =
            Self { rows: rows.to_vec(), rounds: 3, time: Duration::from_secs(1), json: None, others: Vec::new() };
        while let Some(flag) = words.next() {
            let known = ["--rows", "--rounds", "--seconds", "--json"];
            if !known.iter().chain(others).any(|name| *name == flag) {
                return Err(format!("{flag} is none of {} {}", known.join(" "), others.join(" ")).into());
            }
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let wrong = |error: &dyn Error| format!("{flag} {value}: {error}");
            match flag.as_str() {
                "--rows" => {
                    let numbers = value.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>();
                    arguments.rows = numbers.map_err(|error| wrong(&error))?;
                    if let Some(row) = arguments.rows.iter().find(|row| !rows.contains(row)) {
                        return Err(format!("--rows {row}: this program has rows {rows:?}").into());
                    }
                }
                "--rounds" => arguments.rounds = value.parse().map_err(|error| wrong(&error))?,
                "--seconds" => {
                    let seconds = value.parse().map_err(|error| wrong(&error))?;
                    arguments.time = Duration::try_from_secs_f64(seconds).map_err(|error| wrong(&error))?;
                }
                "--json" => arguments.json = Some(value),
                _ => arguments.others.push((flag, value)),
            }
        }
        if arguments.rounds == 0 || arguments.time.is_zero() {
            return Err("--rounds and --seconds must be more than zero".into());
        }
        Ok(arguments)
    }

    /// The value of a flag of this program alone.
    #[must_use]
    pub fn other(&self, flag: &str) -> Option<&str> {
        self.others.iter().rev().find(|(name, _)| name == flag).map(|(_, value)| value.as_str())
    }

    /// Whether this row was asked for.
    #[must_use]
    pub fn wants(&self, row: u64) -> bool {
        self.rows.contains(&row)
    }

    /// The table, and the file for programs if one was asked for.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn report(&self, rows: &[Row]) -> Result<String, Anything> {
        if let Some(path) = &self.json {
            let rows = rows.iter().map(Row::to_json).collect();
            let text = serde_json::Value::Array(rows).to_string();
            std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(table(rows))
    }
}

/// Both sides in each round, one after the other; who comes first changes.
///
/// # Errors
/// The first one of either side.
pub fn alternate(
    rounds: usize,
    mut ours: impl FnMut() -> Result<Side, Anything>,
    mut peer: impl FnMut() -> Result<Side, Anything>,
) -> Result<(Vec<Side>, Vec<Side>), Anything> {
    let (mut all_ours, mut all_peer) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            all_ours.push(ours()?);
            all_peer.push(peer()?);
        } else {
            all_peer.push(peer()?);
            all_ours.push(ours()?);
        }
    }
    Ok((all_ours, all_peer))
}

/// User and system time of this process until now.
#[must_use]
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
