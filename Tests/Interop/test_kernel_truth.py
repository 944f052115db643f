"""The kernel's routes, as the kernel takes them: next hops of the other family, nexthop objects, equal routes, networks behind
routers of the site. Two Culverts, shared by the whole file; each test puts back what it changed.

East's protected side is wider than its LAN: 10.1.5.0/24 is behind a router there (host-east); 10.0.0.0/8 is behind the tunnel.
"""

import contextlib
import time

import pytest

from checks import Wire, assert_ping
from conftest import make, remove
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import Pair, gateway

INNER = "10.1.5.1"
INNER_NET = "10.1.5.0/24"
WRONG_MAC = "02:00:00:00:66:66"


@pytest.fixture(scope="module")
def pair():
    lab = make()
    for role, interface in (("gw-east", "wan0"), ("gw-west", "wan0"), ("gw-east", "lan0"), ("host-east", "eth0")):
        lab.enable_ipv6(role, interface)
    lab.execute("gw-east", ["sysctl", "-q", "-w", "net.ipv4.nexthop_compat_mode=0"])
    lab.ip("host-east", "addr", "add", f"{INNER}/32", "dev", "lo")
    pair = Pair.__new__(Pair)
    pair.lab = lab
    pair.east = gateway(lab, "east", child={"local_subnets": ["10.1.0.0/16"], "remote_subnets": ["10.0.0.0/8"]})
    pair.west = gateway(lab, "west", child={"local_subnets": ["10.0.0.0/8"], "remote_subnets": ["10.1.0.0/16"]})
    yield pair.up()
    remove(lab)


@pytest.fixture(scope="module")
def lab(pair):
    return pair.lab


def link_local(lab, role, interface):
    """The interface's link-local address, made if there is none (no duplicate detection runs in the laboratory)."""
    words = lab.ip(role, "-6", "-o", "addr", "show", "dev", interface, "scope", "link").stdout.split()
    if "inet6" in words:
        return words[words.index("inet6") + 1].split("/")[0]
    address = "fe80::" + lab.mac(role, interface).replace(":", "")[-4:]
    lab.ip(role, "addr", "add", f"{address}/64", "dev", interface, "nodad")
    return address


@contextlib.contextmanager
def route(lab, *words, role="gw-east"):
    lab.ip(role, "route", "add", *words)
    try:
        yield
    finally:
        lab.ip(role, "route", "del", *words, check=False)


@contextlib.contextmanager
def no_way_by_arp(lab, role, address, interface):
    """Whoever sends to the address itself sends to nobody."""
    lab.ip(role, "neigh", "replace", address, "lladdr", WRONG_MAC, "dev", interface, "nud", "permanent")
    try:
        yield
    finally:
        lab.ip(role, "neigh", "del", address, "dev", interface)


def answers(lab, target=None):
    return ping(lab, "host-west", target or lab.east.host, count=1, wait_seconds=1).received == 1


def test_esp_leaves_by_an_ipv6_next_hop(pair, lab):
    """BGP unnumbered, RFC 8950: the route to the peer has an IPv6 gateway."""
    gateway_address = link_local(lab, "gw-west", "wan0")
    with no_way_by_arp(lab, "gw-east", lab.west.underlay, "wan0"):
        eventually(lambda: not answers(lab), timeout=10, what="the wrong neighbour entry is not used: the test shows nothing")
        with Wire(lab) as wire, route(lab, f"{lab.west.underlay}/32", "via", "inet6", gateway_address, "dev", "wan0"):
            eventually(lambda: answers(lab), timeout=10, what="nothing left by the IPv6 next hop")
            assert_ping(lab, "east")
            assert_ping(lab, "west")
        wire.assert_nothing_clear()
    eventually(lambda: answers(lab), timeout=10, what="the way back by ARP was not taken")


def test_decrypted_packets_leave_by_an_ipv6_next_hop(pair, lab):
    with route(lab, INNER_NET, "via", "inet6", link_local(lab, "host-east", "eth0"), "dev", "lan0"):
        eventually(lambda: answers(lab, INNER), timeout=10, what="nothing reached the network behind the site's router")


@pytest.mark.parametrize("number", ["7", "9"], ids=["object", "group"])
def test_a_route_with_nothing_but_a_nexthop_id(pair, lab, number):
    """`nexthop_compat_mode=0`: the kernel says the number alone, and changes what it means without a word about the route."""
    lab.ip("gw-east", "nexthop", "add", "id", "7", "via", lab.east.host, "dev", "lan0")
    lab.ip("gw-east", "nexthop", "add", "id", "9", "group", "7")
    try:
        with route(lab, INNER_NET, "nhid", number):
            eventually(lambda: answers(lab, INNER), timeout=10, what="the nexthop object is not followed")
            lab.ip("gw-east", "nexthop", "replace", "id", "7", "via", "10.1.0.77", "dev", "lan0")
            eventually(lambda: not answers(lab, INNER), timeout=10, what="the object's change is not followed")
            lab.ip("gw-east", "nexthop", "replace", "id", "7", "via", lab.east.host, "dev", "lan0")
            eventually(lambda: answers(lab, INNER), timeout=10, what="the object's second change is not followed")
            lab.ip("gw-east", "nexthop", "del", "id", "7")
            eventually(lambda: not answers(lab, INNER), timeout=10, what="the object's end took no route along")
    finally:
        for one in ("9", "7"):
            lab.ip("gw-east", "nexthop", "del", "id", one, check=False)


def test_of_two_equal_routes_one_is_deleted(pair, lab):
    with route(lab, INNER_NET, "via", "10.1.0.77"):
        lab.ip("gw-east", "route", "append", INNER_NET, "via", lab.east.host)
        time.sleep(0.2)
        assert not answers(lab, INNER), "the first of the two decides"
        lab.ip("gw-east", "route", "del", INNER_NET, "via", "10.1.0.77")
        eventually(lambda: answers(lab, INNER), timeout=5, what="the other route was forgotten too")
        lab.ip("gw-east", "route", "del", INNER_NET, "via", lab.east.host)


def test_a_site_reaches_its_inner_networks_without_the_peer(pair, lab):
    """The protected 10.0.0.0/8 covers them, the site's own route is longer: with the tunnel up and with the peer dead."""
    def reaches():
        words = ["-I", lab.east.gateway]
        return ping(lab, "gw-east", INNER, count=1, wait_seconds=1, extra=words).received == 1

    with route(lab, INNER_NET, "via", lab.east.host):
        eventually(reaches, timeout=5, what="the gateway lost an inner network")
        pair.west.kill()
        pair.east.wait_reason("west", ".", timeout=20)
        eventually(reaches, timeout=5, what="the gateway lost an inner network with its peer")
