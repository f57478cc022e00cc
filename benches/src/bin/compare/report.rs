//! What is printed: each round as it ends, then the tables.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a report is what this program is for")]

use crate::figures::{Figures, Results, median};
use crate::job::Who;
use crate::rows::{Row, rows};

fn name_of(who: Who) -> &'static str {
    match who {
        Who::Ours => "ours",
        Who::Etcd => "etcd",
    }
}

/// A round that has ended, on the standard error.
pub(crate) fn progress(load: &str, round: usize, who: Who, figures: &Figures) {
    let trouble = if figures.errors == 0 { String::new() } else { format!("  ERRORS {:?}", figures.errors_by_kind) };
    let missing = if figures.missing == 0 { String::new() } else { format!("  {} MISSING", figures.missing) };
    eprintln!(
        "{load:<22} round {} {}: {:>8.0} op/s, p50 {:.2} ms, p99 {:.2} ms, CPU {:.1} + {:.1} µs/op, {:.0} B/op{trouble}{missing}",
        round + 1,
        name_of(who),
        figures.per_second,
        figures.p50_ms,
        figures.p99_ms,
        figures.server_cpu_us,
        figures.generator_cpu_us,
        figures.written_bytes,
    );
}

/// A line of progress of another kind.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Both tables.
pub(crate) fn print(results: &Results) {
    for (name, value) in &results.machine {
        println!("{name}: {value}");
    }
    println!();
    print!("{}", loads(results));
    println!();
    print!("{}", verdicts(&rows(results)));
}

/// The rows, for a page.
pub(crate) fn markdown(results: &Results) {
    println!("| row | what | must | goal | ours | etcd | ratio | verdict |\n|---|---|---|---|---|---|---|---|");
    for row in rows(results) {
        let bound = |bound: Option<f64>| bound.map_or_else(|| "-".to_owned(), short);
        let side = |rounds: &[f64]| match median(rounds) {
            Some(median) => {
                let all: Vec<String> = rounds.iter().copied().map(short).collect();
                format!("{} {} ({})", short(median), row.unit, all.join(", "))
            }
            None => "-".to_owned(),
        };
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.number,
            row.what,
            bound(row.bounds().map(|(must, _)| must)),
            bound(row.bounds().map(|(_, goal)| goal)),
            side(&row.rounds.ours),
            side(&row.rounds.etcd),
            bound(row.ratio()),
            row.verdict().word(),
        );
    }
}

/// Every load, both sides, medians.
fn loads(results: &Results) -> String {
    let head = [
        "load",
        "side",
        "op/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "server CPU µs/op",
        "generator",
        "written B/op",
        "MiB/node",
        "lag p99 ms",
        "errors",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for (load, pair) in &results.loads {
        for (who, rounds) in [(Who::Ours, &pair.ours), (Who::Etcd, &pair.etcd)] {
            let of = |metric: fn(&Figures) -> f64| {
                median(&rounds.iter().map(metric).collect::<Vec<_>>()).unwrap_or(f64::NAN)
            };
            table.push(vec![
                load.clone(),
                name_of(who).to_owned(),
                format!("{:.0}", of(|figures| figures.per_second)),
                format!("{:.2}", of(|figures| figures.p50_ms)),
                format!("{:.2}", of(|figures| figures.p99_ms)),
                format!("{:.2}", of(|figures| figures.p999_ms)),
                format!("{:.1}", of(|figures| figures.server_cpu_us)),
                format!("{:.1}", of(|figures| figures.generator_cpu_us)),
                format!("{:.0}", of(|figures| figures.written_bytes)),
                format!("{:.0}", of(|figures| figures.resident_mib)),
                format!("{:.3}", of(|figures| figures.lag_p99_ms)),
                rounds.iter().map(|figures| figures.errors).sum::<u64>().to_string(),
            ]);
        }
    }
    aligned(&table)
}

/// The rows with what must come of them.
fn verdicts(rows: &[Row]) -> String {
    let head = ["row", "what", "unit", "must", "goal", "ours", "etcd", "ratio", "verdict", "rounds (ours | etcd)"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let bound = |bound: Option<f64>| bound.map_or_else(|| "-".to_owned(), short);
        let all = |rounds: &[f64]| rounds.iter().copied().map(short).collect::<Vec<_>>().join(" ");
        table.push(vec![
            row.number.to_string(),
            row.what.clone(),
            row.unit.to_owned(),
            bound(row.bounds().map(|(must, _)| must)),
            bound(row.bounds().map(|(_, goal)| goal)),
            bound(median(&row.rounds.ours)),
            bound(median(&row.rounds.etcd)),
            bound(row.ratio()),
            row.verdict().word().to_owned(),
            format!("{} | {}", all(&row.rounds.ours), all(&row.rounds.etcd)),
        ]);
    }
    aligned(&table)
}

/// Three digits, or all that stand before the point.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 || value == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Columns as wide as what stands in them.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    table.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([12345.6, 99.94, 9.994, 0.0].map(short), ["12346", "99.9", "9.99", "0"]);
    }

    #[test]
    fn columns_are_aligned() {
        let table = vec![vec!["a".into(), "µµ".into()], vec!["bbb".into(), "c".into()]];
        assert_eq!(aligned(&table), "a    µµ\nbbb  c\n");
    }
}
