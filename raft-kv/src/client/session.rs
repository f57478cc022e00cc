//! What a client has seen, so that it never sees anything older.

use std::fmt;

use parking_lot::Mutex;

/// A log position, as the servers write it (`Raft-Token`): opaque, printable text. It belongs to one cluster, and to
/// one history of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token(String);

impl Token {
    /// Takes the text of a token, as an answer, another client or the command line gave it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug)]
struct Seen {
    token: Token,
    /// Where it stands; not known of one that came from elsewhere, since its text is opaque.
    revision: Option<u64>,
}

/// The newest position that was seen.
#[derive(Debug, Default)]
pub(super) struct Session {
    newest: Mutex<Option<Seen>>,
}

impl Session {
    pub(super) fn starting_with(token: Option<Token>) -> Self {
        Self { newest: Mutex::new(token.map(|token| Seen { token, revision: None })) }
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.newest.lock().as_ref().map(|seen| seen.token.clone())
    }

    /// Notes what an answer reflects. `surpasses`: it is surely no older than this token, for which it was asked, or
    /// than any at all.
    pub(super) fn note(&self, token: Token, revision: u64, surpasses: &Surpasses) {
        let mut newest = self.newest.lock();
        let is_newer = match newest.as_ref() {
            None => true,
            Some(Seen { revision: Some(known), .. }) => revision >= *known,
            Some(Seen { token: known, revision: None }) => match surpasses {
                Surpasses::All => true,
                Surpasses::One(asked) => asked == known,
                Surpasses::None => false,
            },
        };
        if is_newer {
            *newest = Some(Seen { token, revision: Some(revision) });
        }
    }
}

/// Which positions an answer is surely not older than.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Surpasses {
    /// All that were seen before it was asked for: of a write, or of a read that sees the newest.
    All,
    /// This one, which it was asked for.
    One(Token),
    /// None.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text)
    }

    #[test]
    fn the_newest_position_of_all_answers_is_kept() {
        let session = Session::default();
        session.note(token("five"), 5, &Surpasses::None);
        session.note(token("three"), 3, &Surpasses::All);
        assert_eq!(session.token(), Some(token("five")));
        session.note(token("seven"), 7, &Surpasses::None);
        assert_eq!(session.token(), Some(token("seven")));
    }

    #[test]
    fn a_token_from_elsewhere_gives_way_only_to_what_is_surely_newer() {
        let fresh = || Session::starting_with(Some(token("given")));
        let session = fresh();
        session.note(token("stale"), 1_000, &Surpasses::None);
        session.note(token("stale"), 1_000, &Surpasses::One(token("another")));
        assert_eq!(session.token(), Some(token("given")));
        session.note(token("verified"), 3, &Surpasses::One(token("given")));
        assert_eq!(session.token(), Some(token("verified")));
        let session = fresh();
        session.note(token("written"), 2, &Surpasses::All);
        assert_eq!(session.token(), Some(token("written")));
    }
}
