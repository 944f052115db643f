"""An IPv6 underlay: two Culverts, then Culvert and strongSwan, which always encapsulates (kernel-libipsec). Inside it is IPv4."""

import contextlib
import json
import socket
import struct

import pytest

from checks import Wire, assert_ping, assert_pings_both_ways, difference
from conftest import make, remove
from culvert_lab.capture import Capture
from culvert_lab.shell import eventually
from culvert_lab.traffic import Server, iperf, ping
from frames import UDP, Ether, IPv6, send_from_wire
from gateways import Pair, carry_with_strongswan, gateway, peer

SIX = {"east": "2001:db8::1", "west": "2001:db8::2"}
HOLD = """
    table bridge hold {
        chain crossing {
            type filter hook forward priority 0
            ip6 saddr 2001:db8::1 meta l4proto { esp, udp } drop
        }
    }
    """


def inner_mtu(mtu, udp=False):
    """The largest inner packet: what is left ends on a boundary of four, with its trailer."""
    return ((mtu - 40 - 8 * udp - 8 - 8 - 16) & ~3) - 2


@pytest.fixture(scope="module")
def pair():
    lab = make("ipv6", queues=2)
    yield Pair(lab, dataplane={"workers": 2}).up()
    remove(lab)


def test_ping_crosses_as_native_esp_over_ipv6_and_nothing_in_the_clear(pair):
    with Wire(pair.lab) as wire:
        assert_pings_both_ways(pair.lab)
    wire.assert_nothing_clear()
    esp = wire.of("esp")
    assert len(esp) >= 12 and not wire.kinds["esp-in-udp"]
    assert {frame[12:14] for frame in esp} == {b"\x86\xdd"}
    assert {Ether(frame)[IPv6].hlim for frame in esp} == {64}


def test_status_writes_the_addresses_as_rfc_5952_has_them(pair):
    entry = pair.east.connection("west")
    assert (entry["local"]["address"], entry["remote"]["address"]) == ("2001:db8::1", "2001:db8::2")
    assert entry["children"][0]["encapsulation"] == "none" and not entry["local"]["nat"] and not entry["remote"]["nat"]


def test_tcp_and_udp_cross_both_ways_and_nothing_is_lost_for_an_sa_reason(pair):
    before = {side: pair.side(side).drops() for side in ("east", "west")}
    with Server(pair.lab, "host-west"):
        for reverse in (False, True):
            flow = iperf(pair.lab, "host-east", pair.lab.west.host, seconds=2, streams=2, reverse=reverse)
            print(f"TCP over IPv6 ESP, {'west to east' if reverse else 'east to west'}: {flow.mbps:.0f} Mb/s")
            assert flow.mbps > 100
    for side in ("east", "west"):
        drops = pair.side(side).drops()
        for name in ("replay", "authentication-failed", "unknown-spi", "malformed", "no-sa", "xdp-malformed"):
            assert difference(before[side], drops, name) == 0, name


def test_what_does_not_fit_is_answered_with_the_size_that_does(pair):
    lab, size = pair.lab, inner_mtu(1500)
    outcome = ping(lab, "host-east", lab.west.host, count=1, size=1472, extra=["-M", "do"])
    assert f"mtu = {size}" in outcome.text
    lab.ip("host-east", "route", "flush", "cache", check=False)
    with Wire(lab) as wire:
        assert_ping(lab, "east", count=1, size=size - 28, extra=["-M", "do"])
    assert max(len(frame) for frame in wire.of("esp")) == 14 + 1500 - (1500 - 40 - 32) % 4
    assert_ping(lab, "east", count=2, size=4000, extra=["-M", "dont"])


def test_dscp_and_ecn_are_the_outer_traffic_class(pair):
    for tos in (0xb8, 0x02, 0x2a):
        with Wire(pair.lab) as wire:
            assert_ping(pair.lab, "east", count=1, extra=["-Q", hex(tos)])
        marks = {Ether(frame)[IPv6].tc for frame in wire.of("esp")}
        assert tos in marks, f"inner {tos:#x}, outer {[hex(mark) for mark in marks]}"


def test_the_peers_neighbour_entry_is_kept_alive(pair):
    assert_ping(pair.lab, "east")
    assert "managed" in pair.lab.ip("gw-east", "-6", "neigh", "show", "2001:db8::2").stdout


def test_a_peer_whose_link_layer_address_changes_is_found_again(pair):
    lab, new = pair.lab, "02:00:00:00:77:01"
    old = lab.mac("gw-west", "wan0")
    for mac in (new, old):
        lab.ip("gw-west", "link", "set", "wan0", "address", mac)
        # Unsolicited neighbour advertisement, as ndisc_notify would send it.
        lab.ip("gw-east", "-6", "neigh", "flush", "dev", "wan0", check=False)
        eventually(lambda: ping(lab, "host-east", lab.west.host, count=1, wait_seconds=1).received == 1, timeout=20,
                   what=f"nothing crosses after wan0 of gw-west became {mac}")


def test_ike_and_esp_from_strangers_are_told_apart_from_neighbour_discovery(pair):
    """A flood of IKE from many addresses of one network is limited; the tunnel and neighbour discovery go on."""
    lab = pair.lab
    before = pair.east.drops()
    to = Ether(dst=lab.mac("gw-east", "wan0"), src=lab.mac("wire", "east"))
    frames = [bytes(to / IPv6(src=f"2001:db8:99::{number:x}", dst=lab.east.underlay) / UDP(sport=500, dport=500) / bytes(28))
              for number in range(1, 400)]
    esp = bytes(to / IPv6(src="2001:db8:99::1", dst=lab.east.underlay, nh=50) / bytes(60))
    send_from_wire(lab, "east", [*frames, esp], pause_seconds=0)
    eventually(lambda: difference(before, pair.east.drops(), "ike-flood") > 100, timeout=5, what=lambda: f"{pair.east.drops()}")
    assert difference(before, pair.east.drops(), "unknown-spi") == 1
    assert_pings_both_ways(lab)


def test_the_tunnel_comes_back_when_its_address_does(pair):
    lab = pair.lab
    lab.ip("gw-east", "address", "delete", "2001:db8::1/64", "dev", "wan0")
    eventually(lambda: "2001:db8::1" in (pair.east.connection("west")["reason"] or ""), timeout=15,
               what=lambda: f"{pair.east.connection('west')}")
    lab.ip("gw-east", "address", "add", "2001:db8::1/64", "dev", "wan0", "nodad")
    lab.ip("gw-east", "-4", "route", "replace", "default", "via", "inet6", "2001:db8::2", "dev", "wan0")
    eventually(lambda: ping(lab, "host-east", lab.west.host, count=1, wait_seconds=1).received == 1, timeout=30,
               what=lambda: f"no ping after the address came back: {pair.east.connection('west')}")


def test_forced_encapsulation_has_right_checksums_and_takes_zero(labs):
    lab = labs("ipv6")
    pair = Pair(lab, connection={"nat_traversal": "force"}).up()
    with Wire(lab) as wire:
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    datagrams = wire.of("esp-in-udp")
    assert len(datagrams) >= 12 and not wire.kinds["esp"]
    for frame in datagrams:
        packet = Ether(frame)
        told, packet[UDP].chksum = packet[UDP].chksum, None
        assert told and Ether(bytes(packet))[UDP].chksum == told
    assert pair.east.connection("west")["children"][0]["encapsulation"] == "udp"
    # RFC 6935: a peer may leave the checksum out. nft on the wire does.
    lab.nft("wire", """
        table bridge nochecksum {
            chain crossing {
                type filter hook forward priority 0
                ether type ip6 udp dport 4500 @th,64,32 != 0 udp checksum set 0
            }
        }
        """)
    with Wire(lab) as wire:
        assert_pings_both_ways(lab)
    assert {Ether(frame)[UDP].chksum for frame in wire.of("esp-in-udp")} >= {0}


def test_a_tunnel_moves_from_ipv4_to_ipv6_and_back_under_traffic(lab):
    """MOBIKE: east loses its IPv4 address and goes on over IPv6, then the other way round; the SAs stay."""
    for side in ("east", "west"):
        lab.enable_ipv6(f"gw-{side}", "wan0")
        lab.ip(f"gw-{side}", "address", "add", f"{SIX[side]}/64", "dev", "wan0", "nodad")
    both = {side: [lab.site(side).underlay, SIX[side]] for side in SIX}
    west = gateway(lab, "west", connection={"local": {"address": both["west"]}, "remote": {"address": both["east"]}}).start()
    east = gateway(lab, "east", connection={"local": {"address": both["east"]}, "remote": {"address": both["west"]}}).start()
    spi = east.wait_installed("west")["children"][0]["spi_in"]
    west.wait_installed("east")
    used = {}
    for old, new, add in [(f"{lab.east.underlay}/24", SIX["east"], []), (f"{SIX['east']}/64", lab.east.underlay, ["nodad"])]:
        lab.ip("gw-east", "address", "delete", old, "dev", "wan0")
        eventually(lambda: east.connection("west")["local"]["address"] == new, timeout=20,
                   what=lambda: f"{east.connection('west')}: {east.log()[-600:]}")
        # Until it has heard of the move, west answers where east was.
        eventually(lambda: west.connection("east")["remote"]["address"] == new, timeout=20,
                   what=lambda: f"{west.connection('east')}: {west.log()[-600:]}")
        with Wire(lab) as wire:
            assert_pings_both_ways(lab)
        wire.assert_nothing_clear()
        # Unicast: the kernels tell of their groups by IGMP and MLD.
        used[new] = {frame[12:14] for frame in wire.frames if not frame[0] & 1 and frame[12:14] != b"\x08\x06"}
        lab.ip("gw-east", "address", "add", old, "dev", "wan0", *add)
        lab.ip("gw-east", "route", "replace", "default", "via", lab.east.next_hop, check=False)
        assert east.connection("west")["children"][0]["spi_in"] == spi
    assert used[SIX["east"]] == {b"\x86\xdd"}, used


def test_a_path_that_carries_less_is_found_out_by_packet_too_big(labs):
    """The router's far link has an MTU of 1400: it answers with ICMPv6, and the gateway tells its hosts."""
    lab = labs("ipv6-routed")
    pair = Pair(lab).up()
    assert_pings_both_ways(lab)
    lab.ip("wire", "link", "set", "west", "mtu", "1400")
    ping(lab, "host-east", lab.west.host, count=3, size=inner_mtu(1500) - 28, extra=["-M", "do"], interval=0.3)
    eventually(lambda: "path MTU to 2001:db8:2::1 is 1400" in pair.east.log(), timeout=10, what=lambda: pair.east.log()[-500:])
    lab.ip("host-east", "route", "flush", "cache", check=False)
    outcome = ping(lab, "host-east", lab.west.host, count=1, size=inner_mtu(1500) - 28, extra=["-M", "do"])
    assert f"mtu = {inner_mtu(1400)}" in outcome.text, outcome.text
    assert_ping(lab, "east", count=2, size=inner_mtu(1400) - 28, extra=["-M", "do"])


def test_esp_that_came_in_fragments_is_put_together_and_opened(labs):
    """The kernel reassembles; raw and UDP sockets hand the packets to a worker."""
    for traversal in ("auto", "force"):
        lab = labs("ipv6")
        pair = Pair(lab, connection={"nat_traversal": traversal}).up()
        kind = "ip6 proto 50" if traversal == "auto" else "udp port 4500"
        with Capture(lab, "east", f"{kind} and src host 2001:db8::1") as capture:
            lab.nft("wire", HOLD)
            ping(lab, "host-east", lab.west.host, count=1, size=800, wait_seconds=1)
            lab.nft("wire", "delete table bridge hold")
        whole = max(capture.stop(), key=len)
        assert len(whole) > 800
        before = pair.west.connection("east")["children"][0]["packets_in"]
        send_from_wire(lab, "west", fragments(whole, lab.mac("gw-west", "wan0")))
        eventually(lambda: pair.west.connection("east")["children"][0]["packets_in"] == before + 1, timeout=5,
                   what=lambda: f"{traversal}: {pair.west.drops()}")
        pair.end()


def fragments(frame, mac, size=496):
    """An IPv6 frame as fragments of RFC 8200 §4.5, to a link-layer address."""
    header, payload, number = bytearray(frame[14:54]), frame[54:], frame[20]
    header[6] = 44
    result = []
    for offset in range(0, len(payload), size):
        piece = payload[offset:offset + size]
        more = offset + size < len(payload)
        header[4:6] = struct.pack("!H", 8 + len(piece))
        extension = struct.pack("!BBHL", number, 0, offset | more, 0x1234)
        result.append(bytes.fromhex(mac.replace(":", "")) + frame[6:14] + bytes(header) + extension + piece)
    return result


@pytest.mark.waits
@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
def test_traffic_both_ways_with_strongswan(labs, starter):
    lab = labs("ipv6")
    entry = carry_with_strongswan(lab, starter)
    assert entry["remote"]["address"] == "2001:db8::2"
    with Server(lab, "host-west"):
        assert iperf(lab, "host-east", lab.west.host, seconds=1).mbps > 1


def test_kernel_sockets_take_esp_where_xdp_is_detached(labs):
    lab = labs("ipv6")
    pair = Pair(lab).up()
    assert_pings_both_ways(lab)
    lab.ip("gw-west", "link", "set", "wan0", "xdp", "off")
    before = pair.west.connection("east")["children"][0]["packets_in"]
    ping(lab, "host-east", lab.west.host, count=3, interval=0.2, wait_seconds=1)
    eventually(lambda: pair.west.connection("east")["children"][0]["packets_in"] >= before + 3, timeout=5,
               what=lambda: json.dumps(pair.west.drops()))


@pytest.mark.waits
def test_the_examples_are_accepted_and_make_a_tunnel(labs):
    from culvert_lab.daemons import REPOSITORY, Culvert
    lab = labs("ipv6")
    sides = {side: Culvert(lab, f"gw-{side}", (REPOSITORY / "examples" / "ipv6-underlay" / f"{side}.yaml").read_text())
             for side in ("west", "east")}
    for one in sides.values():
        one.start()
    sides["east"].wait_installed("west")
    assert_pings_both_ways(lab)


@pytest.mark.waits
def test_the_gateway_listens_on_its_own_address_alone(labs):
    """No dual-stack socket: another address of the machine stays closed, and IPv4 too."""
    lab = labs("ipv6")
    lab.ip("gw-east", "address", "add", "2001:db8::11/64", "dev", "wan0", "nodad")
    gateway(lab, "east", child={"start": "manual"}).start()
    with contextlib.closing(lab.socket("gw-east", socket.AF_INET6, socket.SOCK_DGRAM)) as other:
        other.bind(("2001:db8::11", 500))
    with contextlib.closing(lab.socket("gw-east", socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 500))
