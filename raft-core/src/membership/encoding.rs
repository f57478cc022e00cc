//! A configuration as bytes: what a configuration entry carries, and what stores and snapshots keep. The one format of the
//! core's own, since every edge keeps it and the core has to read it. `docs/storage-format.md` shows every byte.

use std::time::Duration;

use bytes::Bytes;

use super::{CONTEXT_BYTES_MAX, Configuration, MEMBERS_MAX, Phase, Seat, Standing};
use crate::lease::{LeaseSettings, Leases};
use crate::types::{Index, NodeId};

/// Of the bytes of a configuration without settings of read leases.
const VERSION: u8 = 1;
/// Of one with such settings.
const VERSION_WITH_LEASES: u8 = 2;
/// Settings of read leases follow. Others may mean something later.
const LEASES_SET: u8 = 1;
/// Set on a member that is promoted by itself.
const PROMOTES: u8 = 1;

/// Why bytes are no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A later format.
    #[error("it has version {found}; this binary knows {VERSION} and {VERSION_WITH_LEASES}: run a newer one")]
    Version {
        /// What stands there.
        found: u8,
    },
    /// It is cut short, or goes on after its end.
    #[error("it ends in the wrong place")]
    Length,
    /// A number that means nothing.
    #[error("{field} is {found}")]
    Field {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: u64,
    },
    /// More than a bound.
    #[error("{field} is {found}, at most {limit} is read")]
    Bound {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The members are not in rising order, or one has an id that was never given.
    #[error("member {id} stands in the wrong place")]
    Order {
        /// Which.
        id: NodeId,
    },
    /// A member that is none, or one that changes where nothing does.
    #[error("member {id} cannot stand as it does")]
    Member {
        /// Which.
        id: NodeId,
    },
    /// Nobody would decide.
    #[error("it has no voters")]
    NoVoters,
    /// It says that another entry set it.
    #[error("it is that of entry {found}")]
    OtherIndex {
        /// The entry that it names.
        found: Index,
    },
}

impl Phase {
    fn code(self) -> u8 {
        match self {
            Self::Settled => 0,
            Self::CatchingUp => 1,
            Self::Joint => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, ConfigurationError> {
        match code {
            0 => Ok(Self::Settled),
            1 => Ok(Self::CatchingUp),
            2 => Ok(Self::Joint),
            found => Err(ConfigurationError::Field { field: "phase", found: found.into() }),
        }
    }
}

impl Standing {
    fn code(self) -> u8 {
        match self {
            Self::Outside => 0,
            Self::Learner => 1,
            Self::Voter => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, ConfigurationError> {
        match code {
            0 => Ok(Self::Outside),
            1 => Ok(Self::Learner),
            2 => Ok(Self::Voter),
            found => Err(ConfigurationError::Field { field: "standing", found: found.into() }),
        }
    }
}

impl Leases {
    /// 1, D, drift, holders, and how long waits count at least.
    fn encode(&self, bytes: &mut Vec<u8>) {
        let settings = self.settings();
        bytes.push(LEASES_SET);
        bytes.extend_from_slice(&nanos(settings.duration).to_be_bytes());
        bytes.extend_from_slice(&settings.drift_permille.to_be_bytes());
        bytes.extend_from_slice(&settings.min_holders.to_be_bytes());
        bytes.extend_from_slice(&nanos(self.outlives).to_be_bytes());
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Configuration {
    /// Its bytes; numbers are big-endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let with_leases = self.leases.set.is_some();
        let mut bytes = vec![if with_leases { VERSION_WITH_LEASES } else { VERSION }, self.phase.code()];
        bytes.extend_from_slice(&(self.seats.len() as u16).to_be_bytes());
        for number in [self.index.0, self.change.0, self.highest_id.0] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        if with_leases {
            self.leases.encode(&mut bytes);
        }
        for seat in &self.seats {
            bytes.extend_from_slice(&seat.id.0.to_be_bytes());
            bytes.extend_from_slice(&[seat.now.code(), seat.next.code(), u8::from(seat.promotes) * PROMOTES, 0]);
            bytes.extend_from_slice(&(seat.context.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&seat.context);
        }
        bytes.into()
    }

    /// Reads what [`Configuration::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        let mut fields = Fields(bytes);
        let version = fields.u8()?;
        if version != VERSION && version != VERSION_WITH_LEASES {
            return Err(ConfigurationError::Version { found: version });
        }
        let (phase, count) = (Phase::from_code(fields.u8()?)?, usize::from(fields.u16()?));
        if count > MEMBERS_MAX {
            return Err(bound("members", count, MEMBERS_MAX));
        }
        let (index, change) = (fields.u64()?, fields.u64()?);
        let highest_id = NodeId(fields.u64()?);
        for (field, found) in [("index", index), ("change", change), ("highest_id", highest_id.0)] {
            // What is let in here can be added up without an overflow.
            if found >= Index::LIMIT.0 || (field == "change" && found > index) {
                return Err(ConfigurationError::Field { field, found });
            }
        }
        let leases = if version == VERSION_WITH_LEASES { fields.leases()? } else { Leases::default() };
        let mut seats: Vec<Seat> = Vec::with_capacity(count);
        for _ in 0..count {
            let seat = fields.seat()?;
            if seats.last().map_or(NodeId(0), |before| before.id) >= seat.id || seat.id > highest_id {
                return Err(ConfigurationError::Order { id: seat.id });
            }
            seats.push(seat);
        }
        if !fields.0.is_empty() {
            return Err(ConfigurationError::Length);
        }
        Self::of(Index(index), Index(change), phase, highest_id, seats).with_leases(leases).checked()
    }

    /// Reads the configuration that entry `index` carries.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn of_entry(index: Index, payload: &[u8]) -> Result<Self, ConfigurationError> {
        let configuration = Self::decode(payload)?;
        if configuration.index != index {
            return Err(ConfigurationError::OtherIndex { found: configuration.index });
        }
        Ok(configuration)
    }

    fn checked(self) -> Result<Self, ConfigurationError> {
        // Before the log's first entry it may be unknown who founded the cluster.
        if self.seats.is_empty() && self.index == Index::ZERO {
            return Ok(self);
        }
        if self.voters.is_empty() || (self.is_joint() && self.outgoing.is_empty()) {
            return Err(ConfigurationError::NoVoters);
        }
        if self.phase == Phase::CatchingUp && self.joining().next().is_none() {
            return Err(ConfigurationError::Field { field: "phase", found: self.phase.code().into() });
        }
        let stands = |seat: &Seat| match self.phase {
            Phase::Settled => seat.now == seat.next && seat.now != Standing::Outside,
            Phase::CatchingUp | Phase::Joint => seat.now != Standing::Outside || seat.next != Standing::Outside,
        };
        match self.seats.iter().find(|seat| !stands(seat) || (seat.promotes && seat.next != Standing::Learner)) {
            Some(seat) => Err(ConfigurationError::Member { id: seat.id }),
            None => Ok(self),
        }
    }
}

fn bound(field: &'static str, found: usize, limit: usize) -> ConfigurationError {
    ConfigurationError::Bound { field, found: found as u64, limit: limit as u64 }
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], ConfigurationError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ConfigurationError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, ConfigurationError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, ConfigurationError> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| ConfigurationError::Length)
    }

    fn u64(&mut self) -> Result<u64, ConfigurationError> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| ConfigurationError::Length)
    }

    fn leases(&mut self) -> Result<Leases, ConfigurationError> {
        let set = self.u8()?;
        if set != LEASES_SET {
            return Err(ConfigurationError::Field { field: "read_lease", found: set.into() });
        }
        let duration = Duration::from_nanos(self.u64()?);
        let settings = LeaseSettings { duration, drift_permille: self.u16()?, min_holders: self.u16()? };
        let outlives = self.u64()?;
        settings.check().map_err(|error| ConfigurationError::Field { field: error.field, found: error.value })?;
        let longest = nanos(LeaseSettings { drift_permille: 500, ..settings }.honoured(LeaseSettings::LONGEST));
        if outlives > longest {
            return Err(ConfigurationError::Field { field: "read_lease.outlives", found: outlives });
        }
        Ok(Leases { set: Some(settings), outlives: Duration::from_nanos(outlives) })
    }

    fn seat(&mut self) -> Result<Seat, ConfigurationError> {
        let id = NodeId(self.u64()?);
        let (now, next) = (Standing::from_code(self.u8()?)?, Standing::from_code(self.u8()?)?);
        let (flags, zero) = (self.u8()?, self.u8()?);
        if flags > PROMOTES || zero != 0 {
            return Err(ConfigurationError::Field { field: "flags", found: flags.into() });
        }
        let length = usize::from(self.u16()?);
        if length > CONTEXT_BYTES_MAX {
            return Err(bound("context", length, CONTEXT_BYTES_MAX));
        }
        let context = Bytes::copy_from_slice(self.take(length)?);
        Ok(Seat { id, now, next, promotes: flags == PROMOTES, context })
    }
}
