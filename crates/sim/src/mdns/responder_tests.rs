use super::*;

const PORT: u16 = 5353;
const SECOND: Duration = Duration::from_secs(1);
const ASKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), PORT);

fn service() -> Service {
    Service {
        host: "IR-Remote-Mini".to_owned(),
        kind: ["_arduino", "_tcp"],
        port: 3232,
        txt: vec!["tcp_check=no".to_owned(), "auth_upload=yes".to_owned()],
    }
}

fn responder(last_octet: u8) -> Responder {
    let address = Ipv4Addr::new(10, 0, 0, last_octet);
    Responder::new(service(), address, PORT, u64::from(last_octet), Duration::ZERO)
}

/// What a packet is, in few words.
#[derive(Debug, PartialEq)]
enum Said {
    Probe,
    /// With the number of answers and the lifetime of the first.
    Response(usize, u32),
}

fn said(bytes: &[u8]) -> Said {
    let message = Message::decode(bytes).unwrap();
    if message.response {
        Said::Response(message.answers.len(), message.answers[0].ttl_s)
    } else {
        Said::Probe
    }
}

/// A network of responders that all hear each other; ends when nobody has anything to say until `end`.
fn live(responders: &mut [Responder], begin: Duration, end: Duration) -> Vec<(Duration, usize, Said)> {
    let mut log = Vec::new();
    loop {
        let next = responders
            .iter()
            .enumerate()
            .filter_map(|(i, r)| Some((r.due()?, i)))
            .min();
        let Some((due, i)) = next.filter(|(due, _)| *due <= end) else {
            return log;
        };
        let now = due.max(begin);
        let from = SocketAddrV4::new(responders[i].address, PORT);
        for packet in responders[i].send(now) {
            log.push((now, i, said(&packet.bytes)));
            for responder in responders.iter_mut() {
                if packet.to.is_none_or(|to| *to.ip() == responder.address) {
                    responder.receive(&packet.bytes, from, now);
                }
            }
        }
    }
}

fn settled(last_octet: u8) -> Responder {
    let mut one = [responder(last_octet)];
    live(&mut one, Duration::ZERO, 10 * SECOND);
    let [one] = one;
    assert!(one.is_settled() && one.due().is_none());
    one
}

fn ask(name: &[&str], kind: u16, unicast: bool, known: Vec<Record>) -> Vec<u8> {
    let message = Message {
        id: 99,
        questions: vec![Question {
            name: Name::new(name),
            kind,
            unicast,
        }],
        answers: known,
        ..Message::default()
    };
    message.encode()
}

const BROWSED: [&str; 3] = ["_arduino", "_tcp", "local"];

#[test]
fn a_name_is_claimed_with_three_probes_and_then_announced_twice() {
    let mut one = [responder(7)];
    let log = live(&mut one, Duration::ZERO, 10 * SECOND);
    let what: Vec<_> = log.iter().map(|(_, _, said)| said).collect();
    let announced = Said::Response(4, OTHER_TTL_S);
    assert_eq!(
        what,
        [&Said::Probe, &Said::Probe, &Said::Probe, &announced, &announced]
    );
    assert_eq!(log[2].0, log[0].0 + Duration::from_millis(500));
    assert_eq!(log[4].0, log[3].0 + SECOND);
    assert_eq!(one[0].host(), "IR-Remote-Mini");
}

#[test]
fn hosts_that_claim_one_name_at_once_end_with_names_of_their_own() {
    let mut ten: Vec<_> = (1..=10).map(responder).collect();
    live(&mut ten, Duration::ZERO, 60 * SECOND);
    let mut names: Vec<_> = ten.iter().map(Responder::host).collect();
    names.sort();
    let mut expected: Vec<_> = (2..=10).map(|n| format!("IR-Remote-Mini-{n}")).collect();
    expected.push("IR-Remote-Mini".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    assert!(ten.iter().all(Responder::is_settled));
}

#[test]
fn who_was_there_first_keeps_the_name() {
    let mut two = [settled(1), responder(200)];
    live(&mut two, 10 * SECOND, 30 * SECOND);
    assert_eq!(two[0].host(), "IR-Remote-Mini");
    assert_eq!(two[1].host(), "IR-Remote-Mini-2");
}

#[test]
fn two_networks_that_are_joined_sort_their_names_out() {
    let mut two = [settled(1), settled(2)];
    // A word of one is enough for the other to notice.
    let announcement = two[0].response(&ANNOUNCED, &[]).encode();
    let from = SocketAddrV4::new(two[0].address, PORT);
    two[1].receive(&announcement, from, 20 * SECOND);
    live(&mut two, 20 * SECOND, 60 * SECOND);
    assert_eq!(two[0].host(), "IR-Remote-Mini");
    assert_eq!(two[1].host(), "IR-Remote-Mini-2");
}

#[test]
fn a_farewell_ends_what_was_announced_and_is_no_rival() {
    assert_eq!(responder(1).farewell(), None);
    let farewell = settled(1).farewell().unwrap();
    assert_eq!(said(&farewell), Said::Response(4, 0));
    let mut other = settled(2);
    other.receive(&farewell, ASKER, 20 * SECOND);
    assert!(other.is_settled());
    assert_eq!(other.host(), "IR-Remote-Mini");
}

#[test]
fn an_answer_waits_20_to_120_ms_goes_to_all_and_helps_on() {
    let mut one = settled(7);
    let mut delays = BTreeSet::new();
    for n in 0..200 {
        let now = (20 + n) * SECOND;
        one.receive(&ask(&BROWSED, kind::PTR, false, vec![]), ASKER, now);
        let due = one.due().unwrap();
        delays.insert(due.saturating_sub(now).as_millis());
        assert!(one.send(due.saturating_sub(Duration::from_millis(1))).is_empty());
        let packets = one.send(due);
        let [Outgoing { to: None, bytes }] = packets.as_slice() else {
            panic!("{packets:?}")
        };
        // The instance, and with it where it is.
        assert_eq!(said(bytes), Said::Response(4, OTHER_TTL_S));
    }
    assert!((20..30).contains(delays.first().unwrap()), "{delays:?}");
    assert!((110..120).contains(delays.last().unwrap()), "{delays:?}");
}

#[test]
fn each_kind_of_question_gets_its_records_and_no_others() {
    let instance = ["ir-remote-mini", "_ARDUINO", "_tcp", "local"];
    let host = ["IR-REMOTE-MINI", "local"];
    for (name, kind, n_answers) in [
        (&BROWSED[..], kind::PTR, 4),
        (&BROWSED, kind::A, 0),
        (&["_http", "_tcp", "local"], kind::PTR, 0),
        (&["_services", "_dns-sd", "_udp", "local"], kind::PTR, 1),
        (&instance, kind::SRV, 2),
        (&instance, kind::TXT, 1),
        (&instance, kind::ANY, 3),
        (&host, kind::A, 1),
        (&host, 28, 0),
        (&["IR-Remote-Mini-2", "local"], kind::A, 0),
    ] {
        let mut one = settled(7);
        one.receive(&ask(name, kind, false, vec![]), ASKER, 20 * SECOND);
        let packets = one.send(30 * SECOND);
        let n_found = packets
            .first()
            .map_or(0, |packet| Message::decode(&packet.bytes).unwrap().answers.len());
        assert_eq!(n_found, n_answers, "{name:?} {kind}");
    }
}

#[test]
fn who_asks_to_be_answered_alone_is() {
    let mut one = settled(7);
    one.receive(&ask(&BROWSED, kind::PTR, true, vec![]), ASKER, 20 * SECOND);
    let packets = one.send(30 * SECOND);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].to, Some(ASKER));
}

#[test]
fn what_the_asker_knows_is_not_said_again() {
    let mut one = settled(7);
    let mut known = one.record(Ours::Instance);
    one.receive(
        &ask(&BROWSED, kind::PTR, false, vec![known.clone()]),
        ASKER,
        20 * SECOND,
    );
    assert_eq!(one.due(), None);
    known.ttl_s = OTHER_TTL_S / 2 - 1;
    one.receive(&ask(&BROWSED, kind::PTR, false, vec![known]), ASKER, 20 * SECOND);
    assert!(one.due().is_some());
}

#[test]
fn a_host_of_standard_dns_is_answered_alone_in_its_own_terms() {
    let mut one = settled(7);
    let legacy = SocketAddrV4::new(*ASKER.ip(), 40_000);
    one.receive(
        &ask(&["IR-Remote-Mini", "local"], kind::A, false, vec![]),
        legacy,
        20 * SECOND,
    );
    let packets = one.send(30 * SECOND);
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].to, Some(legacy));
    let message = Message::decode(&packets[0].bytes).unwrap();
    assert_eq!((message.id, message.questions.len()), (99, 1));
    assert_eq!(
        (message.answers[0].ttl_s, message.answers[0].unique),
        (LEGACY_TTL_S, false)
    );
}

#[test]
fn nothing_is_said_of_a_name_that_is_not_yet_its_own() {
    let mut one = responder(7);
    one.receive(&ask(&BROWSED, kind::PTR, false, vec![]), ASKER, Duration::ZERO);
    assert!(one.pending.is_empty());
}

#[test]
fn a_response_from_another_port_takes_no_name_away() {
    let mut one = settled(7);
    let rival = settled(8).response(&ANNOUNCED, &[]).encode();
    one.receive(&rival, SocketAddrV4::new(*ASKER.ip(), 40_000), 20 * SECOND);
    assert!(one.is_settled());
    one.receive(&rival, ASKER, 20 * SECOND);
    assert!(!one.is_settled());
}

#[test]
fn of_two_that_claim_a_name_at_once_the_lower_address_waits() {
    let (mut low, mut high) = (responder(1), responder(2));
    let (from_low, from_high) = (low.probe().encode(), high.probe().encode());
    let was = high.due();
    high.receive(&from_low, SocketAddrV4::new(low.address, PORT), SECOND);
    assert_eq!(high.due(), was);
    low.receive(&from_high, SocketAddrV4::new(high.address, PORT), SECOND);
    assert_eq!(low.due(), Some(2 * SECOND));
}
