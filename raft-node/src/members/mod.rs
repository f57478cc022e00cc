//! Who belongs to the cluster: what the configuration in force says of the members, how it is changed, how a node joins
//! and how it learns that it was removed.
//!
//! The core decides who votes. This module gives its members names and addresses, and turns what people and nodes ask for
//! into the changes that the core makes:
//!
//! - `context` and `known`: what is known of the members, here and now;
//! - `ask` and `change`: what may be asked of the members, and how the leader has it done;
//! - `join` and `admit`: how a node that is in no cluster asks for admission, and how the leader admits it;
//! - `standing`: how a node learns that it was removed, or where the others have gone.

pub(crate) mod admit;
mod ask;
pub(crate) mod change;
mod context;
pub(crate) mod join;
mod known;
mod plan;
pub(crate) mod standing;
pub(crate) mod wire;

pub use ask::{LeaseWishes, MembersAsk, MembersDone, MembersError, MembersOptions, MembersProblem};
pub use context::ContextError;
pub use known::PendingMember;

pub(crate) use context::{check as check_context, encode as encode_context};
pub(crate) use known::{Known, Members};
pub(crate) use plan::tale;
