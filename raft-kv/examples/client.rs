//! A walk through the client against a running cluster: `make demo` prints the addresses to give it.
//!
//! `client [ENDPOINT ...]`, by default http://127.0.0.1:7080. Counts a key up by compare-and-set, and shows that a
//! verified read never sees anything older, whichever node answers.

use std::io::Write as _;

use raft_kv::client::{Client, Error, ErrorKind, Got, Read, Write};

const KEY: &str = "example/counter";

/// The counter in an answer; zero when there is none.
fn number(got: &Got) -> u64 {
    let text = got.value.as_ref().and_then(|value| std::str::from_utf8(&value.bytes).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Adds one, however many others do the same.
async fn count_up(client: &Client) -> Result<u64, Error> {
    loop {
        let got = client.get(KEY, Read::verified()).await?;
        let (next, revision) = (number(&got) + 1, got.value.map(|value| value.revision));
        match client.compare_and_set(KEY, revision, next.to_string(), Write::default()).await {
            Ok(_) => return Ok(next),
            // Somebody else was faster. The refusal itself moves this client on, so the next read sees that one's write.
            Err(error) if error.kind() == ErrorKind::Precondition => {}
            // `error.outcome()` says whether it may have been counted all the same. If so, the same call under
            // `error.idempotency_key()` finds out, and counts once.
            Err(error) => return Err(error),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("http://127.0.0.1:7080".into());
    }
    let client = Client::new(&endpoints)?;
    let counted = count_up(&client).await?;
    let mut out = std::io::stdout();
    writeln!(out, "counted to {counted}")?;
    for endpoint in &endpoints {
        // Another connection to one node only, which goes on from what the first one has seen.
        let one = Client::new([endpoint])?.with_token(client.token());
        let (local, verified) = (one.get(KEY, Read::local()).await?, one.get(KEY, Read::verified()).await?);
        let by = verified.served_by.as_deref().unwrap_or(endpoint);
        writeln!(out, "{by}: local read {}, verified read {}", number(&local), number(&verified))?;
        assert!(number(&verified) >= counted, "a verified read is never older than what was seen");
    }
    Ok(())
}
