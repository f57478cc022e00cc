//! Founding between running nodes, over a network in memory.

// A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

mod in_memory;

use in_memory::{Disk, PATIENCE, config, eventually, put, try_start, try_start_as};
use raft_core::ports::StoreError;
use raft_core::testing::MemNet;
use raft_core::types::{ClusterId, Incarnation, NodeName};
use raft_node::NodeHandle;
use raft_node::parts::{AcceptedFounding, IdentityStore, StartError};
use raft_node::status::{Phase, WaitReason};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn waiting_for(node: &NodeHandle) -> Vec<(NodeName, WaitReason)> {
    match node.status().phase {
        Phase::Founding { waiting_for } => waiting_for,
        other => panic!("not founding, but {other:?}"),
    }
}

async fn waits_for_only(node: &NodeHandle, name: &str, reason: impl Fn(&WaitReason) -> bool) {
    let own = node.status().name;
    eventually(
        &format!("{own} waits for {name} only"),
        async || matches!(waiting_for(node).as_slice(), [(found, why)] if found.as_str() == name && reason(why)),
    )
    .await;
}

fn silent(why: &WaitReason) -> bool {
    matches!(why, WaitReason::Silent(_))
}

async fn one_cluster(nodes: &[&NodeHandle]) -> ClusterId {
    for node in nodes {
        node.wait_ready(PATIENCE).await.unwrap();
    }
    let clusters: Vec<_> = nodes.iter().map(|node| node.status().cluster.unwrap()).collect();
    assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "{clusters:?}");
    clusters[0]
}

#[tokio::test]
async fn three_blank_nodes_found_when_the_last_one_has_come_in_any_order() {
    let net = MemNet::new();
    let [a, b, c] = NAMES.map(Disk::blank);
    let second = try_start(&net, &b, config("b", &NAMES)).await.unwrap();
    let third = try_start(&net, &c, config("c", &NAMES)).await.unwrap();
    waits_for_only(&second, "a", silent).await;
    waits_for_only(&third, "a", silent).await;
    assert!(second.ready().is_err() && second.live().is_ok());
    assert!(second.started().unwrap_err().contains("a cannot be asked"), "{:?}", second.started());

    let first = try_start(&net, &a, config("a", &NAMES)).await.unwrap();
    one_cluster(&[&first, &second, &third]).await;
    let members = third.status().members;
    let seen: Vec<_> = members.iter().map(|it| (it.id.0, it.name.as_str(), it.api_address.as_str())).collect();
    assert_eq!(seen, [(1, "a", "http://a:7080"), (2, "b", "http://b:7080"), (3, "c", "http://c:7080")]);
    put(&second, "key", "value").await.unwrap();
}

#[tokio::test]
async fn a_single_name_founds_alone_and_a_name_without_a_list_does_not_start() {
    let net = MemNet::new();
    let alone = try_start(&net, &Disk::blank("a"), config("a", &["a"])).await.unwrap();
    one_cluster(&[&alone]).await;
    put(&alone, "key", "value").await.unwrap();
    let refused = try_start(&net, &Disk::blank("x"), config("x", &[])).await;
    assert!(matches!(refused, Err(StartError::NotAFounder { .. })), "{refused:?}");
}

#[tokio::test]
async fn nodes_with_different_lists_wait_and_say_so() {
    let net = MemNet::new();
    let first = try_start(&net, &Disk::blank("a"), config("a", &["a", "b"])).await.unwrap();
    let second = try_start(&net, &Disk::blank("b"), config("b", &["a", "b", "c"])).await.unwrap();
    waits_for_only(&first, "b", |why| matches!(why, WaitReason::ShowsAnotherList(list) if list.len() == 3)).await;
    eventually("b names a and c", async || waiting_for(&second).len() == 2).await;
}

/// The silent one may hold the only data.
#[tokio::test]
async fn two_wiped_disks_found_nothing_while_the_third_is_down_nor_when_it_is_back() {
    let net = MemNet::new();
    let [a, b, c] = NAMES.map(Disk::blank);
    let nodes = [
        try_start(&net, &a, config("a", &NAMES)).await.unwrap(),
        try_start(&net, &b, config("b", &NAMES)).await.unwrap(),
        try_start(&net, &c, config("c", &NAMES)).await.unwrap(),
    ];
    let cluster = one_cluster(&nodes.iter().collect::<Vec<_>>()).await;
    put(&nodes[0], "key", "value").await.unwrap();
    for node in &nodes {
        node.stop().await.unwrap();
    }

    let first = try_start(&net, &Disk::blank("a"), config("a", &NAMES)).await.unwrap();
    let second = try_start(&net, &Disk::blank("b"), config("b", &NAMES)).await.unwrap();
    waits_for_only(&first, "c", silent).await;
    waits_for_only(&second, "c", silent).await;

    let third = try_start(&net, &c, config("c", &NAMES)).await.unwrap();
    assert_eq!(third.status().cluster, Some(cluster));
    // It knows other disks under their names, and cannot admit new ones alone; the reason is told.
    let later = |why: &WaitReason| matches!(why, WaitReason::AdmitsLater { .. });
    waits_for_only(&first, "c", later).await;
    waits_for_only(&second, "c", later).await;
    assert_eq!(first.status().cluster, None);
    assert!(third.ready().is_err(), "one of three is no quorum");
}

/// An identity that does something while the founding record is being accepted.
struct Disturbed {
    kept: Box<dyn IdentityStore>,
    before: Option<String>,
    after: Box<dyn Fn() + Send>,
}

impl IdentityStore for Disturbed {
    fn name(&self) -> NodeName {
        self.kept.name()
    }

    fn incarnation(&self) -> Incarnation {
        self.kept.incarnation()
    }

    fn start_count(&self) -> u64 {
        self.kept.start_count()
    }

    fn founding(&self) -> Result<Option<AcceptedFounding>, StoreError> {
        self.kept.founding()
    }

    fn accept_founding(&mut self, founding: &AcceptedFounding) -> Result<(), StoreError> {
        if let Some(reason) = self.before.clone() {
            return Err(StoreError::Refused { reason });
        }
        let accepted = self.kept.accept_founding(founding);
        (self.after)();
        accepted
    }
}

#[tokio::test]
async fn a_writer_that_dies_before_its_record_is_durable_founds_after_its_restart() {
    let net = MemNet::new();
    let [a, b, c] = NAMES.map(Disk::blank);
    let dying = Disturbed { kept: a.identity.open(), before: Some("power lost".into()), after: Box::new(|| {}) };
    let first = try_start_as(&net, &a, config("a", &NAMES), Box::new(dying)).await.unwrap();
    let second = try_start(&net, &b, config("b", &NAMES)).await.unwrap();
    let third = try_start(&net, &c, config("c", &NAMES)).await.unwrap();
    let failure = first.finished().await.unwrap_err();
    assert!(failure.to_string().contains("power lost"), "{failure}");

    let first = try_start(&net, &a, config("a", &NAMES)).await.unwrap();
    one_cluster(&[&first, &second, &third]).await;
}

#[tokio::test]
async fn a_founding_that_only_the_writer_holds_is_finished_when_it_is_back() {
    let net = MemNet::new();
    let [a, b, c] = NAMES.map(Disk::blank);
    let cut = {
        let (net, others) = (net.clone(), [b.name.clone(), c.name.clone()]);
        let writer = a.name.clone();
        move || others.iter().for_each(|other| net.cut(&writer, other))
    };
    let cutting = Disturbed { kept: a.identity.open(), before: None, after: Box::new(cut) };
    let first = try_start_as(&net, &a, config("a", &NAMES), Box::new(cutting)).await.unwrap();
    let second = try_start(&net, &b, config("b", &NAMES)).await.unwrap();
    let third = try_start(&net, &c, config("c", &NAMES)).await.unwrap();
    eventually("the writer has its record", async || first.status().cluster.is_some()).await;
    waits_for_only(&second, "a", silent).await;
    waits_for_only(&third, "a", silent).await;

    let written = first.status().cluster.unwrap();
    let first = try_start(&net, &a, config("a", &NAMES)).await.unwrap();
    for other in [&b, &c] {
        net.heal(&a.name, &other.name);
    }
    assert_eq!(one_cluster(&[&first, &second, &third]).await, written);
}

#[tokio::test]
async fn a_founding_is_finished_from_one_who_is_not_the_writer() {
    let net = MemNet::new();
    let [a, b, c] = NAMES.map(Disk::blank);
    // c is cut off from the writer as soon as there is a record; b is not.
    let cut = {
        let (net, writer, last) = (net.clone(), a.name.clone(), c.name.clone());
        move || net.cut(&writer, &last)
    };
    let cutting = Disturbed { kept: a.identity.open(), before: None, after: Box::new(cut) };
    let first = try_start_as(&net, &a, config("a", &NAMES), Box::new(cutting)).await.unwrap();
    let second = try_start(&net, &b, config("b", &NAMES)).await.unwrap();
    let third = try_start(&net, &c, config("c", &NAMES)).await.unwrap();
    eventually("c belongs to a cluster", async || third.status().cluster.is_some()).await;
    net.heal(&a.name, &c.name);
    let cluster = one_cluster(&[&second, &third]).await;
    assert_eq!(first.status().cluster, Some(cluster));
}

#[tokio::test]
async fn a_node_that_waits_can_be_stopped() {
    let net = MemNet::new();
    let first = try_start(&net, &Disk::blank("a"), config("a", &NAMES)).await.unwrap();
    eventually("it waits", async || waiting_for(&first).len() == 2).await;
    first.stop().await.unwrap();
    assert_eq!(first.status().phase, Phase::Stopped);
    first.clone().stop().await.unwrap();
}
