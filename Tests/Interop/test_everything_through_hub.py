"""remote_subnets 0.0.0.0/0 takes all of the branch's traffic, and leaves the gateway, its LAN and IKE alone."""

import contextlib
import re
import socket
import threading

import pytest

from checks import Wire, assert_no_ping, assert_ping
from conftest import make, remove
from culvert_lab.daemons import REPOSITORY, Culvert
from culvert_lab.traffic import ping
from frames import IP, MARK, UDP, Raw, Tap, send_from_wire, to_gateway
from test_forwarding import converse, echo_once

SSH = 2222


@pytest.fixture(scope="module")
def gateways():
    """The two gateways of examples/everything-through-hub as they are printed there: branch is east, hub is west."""
    lab = make()
    pair = {}
    for side, name in (("west", "hub"), ("east", "branch")):
        text = (REPOSITORY / "examples" / "everything-through-hub" / f"{name}.yaml").read_text()
        pair[side] = Culvert(lab, f"gw-{side}", text).start()
    pair["east"].wait_installed("hub")
    pair["lab"] = lab
    yield pair
    remove(lab)


@pytest.fixture(scope="module")
def lab(gateways):
    return gateways["lab"]


def listening(lab, role, address):
    """A TCP server for one connection, as an SSH daemon would be."""
    listener = lab.socket(role)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, SSH))
    listener.listen()
    threading.Thread(target=echo_once, args=(listener,), daemon=True).start()
    return contextlib.closing(listener)


def test_the_branch_reaches_beyond_the_hub_through_the_tunnel(lab):
    with Wire(lab) as wire:
        assert_ping(lab, "east")
        assert_ping(lab, "west")
    wire.assert_nothing_clear()
    assert wire.kinds["esp"] >= 12


@pytest.fixture(scope="module")
def internet(lab):
    """192.0.2.9 on the public network, which knows no way to the branch; the hub is set up as the example's README says."""
    readme = (REPOSITORY / "examples" / "everything-through-hub" / "README.md").read_text()
    commands = re.search(r"```sh\n(.*?)```", readme, re.S)[1]
    lab.execute("gw-west", ["bash", "-e"], stdin=commands)
    lab.join("internet", "eth0", "192.0.2.9/24")
    return "192.0.2.9"


def test_the_internet_answers_the_branch_by_the_hubs_nat(gateways, lab, internet):
    before = gateways["west"].drops()
    with Wire(lab) as wire, Tap(lab, "internet", "eth0") as tap:
        outcome = ping(lab, "host-east", internet, count=5, patient=True)
        assert outcome.received == 5, outcome.text
    wire.assert_nothing_clear()
    asked = {packet[IP].src for packet in tap.packets(IP) if packet[IP].dst == internet}
    assert asked == {lab.west.underlay}
    assert gateways["west"].drops() == before
    with contextlib.closing(lab.socket("internet")) as listener:
        listener.bind((internet, 8080))
        listener.listen()
        threading.Thread(target=echo_once, args=(listener,), daemon=True).start()
        assert len(converse(lab, "host-east", internet, 8080)) == 100_000


def test_traceroute_to_the_internet_passes_the_hub(lab, internet):
    hops = []
    for ttl in (1, 3):
        text = ping(lab, "host-east", internet, count=1, extra=["-t", str(ttl)]).text
        hops.append(re.search(r"(?:From|from) (\S+?):? icmp_seq=\d+ (Time to live exceeded|ttl=\d+)", text)[1])
    assert hops == [lab.east.gateway, internet]


def test_ssh_to_the_gateways_public_address_works_from_outside(lab):
    with listening(lab, "gw-east", lab.east.underlay):
        assert len(converse(lab, "gw-west", lab.east.underlay, SSH)) == 100_000


def test_ssh_to_the_gateways_lan_address_works_from_its_lan(lab):
    with listening(lab, "gw-east", lab.east.gateway):
        assert len(converse(lab, "host-east", lab.east.gateway, SSH)) == 100_000


def test_the_lan_still_talks_to_its_gateway(lab):
    assert ping(lab, "host-east", lab.east.gateway).received == 3
    assert ping(lab, "gw-east", lab.east.host).received == 3


def test_the_gateway_itself_reaches_its_peer(lab):
    assert ping(lab, "gw-east", lab.west.underlay).received == 3


def test_ike_to_the_peer_still_works_so_a_new_tunnel_can_come_up(gateways, lab):
    gateways["east"].client("down", "hub")
    gateways["east"].client("up", "hub", "--timeout", "15s")
    assert_ping(lab, "east")


def test_spoofed_packets_from_anywhere_stay_out(lab):
    frames = [to_gateway(lab, "east", IP(src=source, dst=lab.east.host) / UDP(sport=9, dport=9) / Raw(MARK))
              for source in ("10.2.0.2", "8.8.8.8", "192.0.2.2", "172.31.0.1")]
    with Tap(lab, "host-east", "eth0") as tap:
        send_from_wire(lab, "east", frames)
    assert not [frame for frame in tap.frames if MARK in frame]


def test_with_the_hub_dead_nothing_takes_another_way(gateways, lab):
    gateways["west"].kill()
    with Wire(lab) as wire:
        assert_no_ping(lab, "east")
        ping(lab, "host-east", "8.8.8.8", count=2, wait_seconds=1)
        ping(lab, "host-east", lab.west.underlay, count=2, wait_seconds=1)
    wire.assert_nothing_clear()
