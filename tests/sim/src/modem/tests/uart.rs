use super::*;

#[test]
fn octets_take_ten_bits_each() {
    let mut desk = desk();
    // 23 octets to the module in 24 ms, 4 ms of thought, 5 back in 5.2 ms.
    desk.fault(Fault::Slow(Some(9600)));
    desk.type_octets(b"AT+PARAMETER=9,7,1,12\r\n");
    desk.pass(33);
    assert_eq!(desk.read(), "");
    desk.pass(1);
    assert_eq!(desk.read(), "+OK\r\n");
    desk.fault(Fault::Slow(None));
    desk.type_octets(b"AT+PARAMETER=9,7,1,12\r\n");
    desk.pass(7);
    assert_eq!(desk.read(), "+OK\r\n");
}

#[test]
fn wrong_speed_makes_nonsense_both_ways() {
    let mut desk = desk().at_baud(9600);
    desk.type_octets(b"AT\r\n");
    desk.pass(100);
    desk.screen.clear();
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.pass(100);
    assert_eq!(desk.screen.len(), b"+ERR=12\r\n".len());
    assert_ne!(desk.screen, b"+ERR=12\r\n");
}

#[test]
fn unplugged_modem_loses_its_power_and_comes_back() {
    let mut desk = desk();
    desk.type_octets(b"AT\r\n");
    desk.fault(Fault::Unplug(Duration::from_secs(3)));
    desk.pass(2_999);
    assert_eq!((desk.read().as_str(), &desk.plugged[..]), ("", &[false][..]));
    desk.pass(501);
    assert_eq!(desk.plugged, [false, true]);
    assert_eq!(desk.read(), "+READY\r\n");
}

#[test]
fn hung_modem_is_silent_and_deaf_until_it_restarts() {
    let mut desk = desk();
    desk.fault(Fault::Hang);
    assert_eq!(desk.say("AT"), "");
    desk.fault(Fault::Reboot);
    desk.pass(500);
    assert_eq!(desk.read(), "+READY\r\n");
    assert_eq!(desk.say("AT"), "+OK\r\n");
}

#[test]
fn answers_get_lost_and_events_come_twice() {
    let mut desk = desk();
    desk.fault(Fault::DropReply);
    assert_eq!(desk.say("AT"), "");
    assert_eq!(desk.say("AT"), "+OK\r\n");
    desk.fault(Fault::DupEvent);
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.fault(Fault::Mishap(Mishap::BadFrame));
    desk.pass(50);
    assert_eq!(desk.read(), "+ERR=12\r\n+ERR=12\r\n+ERR=12\r\n");
}

#[test]
fn garbage_is_as_much_as_asked_for() {
    let mut desk = desk();
    desk.fault(Fault::Garbage(300));
    desk.pass(100);
    assert_eq!(desk.screen.len(), 300);
}

#[test]
fn split_writes_arrive_octet_by_octet() {
    let mut desk = desk();
    desk.fault(Fault::SplitWrites(true));
    desk.type_octets(b"AT\r\n");
    let mut pieces = Vec::new();
    for _ in 0..200 {
        desk.now = desk.now + Duration::from_micros(50);
        desk.uart.handle_timeout(desk.now);
        while let Some(output) = desk.uart.poll_output() {
            if let UartOutput::ToHost(octets) = output {
                pieces.push(octets);
            }
        }
    }
    assert_eq!(pieces, [b"+", b"O", b"K", b"\r", b"\n"]);
}

fn desk() -> Desk {
    Desk::new(Box::new(Rylr::new(RylrConfig::new(RylrModel::Rylr998))))
}
