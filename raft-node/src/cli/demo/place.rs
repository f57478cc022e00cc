//! Where a demo lives: its directory and its ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use crate::cli::exit::{CliError, Exit};
use crate::cli::output;

/// The client port of the first node; its ops and peer ports follow it.
const FIRST_PORT: u16 = 7080;
/// From one node's ports to the next one's.
const PORT_STEP: u16 = 10;
/// `f_type` of a file system that is memory: nothing on it is ever durable.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The directory of a demo.
#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
    temporary: bool,
}

impl Place {
    /// The given directory, or a temporary one on a real disk.
    pub(crate) fn new(given: Option<&Path>) -> Result<Self, CliError> {
        let (directory, temporary) = match given {
            Some(directory) => (directory.to_owned(), false),
            None => (temporary_root().join(format!("raft-demo-{}", std::process::id())), true),
        };
        let foreign = directory.exists() && !directory.join("certs").exists() && !is_empty(&directory);
        if foreign {
            let message = format!("{} holds something else than a demo; name another --dir", directory.display());
            return Err(CliError::new(Exit::Usage, message));
        }
        let made = std::fs::create_dir_all(directory.join("certs")).and_then(|()| directory.canonicalize());
        let directory =
            made.map_err(|error| CliError::failed(format!("{} cannot be made: {error}", directory.display())))?;
        Ok(Self { directory, temporary })
    }

    pub(crate) fn certificates(&self) -> PathBuf {
        self.directory.join("certs")
    }

    pub(crate) fn config_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Says where everything is and what becomes of it.
    pub(crate) fn describe(&self) -> String {
        let fate = if self.temporary { "removed at the end" } else { "kept at the end" };
        format!("Certificates, data and logs are in {}, {fate}.", self.directory.display())
    }

    /// Removes a temporary directory, unless something went wrong: then the logs may say what.
    pub(crate) fn leave(&self, went_well: bool) -> Result<(), CliError> {
        if !self.temporary || !went_well {
            return output::line(format!("certificates, data and logs are kept in {}", self.directory.display()));
        }
        std::fs::remove_dir_all(&self.directory)
            .map_err(|error| CliError::failed(format!("{} cannot be removed: {error}", self.directory.display())))
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// A directory for temporary files that is not memory.
fn temporary_root() -> PathBuf {
    let usual = std::env::temp_dir();
    let memory = rustix::fs::statfs(&usual).is_ok_and(|system| system.f_type == TMPFS_MAGIC);
    if memory { PathBuf::from("/var/tmp") } else { usual }
}

/// Where one node listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) name: String,
    pub(crate) client: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl Addresses {
    pub(crate) fn client_url(&self) -> String {
        format!("http://{}", self.client)
    }

    pub(crate) fn ops_url(&self) -> String {
        format!("http://{}", self.ops)
    }
}

/// The usual ports for each node, or free ones where those are taken; says whether any had to be others.
pub(crate) fn choose_addresses(nodes: u8) -> Result<(Vec<Addresses>, bool), CliError> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Held::default();
    let mut moved = false;
    let mut chosen = Vec::new();
    for number in 1..=nodes {
        let first = FIRST_PORT + PORT_STEP * u16::from(number - 1);
        let usual = (held.tcp(first), held.tcp(first + 1), held.udp(first + 2));
        let (client, ops, peer) = match usual {
            (Ok(client), Ok(ops), Ok(peer)) => (client, ops, peer),
            _ => {
                moved = true;
                let any = |result: std::io::Result<SocketAddr>| {
                    result.map_err(|error| CliError::new(Exit::Address, format!("no port is free: {error}")))
                };
                (any(held.tcp(0))?, any(held.tcp(0))?, any(held.udp(0))?)
            }
        };
        chosen.push(Addresses { name: format!("n{number}"), client, ops, peer });
    }
    Ok((chosen, moved))
}

/// Sockets that keep their ports.
#[derive(Default)]
struct Held {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Held {
    fn tcp(&mut self, port: u16) -> std::io::Result<SocketAddr> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = socket.local_addr()?;
        self.tcp.push(socket);
        Ok(address)
    }

    fn udp(&mut self, port: u16) -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = socket.local_addr()?;
        self.udp.push(socket);
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot set itself up should stop
    use super::*;

    #[test]
    fn no_port_is_chosen_twice() {
        let (addresses, _) = choose_addresses(9).unwrap();
        let mut tcp: Vec<u16> =
            addresses.iter().flat_map(|addresses| [addresses.client.port(), addresses.ops.port()]).collect();
        tcp.sort_unstable();
        tcp.dedup();
        assert_eq!(tcp.len(), 18);
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.tex"), "mine").unwrap();
        assert_eq!(Place::new(Some(directory.path())).unwrap_err().exit, Exit::Usage);
    }
}
