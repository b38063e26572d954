//! Time to decode and to encode one packet: `cargo bench -p sn-codec`.

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use sn_codec::{
    Connect, MsgId, Packet, Puback, Publish, PublishQoS, QoS, Register, ReturnCode, TopicId, TopicRef,
};
use std::hint::black_box;

fn codec(criterion: &mut Criterion) {
    let data = [0x5A; 64];
    let packets = [
        ("publish_qos1_64_octets", publish(&data)),
        ("connect", connect()),
        ("register", register()),
        ("puback", puback()),
    ];
    for (name, packet) in packets {
        let mut datagram = Vec::new();
        packet.encode(&mut datagram);
        criterion.bench_function(&format!("decode/{name}"), |b| {
            b.iter(|| black_box(Packet::decode(black_box(&datagram))));
        });

        let mut buf = BytesMut::with_capacity(Packet::MAX_LEN);
        criterion.bench_function(&format!("encode/{name}"), |b| {
            b.iter(|| {
                buf.clear();
                black_box(&packet).encode(&mut buf);
                black_box(&buf);
            });
        });
    }
}

fn publish(data: &[u8]) -> Packet<'_> {
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::Level(QoS::AtLeastOnce),
        retain: false,
        topic: TopicRef::Normal(TopicId(5)),
        msg_id: MsgId(7),
        data,
    })
}

fn connect() -> Packet<'static> {
    Packet::Connect(Connect {
        will: false,
        clean_session: true,
        duration: 60,
        client_id: "sensor-0001",
    })
}

fn register() -> Packet<'static> {
    Packet::Register(Register {
        topic_id: TopicId::NONE,
        msg_id: MsgId(1),
        topic_name: "building-3/room-12/temperature",
    })
}

fn puback() -> Packet<'static> {
    Packet::Puback(Puback {
        topic_id: TopicId(5),
        msg_id: MsgId(7),
        return_code: ReturnCode::Accepted,
    })
}

criterion_group!(benches, codec);
criterion_main!(benches);
