"""The MQTT ends of a campaign: who observes what sensors publish, or who commands those that sleep.

paho-mqtt with sessions that last; nothing of the gateway. Each keeps books like sensors.py: a line in the ledger for each
message that was sent, was acknowledged by the broker or arrived. Commands have the time with it, in milliseconds since
1970.

Prints "ready" when connected and subscribed. SIGUSR1: begin nothing new, print "finished" when every command is
acknowledged. SIGUSR2: pause, and go on at the next. SIGTERM: end.
"""

import argparse
import queue
import random
import signal
import threading
import time

import paho.mqtt.client as mqtt


class Ledger:
    def __init__(self, path):
        self.lock, self.file = threading.Lock(), open(path, "w", buffering=1)

    def write(self, *words):
        with self.lock:
            print(*words, file=self.file)


def now():
    return int(time.time() * 1000)


def client(name, port, ledger, on_message=None):
    made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
    subscribed, connected = threading.Event(), threading.Event()

    def on_connect(client, _data, flags, reason, _properties):
        assert not reason.is_failure, reason
        if connected.is_set():
            ledger.write("note", "reconnected" if flags.session_present else "forgotten", name)
        connected.set()
        if on_message and not flags.session_present:
            client.subscribe("up/#", 2)

    made.on_connect = on_connect
    made.on_message = on_message
    made.on_subscribe = lambda *_: subscribed.set()
    made.reconnect_delay_set(0.05, 0.5)
    made.max_queued_messages_set(0)
    made.connect("127.0.0.1", port)
    made.loop_start()
    assert (subscribed if on_message else connected).wait(10)
    return made


def observe(options, ledger, stopping, ending, _paused):
    def on_message(_client, _data, message):
        ledger.write("up-arrived", *message.payload.decode().split()[:3])

    client("observer", options.port, ledger, on_message)
    print("ready", flush=True)
    stopping.wait()
    print("finished", flush=True)
    ending.wait()


def command(options, ledger, stopping, ending, paused):
    rng, numbers, under_way = random.Random(options.seed), [0] * options.sleepers, {}
    commander, published = client("commander", options.port, ledger), queue.SimpleQueue()
    # PUBACK or PUBCOMP came.
    commander.on_publish = lambda _client, _data, mid, *_: published.put(mid)
    print("ready", flush=True)

    while not stopping.is_set() or under_way:
        if not stopping.is_set() and not paused.is_set():
            sleeper, qos = rng.randrange(options.sleepers), rng.choice(options.qos)
            numbers[sleeper] += 1
            key = (f"sleeper{sleeper}", qos, numbers[sleeper])
            ledger.write("down-sent", *key, now())
            payload = "{} {} {} ".format(*key).ljust(32, ".")
            # While the broker is away paho keeps it for later.
            under_way[commander.publish(f"cmd/sleeper{sleeper}", payload, qos).mid] = key
        while not published.empty():
            ledger.write("down-acked", *under_way.pop(published.get()), now())
        time.sleep(rng.expovariate(options.rate))
    print("finished", flush=True)
    ending.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["observe", "command"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--sleepers", type=int, default=0)
    parser.add_argument("--rate", type=float, default=60, help="commands a second")
    parser.add_argument("--qos", type=lambda text: [int(qos) for qos in text.split(",")], default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    ledger = Ledger(options.ledger)
    stopping, ending, paused = threading.Event(), threading.Event(), threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: stopping.set())
    signal.signal(signal.SIGUSR2, lambda *_: paused.clear() if paused.is_set() else paused.set())
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    {"observe": observe, "command": command}[options.role](options, ledger, stopping, ending, paused)


main()
