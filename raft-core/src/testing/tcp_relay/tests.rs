use super::*;

/// How long a read may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection through a relay.
struct Pair {
    relay: TcpRelay,
    left: NodeName,
    right: NodeName,
    dialed: TcpStream,
    accepted: TcpStream,
    listener: TcpListener,
}

fn relay(seed: u64) -> (TcpRelay, TcpListener) {
    let relay = TcpRelay::new(seed);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    relay.serve(&NodeName::new("right"), move || Some(address));
    (relay, listener)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn pair(seed: u64) -> Pair {
    let (relay, listener) = relay(seed);
    let (left, right) = (NodeName::new("left"), NodeName::new("right"));
    let dialed = patient(TcpStream::connect(relay.way(&left, &right).unwrap()).unwrap());
    let accepted = patient(listener.accept().unwrap().0);
    Pair { relay, left, right, dialed, accepted, listener }
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether nothing comes for a moment.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let silent = matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

fn ended(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1))
}

#[test]
fn a_way_keeps_its_address_and_carries_megabytes() {
    let mut pair = pair(1);
    assert_eq!(pair.relay.way(&pair.left, &pair.right).unwrap(), pair.dialed.peer_addr().unwrap());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let mut writer = pair.dialed.try_clone().unwrap();
    let (bytes, length) = (sent.clone(), sent.len());
    let thread = std::thread::Builder::new().spawn(move || writer.write_all(&bytes).unwrap()).unwrap();
    assert!(read(&mut pair.accepted, length) == sent, "other bytes arrived");
    thread.join().unwrap();
    // A close passes, each way by itself.
    pair.dialed.shutdown(Shutdown::Write).unwrap();
    assert!(ended(&mut pair.accepted));
    pair.accepted.write_all(b"still").unwrap();
    assert_eq!(read(&mut pair.dialed, 5), b"still");
}

#[test]
fn a_cut_is_one_way_and_holds_what_it_stops() {
    let mut pair = pair(2);
    pair.relay.cut(&pair.left, &pair.right);
    pair.dialed.write_all(b"held").unwrap();
    pair.dialed.shutdown(Shutdown::Write).unwrap();
    pair.accepted.write_all(b"heard").unwrap();
    assert_eq!(read(&mut pair.dialed, 5), b"heard");
    assert!(is_silent(&mut pair.accepted), "something came through a cut way");
    // A new connection cannot be made over half a link.
    let again = TcpStream::connect(pair.relay.way(&pair.left, &pair.right).unwrap()).unwrap();
    pair.listener.set_nonblocking(true).unwrap();
    assert!(is_silent(&mut again.try_clone().unwrap()) && pair.listener.accept().is_err());
    pair.relay.mend_all();
    assert_eq!(read(&mut pair.accepted, 4), b"held");
    assert!(ended(&mut pair.accepted));
}

#[test]
fn a_node_that_stands_still_keeps_its_connections() {
    let mut pair = pair(3);
    pair.relay.stall(&pair.right, true);
    pair.dialed.write_all(b"later").unwrap();
    pair.accepted.write_all(b"later").unwrap();
    assert!(is_silent(&mut pair.accepted) && is_silent(&mut pair.dialed));
    pair.relay.stall(&pair.right, false);
    assert_eq!(read(&mut pair.accepted, 5), b"later");
    assert_eq!(read(&mut pair.dialed, 5), b"later");
}

#[test]
fn faults_are_what_they_are_called() {
    let mut pair = pair(4);
    let fragmented = TcpFaults { fragment: 1000, delay_max: Duration::from_millis(2), ..TcpFaults::default() };
    pair.relay.set_all(fragmented);
    pair.dialed.write_all(&[7; 1000]).unwrap();
    assert_eq!(read(&mut pair.accepted, 1000), [7; 1000]);
    assert!(pair.relay.counts().fragmented > 0);

    pair.relay.set_all(TcpFaults { corrupt: 1000, ..TcpFaults::default() });
    pair.dialed.write_all(&[7; 8]).unwrap();
    let flipped: u32 = read(&mut pair.accepted, 8).iter().map(|byte| (byte ^ 7).count_ones()).sum();
    assert_eq!(u64::from(flipped), pair.relay.counts().corrupted);

    pair.relay.set_all(TcpFaults { reset: 1000, ..TcpFaults::default() });
    pair.dialed.write_all(b"lost").unwrap();
    assert!(ended(&mut pair.accepted) && ended(&mut pair.dialed));
    assert_eq!(pair.relay.counts().resets, 1);
}

#[test]
fn connections_are_broken_on_demand_and_forgotten_when_they_end() {
    let mut broken = pair(5);
    // Who was accepted may know of the connection a moment before the relay carries it.
    let mut looks = 0;
    while broken.relay.break_all() == 0 {
        looks += 1;
        assert!(looks < 3000, "there is no connection to break");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ended(&mut broken.accepted) && ended(&mut broken.dialed));

    let Pair { relay, dialed, mut accepted, .. } = pair(6);
    drop(dialed);
    assert!(ended(&mut accepted));
    drop(accepted);
    let mut looks = 0;
    while relay.shared.lock().threads > 0 {
        looks += 1;
        assert!(looks < 3000, "the threads of a closed connection go on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(relay.break_all(), 0);
}

#[test]
fn nobody_is_reached_where_nobody_listens() {
    let (relay, listener) = relay(7);
    drop(listener);
    let (left, right, nobody) = (NodeName::new("left"), NodeName::new("right"), NodeName::new("nobody"));
    for to in [right, nobody] {
        let mut dialed = patient(TcpStream::connect(relay.way(&left, &to).unwrap()).unwrap());
        assert!(ended(&mut dialed));
    }
    assert_eq!(relay.counts(), TcpCounts { refused: 2, ..TcpCounts::default() });
}

#[test]
fn a_relay_that_is_dropped_closes_everything() {
    let Pair { relay, left, right, mut dialed, mut accepted, .. } = pair(8);
    relay.cut(&left, &right);
    dialed.write_all(b"never").unwrap();
    let address = relay.way(&left, &right).unwrap();
    drop(relay);
    assert!(ended(&mut dialed) && ended(&mut accepted));
    TcpListener::bind(address).unwrap();
}
