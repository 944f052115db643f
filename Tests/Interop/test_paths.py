"""Paths that change under a live tunnel: addresses links, NAT mappings; fragments (RFC 7383), redirects (RFC 5685)"""

import socket
import struct
import subprocess
import time

import pytest

from checks import assert_ping, assert_pings_both_ways, pings_again
from culvert_lab.capture import Capture
from culvert_lab.daemons import Culvert, StrongSwan, swanctl_conf
from culvert_lab.shell import eventually
from culvert_lab.traffic import Server, iperf, ping
from frames import IP, UDP, Ether
from gateways import SECRET, Pair, configuration, gateway, merge, peer

SECOND = {"east": "198.51.100.1", "west": "198.51.100.2"}
MOVED = "192.0.2.11"
NETLINK_NETFILTER = 12
PING_INTERVAL = 0.005
SKF = 53


class Pings:
    """Pings from a site's host through the tunnel for as long as the `with` lasts; then `sent`, `lost`, `gap_seconds`."""

    def __init__(self, lab, side="east", seconds=6):
        other = {"east": lab.west, "west": lab.east}[side]
        self.process = lab.spawn(
            f"host-{side}", ["ping", "-n", "-D", "-i", PING_INTERVAL, "-w", seconds, other.host],
            stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        text = self.process.communicate(timeout=60)[0]
        times = [float(line[1:line.index("]")]) for line in text.splitlines() if line.startswith("[")]
        summary = [line for line in text.splitlines() if "transmitted" in line][0].split()
        self.sent, self.received = int(summary[0]), int(summary[3])
        self.lost = self.sent - self.received
        self.gap_seconds = max(b - a for a, b in zip(times, times[1:]))


def flush_conntrack(lab):
    """The NAT forgets every mapping: IPCTNL_MSG_CT_DELETE without a tuple, as after a reboot."""
    with lab.socket("wire", socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        subsystem, delete, request_and_ack = 1, 2, 0x5
        netlink.send(struct.pack("=IHHIIBBH", 20, subsystem << 8 | delete, request_and_ack, 1, 0, 0, 0, 0))
        answer = netlink.recv(4096)
        assert struct.unpack_from("=i", answer, 16)[0] == 0


def keep_secondaries(lab, role, interface="wan0"):
    lab.execute(role, ["sysctl", "-q", "-w", f"net.ipv4.conf.{interface}.promote_secondaries=1"])


def add_second_links(lab):
    """East gets a second link `wan1` into the same wire, with a second network; west has an address of that on its one link."""
    lab._link("gw-east", "wan1", "wire", "east2")
    lab.ip("wire", "link", "set", "east2", "master", "br0")
    lab.ip("gw-east", "address", "add", f"{SECOND['east']}/24", "dev", "wan1")
    lab.ip("gw-west", "address", "add", f"{SECOND['west']}/24", "dev", "wan0")


def two_addresses(lab, mobike="auto"):
    """East and west with two addresses each, east on two links."""
    add_second_links(lab)
    first = {side: lab.site(side).underlay for side in ("east", "west")}
    both = {side: [first[side], SECOND[side]] for side in ("east", "west")}
    links = [{"name": "wan0", "role": "underlay"}, {"name": "wan1", "role": "underlay"}, {"name": "lan0", "role": "protected"}]
    east = gateway(lab, "east", connection={
        "local": {"address": both["east"]}, "remote": {"address": both["west"]}, "mobike": mobike}, interfaces=links)
    west = gateway(lab, "west", connection={
        "local": {"address": both["west"]}, "remote": {"address": both["east"]}, "mobike": mobike})
    west.start()
    east.start()
    west.wait_installed("east")
    east.wait_installed("west")
    return east, west


def spis(gateway, connection):
    return [(child["spi_in"], child["spi_out"]) for child in gateway.connection(connection)["children"]]


def same_sas(before, after):
    assert before == after, f"the SAs changed from {before} to {after}: the tunnel was set up anew"


# Addresses


def move_east(lab):
    """The address of east's link changes: the new one is there a moment before the old one goes."""
    lab.ip("gw-east", "address", "add", f"{MOVED}/24", "dev", "wan0")
    lab.ip("gw-east", "address", "del", f"{lab.east.underlay}/24", "dev", "wan0")


@pytest.mark.parametrize("nat_traversal", ["auto", "force"])
def test_the_address_of_the_initiator_changes_under_load(lab, nat_traversal):
    """The SAs stay; what is lost is what was on its way."""
    keep_secondaries(lab, "gw-east")
    east = gateway(lab, "east", connection={
        "local": {"address": [lab.east.underlay, MOVED]}, "nat_traversal": nat_traversal})
    west = gateway(lab, "west", connection={"nat_traversal": nat_traversal})
    west.start()
    east.start()
    west.wait_installed("east")
    east.wait_installed("west")
    before = spis(west, "east")
    with Server(lab, "host-west"):
        with Pings(lab, seconds=4) as pings:
            move_east(lab)
            flow = iperf(lab, "host-east", lab.west.host, seconds=2, udp_mbps=20, reverse=True)
    print(f"{pings.lost} of {pings.sent} pings lost, gap {pings.gap_seconds * 1000:.0f} ms; UDP lost {flow.lost_percent} %")
    same_sas(before, spis(west, "east"))
    assert west.connection("east")["remote"]["address"] == MOVED
    assert east.connection("west")["local"]["address"] == MOVED
    assert west.connection("east")["ike"]["mobike"] is True and west.connection("east")["ike"]["moves"] == 1
    assert pings.gap_seconds < 0.5, f"{pings.lost} of {pings.sent} pings lost, gap {pings.gap_seconds} s"
    east.client("rekey", "west", "--ike")
    east.client("rekey", "west")
    assert_pings_both_ways(lab)


def test_the_address_of_the_responder_changes(lab):
    keep_secondaries(lab, "gw-west")
    new = "192.0.2.12"
    east = gateway(lab, "east", connection={"remote": {"address": [lab.west.underlay, new]}})
    west = gateway(lab, "west", connection={"local": {"address": [lab.west.underlay, new]}})
    west.start()
    east.start()
    east.wait_installed("west")
    before = spis(east, "west")
    with Pings(lab, seconds=3) as pings:
        lab.ip("gw-west", "address", "add", f"{new}/24", "dev", "wan0")
        lab.ip("gw-west", "address", "del", f"{lab.west.underlay}/24", "dev", "wan0")
    same_sas(before, spis(east, "west"))
    assert east.connection("west")["remote"]["address"] == new
    assert pings.gap_seconds < 0.5, f"{pings.lost} of {pings.sent} pings lost, gap {pings.gap_seconds} s"


# Links


def test_a_link_goes_down_and_a_path_goes_silent(lab):
    """Down is seen at once; silence by liveness checks, within seconds. The SAs stay in both cases."""
    east, west = two_addresses(lab)
    before = spis(west, "east")
    assert east.connection("west")["local"]["address"] == lab.east.underlay
    with Pings(lab, seconds=3) as pings:
        lab.ip("gw-east", "link", "set", "wan0", "down")
    print(f"link down: gap {pings.gap_seconds * 1000:.0f} ms")
    assert east.connection("west")["local"]["address"] == SECOND["east"]
    assert west.connection("east")["remote"]["address"] == SECOND["east"]
    assert pings.gap_seconds < 1.5, f"gap {pings.gap_seconds} s"
    lab.ip("gw-east", "link", "set", "wan0", "up")
    lab.ip("gw-east", "route", "replace", "default", "via", lab.east.next_hop)
    time.sleep(1)
    # The wire loses everything of the second network; the links stay up.
    lab.execute("wire", ["nft", "-f", "-"], stdin="""
        table bridge silence {
            chain forward {
                type filter hook forward priority 0
                ip daddr 198.51.100.0/24 drop
            }
        }""")
    took = pings_again(lab, timeout=15)
    print(f"silent path: {took:.1f} s")
    assert east.connection("west")["local"]["address"] == lab.east.underlay
    same_sas(before, spis(west, "east"))
    assert_pings_both_ways(lab)


@pytest.mark.waits
def test_an_initiator_takes_the_addresses_of_its_peer_in_turn(lab):
    gateway(lab, "west").start()
    east = gateway(lab, "east", connection={"remote": {"address": ["192.0.2.99", "192.0.2.98", lab.west.underlay]}}).start()
    entry = east.wait_installed("west", 15)
    assert entry["remote"]["address"] == lab.west.underlay


# NAT


BOTH_NATS = """
    table ip culvert_nat {
        chain out {
            type nat hook postrouting priority 100
            oifname "west" ip saddr 172.16.1.0/24 meta l4proto udp %(east)s
            oifname "east" ip saddr 172.16.2.0/24 meta l4proto udp snat to 198.51.100.2
        }
        chain in {
            type nat hook prerouting priority -100
            iifname "east" ip daddr 198.51.100.2 udp dport { 500, 4500 } dnat to 172.16.2.1
        }
    }
    """


def double_nat(lab, east="snat to 198.51.100.1"):
    lab.nft("wire", "table ip culvert_nat {}\ndelete table ip culvert_nat\n" + BOTH_NATS % {"east": east})


@pytest.mark.parametrize("mobike", ["auto", "off"])
def test_both_ends_are_behind_nats_and_a_mapping_changes(labs, mobike):
    """East's NAT forgets everything and maps to other ports, under traffic. With MOBIKE east notices and says so; without, west
    asks whether the peer is where its packets come from: behind a NAT itself, it may not just follow (RFC 7296 §2.23)."""
    lab = labs("routed")
    double_nat(lab)
    there = {"east": "198.51.100.2", "west": "198.51.100.1"}
    east = gateway(lab, "east", connection={"remote": {"address": there["east"]}, "mobike": mobike})
    west = gateway(lab, "west", connection={"remote": {"address": there["west"]}, "mobike": mobike})
    west.start()
    east.start()
    entry = east.wait_installed("west")
    west.wait_installed("east")
    assert entry["local"]["nat"] is True and entry["remote"]["nat"] is True
    assert_pings_both_ways(lab)
    before = spis(west, "east")
    port = west.connection("east")["remote"]["port"]
    with Pings(lab, seconds=2):
        double_nat(lab, "snat to 198.51.100.1:20000-29999")
        flush_conntrack(lab)
    took = pings_again(lab, timeout=30)
    print(f"mobike {mobike}: answered again after {took:.1f} s")
    if mobike == "auto":
        eventually(
            lambda: west.connection("east")["remote"]["port"] >= 20000, timeout=10, what="west did not hear of the new port")
    same_sas(before, spis(west, "east"))
    assert west.connection("east")["remote"]["port"] != port
    assert_pings_both_ways(lab)


@pytest.mark.parametrize("mobike", ["auto", "off"])
def test_a_mapping_changes_under_traffic_and_the_open_side_follows_at_once(labs, mobike):
    """The first authenticated packet from the new port moves the path; nothing else does."""
    lab = labs("nat-east")
    pair = Pair(lab, connection={"mobike": mobike}).up()
    before = spis(pair.west, "east")
    rules = """
        table ip culvert_nat {{}}
        delete table ip culvert_nat
        table ip culvert_nat {{
            chain out {{
                type nat hook postrouting priority 100
                oifname "west" ip saddr 172.16.0.0/16 meta l4proto udp masquerade to :{ports}
            }}
        }}
        """
    with Pings(lab, seconds=3) as pings:
        lab.nft("wire", rules.format(ports="20000-29999"))
        flush_conntrack(lab)
    same_sas(before, spis(pair.west, "east"))
    assert pair.west.connection("east")["remote"]["port"] >= 20000
    assert pings.gap_seconds < 1, f"gap {pings.gap_seconds} s"
    assert_pings_both_ways(lab)


@pytest.mark.waits
def test_keepalives_are_sent_as_often_as_asked(labs):
    lab = labs("nat-east")
    Pair(lab, connection={"nat_keepalive": "1s", "dpd_interval": "60s"}).up()
    with Capture(lab, "west", "udp dst port 4500") as capture:
        time.sleep(3.5)
    octets = [bytes(Ether(frame)[UDP].payload)[:1] for frame in capture.stop() if len(Ether(frame)[UDP].payload) in (1, 18)]
    assert 2 <= octets.count(b"\xff") <= 5, octets


# With strongSwan


def strongswan_pair(lab, mover, nat_traversal="auto"):
    """strongSwan with MOBIKE as east or west; the other is Culvert. East begins."""
    if mover == "strongswan":
        theirs = peer(lab, "east", extra="mobike = yes", settings="port_nat_t = 4500")
        ours = gateway(lab, "west", connection={"dpd_interval": "5s"}).start()
        theirs.start()
        theirs.initiate()
        ours.wait_installed("east")
        return ours, theirs
    theirs = peer(lab, "west", remote="%any", extra="mobike = yes").start()
    ours = gateway(lab, "east", connection={"local": {"address": [lab.east.underlay, MOVED]}, "dpd_interval": "5s"}).start()
    ours.wait_installed("west")
    theirs.wait_installed()
    return ours, theirs


@pytest.mark.parametrize("mover", ["strongswan", "culvert"])
def test_mobility_with_strongswan(lab, mover):
    keep_secondaries(lab, "gw-east")
    ours, theirs = strongswan_pair(lab, mover)
    name = "east" if mover == "strongswan" else "west"
    assert ours.connection(name)["ike"]["mobike"] is True
    assert_pings_both_ways(lab)
    before = ours.connection(name)["ike"]["spi_initiator"]
    move_east(lab)
    lab.ip("gw-east", "route", "replace", "default", "via", lab.east.next_hop)
    took = pings_again(lab, timeout=20)
    print(f"{mover} moved: {took:.1f} s")
    side = ours.connection(name)["remote" if mover == "strongswan" else "local"]
    assert side["address"] == MOVED
    # Its user-space ESP cannot move an SA and rekeys it; the IKE SA moves.
    assert ours.connection(name)["ike"]["spi_initiator"] == before
    assert MOVED in theirs.sas()
    assert_pings_both_ways(lab)


@pytest.mark.waits
@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
def test_fragments_with_strongswan(lab, starter):
    """Both sides split at a few hundred octets, and each puts the other's together."""
    long = {side: ".".join([side] * 30) + ".example" for side in ("east", "west")}
    theirs = StrongSwan(lab, "gw-west", swanctl_conf(
        local=lab.west.underlay, remote=lab.east.underlay, local_id=long["west"], remote_id=long["east"],
        local_ts=lab.west.subnet, remote_ts=lab.east.subnet, psk=SECRET, ike="aes256gcm16-prfsha256-x25519",
        extra="fragmentation = force"), settings="fragment_size = 256").start()
    ours = gateway(lab, "east", connection={
        "fragment_size": 256, "local": {"id": long["east"]}, "remote": {"id": long["west"]},
    }, child={"start": "immediately" if starter == "culvert" else "manual"})
    with Capture(lab, "east", "udp port 500 or udp port 4500") as capture:
        ours.start()
        if starter == "strongswan":
            theirs.initiate()
        entry = ours.wait_installed("west")
    assert entry["ike"]["fragmentation"] is True
    split = set()
    for frame in capture.stop():
        packet = Ether(frame)
        message = bytes(packet[UDP].payload)
        message = message[4:] if message[:4] == bytes(4) else message
        if len(message) > 28 and message[16] == SKF:
            split.add(packet[IP].src)
            assert packet[IP].src != lab.east.underlay or packet[IP].len <= 256
    assert split == {lab.east.underlay, lab.west.underlay}
    assert_pings_both_ways(lab)


# Redirection


def doors(lab):
    """West: who knocks at 192.0.2.2 is sent to 192.0.2.22, where the tunnel is."""
    inner = "192.0.2.22"
    lab.ip("gw-west", "address", "add", f"{inner}/24", "dev", "wan0")
    whole = configuration(lab, "west")
    tunnel = merge(whole["connections"][0], {"local": {"address": inner}})
    door = merge(whole["connections"][0], {"name": "door", "redirect_to": inner})
    door["children"][0] = merge(door["children"][0], {
        "local_subnets": ["10.99.2.0/24"], "remote_subnets": ["10.99.1.0/24"]})
    return inner, Culvert(lab, "gw-west", merge(whole, {"connections": [door, tunnel]}))


@pytest.mark.waits
@pytest.mark.parametrize("client", ["culvert", "strongswan"])
def test_a_peer_is_redirected(lab, client):
    inner, west = doors(lab)
    west.start()
    if client == "culvert":
        east = gateway(lab, "east").start()
        assert east.wait_installed("west")["remote"]["address"] == inner
    else:
        theirs = peer(lab, "east").start()
        theirs.initiate()
        assert inner in theirs.wait_installed()
    west.wait_installed("east")
    assert_ping(lab, "east")


def test_a_live_peer_is_redirected_without_losing_a_packet_for_long(lab):
    """`culvert redirect`: the new tunnel stands before the old one goes."""
    inner = "192.0.2.22"
    lab.ip("gw-west", "address", "add", f"{inner}/24", "dev", "wan0")
    west = gateway(lab, "west", connection={"local": {"address": [lab.west.underlay, inner]}}).start()
    east = gateway(lab, "east").start()
    east.wait_installed("west")
    west.wait_installed("east")
    with Pings(lab, seconds=3) as pings:
        assert "being redirected" in west.client("redirect", "east", inner).stdout
    assert east.connection("west")["remote"]["address"] == inner
    assert pings.gap_seconds < 0.3, f"{pings.lost} of {pings.sent} lost, gap {pings.gap_seconds} s"
    assert east.client("redirect", "west", inner, check=False).returncode == 1
    assert "only the end that answered" in east.client("redirect", "west", inner, check=False).stderr
