//! Who the command line says it is: a token, a client certificate, or neither. Nothing of them is ever printed.

use std::path::{Path, PathBuf};

use raft_node::access::Secret;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::cli::exit::{CliError, Exit};

/// The token itself in the environment. There is no flag for it: everybody on the machine sees those.
const VARIABLE: &str = "RAFT_ACCESS_TOKEN";

/// Where the credentials are.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Credentials {
    /// A file with the token that says who you are. RAFT_ACCESS_TOKEN holds a token itself.
    #[arg(long, env = "RAFT_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Your client certificate (PEM), for https endpoints.
    #[arg(long, env = "RAFT_CERT", value_name = "FILE", requires = "key_file", global = true)]
    cert: Option<PathBuf>,
    /// The private key (PEM) of --cert.
    #[arg(long = "key", id = "key_file", env = "RAFT_KEY", value_name = "FILE", requires = "cert", global = true)]
    key_file: Option<PathBuf>,
}

impl Credentials {
    /// Adds what there is to a client.
    pub(crate) fn add_to(&self, mut builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, CliError> {
        if let Some(token) = self.token()? {
            builder = builder.default_headers(bearer(&token)?);
        }
        let (Some(cert), Some(key)) = (&self.cert, &self.key_file) else { return Ok(builder) };
        let mut pem = read("--cert", cert)?;
        pem.push(b'\n');
        pem.extend(read("--key", key)?);
        // What the error shows of the files may be the key itself.
        let identity = reqwest::Identity::from_pem(&pem).map_err(|_| {
            let message =
                format!("--cert {} and --key {} are no certificate and key in PEM", cert.display(), key.display());
            CliError::new(Exit::Usage, message)
        })?;
        Ok(builder.identity(identity))
    }

    /// The token, from its file or the environment.
    pub(crate) fn token(&self) -> Result<Option<Secret>, CliError> {
        if let Some(path) = &self.token_file {
            return token_in(path).map(Some);
        }
        match std::env::var(VARIABLE) {
            // As compose files leave what they do not set.
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Secret::read(&text)
                .map(Some)
                .map_err(|problem| CliError::new(Exit::Usage, format!("{VARIABLE} {problem}"))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(CliError::new(Exit::Usage, format!("{VARIABLE} holds no token")))
            }
        }
    }

    /// These, but with the token of this file while it is there.
    pub(crate) fn or_local(&self, local: Option<&Path>) -> Self {
        match local.filter(|path| path.exists()) {
            Some(path) => Self { token_file: Some(path.to_owned()), ..self.clone() },
            None => self.clone(),
        }
    }
}

/// The token in a file.
fn token_in(path: &Path) -> Result<Secret, CliError> {
    let usage = |problem: String| CliError::new(Exit::Usage, format!("the token file {} {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| usage(format!("cannot be read: {error}")))?;
    Secret::read(&text).map_err(|problem| usage(problem.into()))
}

/// The header that shows a token.
fn bearer(token: &Secret) -> Result<HeaderMap, CliError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| CliError::failed("the token is no header"))?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(path)
        .map_err(|error| CliError::new(Exit::Usage, format!("{flag} {} cannot be read: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    #[test]
    fn a_client_shows_nothing_of_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let secret = Secret::random().unwrap();
        std::fs::write(&path, format!("{}\n", secret.expose())).unwrap();
        let credentials = Credentials { token_file: Some(path), ..Credentials::default() };
        assert_eq!(credentials.token().unwrap(), Some(secret.clone()));
        let headers = bearer(&secret).unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = credentials.add_to(reqwest::Client::builder()).unwrap().build().unwrap();
        let shown = format!("{credentials:?} {headers:?} {client:?}");
        assert!(!shown.contains(secret.expose()), "{shown}");
        assert!(headers[AUTHORIZATION].to_str().unwrap().ends_with(secret.expose()));
    }

    #[test]
    fn a_file_that_holds_no_token_is_named_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "not a token").unwrap();
        let error = token_in(&path).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.message.contains("token") && !error.message.contains("not a token"), "{}", error.message);
        assert!(token_in(&directory.path().join("none")).unwrap_err().message.contains("cannot be read"));
    }
}
