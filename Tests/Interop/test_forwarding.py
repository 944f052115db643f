"""What a router owes its packets: neighbours, TTL, sizes, marks. Two Culverts over native ESP, shared by the whole file."""

import contextlib
import re
import socket
import threading
import time

import pytest

from checks import Wire, assert_ping, assert_pings_both_ways, difference
from conftest import make, remove
from culvert_lab.traffic import ping
from frames import ICMP, IP, TCP, Tap
from gateways import Pair

# 1500 less outer IPv4 (20), ESP header (8), IV (8) and ICV (16) leaves 1448, a multiple of four; the last two bytes of that
# are pad length and next header.
INNER_MTU = 1446
MSS = INNER_MTU - 40
NEW_MAC = "02:00:00:00:99:01"


@pytest.fixture(scope="module")
def pair():
    lab = make()
    yield Pair(lab).up()
    remove(lab)


@pytest.fixture(scope="module")
def lab(pair):
    return pair.lab


def test_packets_wait_while_a_neighbour_resolves(pair, lab):
    """The first ping after the neighbour was forgotten is answered, and a burst of ten loses none."""
    assert_pings_both_ways(lab)
    for role, interface in (("gw-west", "lan0"), ("gw-east", "wan0"), ("gw-west", "wan0"), ("gw-east", "lan0")):
        lab.ip(role, "neigh", "flush", "dev", interface)
        time.sleep(0.2)
        assert_ping(lab, "east", count=1)
    for role, interface in (("gw-west", "lan0"), ("gw-east", "lan0")):
        lab.ip(role, "neigh", "flush", "dev", interface)
        time.sleep(0.2)
        assert_ping(lab, "east", count=10, interval=0.002, extra=["-l", "3"])


def test_neighbours_in_use_are_kept_by_the_kernel(pair, lab):
    assert_pings_both_ways(lab)
    listing = lab.ip("gw-east", "neigh", "show", "dev", "wan0").stdout
    assert re.search(r"192\.0\.2\.2 .*lladdr", listing), listing


@pytest.mark.parametrize("role, interface, seen_at", [
    ("host-west", "eth0", ("host-west", "eth0")), ("gw-west", "wan0", ("wire", "west"))])
def test_a_neighbour_that_changes_its_mac_is_followed(pair, lab, role, interface, seen_at):
    assert_pings_both_ways(lab)
    old = lab.mac(role, interface)
    for mac in (NEW_MAC, old):
        lab.execute(role, ["sysctl", "-q", "-w", f"net.ipv4.conf.{interface}.arp_notify=1"])
        lab.ip(role, "link", "set", interface, "address", mac)
        # With arp_notify Linux announces the new address; this packet teaches those who missed it.
        lab.execute(role, ["ping", "-n", "-c", "1", "-W", "1", (lab.west.gateway if role == "host-west" else lab.east.underlay)],
                    check=False)
        deadline = time.monotonic() + 20
        while ping(lab, "host-east", lab.west.host, count=1, wait_seconds=1).received != 1:
            assert time.monotonic() < deadline, f"nothing reaches {role} after its {interface} became {mac}"
        with Tap(lab, *seen_at) as tap:
            assert_ping(lab, "east", count=3)
        towards = {packet.dst for packet in tap.packets(IP) if packet[IP].dst in (lab.west.host, lab.west.underlay)}
        assert towards == {mac}


def test_what_does_not_fit_and_may_not_be_cut_is_answered_with_the_size_that_fits(pair, lab):
    before = pair.east.drops()
    outcome = ping(lab, "host-east", lab.west.host, count=1, size=1472, extra=["-M", "do"])
    said = re.search(r"From (\S+) .*[Ff]rag needed and DF set \(mtu = (\d+)\)", outcome.text)
    assert said, outcome.text
    assert (said[1], int(said[2])) == (lab.east.gateway, INNER_MTU)
    assert difference(before, pair.east.drops(), "too-big") == 1
    lab.ip("host-east", "route", "flush", "cache", check=False)


def test_the_size_that_was_told_crosses_in_one_piece(pair, lab):
    with Wire(lab) as wire:
        assert_ping(lab, "east", count=1, size=INNER_MTU - 28, extra=["-M", "do"])
    wire.assert_nothing_clear()
    outer = [frame for frame in wire.of("esp")]
    assert outer and all(len(frame) <= 1514 and not (frame[20] & 0x3f or frame[21]) for frame in outer)


def test_what_may_be_cut_is_cut_and_arrives(pair, lab):
    for size in (1440, 1472, 4000):
        assert_ping(lab, "east", count=2, size=size, extra=["-M", "dont"])
        assert_ping(lab, "west", count=2, size=size, extra=["-M", "dont"])


def test_the_mss_is_clamped_in_both_directions(pair, lab):
    with contextlib.closing(lab.socket("host-west")) as listener, Tap(lab, "host-west", "eth0") as west, \
            Tap(lab, "host-east", "eth0") as east:
        listener.bind((lab.west.host, 8080))
        listener.listen()
        with contextlib.closing(lab.socket("host-east")) as client:
            client.settimeout(5)
            client.connect((lab.west.host, 8080))

    def mss(tap, source):
        return {dict(packet[TCP].options)["MSS"] for packet in tap.packets(TCP)
                if packet[IP].src == source and packet[TCP].flags.S}

    assert mss(west, lab.east.host) == {MSS}
    assert mss(east, lab.west.host) == {MSS}


def test_traceroute_shows_both_gateways(pair, lab):
    hops = []
    for ttl in (1, 2, 3):
        text = ping(lab, "host-east", lab.west.host, count=1, extra=["-t", str(ttl)]).text
        hop = re.search(r"(?:From|from) (\S+?):? icmp_seq=\d+ (Time to live exceeded|ttl=\d+)", text)
        assert hop, text
        hops.append(hop[1])
    assert hops == [lab.east.gateway, lab.west.gateway, lab.west.host]


def test_each_gateway_takes_one_from_the_ttl(pair, lab):
    outcome = assert_ping(lab, "east", count=1)
    assert "ttl=62" in outcome.text


def test_dscp_and_ecn_are_copied_to_the_outer_header(pair, lab):
    for tos in (0xb8, 0x02, 0x01, 0x2a):
        with Wire(lab) as wire:
            assert_ping(lab, "east", count=1, extra=["-Q", hex(tos)])
        marks = {frame[15] for frame in wire.of("esp")}
        assert tos in marks, f"inner {tos:#x}, outer {[hex(mark) for mark in marks]}"


def test_congestion_met_on_the_wire_is_told_to_the_host(pair, lab):
    """The bridge marks CE on the outer header; RFC 6040: the inner becomes CE when it was capable."""
    lab.nft("wire", """
        table bridge congestion {
            chain crossing {
                type filter hook forward priority 0
                ip protocol esp ip ecn set ce
            }
        }
        """)
    try:
        with Tap(lab, "host-west", "eth0") as tap:
            assert_ping(lab, "east", count=1, extra=["-Q", "0x02"])
        requests = [packet for packet in tap.packets(ICMP) if packet[ICMP].type == 8]
        assert requests and all(packet[IP].tos & 3 == 3 for packet in requests)
    finally:
        lab.nft("wire", "delete table bridge congestion")


def test_the_gateways_own_packets_take_the_tunnel(pair, lab):
    with Wire(lab) as wire:
        for role, target in (("gw-east", lab.west.host), ("gw-east", lab.west.gateway), ("host-east", lab.west.gateway)):
            outcome = ping(lab, role, target, count=3)
            assert outcome.received == 3, f"{role} to {target}: {outcome.text}"
    wire.assert_nothing_clear()
    assert wire.kinds["esp"] >= 36


def test_tcp_to_the_gateway_itself_works_through_the_tunnel(pair, lab):
    """As SSH to 10.2.0.1 from the other site would."""
    with contextlib.closing(lab.socket("gw-west")) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((lab.west.gateway, 2222))
        listener.listen()
        threading.Thread(target=echo_once, args=(listener,), daemon=True).start()
        assert converse(lab, "host-east", lab.west.gateway, 2222) == b"x" * 100_000


def echo_once(listener):
    """Accepts one connection and answers 100,000 bytes."""
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.recv(16)
            connection.sendall(b"x" * 100_000)


def converse(lab, role, address, port):
    """Connects, says hello, returns everything that is answered."""
    with contextlib.closing(lab.socket(role)) as client:
        client.settimeout(10)
        client.connect((address, port))
        client.sendall(b"hello")
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        return received


def test_a_host_that_does_not_exist_is_counted(pair, lab):
    before = pair.west.drops()
    outcome = ping(lab, "host-east", "10.2.0.77", count=3, interval=0.2, wait_seconds=1)
    assert outcome.received == 0
    time.sleep(4)
    assert difference(before, pair.west.drops(), "no-neighbour") == 3


def test_many_packet_sizes_cross_unharmed(pair, lab):
    for size in list(range(0, 68)) + list(range(1380, INNER_MTU - 27, 3)):
        assert_ping(lab, "east", count=1, size=size, extra=["-p", "a5"])
