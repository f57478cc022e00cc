//! The table of library comparisons: ours and a peer on the same work, round by round, against what was promised.
//!
//! A file of its own without dependencies but `serde_json`, since `benches/peers`, a package outside of this workspace,
//! includes it too.

use std::time::Duration;

use serde_json::{Value, json};

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which row of the goals in `docs/performance-libraries.md`; the same for several cases.
    pub number: u64,
    /// What is compared.
    pub what: String,
    /// With which parameter.
    pub case: String,
    /// The peer.
    pub peer_name: String,
    /// What is counted.
    pub unit: String,
    /// What ours over the peer's must reach (or must not pass, where lower is better); none for figures beside.
    pub must: Option<f64>,
    /// What it should reach.
    pub goal: Option<f64>,
    /// Whether less is better: times, not rates.
    pub lower_is_better: bool,
    /// Ours, by rounds.
    pub ours: Vec<Side>,
    /// The peer's, by rounds.
    pub peer: Vec<Side>,
}

/// One side in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Side {
    /// The figure.
    pub figure: f64,
    /// Microseconds of CPU per operation, of the whole process: both sides have clients and servers in it. Zero where it
    /// was not taken.
    pub cpu_us: f64,
}

impl Side {
    /// A figure alone.
    #[must_use]
    pub fn of(figure: f64) -> Self {
        Self { figure, cpu_us: 0.0 }
    }

    /// Operations per second, and CPU for each.
    #[must_use]
    pub fn per_second(operations: u64, elapsed: Duration, cpu: Duration) -> Self {
        let operations = operations as f64;
        Self { figure: operations / elapsed.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / operations }
    }
}

/// What a row has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was aimed at.
    Goal,
    /// What it must.
    Must,
    /// Less.
    Below,
    /// Nothing was promised.
    None,
}

impl Verdict {
    /// As it stands in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Must => "must",
            Self::Below => "BELOW",
            Self::None => "-",
        }
    }
}

impl Row {
    /// The middle of the ratios of all rounds. Both sides of a round were measured one after the other, so a machine that
    /// drifts from round to round moves both.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// Ours over the peer's, by rounds.
    #[must_use]
    pub fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours.figure / peer.figure).collect()
    }

    /// What the row has reached.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let ratio = self.ratio();
        let reached = |wanted: f64| if self.lower_is_better { ratio <= wanted } else { ratio >= wanted };
        match (self.must, self.goal) {
            (_, Some(goal)) if reached(goal) => Verdict::Goal,
            (Some(must), _) if reached(must) => Verdict::Must,
            (None, None) => Verdict::None,
            _ => Verdict::Below,
        }
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let figures = |sides: &[Side]| sides.iter().map(|side| side.figure).collect::<Vec<_>>();
        let cpu = |sides: &[Side]| sides.iter().map(|side| side.cpu_us).collect::<Vec<_>>();
        json!({
            "row": self.number,
            "what": self.what,
            "case": self.case,
            "peer_name": self.peer_name,
            "unit": self.unit,
            "must": self.must,
            "goal": self.goal,
            "lower_is_better": self.lower_is_better,
            "ours": figures(&self.ours),
            "peer": figures(&self.peer),
            "ours_cpu_us": cpu(&self.ours),
            "peer_cpu_us": cpu(&self.peer),
            "ours_median": median(figures(&self.ours)),
            "peer_median": median(figures(&self.peer)),
            "ratios": self.ratios(),
            "ratio": self.ratio(),
            "verdict": self.verdict().name(),
        })
    }

    /// Reads what [`Row::to_json`] wrote.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let sides = |figures: &str, cpu: &str| {
            let numbers = |name: &str| value[name].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
            let both = numbers(figures)?.into_iter().zip(numbers(cpu)?);
            Some(both.map(|(figure, cpu_us)| Side { figure, cpu_us }).collect())
        };
        Some(Self {
            number: value["row"].as_u64()?,
            what: text("what")?,
            case: text("case")?,
            peer_name: text("peer_name")?,
            unit: text("unit")?,
            must: value["must"].as_f64(),
            goal: value["goal"].as_f64(),
            lower_is_better: value["lower_is_better"].as_bool()?,
            ours: sides("ours", "ours_cpu_us")?,
            peer: sides("peer", "peer_cpu_us")?,
        })
    }
}

/// The middle one, or the lower of the two in the middle.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The table, for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let heads = [
        "row",
        "what",
        "case",
        "unit",
        "ours",
        "peer",
        "ratio",
        "rounds",
        "must",
        "goal",
        "",
        "CPU µs/op, ours : peer",
    ];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    for row in rows {
        let middle = |sides: &[Side]| number(median(sides.iter().map(|side| side.figure).collect()));
        let cpu = |sides: &[Side]| median(sides.iter().map(|side| side.cpu_us).collect());
        let wanted = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value}"));
        let (ours_cpu, peer_cpu) = (cpu(&row.ours), cpu(&row.peer));
        lines.push(vec![
            row.number.to_string(),
            format!("{} : {}", row.what, row.peer_name),
            row.case.clone(),
            row.unit.clone(),
            middle(&row.ours),
            middle(&row.peer),
            format!("{:.2}", row.ratio()),
            row.ratios().iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" "),
            wanted(row.must),
            wanted(row.goal),
            row.verdict().name().to_owned(),
            if ours_cpu > 0.0 { format!("{ours_cpu:.2} : {peer_cpu:.2}") } else { "-".into() },
        ]);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.3}");
    }
    let whole = format!("{value:.0}");
    let mut apart = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], peer: &[f64]) -> Row {
        let sides = |figures: &[f64]| figures.iter().map(|figure| Side::of(*figure)).collect();
        Row {
            number: 9,
            what: "log".into(),
            case: "batch 1".into(),
            peer_name: "bare".into(),
            unit: "entries/s".into(),
            must: Some(0.8),
            goal: Some(0.95),
            lower_is_better: false,
            ours: sides(ours),
            peer: sides(peer),
        }
    }

    #[test]
    fn a_machine_that_drifts_between_rounds_moves_both_sides() {
        let drifting = row(&[90.0, 45.0, 9.0], &[100.0, 50.0, 10.0]);
        assert_eq!((drifting.ratio(), drifting.verdict()), (0.9, Verdict::Must));
        assert_eq!(row(&[96.0], &[100.0]).verdict(), Verdict::Goal);
        assert_eq!(row(&[79.0], &[100.0]).verdict(), Verdict::Below);
    }

    #[test]
    fn where_less_is_better_the_promise_is_an_upper_bound() {
        let times = Row { lower_is_better: true, must: Some(1.3), goal: Some(1.1), ..row(&[120.0], &[100.0]) };
        assert_eq!(times.verdict(), Verdict::Must);
        assert_eq!(Row { must: Some(1.1), goal: Some(1.0), ..times }.verdict(), Verdict::Below);
    }

    #[test]
    fn a_row_comes_back_from_its_json() {
        let row = Row { goal: None, ..row(&[1.5, 2.5], &[2.0, 2.0]) };
        assert_eq!(Row::from_json(&row.to_json()), Some(row));
    }

    #[test]
    fn the_table_has_a_line_per_row() {
        let text = table(&[row(&[1_234_567.0], &[1_000.0])]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("1,234,567"), "{text}");
    }
}
