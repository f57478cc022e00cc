//! Reads by a token, in a cluster of one process with real HTTP: a client that hops between replicas with what it has
//! seen never sees anything older, though one of the replicas is surely behind.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::status::Role;
use raft_core::testing::{MemLog, MemNet};
use raft_core::types::{ClusterId, Incarnation, Index, NodeName, Term};
use raft_kv::client::{Client, Error, ErrorKind, Got, Read, Write};
use raft_kv::{MemoryKv, Settings};
use raft_node::config::Limits;
use raft_node::http::{ClientRoutes, HttpOptions, Listener, Token};
use raft_node::identity::MemIdentity;
use raft_node::kv_marks::KvMarks;
use raft_node::marks::{MarkParts, MemFence};
use raft_node::metrics::Metrics;
use raft_node::parts::Founder;
use raft_node::{Node, NodeConfig, NodeHandle, Parts};
use tokio_util::sync::CancellationToken;

/// Nothing that is awaited here takes anywhere near this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a replica that can surely not answer is asked.
const IN_VAIN: Duration = Duration::from_millis(400);
const NAMES: [&str; 3] = ["a", "b", "c"];

fn limits() -> Limits {
    Limits {
        key_bytes_max: 1 << 10,
        value_bytes_max: 1 << 16,
        batch_operations_max: 16,
        batch_bytes_max: 1 << 20,
        requests_in_flight_max: 256,
        bytes_in_flight_max: 4 << 20,
        connections_max: 256,
        header_read_timeout: PATIENCE,
        request_timeout: PATIENCE,
        request_timeout_max: 2 * PATIENCE,
        log_entries_max: 16,
    }
}

struct Cluster {
    net: MemNet,
    nodes: Vec<NodeHandle>,
    urls: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let founders = NAMES.map(|name| Founder { address: format!("{name}:7082"), name: NodeName::new(name) });
        let net = MemNet::new();
        let (mut nodes, mut urls) = (Vec::new(), Vec::new());
        for (founder, incarnation) in founders.iter().zip(1..) {
            let listener = Listener::bind("client.listen", "127.0.0.1:0", None, &limits()).await.unwrap();
            let url = format!("http://{}", listener.address().unwrap());
            let mut config = NodeConfig::new(founder.address.clone(), founders.to_vec());
            config.api_address.clone_from(&url);
            let parts = Parts {
                identity: MemIdentity::new(founder.name.clone(), Incarnation(incarnation)).open(),
                log: Box::new(|| Ok(Box::new(MemLog::new()))),
                state_machine: Box::new(|_| Ok(Box::new(MemoryKv::new(Settings::default()).unwrap()))),
                snapshots: directory.path().join(founder.name.as_str()),
                transport: net.transport(&founder.name),
                config,
                metrics: Arc::new(Metrics::new()),
                stamp: Arc::new(raft_kv::stamp),
                marks: MarkParts { rules: Arc::new(KvMarks), fence: Arc::new(MemFence::default()) },
            };
            let node = Node::start(parts).await.unwrap();
            let routes = ClientRoutes::new(node.clone(), HttpOptions::new(limits())).unwrap();
            tokio::spawn(listener.serve(routes, CancellationToken::new(), PATIENCE));
            nodes.push(node);
            urls.push(url);
        }
        for node in &nodes {
            node.wait_ready(PATIENCE).await.unwrap();
        }
        Self { net, nodes, urls, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::builder(&self.urls).try_timeout(IN_VAIN).deadline(PATIENCE).build().unwrap()
    }

    /// A client of one replica alone.
    fn client_of(&self, at: usize) -> Client {
        Client::builder([&self.urls[at]]).deadline(PATIENCE).try_timeout(PATIENCE).build().unwrap()
    }

    async fn leader(&self) -> usize {
        let mut found = None;
        eventually("somebody leads", async || {
            found = self.nodes.iter().position(|node| node.status().raft.role == Role::Leader);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Cuts a node that follows off from the others, and returns which.
    async fn cut_off_a_follower(&self) -> usize {
        let leader = self.leader().await;
        let away = (0..NAMES.len()).find(|at| *at != leader).unwrap();
        self.each_other(away, |one, other| self.net.cut(one, other));
        away
    }

    fn heal(&self, away: usize) {
        self.each_other(away, |one, other| self.net.heal(one, other));
    }

    fn each_other(&self, away: usize, mut change: impl FnMut(&NodeName, &NodeName)) {
        for other in (0..NAMES.len()).filter(|other| *other != away) {
            change(&NodeName::new(NAMES[away]), &NodeName::new(NAMES[other]));
        }
    }

    /// Waits until every replica has this value by itself.
    async fn await_everywhere(&self, key: &str, value: u64) {
        for at in 0..NAMES.len() {
            let client = self.client_of(at);
            eventually("every replica has the value", async || {
                number(&client.get(key, Read::local()).await.unwrap()) == value
            })
            .await;
        }
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn number(got: &Got) -> u64 {
    let text = got.value.as_ref().map_or("0", |value| std::str::from_utf8(&value.bytes).unwrap());
    text.parse().unwrap()
}

async fn put(client: &Client, key: &str, value: u64) {
    client.put(key, value.to_string(), Write::default()).await.unwrap();
}

fn position(client: &Client) -> Token {
    client.token().unwrap().as_str().parse().unwrap()
}

/// The client goes on with this token.
fn with(client: &Client, token: Token) -> Client {
    client.with_token(raft_kv::client::Token::new(token.to_string()))
}

fn is_no_answer(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Unavailable)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hops_with_a_token_never_sees_an_older_value_and_who_hops_without_does() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    put(&client, "k", 1).await;
    cluster.await_everywhere("k", 1).await;
    let away = cluster.cut_off_a_follower().await;
    put(&client, "k", 2).await;
    let written = position(&client);

    for (at, name) in NAMES.into_iter().enumerate() {
        let here = cluster.client_of(at).with_token(client.token());
        let local = number(&here.get("k", Read::local()).await.unwrap());
        let verified = here.get("k", Read::verified().within(IN_VAIN)).await;
        if at == away {
            // The teeth: this replica is surely behind, and says so only to who asks by a token.
            assert_eq!(local, 1);
            let error = verified.unwrap_err();
            assert!(is_no_answer(&error), "{error}");
            continue;
        }
        let got = verified.unwrap();
        assert_eq!((number(&got), got.served_by.as_deref()), (2, Some(name)));
        let reflects: Token = got.token.unwrap().as_str().parse().unwrap();
        assert!(reflects.id.index >= written.id.index, "{reflects:?} is older than {written:?}");
    }
    // A client that knows all replicas finds one that is not behind, wherever it begins.
    for first in 0..NAMES.len() {
        let mut urls = cluster.urls.clone();
        urls.rotate_left(first);
        let hops = Client::builder(&urls).try_timeout(IN_VAIN).deadline(PATIENCE).build().unwrap();
        let got = hops.with_token(client.token()).get("k", Read::verified()).await.unwrap();
        assert_eq!(number(&got), 2);
    }

    // A replica that waits is served by the news, without another question.
    let here = cluster.client_of(away).with_token(client.token());
    let waits = tokio::spawn(async move { here.get("k", Read::verified()).await });
    cluster.heal(away);
    let got = waits.await.unwrap().unwrap();
    assert_eq!((number(&got), got.served_by.as_deref()), (2, Some(NAMES[away])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_never_go_back_while_writes_go_on_and_a_replica_comes_and_goes() {
    const WRITES: u64 = 150;
    let cluster = Cluster::start().await;
    let client = cluster.client();
    put(&client, "k", 1).await;
    cluster.await_everywhere("k", 1).await;
    let (mut away, mut served_by, mut unanswered) = (None, [0; NAMES.len()], 0);
    for value in 2..WRITES {
        match value % 50 {
            10 => away = Some(cluster.cut_off_a_follower().await),
            40 => cluster.heal(away.take().unwrap()),
            _ => {}
        }
        put(&client, "k", value).await;
        for at in 0..NAMES.len() {
            // The one that is away is asked now and then: each time costs its whole patience.
            if Some(at) == away && value % 10 != 5 {
                continue;
            }
            let here = cluster.client_of(at).with_token(client.token());
            match here.get("k", Read::verified().within(if Some(at) == away { IN_VAIN } else { PATIENCE })).await {
                Ok(got) => {
                    assert_eq!(number(&got), value, "from {}", NAMES[at]);
                    served_by[at] += 1;
                }
                Err(error) => {
                    assert!(Some(at) == away && is_no_answer(&error), "{}: {error}", NAMES[at]);
                    unanswered += 1;
                }
            }
        }
    }
    assert!(served_by.iter().all(|times| *times > 0), "{served_by:?}");
    assert!(unanswered > 0, "nobody was behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_history_is_a_conflict_and_no_delay() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    put(&client, "k", 1).await;
    let token = position(&client);
    cluster.await_everywhere("k", 1).await;
    let moved = |cluster: u128, epoch: u64, term: u64, index: u64| {
        let mut other = token;
        other.cluster = ClusterId(other.cluster.0 + cluster);
        other.epoch += epoch;
        other.id.term = Term(other.id.term.0 + term);
        other.id.index = Index(other.id.index.0 + index);
        other
    };
    for (other, named) in [
        (moved(1, 0, 0, 0), format!("this is {}", token.cluster)),
        (moved(0, 1, 0, 0), "history 1".into()),
        (moved(0, 0, 1, 0), format!("holds term {} there", token.id.term)),
        // Ahead of everything that was ever committed: the leader knows, so nobody waits for it to come.
        (moved(0, 0, 0, 1_000_000), "what is committed ends with entry".into()),
    ] {
        for at in 0..NAMES.len() {
            let error = with(&cluster.client_of(at), other).get("k", Read::verified()).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::Conflict, Some("token_diverged")),
                "{other:?}: {error}"
            );
            assert!(error.detail().contains(&named) && error.detail().contains("read afresh"), "{error}");
        }
        // Without the token the cluster serves, and the client goes on.
        let afresh = client.with_token(None);
        assert_eq!(number(&afresh.get("k", Read::verified()).await.unwrap()), 1);
        assert!(afresh.token().is_some());
    }
    // Who cannot ask the leader cannot tell what is ahead from what is behind, and does not guess.
    let away = cluster.cut_off_a_follower().await;
    let ahead = with(&cluster.client_of(away), moved(0, 0, 0, 1_000_000));
    let error = ahead.get("k", Read::verified().within(IN_VAIN)).await.unwrap_err();
    assert!(is_no_answer(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_moves_its_client_on() {
    let cluster = Cluster::start().await;
    let (mine, theirs) = (cluster.client(), cluster.client());
    put(&mine, "k", 1).await;
    cluster.await_everywhere("k", 1).await;
    let away = cluster.cut_off_a_follower().await;
    put(&theirs, "k", 2).await;
    let refused = mine.compare_and_set("k", None, "3", Write::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert!(position(&mine).id.index > position(&theirs).id.index);
    // So the value that made it fail is the one that is read next, also from who is behind.
    let behind = cluster.client_of(away).with_token(mine.token());
    let error = behind.get("k", Read::verified().within(IN_VAIN)).await.unwrap_err();
    assert!(is_no_answer(&error), "{error}");
    assert_eq!(number(&mine.get("k", Read::verified()).await.unwrap()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_too_stale_refuses_and_asks_the_leader_meanwhile() {
    const BOUND: Duration = Duration::from_millis(300);
    let cluster = Cluster::start().await;
    put(&cluster.client(), "k", 1).await;
    let away = cluster.cut_off_a_follower().await;
    let here = cluster.client_of(away);
    eventually("it knows that it may be stale", async || {
        here.get("k", Read::local()).await.unwrap().staleness.is_some_and(|staleness| staleness > BOUND)
    })
    .await;
    let error = here.get("k", Read::local_within(BOUND).within(IN_VAIN)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, Some("too_stale")));
    assert!(error.detail().contains("max_staleness is 300 ms"), "{error}");
    assert!(error.detail().contains("may be "), "{error}");
    cluster.heal(away);
    // Refused at first, and served once the leader has answered.
    let got = here.get("k", Read::local_within(BOUND)).await.unwrap();
    assert!(got.staleness.unwrap() <= BOUND);
    assert_eq!(number(&got), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verified_read_names_its_token() {
    let cluster = Cluster::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (token, status, code, named) in
        [(None, 400, "malformed_parameter", "Raft-Token"), (Some("AQAA"), 400, "malformed_token", "Raft-Token")]
    {
        let mut request = http.get(format!("{}/v1/kv/k?consistency=verified", cluster.urls[0]));
        if let Some(token) = token {
            request = request.header("raft-token", token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        let problem: raft_node::http::ProblemBody = response.json().await.unwrap();
        assert_eq!(problem.code, code);
        assert!(problem.detail.contains(named), "{}", problem.detail);
    }
    // An error takes nothing back from who keeps the token of every answer.
    let away = cluster.cut_off_a_follower().await;
    let client = cluster.client();
    put(&client, "k", 1).await;
    let token = client.token().unwrap();
    let target = format!("{}/v1/kv/k?consistency=verified&timeout=200ms", cluster.urls[away]);
    let response = http.get(target).header("raft-token", token.as_str()).send().await.unwrap();
    assert!(matches!(response.status().as_u16(), 503 | 504), "{}", response.status());
    assert_eq!(response.headers()["raft-token"], token.as_str());
}
