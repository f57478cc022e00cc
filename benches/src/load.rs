//! Puts: as fast as clients get their answers, or at a rate that does not wait for them.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::http::{Connection, put_request};

/// Connections of an open loop: enough that a request seldom waits for one.
const OPEN_LOOP_CONNECTIONS: usize = 256;

/// Which keys are put, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Puts {
    /// What keys begin with.
    pub prefix: &'static str,
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of each value, about; a multiple of 24.
    pub value_bytes: usize,
    /// Puts in one request: 1, or more for a batch that is one entry of the log.
    pub batch: u64,
}

impl Puts {
    /// The request number `nth`. Values differ, and do not compress.
    #[must_use]
    pub fn request(&self, host: &str, nth: u64) -> Vec<u8> {
        if self.batch == 1 {
            let value: Vec<u8> = random_bytes(nth).take(self.value_bytes).collect();
            return put_request(host, &format!("{}{:07}", self.prefix, self.key(nth)), &value);
        }
        let operations: Vec<String> = (nth * self.batch..(nth + 1) * self.batch)
            .map(|put| {
                // Text of this alphabet, of a multiple of four characters, is base64 as it is.
                let letter = |byte: u8| char::from(BASE64[usize::from(byte % 64)]);
                let value: String = random_bytes(put).take(self.value_bytes / 3 * 4).map(letter).collect();
                format!(r#"{{"op":"put","key":"{:08}","value":"{value}"}}"#, self.key(put))
            })
            .collect();
        let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
        let head = format!("POST /v1/kv/batch HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head, body].concat().into_bytes()
    }

    /// Spreads neighbours over the keys.
    fn key(&self, nth: u64) -> u64 {
        nth.wrapping_mul(2_654_435_761) % self.keys
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes that do not repeat within a block of a table: xorshift64.
fn random_bytes(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_add(1);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
}

/// One put of an open loop.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    /// When it was due, since the loop's begin.
    pub due: Duration,
    /// How long after that its answer with 200 came.
    pub latency: Duration,
}

/// What a load saw.
#[derive(Debug)]
pub struct Seen {
    /// Each put of an open loop that was answered with 200, in the order of the answers.
    pub puts: Vec<Put>,
    /// Answers with 200, in nanoseconds. In an open loop from the time at which the request was due.
    pub latency: Histogram<u64>,
    /// All other ends of a request.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<String>,
    /// How long it ran.
    pub time: Duration,
}

impl Seen {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("valid bounds");
        Self { puts: Vec::new(), latency, errors: 0, last_error: None, time: Duration::ZERO }
    }

    /// Puts per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.time.as_secs_f64()
    }

    /// A quantile, in milliseconds.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    fn note(&mut self, since: Instant, answered: &io::Result<()>) {
        match answered {
            Ok(()) => self.latency.saturating_record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Err(error) => {
                self.errors += 1;
                self.last_error = Some(error.to_string());
            }
        }
    }
}

/// A connection that is made again when it breaks.
struct Client {
    host: String,
    connection: Option<Connection>,
}

impl Client {
    async fn put(&mut self, puts: Puts, nth: u64) -> io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.host).await?,
        };
        let (status, body) = connection.call(&puts.request(&self.host, nth)).await?;
        if status != 200 {
            let text = String::from_utf8_lossy(body).into_owned();
            return Err(io::Error::other(format!("{}: {status} {text}", self.host)));
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// `clients` clients, each with one put under way, until `numbers` are put or `time` is over.
pub async fn closed_loop(
    hosts: &[String],
    puts: Puts,
    clients: usize,
    numbers: std::ops::Range<u64>,
    time: Option<Duration>,
) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::new()));
    let next = Rc::new(RefCell::new(numbers));
    let begin = Instant::now();
    let local = LocalSet::new();
    for nth in 0..clients {
        let (seen, next) = (seen.clone(), next.clone());
        let mut client = Client { host: hosts[nth % hosts.len()].clone(), connection: None };
        local.spawn_local(async move {
            while time.is_none_or(|time| begin.elapsed() < time) {
                let Some(number) = next.borrow_mut().next() else { return };
                let since = Instant::now();
                let answered = client.put(puts, number).await;
                if answered.is_err() {
                    // A node that is away would else be asked in a tight loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                seen.borrow_mut().note(since, &answered);
            }
        });
    }
    local.await;
    let mut seen = Rc::try_unwrap(seen).expect("all clients have ended").into_inner();
    seen.time = begin.elapsed();
    seen
}

/// Puts at `rate` per second, each sent when it is due whether or not the ones before it are answered, until `end` is
/// ready. What waits for a free connection waits on the clock.
pub async fn open_loop(hosts: &[String], puts: Puts, rate: f64, end: impl Future<Output = ()>) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::new()));
    let begin = Instant::now();
    let local = LocalSet::new();
    let (due, taken) = mpsc::unbounded_channel::<(u64, Instant)>();
    let taken = Rc::new(tokio::sync::Mutex::new(taken));
    for nth in 0..OPEN_LOOP_CONNECTIONS {
        let (seen, taken) = (seen.clone(), taken.clone());
        let mut client = Client { host: hosts[nth % hosts.len()].clone(), connection: None };
        local.spawn_local(async move {
            loop {
                let next = taken.lock().await.recv().await;
                let Some((number, since)) = next else { return };
                let answered = client.put(puts, number).await;
                let mut seen = seen.borrow_mut();
                seen.note(since, &answered);
                if answered.is_ok() {
                    seen.puts.push(Put { due: since.duration_since(begin), latency: since.elapsed() });
                }
            }
        });
    }
    let pacing = async move {
        tokio::pin!(end);
        let mut number = 0_u64;
        loop {
            let at = begin + Duration::from_secs_f64(number as f64 / rate);
            tokio::select! {
                biased;
                () = &mut end => return,
                () = tokio::time::sleep_until(at.into()) => {}
            }
            // Nobody listens only when all clients have ended, and they end with this.
            let _ = due.send((number, at));
            number += 1;
        }
    };
    local.run_until(pacing).await;
    local.await;
    let mut seen = Rc::try_unwrap(seen).expect("all clients have ended").into_inner();
    seen.time = begin.elapsed();
    seen
}
