//! The membership in JSON: what is asked, and what is shown.

use serde::{Deserialize, Serialize};

/// The body of `POST /v1/cluster/members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMemberRequest {
    /// Its name; its certificate has to name it.
    pub name: String,
    /// Where peers reach it, `host:port`. What it says of itself, once it is heard, wins.
    #[serde(default)]
    pub peer_address: String,
    /// Where clients reach it, as a URL.
    #[serde(default)]
    pub api_address: String,
    /// Whether it votes once it has caught up.
    #[serde(default = "votes")]
    pub voter: bool,
}

fn votes() -> bool {
    true
}

/// The body of `PUT /v1/cluster/members`: these and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMembersRequest {
    /// The names of all who are to vote.
    pub voters: Vec<String>,
    /// The names of all who are not.
    #[serde(default)]
    pub learners: Vec<String>,
}

/// The body of `POST /v1/cluster/members/{name}/replace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceMemberRequest {
    /// The name of who comes in its place.
    pub with: String,
}

/// The answer to a change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersChangeView {
    /// Whether anything was changed; the members may have been so already.
    pub changed: bool,
    /// The entry of the configuration in force then.
    pub index: u64,
    /// The node that was asked for was not heard yet: it is proposed once it is.
    pub pending: bool,
}

/// The membership in `GET /v1/cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipView {
    /// The entry of the configuration in force; 0 for the founders'.
    pub index: u64,
    /// Whether it is committed.
    pub committed: bool,
    /// `settled`, `catching_up` or `joint`.
    pub phase: String,
    /// The entry with which the change began that is under way, or the last one; 0 when there was none.
    pub change: u64,
    /// What the change leads to; empty when none is under way.
    pub leads_to: String,
    /// Nodes that are no members yet.
    pub pending: Vec<PendingView>,
}

/// A node that is no member yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingView {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub api_address: String,
    /// Whether it shall vote once it has caught up.
    pub voter: bool,
    /// Whether somebody has asked for it; else it has asked itself.
    pub wanted: bool,
    /// Since it was heard last; null when it was not.
    pub heard_ago_ms: Option<u64>,
    /// Why it is no member yet, where that is known.
    pub reason: Option<String>,
}

/// The configuration in force in `GET /v1/node`, by names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationView {
    /// Its entry; 0 for the founders'.
    pub index: u64,
    /// Whether it is known here to be committed.
    pub committed: bool,
    /// `settled`, `catching_up` or `joint`.
    pub phase: String,
    /// The entry with which the change began that is under way, or the last one; 0 when there was none.
    pub change: u64,
    /// Who votes; while it is joint, the voters after the change.
    pub voters: Vec<String>,
    /// While it is joint, the voters before the change: a majority of these is needed too.
    pub outgoing: Vec<String>,
    /// Members that do not vote.
    pub learners: Vec<String>,
}
