"""Sessions of the PyPI client paho-mqtt with the MQTT broker at 127.0.0.1, port argv[1], in version argv[2]: 3 or 5.

Ends with 0 if the broker did all that is expected of it.
"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PORT = int(sys.argv[1])
V5 = sys.argv[2] == "5"
PATIENCE = 10


class Client:
    """paho's client, with queues where it has callbacks."""

    def __init__(self, client_id, clean=True, will=None, receive_maximum=None):
        self.messages, self.subscribed, self.unsubscribed = queue.Queue(), queue.Queue(), queue.Queue()
        self.connected, self.disconnected = queue.Queue(), queue.Queue()
        kind = {"protocol": mqtt.MQTTv5} if V5 else {"protocol": mqtt.MQTTv311, "clean_session": clean}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, **kind)
        self.client.max_inflight_messages_set(50)
        self.client.on_connect = lambda c, u, flags, reason, props: self.connected.put((flags, reason, props))
        self.client.on_disconnect = lambda c, u, flags, reason, props: self.disconnected.put(reason)
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, reasons, props: self.subscribed.put(reasons)
        self.client.on_unsubscribe = lambda c, u, mid, reasons, props: self.unsubscribed.put(reasons)
        if will:
            self.client.will_set(*will)
        options = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            if not clean:
                properties.SessionExpiryInterval = 60
            if receive_maximum:
                properties.ReceiveMaximum = receive_maximum
            options = {"clean_start": clean, "properties": properties}
        self.client.connect("127.0.0.1", PORT, **options)
        self.client.loop_start()
        self.flags, reason, self.properties = self.connected.get(timeout=PATIENCE)
        assert not reason.is_failure, reason

    def subscribe(self, *arguments, **named):
        self.client.subscribe(*arguments, **named)
        return [reason.value for reason in self.subscribed.get(timeout=PATIENCE)]

    def unsubscribe(self, topic):
        self.client.unsubscribe(topic)
        return self.unsubscribed.get(timeout=PATIENCE)

    def publish(self, *arguments, **named):
        info = self.client.publish(*arguments, **named)
        info.wait_for_publish(PATIENCE)
        assert info.is_published()

    def message(self):
        return self.messages.get(timeout=PATIENCE)

    def expect(self, topic, payload, qos, retain=False):
        message = self.message()
        actual = (message.topic, message.payload, message.qos, bool(message.retain))
        assert actual == (topic, payload, qos, retain), actual
        return message

    def expect_nothing(self):
        # What was sent before this arrives before it.
        self.subscribe("end/of/it", 1)
        self.publish("end/of/it", b"", 1)
        self.expect("end/of/it", b"", 1)
        self.unsubscribe("end/of/it")

    def close(self):
        self.client.disconnect()
        self.disconnected.get(timeout=PATIENCE)
        self.client.loop_stop()

    def vanish(self):
        self.client.loop_stop()
        self.client._sock_close()


def each_qos_arrives():
    a, b = Client("a"), Client("b")
    assert a.subscribe([("t/#", 2)]) == [2]
    for published in range(3):
        b.publish(f"t/{published}", b"x" * published, published)
        a.expect(f"t/{published}", b"x" * published, published)
    for granted in range(3):
        assert a.subscribe("t/#", granted) == [granted]
        b.publish("t", b"x", 2)
        a.expect("t", b"x", granted)
    a.unsubscribe("t/#")
    b.publish("t", b"x", 2)
    a.expect_nothing()
    a.close()
    b.close()


def retained_messages_are_kept_and_removed():
    a = Client("a")
    a.publish("kept/1", b"old", 1, retain=True)
    a.publish("kept/1", b"new", 2, retain=True)
    a.subscribe("kept/+", 1)
    a.expect("kept/1", b"new", 1, retain=True)
    a.publish("kept/1", b"", 1, retain=True)
    a.expect("kept/1", b"", 1)
    a.unsubscribe("kept/+")
    a.subscribe("kept/+", 1)
    a.expect_nothing()
    a.close()


def sessions_keep_what_comes_meanwhile():
    away = Client("away", clean=False)
    assert not away.flags.session_present
    away.subscribe("t", 2)
    away.close()
    a = Client("a")
    for n in range(200):
        a.publish("t", str(n).encode(), n % 3)
    away = Client("away", clean=False, receive_maximum=7)
    assert away.flags.session_present
    # paho shows a QoS 2 message at its PUBREL.
    arrived = {1: [], 2: []}
    while len(arrived[1]) + len(arrived[2]) < 133:
        message = away.message()
        arrived[message.qos].append(int(message.payload))
    assert arrived == {qos: list(range(qos, 200, 3)) for qos in (1, 2)}, arrived
    away.expect_nothing()
    away.close()
    a.close()
    assert not Client("away").flags.session_present


def wills_are_published():
    a = Client("a")
    a.subscribe("will", 2)
    for qos in range(3):
        Client("vanishing", will=("will", b"gone", qos, False)).vanish()
        a.expect("will", b"gone", qos)
    Client("leaving", will=("will", b"gone", 1, False)).close()
    a.expect_nothing()
    a.close()


def many_at_once_keep_their_order():
    a, b = Client("a"), Client("b")
    for qos in range(3):
        a.subscribe("t", qos)
        infos = [b.client.publish("t", str(n).encode(), qos) for n in range(500)]
        for info in infos:
            info.wait_for_publish(PATIENCE)
        for n in range(500):
            a.expect("t", str(n).encode(), qos)
    large = bytes(range(256)) * 900
    b.publish("t", large, 2)
    assert a.message().payload == large
    a.close()
    b.close()


def the_newer_of_two_stays():
    first = Client("same")
    second = Client("same")
    # The reason is lost on paho, which reads none out of a DISCONNECT without properties.
    first.disconnected.get(timeout=PATIENCE)
    first.client.loop_stop()
    second.publish("t", b"x", 1)
    second.close()


def properties_are_handed_on():
    a, b = Client("a"), Client("b")
    subscription = Properties(PacketTypes.SUBSCRIBE)
    subscription.SubscriptionIdentifier = 200
    a.subscribe("t", options=SubscribeOptions(qos=2, retainAsPublished=True), properties=subscription)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.CorrelationData = b"\x00\x01"
    properties.ResponseTopic = "answer"
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 600
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "1")]
    b.publish("t", b"x", 2, True, properties)
    got = a.expect("t", b"x", 2, retain=True).properties
    assert got.ContentType == "text/plain" and got.ResponseTopic == "answer", got
    assert got.CorrelationData == b"\x00\x01" and got.PayloadFormatIndicator == 1, got
    assert got.MessageExpiryInterval in (599, 600) and got.SubscriptionIdentifier == [200], got
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "1")], got
    b.publish("t", b"", 1, True)
    a.expect("t", b"", 1, retain=True)

    alias = Properties(PacketTypes.PUBLISH)
    alias.TopicAlias = 1
    b.publish("t", b"by name", 1, False, alias)
    b.publish("", b"by alias", 1, False, alias)
    a.expect("t", b"by name", 1)
    a.expect("t", b"by alias", 1)

    a.unsubscribe("t")
    a.subscribe("t", options=SubscribeOptions(qos=1, noLocal=True))
    a.publish("t", b"own", 1)
    b.publish("t", b"other", 1)
    a.expect("t", b"other", 1)
    assert a.unsubscribe("never")[0].value == 0x11
    assert Client("").properties.AssignedClientIdentifier
    a.close()
    b.close()


def shared_subscriptions_share():
    members = [Client(f"member{n}") for n in range(3)]
    for member in members:
        member.subscribe("$share/group/t", 1)
    a = Client("a")
    for n in range(90):
        a.publish("t", str(n).encode(), 1)
    seen = []
    for member in members:
        member.publish("flush", b"", 1)
        while True:
            try:
                seen.append(int(member.messages.get(timeout=0.5).payload))
            except queue.Empty:
                break
    assert sorted(seen) == list(range(90)), sorted(seen)
    for client in [a, *members]:
        client.close()


each_qos_arrives()
retained_messages_are_kept_and_removed()
sessions_keep_what_comes_meanwhile()
wills_are_published()
many_at_once_keep_their_order()
the_newer_of_two_stays()
if V5:
    properties_are_handed_on()
shared_subscriptions_share()
