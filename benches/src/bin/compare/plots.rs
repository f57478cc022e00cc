//! Plots of what was measured, as SVG.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use crate::figures::{Figures, Results, median};
use crate::job::Who;

/// Size of a plot, and the space around it for words.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 44.0;

/// A line of a plot.
struct Line {
    name: &'static str,
    color: &'static str,
    dashes: &'static str,
    points: Vec<(f64, f64)>,
}

/// Which figure of which load, drawn how.
type Curve = (&'static str, &'static str, Who, &'static str, &'static str, Metric);
type Metric = fn(&Figures) -> f64;

const OURS: &str = "#c2410c";
const ETCD: &str = "#1d4ed8";
const LOCAL: &str = "#15803d";
const SERIALIZABLE: &str = "#7e22ce";

/// Draws all plots into a directory; gives the names of the files.
pub(crate) fn draw(results: &Results, directory: &Path) -> io::Result<Vec<String>> {
    let rate: Metric = |figures| figures.per_second;
    let (p50, p99): (Metric, Metric) = (|figures| figures.p50_ms, |figures| figures.p99_ms);
    let gets = |metric, dashes| -> Vec<Curve> {
        vec![
            ("ours, linearizable", "get-linearizable/", Who::Ours, OURS, dashes, metric),
            ("ours, local", "get-local/", Who::Ours, LOCAL, dashes, metric),
            ("etcd, linearizable", "get-linearizable/", Who::Etcd, ETCD, dashes, metric),
            ("etcd, serializable", "get-local/", Who::Etcd, SERIALIZABLE, dashes, metric),
        ]
    };
    let puts = |metric, names: [&'static str; 2], dashes| -> Vec<Curve> {
        vec![(names[0], "put/", Who::Ours, OURS, dashes, metric), (names[1], "put/", Who::Etcd, ETCD, dashes, metric)]
    };
    let latency = [puts(p50, ["ours, p50", "etcd, p50"], ""), puts(p99, ["ours, p99", "etcd, p99"], "5 3")].concat();
    let plots = [
        ("puts-throughput", "puts per second", puts(rate, ["ours", "etcd"], "")),
        ("puts-latency", "latency of puts in ms", latency),
        ("gets-throughput", "gets per second", gets(rate, "")),
        ("gets-latency", "p99 of gets in ms", gets(p99, "")),
    ];
    fs::create_dir_all(directory)?;
    let mut drawn = Vec::new();
    for (file, title, curves) in plots {
        let lines: Vec<Line> = curves.into_iter().map(|curve| line(results, curve)).collect();
        if lines.iter().all(|line| line.points.is_empty()) {
            continue;
        }
        let path = directory.join(format!("{file}.svg"));
        fs::write(&path, plot(title, &lines))?;
        drawn.push(path.display().to_string());
    }
    Ok(drawn)
}

/// The medians of all loads whose name begins so and ends in a number of clients.
fn line(results: &Results, (name, prefix, who, color, dashes, metric): Curve) -> Line {
    let mut points: Vec<(f64, f64)> = results
        .loads
        .iter()
        .filter_map(|(load, pair)| {
            let clients = load.strip_prefix(prefix)?.parse().ok()?;
            let rounds = if who == Who::Ours { &pair.ours } else { &pair.etcd };
            Some((clients, median(&rounds.iter().map(metric).collect::<Vec<_>>())?))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Line { name, color, dashes, points }
}

/// Both axes are logarithmic: a factor is as wide everywhere.
fn plot(title: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|point| point.0 > 0.0 && point.1 > 0.0);
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let (low, high) = all().map(pick).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        (low.log10(), high.log10().max(low.log10() + 0.1))
    };
    let (x_range, y_range) = (range(|point| point.0), range(|point| point.1));
    let y_range = (y_range.0.floor(), y_range.1.ceil());
    let across = |value: f64| LEFT + (value.log10() - x_range.0) / (x_range.1 - x_range.0) * (WIDTH - LEFT - RIGHT);
    let up =
        |value: f64| HEIGHT - BOTTOM - (value.log10() - y_range.0) / (y_range.1 - y_range.0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" \
         font-size=\"14\">{title}, over clients</text>\n"
    );
    let mut text = |x: f64, y: f64, anchor: &str, words: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
    };
    let mut clients: Vec<f64> = all().map(|point| point.0).collect();
    clients.sort_by(f64::total_cmp);
    clients.dedup();
    for value in &clients {
        text(across(*value), HEIGHT - BOTTOM + 18.0, "middle", &value.to_string());
    }
    let decades: Vec<f64> = (y_range.0 as i32..=y_range.1 as i32).map(|power| 10_f64.powi(power)).collect();
    for value in &decades {
        text(LEFT - 6.0, up(*value) + 4.0, "end", &value.to_string());
    }
    for (nth, line) in lines.iter().enumerate() {
        text(WIDTH - RIGHT + 44.0, TOP + 14.0 + 18.0 * nth as f64, "start", line.name);
    }
    for value in decades.iter().flat_map(|decade| (1..10).map(move |step| decade * f64::from(step))) {
        if value.log10() <= y_range.1 {
            let (y, shade) = (up(value), if decades.contains(&value) { "#9ca3af" } else { "#e5e7eb" });
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"{shade}\"/>", WIDTH - RIGHT);
        }
    }
    for (nth, line) in lines.iter().enumerate() {
        let style =
            format!("stroke=\"{}\" stroke-dasharray=\"{}\" stroke-width=\"2\" fill=\"none\"", line.color, line.dashes);
        let key = TOP + 10.0 + 18.0 * nth as f64;
        let _ = writeln!(svg, "<path d=\"M{:.1} {key:.1}h28\" {style}/>", WIDTH - RIGHT + 10.0);
        let points: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", across(point.0), up(point.1))).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" {style}/>", points.join(" "));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Pair;

    #[test]
    fn a_line_goes_by_clients_and_medians() {
        let mut results = Results::default();
        for (clients, rates) in [(1000, [5.0, 7.0, 6.0]), (2, [1.0, 2.0, 3.0])] {
            let ours = rates.map(|per_second| Figures { per_second, ..Figures::default() }).to_vec();
            results.loads.insert(format!("put/{clients}"), Pair { ours, etcd: Vec::new() });
        }
        let drawn = line(&results, ("ours", "put/", Who::Ours, OURS, "", |figures| figures.per_second));
        assert_eq!(drawn.points, [(2.0, 2.0), (1000.0, 6.0)]);
        let svg = plot("puts", &[drawn]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        let missing = line(&results, ("etcd", "put/", Who::Etcd, ETCD, "", |figures| figures.per_second));
        assert!(missing.points.is_empty());
    }
}
