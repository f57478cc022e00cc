//! `token new|hash|check`: tokens and the file that names who has them.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use raft_node::access::{Access, Book, Identity, Secret};
use serde_json::json;

use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{self, Format};

/// The longest token on the standard input.
const INPUT_BYTES_MAX: u64 = 64 << 10;

/// Makes tokens, and checks the file that says who may do what (auth.token_file).
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// How the result is shown.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Draws a token, prints it once, and what to put into auth.token_file for it.
    New(NewArgs),
    /// Prints what auth.token_file has of the token on the standard input. It has to be random: a password that somebody
    /// thought of could be found by trying.
    Hash,
    /// Lists whom a token file names.
    Check {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct NewArgs {
    /// Who gets the token; named in errors, not secret.
    #[arg(long)]
    name: String,
    /// May change the cluster and look into the log. Gives no right to keys and values.
    #[arg(long)]
    admin: bool,
    /// May read keys that begin with this; "" for every key. Can be given more than once.
    #[arg(long, value_name = "PREFIX")]
    read: Vec<String>,
    /// May read and write keys that begin with this; "" for every key. Can be given more than once.
    #[arg(long, value_name = "PREFIX")]
    write: Vec<String>,
    /// Until when it holds, such as 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339)]
    expires: Option<SystemTime>,
}

impl TokenArgs {
    pub(crate) fn run(self) -> Result<(), CliError> {
        match self.command {
            TokenCommand::New(args) => args.run(self.output),
            TokenCommand::Hash => hash(),
            TokenCommand::Check { file } => {
                let access =
                    Access::from_file(&file).map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
                list(access.book().identities().iter().map(AsRef::as_ref), self.output)
            }
        }
    }
}

impl NewArgs {
    fn run(self, format: Format) -> Result<(), CliError> {
        let token = Secret::random().map_err(CliError::failed)?;
        let block = self.block(&token);
        // What the file's reader would refuse is refused here.
        Book::parse(&block).map_err(|problem| CliError::new(Exit::Usage, format!("no such identity: {problem}")))?;
        match format {
            Format::Json => output::json(&json!({ "name": self.name, "token": token.expose(), "identity": block })),
            Format::Table => {
                output::line(format!("The token of {}; it is shown this once:\n\n{}\n", self.name, token.expose()))?;
                output::line(format!(
                    "Put this into auth.token_file; nodes use it within two seconds:\n\n{}",
                    block.trim_end()
                ))
            }
        }
    }

    /// The identity as the file has it.
    fn block(&self, token: &Secret) -> String {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let grants = self.read.iter().map(|prefix| ("read", prefix)).chain(self.write.iter().map(|p| ("write", p)));
        let grants: Vec<String> =
            grants.map(|(role, prefix)| format!("{{ role = \"{role}\", prefix = {} }}", text(prefix))).collect();
        let mut block = format!("[[identity]]\nname = {}\n", text(&self.name));
        block.push_str(&format!("token_sha256 = \"{}\"\n", token.digest().hex()));
        if self.admin {
            block.push_str("admin = true\n");
        }
        if !grants.is_empty() {
            block.push_str(&format!("grants = [{}]\n", grants.join(", ")));
        }
        if let Some(expires) = self.expires {
            block.push_str(&format!("expires = {}\n", humantime::format_rfc3339_seconds(expires)));
        }
        block
    }
}

fn hash() -> Result<(), CliError> {
    let mut text = String::new();
    let usage = |problem: &str| CliError::new(Exit::Usage, format!("the standard input {problem}"));
    let read = std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|_| usage("cannot be read, or is no text"))?;
    let token = Secret::read(&text).map_err(usage)?;
    output::line(token.digest().hex())
}

fn list<'a>(identities: impl Iterator<Item = &'a Identity>, format: Format) -> Result<(), CliError> {
    let (now, mut rows, mut views) = (SystemTime::now(), Vec::new(), Vec::new());
    for identity in identities {
        let by = [identity.token.as_ref().map(|_| "token"), identity.certificate.as_ref().map(|_| "certificate")];
        let by: Vec<&str> = by.into_iter().flatten().collect();
        let grants: Vec<String> = identity.grants.iter().map(ToString::to_string).collect();
        let expires = identity.expires.map(|end| humantime::format_rfc3339_seconds(end).to_string());
        let expired = !identity.holds_at(now);
        views.push(json!({
            "name": identity.name, "by": by, "certificate": identity.certificate, "admin": identity.admin,
            "expires": expires, "expired": expired,
            "grants": identity.grants.iter().map(|grant| json!({
                "role": grant.role.name(), "prefix_base64": STANDARD.encode(&grant.prefix),
            })).collect::<Vec<_>>(),
        }));
        let end = expires.map_or_else(|| "never".into(), |end| if expired { format!("{end}, EXPIRED") } else { end });
        let may = if grants.is_empty() { "-".into() } else { grants.join(", ") };
        rows.push(vec![identity.name.clone(), by.join(", "), identity.admin.to_string(), may, end]);
    }
    match format {
        Format::Json => output::json(&views),
        Format::Table => output::bytes(output::table(&["NAME", "BY", "ADMIN", "MAY", "EXPIRES"], &rows).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use raft_node::access::Role;

    use super::*;

    #[test]
    fn a_new_identity_is_what_was_asked_for() {
        let args = NewArgs {
            name: "a \"quoted\" name".into(),
            admin: true,
            read: vec![String::new()],
            write: vec!["a/\u{1}\\".into()],
            expires: Some(humantime::parse_rfc3339("2030-01-31T00:00:00Z").unwrap()),
        };
        let token = Secret::random().unwrap();
        let book = Book::parse(&args.block(&token)).unwrap();
        let identity = &book.identities()[0];
        assert_eq!(
            (identity.name.as_str(), identity.admin, identity.expires),
            (args.name.as_str(), true, args.expires)
        );
        assert!(identity.token.unwrap().is(&token.digest()));
        let grants: Vec<_> = identity.grants.iter().map(|grant| (grant.role, grant.prefix.as_slice())).collect();
        assert_eq!(grants, [(Role::Read, &b""[..]), (Role::Write, b"a/\x01\\")]);
    }
}
