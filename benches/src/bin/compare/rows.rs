//! The rows of the table: which figure of ours against which of the peer's, and what must come out.

use serde::Serialize;

use crate::figures::{Figures, Pair, Results, median};
use crate::growth::{NODES, VALUES, nodes_name, value_name};
use crate::loads::{OPEN, get_name, put_name};
use crate::restart::memory_name;

/// Which way a ratio is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// What must come of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// The ratio of ours to theirs that must be reached, and the one that is the goal.
    Ratio(f64, f64),
    /// Ours is at most this, whatever theirs is.
    AtMost(f64),
    /// Nothing: it is there to be looked at.
    Nothing,
}

/// What came of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The goal is reached.
    Goal,
    /// What must be is reached, and the goal is not.
    Must,
    /// Not even that.
    Short,
    /// A run had errors, or its generator was late.
    Invalid,
    /// There is nothing to compare with.
    Shown,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Must => "must",
            Self::Short => "SHORT",
            Self::Invalid => "INVALID",
            Self::Shown => "-",
        }
    }
}

/// A row of the table, measured.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its number among the goals.
    pub(crate) number: u8,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) wanted: Wanted,
    /// In the place of the peer stands ours of before in rows that say so.
    pub(crate) rounds: Pair<f64>,
    /// Whether all runs were sound.
    pub(crate) sound: bool,
}

impl Row {
    /// Ours divided by the peer's, by medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(median(&self.rounds.ours)? / median(&self.rounds.etcd).filter(|peer| *peer > 0.0)?)
    }

    /// What must be reached, and the goal.
    pub(crate) fn bounds(&self) -> Option<(f64, f64)> {
        match self.wanted {
            Wanted::Ratio(must, goal) => Some((must, goal)),
            Wanted::AtMost(most) => Some((most, most)),
            Wanted::Nothing => None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let compared = match self.wanted {
            Wanted::AtMost(_) => median(&self.rounds.ours),
            _ => self.ratio(),
        };
        let (Some(value), Some((must, goal))) = (compared, self.bounds()) else { return Verdict::Shown };
        let reached = |bound: f64| match self.better {
            Better::More => value >= bound,
            Better::Less => value <= bound,
        };
        match (self.sound, reached(goal), reached(must)) {
            (false, ..) => Verdict::Invalid,
            (_, true, _) => Verdict::Goal,
            (.., true) => Verdict::Must,
            _ => Verdict::Short,
        }
    }

    /// For the file.
    pub(crate) fn view(&self) -> RowView {
        let (must, goal) = self.bounds().unzip();
        RowView {
            row: self.number,
            what: self.what.clone(),
            unit: self.unit,
            must,
            goal,
            ours: median(&self.rounds.ours),
            etcd: median(&self.rounds.etcd),
            ratio: self.ratio(),
            verdict: self.verdict().word(),
            rounds: self.rounds.clone(),
        }
    }
}

/// A row as it stands in the file.
#[derive(Debug, Serialize)]
pub(crate) struct RowView {
    row: u8,
    what: String,
    unit: &'static str,
    must: Option<f64>,
    goal: Option<f64>,
    ours: Option<f64>,
    etcd: Option<f64>,
    ratio: Option<f64>,
    verdict: &'static str,
    rounds: Pair<f64>,
}

/// A figure of a load, in a row.
struct Spec {
    number: u8,
    what: &'static str,
    unit: &'static str,
    load: String,
    metric: fn(&Figures) -> f64,
    better: Better,
    wanted: (f64, f64),
}

fn specs() -> Vec<Spec> {
    let rate = |number, what, load, wanted| Spec {
        number,
        what,
        unit: "op/s",
        load,
        metric: |figures| figures.per_second,
        better: Better::More,
        wanted,
    };
    let less = |number, what, unit, load, metric, wanted| Spec {
        number,
        what,
        unit,
        load,
        metric,
        better: Better::Less,
        wanted,
    };
    let p99 = |figures: &Figures| figures.p99_ms;
    let cpu = |figures: &Figures| figures.server_cpu_us;
    let written = |figures: &Figures| figures.written_bytes;
    vec![
        rate(1, "puts, 256 clients", put_name(256), (2.0, 4.0)),
        rate(1, "puts, 1000 clients", put_name(1000), (2.0, 4.0)),
        less(2, "p99 of puts, 64 clients", "ms", put_name(64), p99, (0.6, 0.25)),
        less(2, "p99 of puts, 256 clients", "ms", put_name(256), p99, (0.6, 0.25)),
        less(
            2,
            "p99 of puts, open loop at 70 % of etcd's rate at 256 clients",
            "ms",
            OPEN.to_owned(),
            p99,
            (0.5, 0.25),
        ),
        rate(3, "puts, 1 client", put_name(1), (1.5, 3.0)),
        rate(3, "puts, 16 clients", put_name(16), (1.7, 3.0)),
        rate(3, "puts, 64 clients", put_name(64), (1.7, 3.0)),
        less(4, "server CPU per put, 256 clients", "µs", put_name(256), cpu, (0.4, 0.22)),
        less(5, "bytes written per put, 1 client", "B", put_name(1), written, (1.0, 0.5)),
        less(5, "bytes written per put, 256 clients", "B", put_name(256), written, (1.0, 0.5)),
        rate(6, "linearizable gets, 256 clients", get_name("linearizable", 256), (1.5, 2.5)),
        rate(6, "lease gets against serializable, 256 clients", get_name("lease", 256), (1.5, 3.0)),
        rate(6, "local gets against serializable, 256 clients", get_name("local", 256), (1.5, 3.0)),
    ]
}

/// All rows that something was measured for.
pub(crate) fn rows(results: &Results) -> Vec<Row> {
    let of_loads = specs().into_iter().filter_map(|spec| {
        Some(Row {
            number: spec.number,
            what: spec.what.to_owned(),
            unit: spec.unit,
            better: spec.better,
            wanted: Wanted::Ratio(spec.wanted.0, spec.wanted.1),
            rounds: results.metric(&spec.load, spec.metric)?,
            sound: results.counts(&spec.load),
        })
    });
    of_loads.chain(of_values(results)).chain(of_growth(results)).chain(of_memory(results)).collect()
}

/// A row of something of which less is better, and that is no load.
fn less(number: u8, what: impl Into<String>, unit: &'static str, wanted: Wanted, rounds: Pair<f64>) -> Row {
    Row { number, what: what.into(), unit, better: Better::Less, wanted, rounds, sound: true }
}

/// Names that begin so and end in a number, in the order of the numbers.
fn numbered<'a>(names: impl Iterator<Item = &'a String>, prefix: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = names.filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Rows 12 and 13.
fn of_values(results: &Results) -> Vec<Row> {
    let values = |name: &str| results.values.get(name).cloned();
    let mut rows = Vec::new();
    for (name, what, wanted) in [
        ("failover/equal", "failover, timeouts as etcd's defaults", Wanted::Ratio(1.1, 1.0)),
        ("failover/default", "failover, our defaults", Wanted::Ratio(0.6, 0.25)),
    ] {
        rows.extend(values(name).map(|rounds| less(12, what, "s", wanted, rounds)));
    }
    for seconds in numbered(results.values.keys(), "elections/") {
        let what = format!("elections in {seconds} s of 256 clients");
        rows.extend(
            values(&format!("elections/{seconds}")).map(|rounds| less(12, what, "", Wanted::AtMost(0.0), rounds)),
        );
    }
    let keys = numbered(results.values.keys(), "restart/");
    for keys in &keys {
        let what = format!("restart with {keys} keys, to the first write");
        let rounds = values(&format!("restart/{keys}"));
        rows.extend(rounds.map(|rounds| less(13, what, "s", Wanted::Ratio(0.5, 0.1), rounds)));
    }
    if let [fewest, .., most] = keys[..] {
        let ours = |keys| values(&format!("restart/{keys}")).map(|pair| pair.ours).unwrap_or_default();
        let rounds = Pair { ours: ours(most), etcd: ours(fewest) };
        rows.push(less(
            13,
            format!("restart of ours, {most} keys against {fewest}"),
            "s",
            Wanted::Ratio(1.5, 1.1),
            rounds,
        ));
    }
    rows
}

/// Row 14.
fn of_growth(results: &Results) -> Vec<Row> {
    let row = |what: String, unit, better, wanted, rounds, sound| Row {
        number: 14,
        what,
        unit,
        better,
        wanted,
        rounds,
        sound,
    };
    let rate = |figures: &Figures| figures.per_second;
    let mut rows = Vec::new();
    let shown = VALUES.map(|bytes| (value_name(bytes), format!("puts of {bytes} B, 64 clients")));
    let shown =
        shown.into_iter().chain(NODES.map(|nodes| (nodes_name(nodes), format!("puts, {nodes} nodes, 64 clients"))));
    for (load, what) in shown {
        let rounds = results.metric(&load, rate);
        rows.extend(
            rounds.map(|rounds| row(what, "op/s", Better::More, Wanted::Nothing, rounds, results.counts(&load))),
        );
    }
    let ours = |load: &str, metric: fn(&Figures) -> f64| results.metric(load, metric).map(|pair| pair.ours);
    let clients = numbered(results.loads.keys(), "put/");
    let peak = clients
        .iter()
        .filter_map(|clients| ours(&put_name(usize::try_from(*clients).ok()?), rate))
        .max_by(|a, b| median(a).unwrap_or(0.0).total_cmp(&median(b).unwrap_or(0.0)));
    if let (Some(most), Some(peak)) = (ours(&put_name(4000), rate), peak) {
        let rounds = Pair { ours: most, etcd: peak };
        let wanted = Wanted::Ratio(0.9, 0.9);
        // Refusals are what a node may say to so many.
        rows.push(row(
            "puts of ours, 4000 clients against its peak".into(),
            "op/s",
            Better::More,
            wanted,
            rounds,
            true,
        ));
    }
    let keys = numbered(results.loads.keys(), "keys/");
    if let [few, .., many] = keys[..] {
        let pair = |metric| {
            Some(Pair { ours: ours(&format!("keys/{many}"), metric)?, etcd: ours(&format!("keys/{few}"), metric)? })
        };
        let sound = results.counts(&format!("keys/{many}")) && results.counts(&format!("keys/{few}"));
        let p99: fn(&Figures) -> f64 = |figures| figures.p99_ms;
        let what = |figure| format!("{figure} of ours, {many} keys against {few}");
        let more = (what("puts"), "op/s", Better::More, Wanted::Ratio(0.6, 0.9), pair(rate));
        let less = (what("p99 of puts"), "ms", Better::Less, Wanted::Ratio(2.0, 1.3), pair(p99));
        for (what, unit, better, wanted, rounds) in [more, less] {
            rows.extend(rounds.map(|rounds| row(what, unit, better, wanted, rounds, sound)));
        }
    }
    rows
}

/// 30 MB in MiB.
const REST_MIB_MAX: f64 = 28.6;

/// Row 15.
fn of_memory(results: &Results) -> Vec<Row> {
    let row = |keys| {
        let (what, wanted) = match keys {
            0 => ("memory of each node at rest".to_owned(), Wanted::AtMost(REST_MIB_MAX)),
            keys => (format!("memory of each node, {keys} keys"), Wanted::Ratio(0.5, 0.25)),
        };
        Some(less(15, what, "MiB", wanted, results.values.get(&memory_name(keys))?.clone()))
    };
    numbered(results.values.keys(), "memory/").into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, ours: &[f64], etcd: &[f64]) -> Row {
        let rounds = Pair { ours: ours.to_vec(), etcd: etcd.to_vec() };
        let wanted = if better == Better::More { Wanted::Ratio(2.0, 4.0) } else { Wanted::Ratio(0.5, 0.25) };
        Row { number: 1, what: String::new(), unit: "", better, wanted, rounds, sound: true }
    }

    #[test]
    fn a_verdict_goes_by_the_ratio_of_the_medians() {
        for (better, ours, verdict) in [
            (Better::More, [4.0, 1.0, 9.0], Verdict::Goal),
            (Better::More, [3.9, 1.0, 9.0], Verdict::Must),
            (Better::More, [2.0, 1.0, 9.0], Verdict::Must),
            (Better::More, [1.9, 1.0, 9.0], Verdict::Short),
            (Better::Less, [0.25, 0.1, 9.0], Verdict::Goal),
            (Better::Less, [0.5, 0.1, 9.0], Verdict::Must),
            (Better::Less, [0.6, 0.1, 9.0], Verdict::Short),
        ] {
            assert_eq!(row(better, &ours, &[1.0, 0.5, 2.0]).verdict(), verdict, "{ours:?}");
        }
    }

    #[test]
    fn without_both_sides_or_without_soundness_nothing_is_reached() {
        assert_eq!(row(Better::More, &[9.0], &[]).verdict(), Verdict::Shown);
        assert_eq!(Row { sound: false, ..row(Better::More, &[9.0], &[1.0]) }.verdict(), Verdict::Invalid);
        assert_eq!(Row { wanted: Wanted::Nothing, ..row(Better::More, &[9.0], &[1.0]) }.verdict(), Verdict::Shown);
        assert_eq!(row(Better::More, &[9.0], &[0.0]).ratio(), None);
    }

    #[test]
    fn what_is_at_most_something_needs_no_peer() {
        let at_most = |ours: &[f64]| Row { wanted: Wanted::AtMost(0.0), ..row(Better::Less, ours, &[]) };
        assert_eq!(at_most(&[0.0]).verdict(), Verdict::Goal);
        assert_eq!(at_most(&[1.0]).verdict(), Verdict::Short);
        assert_eq!(at_most(&[]).verdict(), Verdict::Shown);
    }

    #[test]
    fn rows_come_from_what_was_measured() {
        let mut results = Results::default();
        assert!(rows(&results).is_empty());
        let figures = |per_second, p99_ms| vec![Figures { per_second, p99_ms, ..Figures::default() }];
        for (load, ours, etcd) in [
            ("put/256", figures(30.0, 1.0), figures(10.0, 10.0)),
            ("put/4000", figures(20.0, 9.0), figures(9.0, 90.0)),
            ("keys/1000", figures(10.0, 1.0), figures(1.0, 1.0)),
            ("keys/1000000", figures(5.0, 1.0), figures(1.0, 1.0)),
        ] {
            results.loads.insert(load.to_owned(), Pair { ours, etcd });
        }
        for (name, ours, etcd) in [("restart/100", 1.0, 4.0), ("restart/2000", 2.0, 40.0), ("memory/0", 20.0, 40.0)] {
            results.values.insert(name.to_owned(), Pair { ours: vec![ours], etcd: vec![etcd] });
        }
        let found: Vec<(u8, &str, Option<f64>)> =
            rows(&results).iter().map(|row| (row.number, row.verdict().word(), row.ratio())).collect();
        let expected = [
            (1, "must", Some(3.0)),
            (2, "goal", Some(0.1)),
            (4, "-", None),
            (5, "-", None),
            (13, "must", Some(0.25)),
            (13, "goal", Some(0.05)),
            (13, "SHORT", Some(2.0)),
            (14, "SHORT", Some(20.0 / 30.0)),
            (14, "SHORT", Some(0.5)),
            (14, "goal", Some(1.0)),
            (15, "goal", Some(0.5)),
        ];
        assert_eq!(found, expected);
    }
}
