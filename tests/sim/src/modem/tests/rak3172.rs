use super::*;

const SET_UP: [&str; 5] = [
    "AT",
    "AT+PRECV=0",
    "AT+P2P=868100000:7:125:0:8:14",
    "AT+IQINVER=0",
    "AT+SYNCWORD=1424",
];

#[test]
fn status_lines_are_those_of_the_firmware() {
    for (firmware, status, version) in [
        (Firmware::Rui5, "OK\r\n", "AT+VER=RUI_5.0.0_RAK3172\r\nOK\r\n"),
        (
            Firmware::Rui3Manual,
            "\r\nOK\r\n",
            "AT+VER=RUI_4.0.6_RAK3172-E\r\n\r\nOK\r\n",
        ),
        (Firmware::V1_0_4, "\r\nOK\r\n", "V1.0.4\r\n\r\nOK\r\n"),
    ] {
        let mut desk = desk(firmware);
        assert_eq!(desk.say("AT"), status);
        assert_eq!(desk.say("at+ver=?"), version);
    }
}

#[test]
fn bandwidth_is_told_by_index_or_in_khz() {
    let mut five = desk(Firmware::Rui5);
    five.set_up(&["AT+P2P=868100000:7:125:0:8:14"]);
    assert_eq!(five.say("AT+P2P=?"), "AT+P2P=868100000:7:0:0:8:14\r\nOK\r\n");
    let mut manual = desk(Firmware::Rui3Manual);
    manual.set_up(&["AT+P2P=868100000:7:2:0:8:14"]);
    assert_eq!(
        manual.say("AT+P2P=?"),
        "AT+P2P=868100000:7:500:0:8:14\r\n\r\nOK\r\n"
    );
}

#[test]
fn frame_is_told_as_the_vector_has_it() {
    let mut desk = receiving(Firmware::Rui5);
    let payload = b"\x0e\x04\x04\x01\x00\x3csensor-1";
    desk.peer_sends(SF7, payload);
    desk.pass(200);
    assert_eq!(desk.read(), "+EVT:RXP2P:-61:11:0E040401003C73656E736F722D31\r\n");
    // Reception goes on.
    assert_eq!(desk.say("AT+PRECV=?"), "AT+PRECV=P2P_RX_ON\r\nOK\r\n");
    desk.peer_sends(SF7, b"\x01");
    desk.pass(200);
    assert_eq!(desk.read(), "+EVT:RXP2P:-61:11:01\r\n");
}

#[test]
fn old_firmware_tells_a_frame_on_two_lines_and_knows_no_reception_with_sending() {
    let mut desk = desk(Firmware::V1_0_4);
    desk.set_up(&SET_UP);
    assert_eq!(desk.say("AT+PRECV=65533"), "\r\nAT_PARAM_ERROR\r\n");
    desk.set_up(&["AT+PRECV=65534"]);
    desk.peer_sends(SF7, &[0xAA, 0xBB]);
    desk.pass(200);
    assert_eq!(desk.read(), "+EVT:RXP2P, RSSI -61, SNR 11\r\n+EVT:AABB\r\n");
    assert_eq!(desk.say("AT+PSEND=00"), "\r\nAT_BUSY_ERROR\r\n");
}

#[test]
fn sends_and_says_when_it_is_done() {
    let mut desk = receiving(Firmware::Rui5);
    desk.peer_listens(SF7);
    assert_eq!(desk.say("AT+PSEND=030500"), "OK\r\n+EVT:TXP2P DONE\r\n");
    assert_eq!(desk.heard, [[3, 5, 0]]);
    // Reception came back by itself.
    desk.peer_sends(SF7, b"\x01");
    desk.pass(100);
    assert_eq!(desk.read(), "+EVT:RXP2P:-61:11:01\r\n");
}

#[test]
fn payload_is_1_to_239_octets() {
    let mut desk = receiving(Firmware::Rui5);
    for refused in ["", "0", "030", "0g", &"00".repeat(240)] {
        assert_eq!(
            desk.say(&format!("AT+PSEND={refused}")),
            "AT_PARAM_ERROR\r\n",
            "{refused}"
        );
    }
    desk.peer_listens(SF7);
    desk.type_octets(format!("AT+PSEND={}\r\n", "5a".repeat(239)).as_bytes());
    desk.pass(1000);
    assert_eq!(desk.read(), "OK\r\n+EVT:TXP2P DONE\r\n");
    assert_eq!(desk.heard, [[0x5A; 239]]);
}

#[test]
fn nothing_can_be_set_while_it_receives() {
    let mut desk = receiving(Firmware::Rui5);
    let refusal = "P2P_RX_ON already, please disable P2P RX before setting.\r\nAT_BUSY_ERROR\r\n";
    for command in [
        "AT+P2P=868300000:7:125:0:8:14",
        "AT+SYNCWORD=3444",
        "AT+NWM=0",
        "AT+CAD=1",
    ] {
        assert_eq!(desk.say(command), refusal, "{command}");
    }
    assert_eq!(
        desk.say("AT+PRECV=65533"),
        "P2P_RX_ON already\r\nAT_BUSY_ERROR\r\n"
    );
}

#[test]
fn second_psend_breaks_off_the_first() {
    let mut desk = receiving(Firmware::Rui5);
    desk.peer_listens(SF7);
    assert_eq!(desk.say(&format!("AT+PSEND={}", "11".repeat(100))), "OK\r\n");
    let second = format!("AT+PSEND={}", "22".repeat(100));
    assert_eq!(desk.say(&second), "OK\r\n");
    desk.pass(1000);
    assert_eq!(desk.read(), "+EVT:TXP2P DONE\r\n");
    assert_eq!(desk.heard, [[0x22; 100]]);
}

#[test]
fn lost_transmission_leaves_it_deaf_without_a_word() {
    let mut desk = receiving(Firmware::Rui5);
    desk.fault(Fault::Mishap(Mishap::LoseSent));
    assert_eq!(desk.say("AT+PSEND=01"), "OK\r\n");
    desk.pass(1000);
    desk.peer_sends(SF7, b"\x01");
    desk.pass(1000);
    assert_eq!(desk.read(), "");
    desk.set_up(&["AT+PRECV=0", "AT+PRECV=65533"]);
    desk.peer_sends(SF7, b"\x02");
    desk.pass(1000);
    assert_eq!(desk.read(), "+EVT:RXP2P:-61:11:02\r\n");
}

#[test]
fn taken_channel_refuses_and_leaves_it_deaf() {
    let mut desk = desk(Firmware::Rui5);
    desk.set_up(&SET_UP);
    desk.set_up(&["AT+CAD=1", "AT+PRECV=65533"]);
    desk.peer_sends(SF7, &[0; 200]);
    assert_eq!(desk.say("AT+PSEND=01"), "AT_BUSY_ERROR\r\n");
    desk.pass(1000);
    desk.peer_sends(SF7, b"\x01");
    desk.pass(1000);
    assert_eq!(desk.read(), "");
    // The channel is free now.
    desk.peer_listens(SF7);
    assert_eq!(desk.say("AT+PSEND=02"), "OK\r\n+EVT:TXP2P DONE\r\n");
    assert_eq!(desk.heard, [[2]]);
}

#[test]
fn damaged_frame_ends_reception_of_one_frame_only() {
    let mut desk = receiving(Firmware::Rui5);
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.pass(50);
    assert_eq!(desk.read(), "+EVT:RXP2P RECEIVE ERROR\r\n");
    assert_eq!(desk.say("AT+PRECV=?"), "AT+PRECV=P2P_RX_ON\r\nOK\r\n");
    desk.set_up(&["AT+PRECV=0", "AT+PRECV=65535"]);
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.pass(50);
    desk.read();
    assert_eq!(desk.say("AT+PRECV=?"), "AT+PRECV=P2P_RX_OFF\r\nOK\r\n");
}

#[test]
fn window_ends() {
    let mut desk = desk(Firmware::Rui5);
    assert_eq!(desk.say("AT+PRECV=14"), "AT_PARAM_ERROR\r\n");
    desk.set_up(&["AT+PRECV=500"]);
    desk.pass(500);
    assert_eq!(desk.read(), "+EVT:RXP2P RECEIVE TIMEOUT\r\n");
    assert_eq!(desk.say("AT+PRECV=?"), "AT+PRECV=P2P_RX_OFF\r\nOK\r\n");
}

#[test]
fn factory_module_is_set_to_p2p_and_leaves_the_bus() {
    let mut desk = Desk::new(Box::new(Rak3172::new(Rak3172Config {
        own_usb: true,
        factory: true,
        ..Rak3172Config::new(Firmware::Rui5)
    })));
    assert_eq!(desk.say("AT+NWM=?"), "AT+NWM=1\r\nOK\r\n");
    assert_eq!(desk.say("AT+PRECV=65533"), "AT_MODE_NO_SUPPORT\r\n");
    assert_eq!(desk.say("AT+NWM=0"), "OK\r\n");
    assert_eq!(desk.plugged, [false]);
    desk.pass(2_500);
    assert_eq!(desk.plugged, [false, true]);
    let banner = desk.read();
    assert!(banner.starts_with("RAKwireless RAK3172\r\n"), "{banner}");
    assert!(banner.ends_with("Current Work Mode: LoRa P2P.\r\n"), "{banner}");
    assert_eq!(desk.say("AT+NWM=?"), "AT+NWM=0\r\nOK\r\n");
}

#[test]
fn what_is_not_stored_is_gone_after_a_reset() {
    let mut desk = desk(Firmware::Rui5);
    desk.set_up(&["AT+P2P=868300000:9:125:0:8:14", "AT+P2P=868500000:7:125:0:8:14:1"]);
    assert_eq!(desk.say("AT+P2P=?"), "AT+P2P=868500000:7:0:0:8:14\r\nOK\r\n");
    assert_eq!(desk.say("ATZ"), "");
    desk.pass(1000);
    desk.read();
    assert_eq!(desk.say("AT+P2P=?"), "AT+P2P=868300000:9:0:0:8:14\r\nOK\r\n");
}

#[test]
fn seventh_parameter_is_for_new_firmware() {
    let mut desk = desk(Firmware::Rui3Manual);
    assert_eq!(
        desk.say("AT+P2P=868500000:7:125:0:8:14:1"),
        "\r\nAT_PARAM_ERROR\r\n"
    );
}

#[test]
fn echo_can_be_switched_on() {
    let mut desk = desk(Firmware::Rui5);
    desk.set_up(&["ATE"]);
    assert_eq!(desk.say("AT"), "AT\r\n\n\rOK\r\n");
}

#[test]
fn terminal_keys_edit_and_nonsense_is_refused() {
    let mut desk = desk(Firmware::Rui5);
    assert_eq!(desk.say("AX\x08T"), "OK\r\n");
    assert_eq!(desk.say("A\x1b[CT"), "OK\r\n");
    assert_eq!(desk.say("AT+FOO=1"), "AT_COMMAND_NOT_FOUND\r\n");
    assert_eq!(desk.say(""), "");
    assert_eq!(desk.say(&"x".repeat(4000)), "");
    desk.pass(500);
    assert_eq!(desk.read(), "AT_TEST_PARAM_OVERFLOW\r\n");
    assert_eq!(desk.say("AT"), "OK\r\n");
}

#[test]
fn busy_modem_says_so() {
    let mut desk = receiving(Firmware::Rui5);
    desk.fault(Fault::Busy(Duration::from_millis(300)));
    assert_eq!(desk.say("AT+PSEND=01"), "AT_BUSY_ERROR\r\n");
    desk.pass(300);
    assert_eq!(desk.say("AT+PSEND=01"), "OK\r\n+EVT:TXP2P DONE\r\n");
}

fn desk(firmware: Firmware) -> Desk {
    let config = Rak3172Config::new(firmware);
    let mut desk = Desk::switched_off(Box::new(Rak3172::new(config))).at_baud(config.baud);
    desk.uart.power_on(desk.now);
    desk.pass(2_000);
    desk.read();
    desk
}

fn receiving(firmware: Firmware) -> Desk {
    let mut desk = desk(firmware);
    desk.set_up(&SET_UP);
    desk.set_up(&["AT+PRECV=65533"]);
    desk
}
