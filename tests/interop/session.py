"""One session of the PyPI client mqtt-sn-12 against the gateway at 127.0.0.1, port argv[1].

Every call below raises if the gateway's answer is missing, of the wrong type or a rejection.
"""

import sys
import time

from mqttsn12.MqttSnConstants import MqttSnConstants
from mqttsn12.client.MqttSnClient import MqttSnClient, MqttSnListener


class Keep(MqttSnListener):
    """Keeps what arrives."""

    def __init__(self):
        self.payloads = []

    def message_arrived(self, msg):
        self.payloads.append(msg.get_payload())


client = MqttSnClient()
client.set_client_id("foreign-session")
client.set_clean_session(True)
client.set_keep_alive(60)
client.set_timeout(5)
client.set_will("state/session", "gone", MqttSnConstants.QOS_1, False)
client.open("127.0.0.1", int(sys.argv[1]))

client.send_search_gateway(0)
client.send_connect()
client.send_will_topic_update("state/other")
client.send_will_message_update("really gone")
client.send_ping_req()

topic_id = client.send_register("up/count")
assert client.send_register("up/count") == topic_id, "the same name gives the same id"
for n in range(10):
    client.send_publish_with_id(topic_id, MqttSnConstants.TOPIC_TYPE_NORMAL, str(n), n % 3)

# What it publishes comes back to it. The client drops a PUBLISH that arrives while it waits for an
# acknowledgement, so one at a time and without; and of the ids it was given it remembers those of SUBACK only.
echo = Keep()
expected = []
for topic, payload in [("echo/first", "1"), ("echo/second", "2")]:
    client.send_subscribe(topic, MqttSnConstants.QOS_0, echo)
    topic_id = client.search_topic_id(topic)
    client.send_publish_with_id(topic_id, MqttSnConstants.TOPIC_TYPE_NORMAL, payload, MqttSnConstants.QOS_0)
    expected.append(payload.encode())
    deadline = time.monotonic() + 10
    while len(echo.payloads) < len(expected) and time.monotonic() < deadline:
        client.polling()
        time.sleep(0.02)
    assert echo.payloads == expected, echo.payloads

client.send_unsubscribe("echo/first")
client.send_publish("echo/first", "3", MqttSnConstants.QOS_1)
client.send_ping_req()
client.polling()
assert echo.payloads == expected, "nothing after UNSUBSCRIBE"

client.send_disconnect()
client.close()
