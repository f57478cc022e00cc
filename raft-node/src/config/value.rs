//! Values as people write them: `200ms`, `8MiB`, `n1=host:7082, n2=host:7082`.

use std::fmt;
use std::time::Duration;

/// What kind of value a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text that is not empty.
    Text,
    /// A path. In a file it counts from the file's own directory, elsewhere from the working directory.
    Path,
    /// `host:port`; IPv6 hosts in brackets.
    Address,
    /// A time with its unit, such as `200ms` or `1m 30s`.
    Duration,
    /// A number of bytes, with or without a unit, such as `8MiB`, `64 kB` or `1500000`.
    Size,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Switch,
    /// Several texts; in the environment and in flags separated by commas.
    List,
}

/// A value of one of the [`Kind`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`], [`Kind::Path`] and [`Kind::Address`].
    Text(String),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Size`] and [`Kind::Count`].
    Number(u64),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

impl Kind {
    /// What to write, for error messages.
    #[must_use]
    pub fn example(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Path => "a path",
            Self::Address => "host:port, such as \"127.0.0.1:7080\"",
            Self::Duration => "a time with its unit, such as \"200ms\" or \"5s\"",
            Self::Size => "a number of bytes, such as \"8MiB\" or 1500000",
            Self::Count => "a whole number",
            Self::Switch => "true or false",
            Self::List => "a list, such as [\"n1=host:7082\"] in a file, or n1=host:7082,n2=host:7082 elsewhere",
        }
    }

    /// Reads a value from text, as the environment and flags give it.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Self::Text | Self::Path if text.is_empty() => Err("is empty".into()),
            Self::Text | Self::Path => Ok(Value::Text(text.into())),
            Self::Address => parse_address(text).map(Value::Text),
            Self::Duration => parse_duration(text).map(Value::Duration),
            Self::Size => parse_size(text).map(Value::Number),
            Self::Count => text.replace('_', "").parse().map(Value::Number).map_err(|_| format!("is `{text}`")),
            Self::Switch => text.parse().map(Value::Switch).map_err(|_| format!("is `{text}`")),
            Self::List => {
                Ok(Value::List(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(Into::into).collect()))
            }
        }
    }

    /// Reads a value from a TOML value.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_toml(self, value: &toml::Value) -> Result<Value, String> {
        match (self, value) {
            (Self::List, toml::Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(Into::into).ok_or_else(|| format!("holds {}", item.type_str())))
                .collect::<Result<_, _>>()
                .map(Value::List),
            (Self::List, _) => Err(format!("is a {}", value.type_str())),
            (Self::Count | Self::Size, toml::Value::Integer(number)) => {
                u64::try_from(*number).map(Value::Number).map_err(|_| format!("is {number}"))
            }
            (Self::Switch, toml::Value::Boolean(on)) => Ok(Value::Switch(*on)),
            (Self::Duration, toml::Value::Integer(number)) => Err(format!("is {number}, without a unit")),
            (_, toml::Value::String(text)) => self.parse(text),
            _ => Err(format!("is a {}", value.type_str())),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Duration(duration) => write!(f, "\"{}\"", humantime::format_duration(*duration)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(items) => write!(f, "{items:?}"),
        }
    }
}

/// Reads `host:port`.
pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("is `{text}`, without a port"))?;
    if host.is_empty() {
        return Err(format!("is `{text}`, without a host"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(format!("is `{text}`: an IPv6 host stands in brackets"));
    }
    port.parse::<u16>().map_err(|_| format!("is `{text}`: `{port}` is no port"))?;
    Ok(text.into())
}

/// Reads a time with its unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("is `{text}`: {error}"))
}

/// Units of sizes in lower case, longest first, so that `mib` is not read as `b`.
const UNITS: [(&str, u64); 14] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// Reads a number of bytes. A fraction is allowed where it comes to whole bytes: `1.5MiB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("is `{text}`");
    let lower = text.to_ascii_lowercase();
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| lower.strip_suffix(name).map(|rest| (rest, *unit))).ok_or_else(wrong)?;
    let digits = digits.trim().replace('_', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    if whole.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let parts = whole.checked_mul(scale).and_then(|whole| whole.checked_add(fraction)).ok_or_else(wrong)?;
    let bytes = u128::from(parts) * u128::from(unit);
    if !bytes.is_multiple_of(u128::from(scale)) {
        return Err(format!("is `{text}`, which is not a whole number of bytes"));
    }
    u64::try_from(bytes / u128::from(scale)).map_err(|_| format!("is `{text}`, which is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1500000", 1_500_000),
            ("1_500_000", 1_500_000),
            ("8 KiB", 8192),
            ("8KiB", 8192),
            ("1.5MiB", 1_572_864),
            ("64mb", 64_000_000),
            ("1Gi", 1 << 30),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.0000001MiB", "0.3B", "8 Kib b", "999999999TiB", "1.MiBx", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(Kind::Duration.parse("200ms"), Ok(Value::Duration(Duration::from_millis(200))));
        assert_eq!(Kind::Duration.parse("1m 30s"), Ok(Value::Duration(Duration::from_secs(90))));
        assert!(Kind::Duration.parse("200").is_err());
        assert!(Kind::Duration.from_toml(&toml::Value::Integer(200)).is_err());
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for good in ["127.0.0.1:7080", "[::1]:0", "node-1.example:65535"] {
            assert_eq!(parse_address(good), Ok(good.to_owned()));
        }
        for wrong in ["127.0.0.1", ":7080", "::1:7080", "host:port", "host:65536"] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_come_from_arrays_and_from_commas() {
        let list = Value::List(vec!["a=b:1".into(), "c=d:2".into()]);
        assert_eq!(Kind::List.parse("a=b:1, c=d:2,"), Ok(list.clone()));
        let array = toml::Value::Array(vec!["a=b:1".into(), "c=d:2".into()]);
        assert_eq!(Kind::List.from_toml(&array), Ok(list));
        assert!(Kind::List.from_toml(&toml::Value::Array(vec![1.into()])).is_err());
    }
}
