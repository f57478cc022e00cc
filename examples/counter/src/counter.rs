//! The state machine: a plain type, for [`raft_node::small_state::InMemory`].

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_node::small_state::SmallState;

/// Counters at a time; then a new one is refused. It bounds the state to a megabyte.
pub const COUNTERS_MAX: usize = 10_000;
/// Bytes of a counter's name; a longer one is refused.
pub const NAME_BYTES_MAX: usize = 64;

/// Named counters. Commands are `add NAME N` and `take NAME N`, and are answered with the new value, or with `refused:`
/// and why: that is an answer, the same on every replica, and the counters are as before. Queries are `get NAME` and
/// `all`.
///
/// ```
/// use counter::Counter;
/// use raft_node::small_state::SmallState as _;
///
/// let mut counter = Counter::default();
/// assert_eq!(counter.apply(b"add seats 3"), "3");
/// assert_eq!(counter.apply(b"take seats 2"), "1");
/// assert_eq!(counter.apply(b"take seats 2"), "refused: seats has 1");
/// assert_eq!(counter.query(b"all").unwrap(), "seats=1");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// In order, so that equal counters have equal bytes.
    values: BTreeMap<String, u64>,
}

/// A line that can be carried out.
enum Command<'a> {
    Add(&'a str, u64),
    Take(&'a str, u64),
}

impl<'a> Command<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, String> {
        let line = std::str::from_utf8(line).map_err(|_| "the command is no text".to_owned())?;
        let words: Vec<&str> = line.split(' ').collect();
        let [verb @ ("add" | "take"), name, number] = words[..] else {
            return Err("write `add NAME N` or `take NAME N`".into());
        };
        check_name(name)?;
        // "+5" would parse too; that is harmless, but what is accepted once has to be accepted for ever.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = Some(number).filter(|_| digits).and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| format!("N must be a number from 0 to {}", u64::MAX))?;
        Ok(if verb == "add" { Self::Add(name, number) } else { Self::Take(name, number) })
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    // `=` separates names from values in answers.
    if fits && !name.contains('=') {
        return Ok(());
    }
    Err(format!("NAME must have 1 to {NAME_BYTES_MAX} visible ASCII letters, and no `=`"))
}

impl Counter {
    /// The new value, or why there is none. Nothing changes in the latter case.
    fn carry_out(&mut self, line: &[u8]) -> Result<u64, String> {
        let (name, value) = match Command::parse(line)? {
            Command::Add(name, number) => {
                let value = self.values.get(name).copied().unwrap_or(0).checked_add(number);
                (name, value.ok_or_else(|| format!("{name} would be larger than {}", u64::MAX))?)
            }
            Command::Take(name, number) => {
                let held = self.values.get(name).copied().unwrap_or(0);
                (name, held.checked_sub(number).ok_or_else(|| format!("{name} has {held}"))?)
            }
        };
        // A counter at zero takes no room.
        if value == 0 {
            self.values.remove(name);
        } else if self.values.len() >= COUNTERS_MAX && !self.values.contains_key(name) {
            return Err(format!("there are {COUNTERS_MAX} counters already; take one to 0 first"));
        } else {
            self.values.insert(name.to_owned(), value);
        }
        Ok(value)
    }

    fn lines(&self, end: &str) -> String {
        let lines = self.values.iter().map(|(name, value)| format!("{name}={value}"));
        lines.collect::<Vec<_>>().join(end)
    }
}

impl SmallState for Counter {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        match self.carry_out(command) {
            Ok(value) => value.to_string().into(),
            Err(why) => format!("refused: {why}").into(),
        }
    }

    fn query(&self, query: &[u8]) -> Result<Bytes, String> {
        let query = std::str::from_utf8(query).map_err(|_| "the query is no text".to_owned())?;
        if query == "all" {
            return Ok(self.lines(" ").into());
        }
        let name = query.strip_prefix("get ").ok_or("write `get NAME` or `all`")?;
        Ok(self.values.get(name).copied().unwrap_or(0).to_string().into())
    }

    fn encode(&self) -> Vec<u8> {
        self.lines("\n").into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let values = text.lines().map(|line| {
            let (name, value) = line.split_once('=').ok_or_else(|| format!("`{line}` is no counter"))?;
            let value = value.parse().map_err(|error| format!("`{line}`: {error}"))?;
            check_name(name).map(|()| (name.to_owned(), value))
        });
        Ok(Self { values: values.collect::<Result<_, String>>()? })
    }
}
