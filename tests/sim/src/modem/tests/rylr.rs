use super::*;

/// Two modules of one network, the second a plain radio that speaks as one.
const PEER: LoraTuning = LoraTuning {
    frequency_hz: 868_100_000,
    spreading_factor: 9,
    bandwidth_hz: 125_000,
    coding_rate: 5,
    preamble: 12,
    sync: 0x5012,
    inverted_iq: false,
};

const SET_UP: [&str; 5] = [
    "AT",
    "AT+ADDRESS=1",
    "AT+NETWORKID=18",
    "AT+BAND=868100000",
    "AT+PARAMETER=9,7,1,12",
];

#[test]
fn frame_from_a_peer_is_told_whatever_it_holds() {
    let mut desk = desk();
    desk.peer_sends(PEER, &frame(1, 50, b"HELLO"));
    desk.pass(400);
    assert_eq!(desk.read(), "+RCV=50,5,HELLO,-61,11\r\n");
    desk.peer_sends(PEER, &frame(0, 7, b"a,b,-1,2,"));
    desk.pass(400);
    assert_eq!(desk.read(), "+RCV=7,9,a,b,-1,2,,-61,11\r\n");
    desk.peer_sends(PEER, &frame(1, 7, b"a\r\nb"));
    desk.pass(400);
    assert_eq!(desk.read(), "+RCV=7,4,a\r\nb,-61,11\r\n");
}

#[test]
fn frames_for_others_are_not_told() {
    let mut desk = desk();
    desk.peer_sends(PEER, &frame(2, 50, b"no"));
    desk.pass(400);
    let other_network = LoraTuning { sync: 0x5005, ..PEER };
    desk.peer_sends(other_network, &frame(1, 50, b"no"));
    desk.pass(400);
    let mut with_password = frame(1, 50, b"no");
    with_password[7] ^= 1;
    desk.peer_sends(PEER, &with_password);
    desk.pass(400);
    assert_eq!(desk.read(), "");
}

#[test]
fn sending_takes_the_air_of_8_octets_more() {
    let mut desk = desk();
    desk.peer_listens(PEER);
    let data = "A".repeat(36);
    let begin = desk.now;
    assert_eq!(desk.say(&format!("AT+SEND=5,36,{data}")), "+OK\r\n");
    while desk.heard.is_empty() {
        desk.pass(1);
    }
    assert_eq!(desk.heard, [frame(5, 1, data.as_bytes())]);
    // 304.1 ms on the air; the line and the module take some.
    let took = desk.now.since(begin).as_millis();
    assert!((304..320).contains(&took), "{took} ms");
}

#[test]
fn second_send_while_the_first_is_on_the_air_is_refused() {
    let mut desk = desk();
    assert_eq!(desk.say("AT+SEND=5,5,HELLO"), "+OK\r\n");
    assert_eq!(desk.say("AT+SEND=5,5,HELLO"), "+ERR=17\r\n");
    desk.pass(400);
    assert_eq!(desk.say("AT+SEND=5,5,HELLO"), "+OK\r\n");
}

#[test]
fn some_firmware_says_ok_when_the_frame_is_out() {
    let config = RylrConfig {
        ok_when_sent: true,
        ..RylrConfig::new(RylrModel::Rylr998)
    };
    let mut desk = Desk::new(Box::new(Rylr::new(config)));
    assert_eq!(desk.say("AT+SEND=5,5,HELLO"), "");
    desk.pass(400);
    assert_eq!(desk.read(), "+OK\r\n");
}

#[test]
fn errors_have_the_numbers_of_the_guide() {
    let mut desk = desk();
    desk.type_octets(b"AT\n");
    desk.pass(50);
    assert_eq!(desk.read(), "+ERR=1\r\n");
    assert_eq!(desk.say("XT"), "+ERR=2\r\n");
    assert_eq!(desk.say("AT+NONSENSE=1"), "+ERR=4\r\n");
    assert_eq!(desk.say("AT+SEND=5,4,HELLO"), "+ERR=5\r\n");
    assert_eq!(desk.say("AT+SEND=5,6,HELLO"), "+ERR=5\r\n");
    assert_eq!(desk.say("AT+SEND=5,4,a\r\nb"), "+ERR=5\r\n+ERR=2\r\n");
    assert_eq!(
        desk.say(&format!("AT+SEND=5,241,{}", "A".repeat(241))),
        "+ERR=13\r\n"
    );
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.pass(50);
    assert_eq!(desk.read(), "+ERR=12\r\n");
}

#[test]
fn new_series_refuses_spreading_factors_that_its_bandwidth_does_not_bear() {
    let mut desk = desk();
    for refused in [
        "12,7,1,12",
        "10,7,1,12",
        "6,7,1,12",
        "11,8,1,12",
        "12,9,1,12",
        "9,6,1,12",
        "9,7,5,12",
    ] {
        assert_eq!(
            desk.say(&format!("AT+PARAMETER={refused}")),
            "+ERR=15\r\n",
            "{refused}"
        );
    }
    for taken in ["9,7,1,12", "10,8,1,12", "11,9,1,12", "9,7,1,24"] {
        assert_eq!(desk.say(&format!("AT+PARAMETER={taken}")), "+OK\r\n", "{taken}");
    }
    desk.set_up(&["AT+NETWORKID=5"]);
    assert_eq!(desk.say("AT+PARAMETER=9,7,1,8"), "+ERR=18\r\n");
    assert_eq!(desk.say("AT+NETWORKID=16"), "+ERR=15\r\n");
}

#[test]
fn settings_stay_as_far_as_the_series_keeps_them() {
    let mut desk = desk();
    desk.fault(Fault::Reboot);
    desk.pass(500);
    assert_eq!(desk.read(), "+READY\r\n");
    assert_eq!(desk.say("AT+ADDRESS?"), "+ADDRESS=1\r\n");
    assert_eq!(desk.say("AT+PARAMETER?"), "+PARAMETER=9,7,1,12\r\n");
    assert_eq!(desk.say("AT+BAND?"), "+BAND=915000000\r\n", "without ,M");

    let mut old = Desk::new(Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr896))));
    old.set_up(&["AT+ADDRESS=1", "AT+PARAMETER=9,7,1,7", "AT+BAND=868100000"]);
    old.fault(Fault::Reboot);
    old.pass(500);
    old.read();
    assert_eq!(old.say("AT+ADDRESS?"), "+ADDRESS=1\r\n");
    assert_eq!(old.say("AT+PARAMETER?"), "+PARAMETER=12,7,1,4\r\n");
    assert_eq!(old.say("AT+BAND?"), "+BAND=868100000\r\n");
}

#[test]
fn reset_says_so_and_then_that_it_is_ready() {
    let mut desk = desk();
    assert_eq!(desk.say("AT+RESET"), "+RESET\r\n");
    desk.pass(500);
    assert_eq!(desk.read(), "+READY\r\n");
    assert_eq!(desk.say("AT+CPIN?"), "+CPIN=No Password!\r\n");
}

#[test]
fn speed_can_be_changed() {
    let mut desk = desk();
    assert_eq!(desk.say("AT+IPR=9600"), "+IPR=9600\r\n");
    let mut desk = desk.at_baud(9600);
    assert_eq!(desk.say("AT"), "+OK\r\n");
}

fn desk() -> Desk {
    let mut desk = Desk::new(Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr998))));
    desk.set_up(&SET_UP);
    desk
}

fn frame(to: u16, from: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = [to.to_be_bytes(), from.to_be_bytes(), [0; 2], [0; 2]].concat();
    frame.extend_from_slice(data);
    frame
}
