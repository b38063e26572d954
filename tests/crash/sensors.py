"""MQTT-SN 1.2 sensors at the gateway on 127.0.0.1: half of them publish, half of them sleep and are sent commands.

It shares no code with the gateway and keeps its own books: a line in the ledger for each message that was sent, was
acknowledged or arrived. A sensor keeps its state, as a device with a clean shutdown of its own would: it repeats with
DUP and the same message id until it is answered, and connects with CleanSession = 0 when it is not.

Prints "ready" when every sensor is connected and has its topic ids. SIGUSR1: begin nothing new, print "finished" when
nothing is open. SIGUSR2: pause, and go on at the next. SIGTERM: end.
"""

import argparse
import asyncio
import random
import signal
import struct
import time

CONNECT, CONNACK, REGISTER, REGACK, PUBLISH, PUBACK = 0x04, 0x05, 0x0A, 0x0B, 0x0C, 0x0D
PUBCOMP, PUBREC, PUBREL, SUBSCRIBE, SUBACK = 0x0E, 0x0F, 0x10, 0x12, 0x13
PINGREQ, PINGRESP, DISCONNECT = 0x16, 0x17, 0x18
DUP = 0x80
# Seconds that a sleeper names; it wakes up long before.
SLEEP = 60
# Tretry and Nretry (section 7.2), short so that an outage costs no more than it lasts.
T_RETRY, N_RETRY = 0.4, 3
# Seconds within which a busy gateway has answered everything that it was sent.
LATE = 10


class Unanswered(Exception):
    pass


class Ledger:
    def __init__(self, path):
        self.file = open(path, "w", buffering=1)

    def write(self, *words):
        print(*words, file=self.file)


class Sensor(asyncio.DatagramProtocol):
    """What both kinds have in common: a session, one request at a time, and answers to what the gateway sends."""

    def __init__(self, name, ledger, rng):
        self.name, self.ledger, self.rng = name, ledger, rng
        self.transport = None
        self.waiting = None
        self.heard, self.progress = False, asyncio.Event()
        self.hears = True
        self.msg_id = 0
        self.names = {}
        # DISCONNECTs sent and not answered, and when the last was sent.
        self.goodbyes, self.goodbye_at = 0, 0.0
        # Message ids of QoS 2 messages that were taken and not yet released.
        self.held = set()

    def connection_made(self, transport):
        self.transport = transport

    def error_received(self, error):
        pass  # Nobody is at the port: that is what the retransmission is for.

    def send(self, kind, body):
        if kind == DISCONNECT:
            self.goodbyes, self.goodbye_at = self.goodbyes + 1, time.monotonic()
        self.transport.sendto(bytes([len(body) + 2, kind]) + body)

    def datagram_received(self, datagram, _from):
        if not self.hears or len(datagram) < 2 or datagram[0] != len(datagram):
            return
        kind, body = datagram[1], datagram[2:]
        self.heard = True
        self.progress.set()
        if kind == PUBLISH:
            self.on_publish(body)
        elif kind == PUBREL:
            self.held.discard(body)
            self.send(PUBCOMP, body)
        elif kind == REGISTER:
            topic, msg_id = body[:2], body[2:4]
            self.names[topic] = body[4:].decode()
            self.send(REGACK, topic + msg_id + b"\0")
        elif self.waiting and self.waiting[0](kind, body):
            self.goodbyes -= kind == DISCONNECT
            if not self.waiting[1].done():
                self.waiting[1].set_result(body)
        elif kind == DISCONNECT:
            self.on_disconnect()

    def on_publish(self, body):
        flags, topic, msg_id, payload = body[0], body[1:3], body[3:5], body[5:]
        qos = flags >> 5 & 3
        if topic not in self.names:
            self.ledger.write("note", "unknown-topic", self.name)
            self.send(PUBACK, topic + msg_id + b"\x02")
            return
        if qos == 2:
            if msg_id not in self.held:
                self.held.add(msg_id)
                self.ledger.write("down-arrived", *payload.decode().split()[:3])
            self.send(PUBREC, msg_id)
        else:
            self.ledger.write("down-arrived", *payload.decode().split()[:3])
            self.send(PUBACK, topic + msg_id + b"\0")

    def on_disconnect(self):
        # Each repetition of a DISCONNECT has an answer of its own, which may come when nobody waits any more.
        late = self.goodbyes > 0 and time.monotonic() - self.goodbye_at < LATE
        self.goodbyes -= late
        self.ledger.write("note", "answered-late" if late else "disconnected", self.name)

    def new_msg_id(self):
        self.msg_id = self.msg_id % 0xFFFF + 1
        return struct.pack(">H", self.msg_id)

    async def ask(self, kind, body, wanted, again=None):
        """Sends until answered; `again` is what is sent from the second time on."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self.waiting = (wanted, answer)
        try:
            for attempt in range(N_RETRY + 1):
                self.send(kind, again if attempt and again else body)
                while not answer.done():
                    # What else comes shows that the gateway is there.
                    self.heard = False
                    self.progress.clear()
                    timer = loop.call_later(T_RETRY, self.progress.set)
                    await self.progress.wait()
                    timer.cancel()
                    if not self.heard:
                        break
                if answer.done():
                    return answer.result()
            raise Unanswered
        finally:
            self.waiting = None

    async def persist(self, *request, **named):
        """The same, with a CONNECT whenever nobody answers."""
        while True:
            try:
                return await self.ask(*request, **named)
            except Unanswered:
                self.ledger.write("note", "unanswered", self.name)
                await self.connect()

    async def connect(self):
        body = bytes([0, 1]) + struct.pack(">H", 300) + self.name.encode()
        while True:
            try:
                answer = await self.ask(CONNECT, body, lambda kind, _: kind == CONNACK)
            except Unanswered:
                continue
            if answer[0] == 0:
                return
            self.ledger.write("note", "congestion", self.name)
            await asyncio.sleep(T_RETRY)

    def answered_by(self, wanted, msg_id, at=0):
        return lambda kind, body: kind == wanted and body[at:at + 2] == msg_id


class Publisher(Sensor):
    async def begin(self):
        await self.connect()
        self.topics = {}
        for qos in (1, 2):
            msg_id = self.new_msg_id()
            body = bytes(2) + msg_id + f"up/{self.name}/{qos}".encode()
            answer = await self.persist(REGISTER, body, self.answered_by(REGACK, msg_id, 2))
            assert answer[4] == 0, answer
            self.topics[qos] = answer[:2]

    async def run(self, stopping, going_on, pause):
        number = 0
        while not stopping.is_set():
            await going_on.wait()
            number += 1
            qos = self.rng.choice((1, 2))
            self.ledger.write("up-sent", self.name, qos, number)
            await self.publish(qos, number)
            self.ledger.write("up-acked", self.name, qos, number)
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * pause)

    async def publish(self, qos, number):
        msg_id = self.new_msg_id()
        payload = f"{self.name} {qos} {number} ".encode().ljust(32, b".")
        rest = self.topics[qos] + msg_id + payload
        first, again = bytes([qos << 5]) + rest, bytes([qos << 5 | DUP]) + rest
        if qos == 1:
            wanted = self.answered_by(PUBACK, msg_id, 2)
        else:
            # PUBACK is how a QoS 2 message is refused (section 5.4.13).
            wanted = lambda kind, body: (kind == PUBREC and body[:2] == msg_id) or (
                kind == PUBACK and body[2:4] == msg_id)
        while True:
            answer = await self.persist(PUBLISH, first, wanted, again=again)
            reason = answer[4] if len(answer) > 2 else 0
            if reason == 0:
                break
            self.ledger.write("note", "congestion" if reason == 1 else "refused", self.name)
            await asyncio.sleep(T_RETRY)
        if qos == 2:
            await self.persist(PUBREL, msg_id, self.answered_by(PUBCOMP, msg_id))


class Sleeper(Sensor):
    async def begin(self):
        await self.connect()
        msg_id = self.new_msg_id()
        topic = f"cmd/{self.name}"
        body = bytes([2 << 5]) + msg_id + topic.encode()
        answer = await self.persist(SUBSCRIBE, body, self.answered_by(SUBACK, msg_id, 3))
        assert answer[5] == 0, answer
        self.names[answer[1:3]] = topic
        await self.sleep()

    async def sleep(self):
        await self.persist(DISCONNECT, struct.pack(">H", SLEEP), lambda kind, _: kind == DISCONNECT)

    async def run(self, pause):
        while True:
            # Its radio is off: whatever comes now is lost.
            self.hears = False
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * pause)
            self.hears = True
            try:
                await self.ask(PINGREQ, self.name.encode(), lambda kind, _: kind == PINGRESP)
                self.ledger.write("note", "woke", self.name)
                if self.rng.random() < 0.9:
                    continue
            except Unanswered:
                self.ledger.write("note", "unanswered", self.name)
                await self.connect()
            await self.sleep()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--publishers", type=int, required=True)
    parser.add_argument("--sleepers", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--publish-pause", type=float, default=0.1, help="seconds between messages of one publisher")
    parser.add_argument("--sleep-pause", type=float, default=0.5, help="seconds asleep")
    options = parser.parse_args()

    loop, ledger = asyncio.get_running_loop(), Ledger(options.ledger)
    stopping, going_on, ending = asyncio.Event(), asyncio.Event(), asyncio.Event()
    going_on.set()
    loop.add_signal_handler(signal.SIGUSR1, stopping.set)
    loop.add_signal_handler(signal.SIGUSR2, lambda: going_on.clear() if going_on.is_set() else going_on.set())
    loop.add_signal_handler(signal.SIGTERM, ending.set)

    async def sensor(kind, name):
        made = kind(name, ledger, random.Random(f"{options.seed} {name}"))
        await loop.create_datagram_endpoint(lambda: made, remote_addr=("127.0.0.1", options.port))
        await made.begin()
        return made

    publishers = await asyncio.gather(*(sensor(Publisher, f"pub{n}") for n in range(options.publishers)))
    sleepers = await asyncio.gather(*(sensor(Sleeper, f"sleeper{n}") for n in range(options.sleepers)))
    print("ready", flush=True)
    asleep = [asyncio.create_task(one.run(options.sleep_pause)) for one in sleepers]
    publishing = asyncio.gather(*(one.run(stopping, going_on, options.publish_pause) for one in publishers))
    ended = asyncio.create_task(ending.wait())
    await asyncio.wait([publishing, ended, *asleep], return_when=asyncio.FIRST_COMPLETED)
    if not ending.is_set():
        for task in [publishing, *asleep]:
            if task.done():
                task.result()  # An error ends the program.
        print("finished", flush=True)
        await asyncio.wait([ended, *asleep], return_when=asyncio.FIRST_COMPLETED)
    for task in asleep:
        if task.done():
            task.result()


asyncio.run(main())
