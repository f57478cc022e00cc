//! Holds `docs/config.md` and the table of settings together.

use super::{FIELDS, Field};

/// The row of a setting in the reference.
fn row(field: &Field) -> String {
    let default = field.default.map_or_else(String::new, |default| format!("`{default}`"));
    format!("| `{}` | {default} | {} |", field.key, field.meaning)
}

#[test]
fn the_reference_lists_every_setting_as_it_is() {
    let page = include_str!("../../../docs/config.md");
    let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = FIELDS.iter().map(row).collect();
    assert_eq!(listed, expected, "docs/config.md should hold these rows:\n{}", expected.join("\n"));
}
