"""Sessions of the PyPI client gmqtt with the MQTT broker at 127.0.0.1, port argv[1], in version argv[2]: 3 or 5.

Ends with 0 if the broker did all that is expected of it.
"""

import asyncio
import sys

from gmqtt import Client as MQTTClient
from gmqtt import Message, Subscription
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

PORT = int(sys.argv[1])
V5 = sys.argv[2] == "5"
PATIENCE = 10


class Client:
    """gmqtt's client, with queues where it has callbacks."""

    @classmethod
    async def connected(cls, client_id, clean=True, will=None, **properties):
        self = cls()
        self.messages, self.subscribed = asyncio.Queue(), asyncio.Queue()
        self.client = MQTTClient(client_id, clean_session=clean, will_message=will, **properties)
        self.client.on_message = self.on_message
        self.client.on_subscribe = lambda c, mid, qos, props: self.subscribed.put_nowait(qos)
        self.client.set_config({"reconnect_retries": 0})
        await self.client.connect("127.0.0.1", PORT, version=MQTTv50 if V5 else MQTTv311)
        return self

    async def on_message(self, client, topic, payload, qos, properties):
        self.messages.put_nowait((topic, payload, qos, properties))
        return 0

    async def subscribe(self, topic, **options):
        self.client.subscribe(Subscription(topic, **options))
        return list(await asyncio.wait_for(self.subscribed.get(), PATIENCE))

    async def expect(self, topic, payload, qos):
        got = await asyncio.wait_for(self.messages.get(), PATIENCE)
        assert got[:3] == (topic, payload, qos), got
        return got[3]


async def each_qos_arrives():
    a, b = await Client.connected("a"), await Client.connected("b")
    for granted in range(3):
        assert await a.subscribe("t/+", qos=granted) == [granted]
        for published in range(3):
            b.client.publish("t/1", f"{published}", qos=published)
            await a.expect("t/1", f"{published}".encode(), min(published, granted))
    for n in range(60):
        b.client.publish("t/1", str(n), qos=1 + n % 2)
    arrived = sorted([int((await asyncio.wait_for(a.messages.get(), PATIENCE))[1]) for n in range(60)])
    assert arrived == list(range(60)), arrived
    await a.client.disconnect()
    await b.client.disconnect()


async def retained_and_wills():
    a = await Client.connected("a")
    a.client.publish("kept", "x", qos=1, retain=True)
    await asyncio.sleep(0)
    assert await a.subscribe("will", qos=1) == [1]
    assert await a.subscribe("kept", qos=1) == [1]
    properties = await a.expect("kept", b"x", 1)
    assert properties["retain"] == 1, properties
    a.client.publish("kept", "", qos=1, retain=True)
    await a.expect("kept", b"", 1)
    vanishing = await Client.connected("vanishing", will=Message("will", "gone", qos=1))
    vanishing.client._connection._transport.abort()
    await a.expect("will", b"gone", 1)
    await a.client.disconnect()


async def sessions():
    kept = {"session_expiry_interval": 60} if V5 else {}
    away = await Client.connected("away", clean=False, **kept)
    await away.subscribe("t", qos=2)
    await away.client.disconnect()
    a = await Client.connected("a")
    for n in range(20):
        a.client.publish("t", str(n), qos=1 + n % 2)
    # Handled before the next connection is.
    await a.subscribe("barrier", qos=0)
    await a.client.disconnect()
    away = await Client.connected("away", clean=False, **kept)
    for n in range(20):
        await away.expect("t", str(n).encode(), 1 + n % 2)
    await away.client.disconnect()


async def properties():
    a, b = await Client.connected("a", receive_maximum=3), await Client.connected("b")
    await a.subscribe("t", qos=2, no_local=True, retain_as_published=True, subscription_identifier=77)
    b.client.publish(
        "t", "x", qos=2, content_type="text/plain", response_topic="answer", correlation_data=b"42",
        payload_format_id=1, message_expiry_interval=600, user_property=[("k", "v"), ("k", "w")],
    )
    got = await a.expect("t", b"x", 2)
    assert got["content_type"] == ["text/plain"] and got["response_topic"] == ["answer"], got
    assert got["payload_format_id"] == [1] and got["message_expiry_interval"][0] in (599, 600), got
    assert got["user_property"] == [("k", "v"), ("k", "w")], got
    a.client.publish("t", "own", qos=1)
    for n in range(20):
        b.client.publish("t", str(n), qos=1)
    for n in range(20):
        await a.expect("t", str(n).encode(), 1)
    await a.client.disconnect()
    await b.client.disconnect()


async def main():
    await each_qos_arrives()
    await retained_and_wills()
    await sessions()
    if V5:
        await properties()


asyncio.run(main())
