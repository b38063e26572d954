use super::*;

const SET_UP: [&str; 8] = [
    "mac pause",
    "radio set freq 868100000",
    "radio set pwr 14",
    "radio set sf sf7",
    "radio set bw 125",
    "radio set cr 4/5",
    "radio set sync 12",
    "radio set wdt 0",
];

#[test]
fn says_its_version_when_it_starts_and_when_asked() {
    let mut desk = Desk::switched_off(modem()).at_baud(57_600);
    desk.uart.power_on(desk.now);
    desk.pass(1000);
    assert_eq!(desk.read(), "RN2483 1.0.5 Oct 31 2018 15:06:52\r\n");
    assert_eq!(desk.say("sys get ver"), "RN2483 1.0.5 Oct 31 2018 15:06:52\r\n");
    assert_eq!(desk.say("sys reset"), "");
    desk.pass(1000);
    assert_eq!(desk.read(), "RN2483 1.0.5 Oct 31 2018 15:06:52\r\n");
}

#[test]
fn parameters_are_taken_strictly() {
    let mut desk = desk();
    for refused in [
        "",
        "radio set freq 862999999",
        "radio set freq 870000001",
        "radio set freq +868100000",
        "radio set pwr 16",
        "radio set pwr -4",
        "radio set sf 7",
        "radio set sf sf6",
        "radio set bw 62",
        "radio set cr 5",
        "radio set crc yes",
        "radio set sync 123",
        "radio set  sf sf7",
        "RADIO set sf sf7",
        "radio tx 0",
        "radio tx 0g",
        "radio tx 00 00",
        "radio rx 65536",
        "sys set pindig GPIO99 1",
    ] {
        assert_eq!(desk.say(refused), "invalid_param\r\n", "{refused}");
    }
    for taken in [
        "radio set freq 433050000",
        "radio set freq 870000000",
        "radio set pwr -3",
        "radio set sf sf12",
        "sys set pindig GPIO10 1",
    ] {
        assert_eq!(desk.say(taken), "ok\r\n", "{taken}");
    }
    assert_eq!(desk.say(&format!("radio tx {}", "00".repeat(256))), "");
    desk.pass(100);
    assert_eq!(desk.read(), "invalid_param\r\n");
}

#[test]
fn american_model_has_other_limits() {
    let mut desk = Desk::switched_off(Box::new(Rn::new(RnConfig::new(RnModel::Rn2903)))).at_baud(57_600);
    desk.uart.power_on(desk.now);
    desk.pass(1000);
    desk.read();
    assert_eq!(desk.say("radio set freq 868100000"), "invalid_param\r\n");
    assert_eq!(desk.say("radio set freq 902000000"), "ok\r\n");
    assert_eq!(desk.say("radio set pwr 1"), "invalid_param\r\n");
    assert_eq!(desk.say("radio set pwr 20"), "ok\r\n");
}

#[test]
fn mac_must_pause_before_the_radio_is_free_and_comes_back_after_49_days() {
    let mut desk = desk();
    assert_eq!(desk.say("radio rx 0"), "busy\r\n");
    assert_eq!(desk.say("radio tx 00"), "busy\r\n");
    assert_eq!(desk.say("mac pause"), "4294967245\r\n");
    desk.set_up(&["radio set wdt 0"]);
    assert_eq!(desk.say("radio rx 0"), "ok\r\n");
    desk.set_up(&["radio rxstop"]);
    desk.pass(4_294_967_245);
    assert_eq!(desk.say("radio rx 0"), "busy\r\n");
}

#[test]
fn frame_ends_reception() {
    let mut desk = receiving();
    desk.peer_sends(SF7, b"\x0e\x04\x04\x01\x00\x3csensor-1");
    desk.pass(200);
    assert_eq!(desk.read(), "radio_rx  0E040401003C73656E736F722D31\r\n");
    assert_eq!(desk.say("radio get snr"), "11\r\n");
    assert_eq!(desk.say("radio get rssi"), "-61\r\n");
    desk.peer_sends(SF7, b"\x01");
    desk.pass(200);
    assert_eq!(desk.read(), "", "it was not told to listen again");
    assert_eq!(desk.say("radio rx 0"), "ok\r\n");
    desk.peer_sends(SF7, b"\x02");
    desk.pass(200);
    assert_eq!(desk.read(), "radio_rx  02\r\n");
}

#[test]
fn sends_when_it_does_not_receive() {
    let mut desk = receiving();
    desk.peer_listens(SF7);
    assert_eq!(desk.say("radio tx 030500"), "busy\r\n");
    assert_eq!(desk.say("radio rxstop"), "ok\r\n");
    assert_eq!(desk.say(&format!("radio tx {}", "5a".repeat(64))), "ok\r\n");
    assert_eq!(desk.say("radio rx 0"), "busy\r\n");
    desk.pass(200);
    assert_eq!(desk.read(), "radio_tx_ok\r\n");
    assert_eq!(desk.heard, [[0x5A; 64]]);
    assert_eq!(desk.say("radio rx 0"), "ok\r\n");
}

#[test]
fn watchdog_ends_reception() {
    let mut desk = desk();
    desk.set_up(&["mac pause", "radio rx 0"]);
    desk.pass(14_800);
    assert_eq!(desk.read(), "");
    desk.pass(200);
    assert_eq!(desk.read(), "radio_err\r\n");
    assert_eq!(desk.say("radio rx 0"), "ok\r\n");
}

#[test]
fn window_in_symbols_ends() {
    let mut desk = desk();
    desk.set_up(&SET_UP);
    // 100 symbols of 1.024 ms.
    desk.set_up(&["radio rx 100"]);
    desk.pass(60);
    assert_eq!(desk.read(), "radio_err\r\n");
}

#[test]
fn stop_loses_the_race_against_a_frame() {
    let mut desk = receiving();
    desk.fault(Fault::Mishap(Mishap::RaceStop));
    desk.peer_sends(SF7, b"\x01");
    desk.pass(200);
    assert_eq!(desk.read(), "");
    assert_eq!(desk.say("radio rxstop"), "radio_rx  01\r\nok\r\n");
}

#[test]
fn stale_error_comes_before_ok() {
    let mut desk = receiving();
    desk.set_up(&["radio rxstop"]);
    desk.fault(Fault::Mishap(Mishap::StaleError));
    assert_eq!(desk.say("radio rx 0"), "radio_err\r\nok\r\n");
    assert_eq!(desk.say("radio rx 0"), "busy\r\n", "it receives");
}

#[test]
fn firmware_number_decides_what_it_can() {
    let config = RnConfig {
        firmware: (1, 0, 4),
        has_mac: false,
        refuses_wdt_0: true,
        ..RnConfig::new(RnModel::Rn2483)
    };
    let mut desk = Desk::switched_off(Box::new(Rn::new(config))).at_baud(57_600);
    desk.uart.power_on(desk.now);
    desk.pass(1000);
    desk.read();
    assert_eq!(desk.say("mac pause"), "invalid_param\r\n");
    assert_eq!(desk.say("radio set wdt 0"), "invalid_param\r\n");
    assert_eq!(desk.say("radio set wdt 4294967295"), "ok\r\n");
    assert_eq!(desk.say("radio rx 0"), "ok\r\n");
    assert_eq!(desk.say("radio rxstop"), "invalid_param\r\n");
    assert_eq!(desk.say("radio get rssi"), "invalid_param\r\n");
}

#[test]
fn reset_loses_settings() {
    let mut desk = receiving();
    desk.fault(Fault::Reboot);
    desk.pass(1000);
    assert_eq!(desk.read(), "RN2483 1.0.5 Oct 31 2018 15:06:52\r\n");
    assert_eq!(desk.say("radio get sync"), "34\r\n");
    assert_eq!(desk.say("radio get wdt"), "15000\r\n");
    assert_eq!(desk.say("radio rx 0"), "busy\r\n");
}

#[test]
fn finds_the_hosts_speed_after_a_break() {
    let mut desk = desk().at_baud(9_600);
    desk.type_octets(b"sys get ver\r\n");
    desk.pass(100);
    desk.screen.clear();
    desk.uart.handle_break(desk.now);
    desk.type_octets(b"\x55");
    assert_eq!(desk.say("radio get sf"), "sf12\r\n");
}

fn modem() -> Box<dyn SimModem> {
    Box::new(Rn::new(RnConfig::new(RnModel::Rn2483)))
}

fn desk() -> Desk {
    let mut desk = Desk::switched_off(modem()).at_baud(57_600);
    desk.uart.power_on(desk.now);
    desk.pass(1000);
    desk.read();
    desk
}

fn receiving() -> Desk {
    let mut desk = desk();
    desk.set_up(&SET_UP);
    desk.set_up(&["radio rx 0"]);
    desk
}
