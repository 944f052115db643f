"""A gateway under attack: thousands of sources begin with IKE, and send noise, while a tunnel carries pings and a new peer comes.

    host-north ── north ─┐
    attacker ────────────┤
    host-east ── gw-east ── wire ── gw-west ── host-west         the attack is on gw-west

The attacker's frames have sources in 198.18.0.0/15, and what is sent there ends at the attacker. RFC 7296 §2.6.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time

import pytest

from checks import assert_ping, difference
from conftest import make, remove
from culvert_lab.daemons import Culvert
from culvert_lab.shell import eventually
from culvert_lab.traffic import cpu_seconds, ping, resident_kilobytes
from gateways import SECRET, configuration, merge
from roadwarriors import as_yaml

FLOOD_SECONDS, PER_SECOND, BOTS_PER_SECOND = 6, 4000, 100
LEAST_SENT = 12_000  # what a busy machine still has to manage for the test to mean something
PINGS_PER_SECOND = 40
NEW_PEER_SECONDS = 5
STATUS_SECONDS = 2
COOKIE_THRESHOLD = 32  # half-open SAs from which on first messages need a cookie
MOST_GROWTH_KILOBYTES = 24 * 1024
ATTEMPTS, ATTEMPTS_SECONDS, IN_ITS_NAME_PER_SECOND = 12, 10, 500
HALF_OPEN_SECONDS = 30  # until a half-open SA is forgotten
NORTH, NORTH_SUBNET, ATTACKER = "192.0.2.3", "10.3.0.0/24", "192.0.2.66"


class Scene:
    """Three gateways and an attacker on one wire; `peers` is how the one in the west names the others' addresses."""

    def __init__(self, lab, peers, **connection):
        self.lab = lab
        lab.join("attacker", "eth0", f"{ATTACKER}/24")
        lab.ip("gw-west", "route", "add", "198.18.0.0/15", "via", ATTACKER)
        lab.join("north", "wan0", f"{NORTH}/24")
        lab.ip("north", "route", "add", "default", "via", lab.west.underlay)
        lab.ip("north", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")  # nobody is behind it but north itself
        lab.ip("north", "address", "add", "10.3.0.1/24", "dev", "lan0")
        for interface in ("lan0", "lan1"):
            lab.ip("north", "link", "set", interface, "up")
        west = configuration(lab, "west", connection=connection | {"remote": {"address": peers["east"]}})
        north = merge(west["connections"][0], {
            "name": "north", "remote": {"address": peers["north"], "id": "north.example"},
            "children": [west["connections"][0]["children"][0] | {"remote_subnets": [NORTH_SUBNET]}]})
        self.west = Culvert(lab, "gw-west", as_yaml(west | {"connections": [*west["connections"], north]}))
        self.east = Culvert(lab, "gw-east", configuration(lab, "east", connection=connection))
        there = configuration(lab, "east", connection=connection, child={"start": "manual", "local_subnets": [NORTH_SUBNET]})
        there["gateway"]["name"] = "north"
        there["connections"][0]["local"] |= {"address": NORTH, "id": "north.example"}
        self.north = Culvert(lab, "north", there)

    def up(self):
        for gateway in (self.west, self.east, self.north):
            gateway.start()
        self.east.wait_installed("west")
        assert_ping(self.lab, "east", count=5)
        return self

    @contextlib.contextmanager
    def attack(self, *, seconds=FLOOD_SECONDS, per_second=PER_SECOND, bots_per_second=BOTS_PER_SECOND, source=None):
        """The flood for as long as the `with` lasts, at least; the yielded dictionary then has what the attacker did."""
        words = [sys.executable, pathlib.Path(__file__).with_name("flooder.py"), "eth0", "--mac",
                 self.lab.mac("gw-west", "wan0"), "--target", self.lab.west.underlay, "--seconds", seconds,
                 "--per-second", per_second, "--bots-per-second", bots_per_second]
        if source:
            words += ["--source", source]
        process = self.lab.spawn("attacker", words, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        done = {}
        yield done
        done |= json.loads(process.stdout.readline())
        process.wait(timeout=10)
        process.stdout.close()

    @contextlib.contextmanager
    def pings(self, seconds):
        """Pings through the tunnel from east to west meanwhile; then `sent` and `received`."""
        count = seconds * PINGS_PER_SECOND
        # With both -c and -w it goes on until so many are answered, and so waits for the answers to the first `count`.
        process = self.lab.spawn(
            "host-east", ["ping", "-n", "-i", 1 / PINGS_PER_SECOND, "-c", count, "-w", seconds + 3, self.lab.west.host],
            stdout=subprocess.PIPE, text=True)
        outcome = {}
        yield outcome
        text = process.communicate(timeout=seconds + 20)[0]
        answered = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+)", text)}
        outcome |= {"sent": count, "received": sum(number <= count for number in answered)}

    def asked(self):
        """The status of the gateway under attack, which must come soon."""
        start = time.monotonic()
        status = self.west.status()
        assert time.monotonic() - start < STATUS_SECONDS, f"status took {time.monotonic() - start:.1f} s"
        return status

    def new_peer(self):
        """A peer that was not there yet comes up and is reached; the seconds it took."""
        start = time.monotonic()
        self.north.client("up", "west", "--timeout", f"{NEW_PEER_SECONDS}s")
        took = time.monotonic() - start
        outcome = ping(self.lab, "north", self.lab.west.host, count=5, extra=("-I", "10.3.0.1"), patient=True)
        assert outcome.received == outcome.sent, outcome.text
        return took

    def under_attack(self):
        """All that has to hold whatever the configuration: the figures of the attack and of the gateway."""
        before, memory, cpu = self.asked(), [resident_kilobytes(self.west.pid)], cpu_seconds(self.west.pid)
        most_half_open = 0
        with self.attack() as done, self.pings(FLOOD_SECONDS + 1) as pings:
            end = time.monotonic() + FLOOD_SECONDS
            time.sleep(1)
            took = self.new_peer()
            while time.monotonic() < end:
                most_half_open = max(most_half_open, self.asked()["ike"]["half_open"])
                memory.append(resident_kilobytes(self.west.pid))
                time.sleep(0.4)
        figures = done | {
            "took": took, "most_half_open": most_half_open, "grown": max(memory) - memory[0], "pings": pings,
            "cpu_seconds": cpu_seconds(self.west.pid) - cpu, "before": before, "after": self.asked()}
        print({key: value for key, value in figures.items() if key not in ("before", "after")}, figures["after"]["ike"])
        assert done["sent"] >= LEAST_SENT, "the attack was too weak to say anything"
        assert pings["sent"] - pings["received"] <= 1, pings
        assert took < NEW_PEER_SECONDS
        assert figures["grown"] < MOST_GROWTH_KILOBYTES, memory
        # Nobody is hit through us harder than they hit us.
        assert done["answered_bytes"] <= done["sent_bytes"]
        for gateway in (self.west, self.east, self.north):
            assert gateway.alive()
        assert self.east.connection("west")["state"] == "established"
        assert self.east.connection("west")["ike"]["established_seconds"] > FLOOD_SECONDS, "the tunnel was made anew"
        return figures


@pytest.fixture(scope="module")
def open_gateway():
    """For peers from anywhere: strangers are answered."""
    lab = make()
    yield Scene(lab, {"east": "any", "north": "any"}).up()
    remove(lab)


@pytest.fixture(scope="module")
def closed_gateway():
    """Every peer has its address, and nobody may come from another."""
    lab = make()
    yield Scene(lab, {"east": lab.east.underlay, "north": NORTH}, nat_traversal="off", mobike="off").up()
    remove(lab)


def test_cookies_carry_an_open_gateway_through_a_flood(open_gateway):
    figures = open_gateway.under_attack()
    load = figures["after"]["ike"]
    # A spoofed source costs a hash once the threshold is reached; only who hears the cookie gets further.
    assert figures["most_half_open"] >= COOKIE_THRESHOLD
    assert figures["most_half_open"] <= COOKIE_THRESHOLD + figures["cookies_returned"] + 5
    assert figures["cookies_returned"] > FLOOD_SECONDS * BOTS_PER_SECOND / 2
    assert load["cookies_sent"] > figures["first_messages"] / 2
    assert "asked for a cookie" in open_gateway.west.client("status").stdout
    open_gateway.flood_ended = time.monotonic()


def test_a_gateway_with_fixed_peers_does_not_hear_strangers(closed_gateway):
    figures = closed_gateway.under_attack()
    load = figures["after"]["ike"]
    dropped = difference(figures["before"]["drops"], figures["after"]["drops"], "stranger")
    assert dropped >= figures["sent"] * 0.99, f"{dropped} of {figures['sent']} were dropped as a stranger's"
    assert figures["answers"] == 0
    assert figures["most_half_open"] <= 1 and load["cookies_sent"] == load["key_exchanges_deferred"] == 0


def test_what_the_flood_left_half_open_is_forgotten(open_gateway):
    left = open_gateway.flood_ended + HALF_OPEN_SECONDS + 5 - time.monotonic()
    eventually(
        lambda: open_gateway.asked()["ike"]["half_open"] == 0, timeout=max(left, 5), every=0.5,
        what=lambda: f"half-open SAs are left: {open_gateway.asked()['ike']}")
    assert open_gateway.asked()["ike"]["sas"] == 2  # the tunnel's and the new peer's
    assert_ping(open_gateway.lab, "east")


def test_a_peer_gets_in_whatever_is_sent_in_its_name(open_gateway):
    """RFC 7296 §2.6: who hears the cookie has a share that nobody takes who only writes the peer's address."""
    scene, took = open_gateway, []
    with scene.attack(seconds=ATTEMPTS_SECONDS, per_second=IN_ITS_NAME_PER_SECOND, bots_per_second=0, source=NORTH) as done:
        time.sleep(1)
        for _ in range(ATTEMPTS):
            scene.north.client("down", "west")
            start = time.monotonic()
            scene.north.client("up", "west", "--timeout", f"{NEW_PEER_SECONDS}s")
            took.append(time.monotonic() - start)
    print(done, took)
    assert done["sent"] > IN_ITS_NAME_PER_SECOND * ATTEMPTS_SECONDS / 2, "the attack was too weak to say anything"
    assert len(took) == ATTEMPTS and max(took) < NEW_PEER_SECONDS
    assert scene.asked()["ike"]["cookies_sent"] > 0
    assert scene.east.connection("west")["state"] == "established"


KNOCK = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from flooder import first_message
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.bind(("", 500))
port.settimeout(1)
port.sendto(first_message(os.urandom(32), os.urandom(32), os.urandom(8)), (sys.argv[2], 500))
try:
    print("answered" if port.recv(2048) else "")
except TimeoutError:
    print("silence")
"""


def test_ike_is_not_taken_from_behind_a_protected_interface(open_gateway):
    """RFC 4301 §4.4.3: peers are in front of an underlay."""
    lab, folder = open_gateway.lab, pathlib.Path(__file__).parent
    heard = {
        role: lab.execute(role, [sys.executable, "-c", KNOCK, folder, lab.west.underlay]).stdout.strip()
        for role in ("attacker", "host-west")}
    assert heard == {"attacker": "answered", "host-west": "silence"}
