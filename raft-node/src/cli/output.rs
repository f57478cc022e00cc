//! What commands print.

use std::io::Write as _;

use serde::Serialize;

use crate::cli::exit::CliError;

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: what the HTTP interface answers.
    Json,
}

/// Writes bytes to the standard output at once.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| CliError::failed(format!("cannot print: {error}")))
}

/// Prints one line.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), CliError> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints a JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    line(serde_json::to_string_pretty(value).map_err(CliError::failed)?)
}

/// A table with aligned columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(head.get(column).map(|name| name.len()))
            .max()
            .unwrap_or(0)
    };
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column))).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![vec!["n1".into(), "leader".into()], vec!["node-2".into(), "-".into()]];
        assert_eq!(table(&["NAME", "ROLE"], &rows), "NAME    ROLE\nn1      leader\nnode-2  -\n");
    }
}
