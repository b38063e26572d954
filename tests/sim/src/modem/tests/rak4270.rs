use super::*;

#[test]
fn frames_go_both_ways_with_the_mode_switched_for_each() {
    let mut desk = Desk::new(Box::new(Rak4270::new(Rak4270Config::default())));
    assert_eq!(desk.say("at+version"), "OK V3.3.0.14\r\n");
    desk.set_up(&[
        "at+set_config=lorap2p:868100000:7:0:1:8:14",
        "at+set_config=lorap2p:transfer_mode:1",
    ]);
    desk.peer_sends(SF7, &[3, 1, 1]);
    desk.pass(100);
    assert_eq!(desk.read(), "at+recv=-61,11,3:030101\r\n");

    assert_eq!(desk.say("at+send=lorap2p:030500"), "ERROR: 80\r\n");
    desk.peer_listens(SF7);
    desk.set_up(&["at+set_config=lorap2p:transfer_mode:2"]);
    assert_eq!(desk.say("at+send=lorap2p:030500"), "OK\r\n");
    desk.pass(100);
    assert_eq!(desk.heard, [[3, 5, 0]]);
}

#[test]
fn sender_is_deaf() {
    let mut desk = Desk::new(Box::new(Rak4270::new(Rak4270Config::default())));
    desk.set_up(&[
        "at+set_config=lorap2p:868100000:7:0:1:8:14",
        "at+set_config=lorap2p:transfer_mode:2",
    ]);
    desk.peer_sends(SF7, &[3, 1, 1]);
    desk.pass(100);
    assert_eq!(desk.read(), "");
}

#[test]
fn some_firmware_says_ok_when_the_frame_is_out() {
    let config = Rak4270Config {
        ok_when_sent: true,
        ..Rak4270Config::default()
    };
    let mut desk = Desk::new(Box::new(Rak4270::new(config)));
    assert_eq!(desk.say(&format!("at+send=lorap2p:{}", "00".repeat(50))), "");
    assert_eq!(desk.say("at+send=lorap2p:00"), "ERROR: 80\r\n");
    desk.pass(4000);
    assert_eq!(desk.read(), "OK\r\n");
}

#[test]
fn factory_module_must_be_set_to_p2p() {
    let config = Rak4270Config {
        factory: true,
        ..Rak4270Config::default()
    };
    let mut desk = Desk::new(Box::new(Rak4270::new(config)));
    assert_eq!(desk.say("at+send=lorap2p:00"), "ERROR: 81\r\n");
    assert_eq!(desk.say("at+set_config=lora:work_mode:1"), "");
    desk.pass(1000);
    assert!(
        desk.read()
            .ends_with("Current work_mode:P2P\r\nInitialization OK\r\n")
    );
    assert_eq!(desk.say("at+send=lorap2p:00"), "OK\r\n");
}

#[test]
fn errors_have_the_numbers_of_the_manual() {
    let mut desk = Desk::new(Box::new(Rak4270::new(Rak4270Config::default())));
    assert_eq!(desk.say("at+nonsense"), "ERROR: 1\r\n");
    assert_eq!(
        desk.say("at+set_config=lorap2p:868100000:7:3:1:8:14"),
        "ERROR: 2\r\n"
    );
    assert_eq!(desk.say("at+send=lorap2p:0"), "ERROR: 2\r\n");
    assert_eq!(
        desk.say(&format!("at+send=lorap2p:{}", "00".repeat(119))),
        "ERROR: 5\r\n"
    );
    assert_eq!(
        desk.say(&format!("at+send=lorap2p:{}", "00".repeat(118))),
        "OK\r\n"
    );
}
