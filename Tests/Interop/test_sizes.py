"""Packets of every size over pairs of MTUs, and the checksums that a virtual link leaves out.

A veth pair whose end has a native XDP program carries at most some 3,500 octets: larger MTUs are DataplaneTests/SizeTests'.
"""

import re

import pytest

from checks import assert_ping, difference
from conftest import make, remove
from culvert_lab.traffic import ping
from gateways import Pair

SIZES = (20, 28, 576, 1280, 1400, 1446, 1472, 1500, 1700, 1800, 2000, 3000, 3826, 4096, 6000, 9000)


@pytest.fixture(scope="module", params=["bridge", "ipv6"])
def pair(request):
    lab = make(request.param)
    yield Pair(lab).up()
    remove(lab)


def set_mtus(lab, lan, underlay):
    for side in ("east", "west"):
        lab.ip(f"host-{side}", "link", "set", "eth0", "mtu", str(lan))
        lab.ip(f"gw-{side}", "link", "set", "lan0", "mtu", str(lan))
        lab.ip("wire", "link", "set", side, "mtu", str(underlay))
        lab.ip(f"gw-{side}", "link", "set", "wan0", "mtu", str(underlay))


@pytest.mark.parametrize("lan, underlay", [(1500, 1500), (1500, 1280), (1280, 1500), (3400, 1500), (1500, 3400), (3400, 3400)])
def test_what_may_be_cut_arrives_and_what_may_not_is_answered(pair, lan, underlay):
    lab = pair.lab
    set_mtus(lab, lan, underlay)
    pair.wait()
    assert_ping(lab, "east", count=1)
    before = pair.east.drops(), pair.west.drops()
    for size in SIZES:
        outcome = ping(lab, "host-east", lab.west.host, count=2, size=max(0, size - 28), interval=0.01, extra=["-M", "dont"])
        assert outcome.received == 2, f"{size} octets over {lan} and {underlay}: {outcome.text}"
    for size in (size for size in SIZES if 28 <= size <= lan):
        lab.ip("host-east", "route", "flush", "cache", check=False)
        sent = size
        for _ in range(4):
            outcome = ping(lab, "host-east", lab.west.host, count=1, size=sent - 28, extra=["-M", "do"])
            told = re.search(r"mtu ?= ?(\d+)", outcome.text)
            if outcome.received or not told:
                break
            assert int(told[1]) < sent
            sent = int(told[1])
        assert outcome.received == 1, f"{size} octets that may not be cut, at {sent}: {outcome.text}"
    for side, earlier in zip((pair.east, pair.west), before, strict=True):
        for reason in ("transmit-failed", "inject-full", "receive-dropped", "frame-too-small", "malformed"):
            assert difference(earlier, side.drops(), reason) == 0, reason


def test_a_host_on_the_same_machine_that_leaves_checksums_to_a_device_is_served(pair):
    """veth with its default offloads: TCP packets come with the pseudo-header's sum alone."""
    lab = pair.lab
    set_mtus(lab, 1500, 1500)
    for side in ("east", "west"):
        lab.execute(f"host-{side}", ["ethtool", "-K", "eth0", "tx", "on"])
    try:
        server = lab.spawn("host-west", ["python3", "-c", SERVER])
        text = lab.execute("host-east", ["python3", "-c", CLIENT, lab.west.host], timeout=20).stdout
        assert text.strip() == "100000"
        assert server.wait(timeout=5) == 0
    finally:
        for side in ("east", "west"):
            lab.execute(f"host-{side}", ["ethtool", "-K", "eth0", "tx", "off"])


SERVER = """
import socket
with socket.create_server(("", 8080)) as listener:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        count = 0
        while data := connection.recv(65536):
            count += len(data)
        connection.sendall(str(count).encode())
"""
CLIENT = """
import socket, sys, time
for _ in range(50):
    try:
        connection = socket.create_connection((sys.argv[1], 8080), timeout=5)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
with connection:
    connection.sendall(b"x" * 100000)
    connection.shutdown(socket.SHUT_WR)
    print(connection.recv(100).decode())
"""
