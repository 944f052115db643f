"""Two Culverts over native ESP: two workers each, two queues per link."""

import struct
import time

import pytest

from checks import Wire, assert_ping, assert_pings_both_ways, assert_transfers, pings_again
from conftest import make, remove
from culvert_lab.capture import Capture
from culvert_lab.traffic import Server, cpu_seconds, iperf
from gateways import Pair

TCP_FLOOR_MBPS = 800
TRIES = 3  # the machine may be busy with something else once
IDLE_SECONDS, IDLE_PERCENT = 10, 2.0


@pytest.fixture(scope="module")
def pair():
    lab = make(queues=2)
    yield Pair(lab, dataplane={"workers": 2}).up()
    remove(lab)


def test_an_idle_gateway_uses_less_than_two_percent_of_a_core(pair):
    assert_pings_both_ways(pair.lab)
    time.sleep(2)
    before = {side: cpu_seconds(pair.side(side).pid) for side in ("east", "west")}
    time.sleep(IDLE_SECONDS)
    used = {side: 100 * (cpu_seconds(pair.side(side).pid) - before[side]) / IDLE_SECONDS for side in before}
    print(f"percent of a core while idle: {used}")
    assert max(used.values()) < IDLE_PERCENT, used


def test_ping_crosses_as_native_esp_and_nothing_in_the_clear(pair):
    with Wire(pair.lab) as wire:
        assert_pings_both_ways(pair.lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp"] >= 12
    assert not wire.kinds["esp-in-udp"]


def test_status_tells_what_was_negotiated(pair):
    entry = pair.east.connection("west")
    child = entry["children"][0]
    assert entry["reason"] is None and entry["ike_version"] == 2
    assert entry["ike"]["initiator"] is True and entry["ike"]["proposal"] == "aes256gcm16-prfsha256-x25519"
    assert child["encapsulation"] == "none" and child["proposal"] == "aes256gcm16-esn" and child["mode"] == "tunnel"
    other = pair.west.connection("east")["children"][0]
    assert (child["spi_in"], child["spi_out"]) == (other["spi_out"], other["spi_in"])
    assert len(pair.east.status()["workers"]) == 2
    assert entry["ike"]["spi_initiator"] == pair.west.connection("east")["ike"]["spi_initiator"]


def test_counters_agree_on_both_ends(pair):
    def counts():
        east, west = pair.east.connection("west")["children"][0], pair.west.connection("east")["children"][0]
        return east["packets_out"], west["packets_in"], west["packets_out"], east["packets_in"]

    before = counts()
    assert_ping(pair.lab, "east", count=20)
    time.sleep(1)
    grown = [after - start for start, after in zip(before, counts())]
    assert grown == [20, 20, 20, 20]


@pytest.mark.parametrize("reverse", [False, True], ids=["east-to-west", "west-to-east"])
def test_tcp_with_four_streams_reaches_the_floor(pair, reverse):
    figures = []
    with Wire(pair.lab, "net 10.1.0.0/24 or net 10.2.0.0/24", 96) as wire, Server(pair.lab, "host-west"):
        while len(figures) < TRIES and max(figures, default=0) < TCP_FLOOR_MBPS:
            flow = iperf(pair.lab, "host-east", pair.lab.west.host, seconds=4, streams=4, reverse=reverse)
            figures.append(flow.mbps)
    print(f"TCP, 4 streams, {'west to east' if reverse else 'east to west'}: {figures} Mb/s")
    wire.assert_nothing_clear()
    assert max(figures) >= TCP_FLOOR_MBPS, figures


def test_two_workers_never_use_a_sequence_number_or_an_iv_twice(pair):
    """As seen on the wire: four streams spread over both workers of each gateway, one SA per direction."""
    with Capture(pair.lab, "east", "ip proto 50", 60) as capture, Server(pair.lab, "host-west"):
        iperf(pair.lab, "host-east", pair.lab.west.host, seconds=1, streams=4)
    headers = [struct.unpack_from("!L4x8s", frame, 34) + struct.unpack_from("!L", frame, 38)
               for frame in capture.stop() if len(frame) >= 50]
    assert len(headers) > 10_000
    assert len({(spi, sequence) for spi, _, sequence in headers}) == len(headers)
    assert len({(spi, iv) for spi, iv, _ in headers}) == len(headers)


def test_udp_crosses_both_ways_without_loss_to_speak_of(pair):
    assert_transfers(pair.lab, udp_mbps=100, tcp_seconds=1)


def test_nothing_was_lost_to_replay_or_authentication(pair):
    for side in ("east", "west"):
        drops = pair.side(side).drops()
        assert not {name: count for name, count in drops.items()
                    if count and name in ("replay", "authentication-failed", "selector-mismatch", "no-socket", "malformed")}


@pytest.mark.waits
@pytest.mark.parametrize("esp, expected", [
    ("aes256gcm16-noesn", "aes256gcm16"), ("aes128gcm16-esn", "aes128gcm16-esn"), ("aes128gcm16-noesn", "aes128gcm16")])
def test_every_esp_proposal_carries_traffic(lab, esp, expected):
    pair = Pair(lab, child={"esp_proposals": [esp]}).up()
    proposal = pair.east.connection("west")["children"][0]["proposal"]
    assert proposal in (expected, f"{expected}-noesn")
    assert_pings_both_ways(lab)


@pytest.mark.waits
def test_udp_encapsulation_can_be_forced(lab):
    Pair(lab, connection={"nat_traversal": "force"}).up()
    with Wire(lab) as wire:
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp-in-udp"] >= 12 and not wire.kinds["esp"]


@pytest.mark.waits
@pytest.mark.parametrize("kind", ["routed", "nat-east"])
def test_a_tunnel_crosses_a_router_and_a_nat(labs, kind):
    lab = labs(kind)
    pair = Pair(lab).up()
    with Wire(lab) as wire:
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    expected = "udp" if kind == "nat-east" else "none"
    assert pair.east.connection("west")["children"][0]["encapsulation"] == expected
    assert pair.east.connection("west")["local"]["nat"] is (kind == "nat-east")


@pytest.mark.waits
def test_down_and_up_again(lab):
    pair = Pair(lab, child={"start": "manual"})
    pair.west.start()
    pair.east.start()
    assert pair.east.connection("west")["state"] == "down"
    done = pair.east.client("up", "west", "--timeout", "15s")
    assert done.stdout.strip()
    assert_pings_both_ways(lab)
    pair.east.client("down", "west")
    assert pair.east.connection("west")["children"][0]["state"] == "down"
    pair.east.client("up", "west/net")
    assert_pings_both_ways(lab)


@pytest.mark.waits
def test_on_traffic_starts_when_a_packet_comes(lab):
    pair = Pair(lab, child={"start": "on-traffic"})
    pair.west.start()
    pair.east.start()
    assert pair.east.connection("west")["children"][0]["state"] != "installed"
    assert pings_again(lab, "east", timeout=20) < 20
    pair.wait()
