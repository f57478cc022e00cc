use super::*;

/// How long a datagram may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two nodes with a relay between them.
struct Pair {
    relay: UdpRelay,
    left: UdpSocket,
    right: UdpSocket,
    left_address: SocketAddr,
    right_address: SocketAddr,
    right_relayed: SocketAddr,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn pair(seed: u64) -> Pair {
    let (left, right) = (socket(), socket());
    let (left_address, right_address) = (left.local_addr().unwrap(), right.local_addr().unwrap());
    let relay = UdpRelay::start(seed).unwrap();
    let here = "127.0.0.1:0".parse().unwrap();
    relay.add(here, left_address).unwrap();
    let right_relayed = relay.add(here, right_address).unwrap();
    Pair { relay, left, right, left_address, right_address, right_relayed }
}

impl Pair {
    fn set(&self, faults: UdpFaults) {
        self.relay.set(self.left_address, self.right_address, faults);
    }

    fn counts(&self) -> UdpCounts {
        self.relay.counts_of(self.left_address, self.right_address)
    }

    /// Sends numbered datagrams from left to right and waits until the relay has decided about each.
    fn send(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let before = self.counts().received;
            self.left.send_to(&number.to_be_bytes(), self.right_relayed).unwrap();
            self.wait_for(|| self.counts().received > before);
        }
    }

    fn wait_for(&self, condition: impl Fn() -> bool) {
        let begin = now();
        while !condition() {
            assert!(begin.elapsed() < PATIENCE, "waited in vain: {:?}", self.counts());
            std::thread::yield_now();
        }
    }

    fn receive(&self) -> u32 {
        let mut bytes = [0; 64];
        let length = self.right.recv(&mut bytes).unwrap();
        u32::from_be_bytes(bytes[..length].try_into().unwrap())
    }

    /// Everything that arrives: as many as the relay will have passed on in the end.
    fn receive_all(&self, count: u64) -> Vec<u32> {
        (0..count).map(|_| self.receive()).collect()
    }
}

#[test]
fn nodes_talk_both_ways_and_see_one_address_per_sender() {
    let pair = pair(1);
    let mut bytes = [0; 64];
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        pair.left.send_to(b"ask", pair.right_relayed).unwrap();
        let (length, from) = pair.right.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"ask");
        seen.insert(from);
        pair.right.send_to(b"answer", from).unwrap();
        assert_eq!(pair.left.recv_from(&mut bytes).unwrap(), (6, pair.right_relayed));
    }
    assert_eq!(seen.len(), 1);
    assert!(!seen.contains(&pair.left_address), "the left one was reached past the relay");
    let counts = pair.relay.counts();
    assert_eq!((counts.received, counts.delivered, pair.relay.strangers()), (20, 20, 0));
}

#[test]
fn a_cut_is_one_way() {
    let pair = pair(2);
    pair.relay.cut(pair.left_address, pair.right_address);
    pair.send(0..3);
    let counts = pair.counts();
    assert_eq!((counts.received, counts.delivered, counts.cut), (3, 0, 3));
    assert_eq!(pair.relay.replay(pair.left_address, pair.right_address, 1), 0, "through a cut");
    let left_relayed = pair.relay.shared.lock().nodes[0].relayed;
    pair.right.send_to(b"still heard", left_relayed).unwrap();
    assert_eq!(pair.left.recv(&mut [0; 64]).unwrap(), 11);

    pair.relay.cut_both(pair.left_address, pair.right_address);
    pair.right.send_to(b"not heard", left_relayed).unwrap();
    pair.wait_for(|| pair.relay.counts_of(pair.right_address, pair.left_address).cut == 1);
    pair.relay.mend(pair.right_address, pair.left_address);
    pair.right.send_to(b"heard again", left_relayed).unwrap();
    assert_eq!(pair.left.recv(&mut [0; 64]).unwrap(), 11);
    pair.relay.mend_all();
    pair.send(3..4);
    assert_eq!(pair.receive(), 3);
}

#[test]
fn a_cut_takes_what_is_on_its_way() {
    let pair = pair(3);
    let delay = Duration::from_secs(1);
    pair.set(UdpFaults { delay_min: delay, delay_max: delay, ..UdpFaults::default() });
    pair.send(0..3);
    pair.relay.cut(pair.left_address, pair.right_address);
    pair.wait_for(|| pair.counts().cut == 3);
    assert_eq!(pair.counts().delivered, 0);
}

#[test]
fn equal_seeds_lose_the_same_datagrams() {
    let survivors = |seed| {
        let pair = pair(seed);
        pair.set(UdpFaults { loss: 500, ..UdpFaults::default() });
        pair.send(0..200);
        let counts = pair.counts();
        assert_eq!(counts.lost + counts.delivered, 200);
        assert!((50..150).contains(&counts.lost), "{counts:?}");
        pair.receive_all(counts.delivered)
    };
    assert_eq!(survivors(7), survivors(7));
    assert_ne!(survivors(7), survivors(8));
}

#[test]
fn a_delay_keeps_the_order_and_its_least_time() {
    let pair = pair(4);
    let delay_min = Duration::from_millis(5);
    pair.set(UdpFaults { delay_min, delay_max: 8 * delay_min, ..UdpFaults::default() });
    let begin = now();
    pair.send(0..50);
    assert_eq!(pair.receive_all(50), (0..50).collect::<Vec<_>>());
    assert!(begin.elapsed() >= delay_min, "a datagram overtook its delay");
    assert_eq!(pair.counts().delayed, 50);
}

#[test]
fn doubled_ones_arrive_twice_and_reordered_ones_late() {
    let pair = pair(5);
    let reorder_by = Duration::from_millis(30);
    pair.set(UdpFaults { duplicate: 1000, reorder: 500, reorder_by, ..UdpFaults::default() });
    pair.send(0..50);
    let mut arrived = pair.receive_all(100);
    let in_order = arrived.is_sorted();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..50).flat_map(|number| [number, number]).collect::<Vec<_>>());
    assert!(!in_order, "nothing was reordered: {:?}", pair.counts());
    let counts = pair.counts();
    assert_eq!(counts.duplicated, 50);
    assert!((10..40).contains(&counts.reordered), "{counts:?}");
}

#[test]
fn old_datagrams_come_again_from_any_time() {
    let pair = pair(6);
    assert_eq!(pair.relay.replay(pair.left_address, pair.right_address, 3), 0, "nothing has passed yet");
    // In parts, since a socket's queue is short.
    for number in 0..300 {
        pair.send(number..number + 1);
        assert_eq!(pair.receive(), number);
    }
    assert_eq!(pair.relay.replay(pair.left_address, pair.right_address, 40), 40);
    let again = pair.receive_all(40);
    assert!(again.iter().any(|number| *number < 150) && again.iter().any(|number| *number >= 150), "{again:?}");
    pair.set(UdpFaults { replay: 1000, ..UdpFaults::default() });
    pair.send(300..310);
    let arrived = pair.receive_all(20);
    assert!((300..310).all(|number| arrived.contains(&number)), "{arrived:?}");
    assert_eq!(pair.counts().replayed, 50);
}

#[test]
fn a_corrupted_datagram_has_one_bit_flipped() {
    let pair = pair(7);
    pair.set(UdpFaults { corrupt: 1000, ..UdpFaults::default() });
    pair.send(0..20);
    for number in 0..20_u32 {
        assert_eq!((pair.receive() ^ number).count_ones(), 1);
    }
    assert_eq!(pair.counts().corrupted, 20);
}

#[test]
fn strangers_are_not_relayed() {
    let pair = pair(8);
    socket().send_to(b"who is this?", pair.right_relayed).unwrap();
    pair.wait_for(|| pair.relay.strangers() == 1);
    assert_eq!(pair.relay.counts(), UdpCounts::default());
    let here = "127.0.0.1:0".parse().unwrap();
    let again = pair.relay.add(here, pair.left_address).map_err(|error| error.kind());
    assert_eq!(again, Err(io::ErrorKind::AlreadyExists));
}

#[test]
fn a_relay_that_is_dropped_gives_its_addresses_back() {
    let pair = pair(9);
    pair.set(UdpFaults { delay_min: PATIENCE, delay_max: PATIENCE, ..UdpFaults::default() });
    pair.send(0..5);
    drop(pair.relay);
    UdpSocket::bind(pair.right_relayed).unwrap();
}
