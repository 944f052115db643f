"""Whatever routed it, nothing between a local and a remote subnet leaves in the clear, nor comes in: by no port, no interface
that the file does not name, no rule of somebody else, in no state of the gateway.

    host-east 10.1.0.2 ── lan0 ┐                       gw-east protects 10.1.0.0/16 towards 10.2.0.0/24; its LAN is a /24 of that.
    dmz       10.1.9.2 ── dmz0 ┼ gw-east ── wan0 …     dmz0 and ppp0 are not in the file. The default route leaves by wan0, and
    isp   198.51.100.2 ── ppp0 ┘                       the laboratory's west would take it.
"""

import contextlib
import re
import time

import pytest

from checks import Wire, assert_no_ping, assert_ping, difference, pings_again
from conftest import make, remove
from culvert_lab.capture import Capture, classify
from culvert_lab.daemons import REPOSITORY
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from frames import IP, MARK, UDP, Dot1Q, Ether, Raw, Tap
from gateways import Pair, configuration, gateway

SITE = "10.1.0.0/16"
NOWHERE = "10.1.20.9"  # in the local subnets, and in no network that there is
EAST = {"child": {"local_subnets": [SITE]}}
RULE = ["from", SITE, "lookup", "100"]


def neighbours(lab):
    lab.neighbour("dmz", "10.1.9.2/24", "gw-east", "dmz0", "10.1.9.1/24")
    lab.neighbour("isp", "198.51.100.2/24", "gw-east", "ppp0", "198.51.100.1/24")


def two_sites(lab):
    pair = Pair(lab)
    pair.west = gateway(lab, "west", child={"remote_subnets": [SITE]})
    pair.east = gateway(lab, "east", **EAST)
    return pair.up()


@pytest.fixture(scope="module")
def pair():
    lab = make()
    neighbours(lab)
    yield two_sites(lab)
    remove(lab)


@pytest.fixture(scope="module")
def lab(pair):
    return pair.lab


class Outside:
    """Every frame on the wire and at the isp while the `with` lasts; nothing of the sites may be among them."""

    def __init__(self, lab):
        self.lab = lab

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.wire = self.stack.enter_context(Wire(self.lab))
        self.isp = self.stack.enter_context(Capture(self.lab, "eth0", role="isp"))
        return self

    def __exit__(self, *failure):
        self.stack.close()
        clear = self.wire.of("clear") + [frame for frame in self.isp.stop() if classify(frame) == "clear"]
        if not failure[0]:
            assert not clear, f"{len(clear)} frames left in the clear, the first: {clear[0].hex()}"


SENT = 5


def send(lab, role, target, *words, count=SENT):
    """Sends whether it is answered or not; how much was."""
    return ping(lab, role, target, count=count, interval=0.02, wait_seconds=0.3, extra=words).received


def send_from_everywhere(lab):
    """Both hosts, the one behind an interface that is not in the file, and the gateway itself: from its LAN's address."""
    send(lab, "host-west", lab.east.host)
    send(lab, "host-west", NOWHERE)
    send(lab, "host-east", lab.west.host)
    send(lab, "dmz", lab.west.host)
    send(lab, "gw-east", lab.west.host, "-I", "10.1.9.1")


def assert_works(pair):
    lab = pair.lab
    for role, target in (("host-east", lab.west.host), ("host-west", lab.east.host), ("dmz", lab.west.host),
                         ("host-west", "10.1.9.2")):
        eventually(
            lambda: ping(lab, role, target, count=1, wait_seconds=1).received, timeout=10,
            what=f"{role} does not reach {target}")


@contextlib.contextmanager
def default_by(lab, interface):
    """The gateway's default route, by the underlay or by an interface that is not in the file."""
    hop = {"wan0": lab.west.underlay, "ppp0": "198.51.100.2"}[interface]
    lab.ip("gw-east", "route", "replace", "default", "via", hop, "dev", interface)
    try:
        yield
    finally:
        lab.ip("gw-east", "route", "replace", "default", "via", lab.west.underlay, "dev", "wan0")


@contextlib.contextmanager
def rule(lab, *words, route=("default", "via", "192.0.2.2")):
    """A policy rule of the operator's before ours, into a table with a route, or none."""
    if route:
        lab.ip("gw-east", "route", "add", *route, "table", "100")
    lab.ip("gw-east", "rule", "add", "pref", "100", *words)
    try:
        yield
    finally:
        lab.ip("gw-east", "rule", "del", "pref", "100")
        lab.ip("gw-east", "route", "flush", "table", "100", check=False)


def lan_down(lab):
    lab.ip("gw-east", "link", "set", "lan0", "down")


def lan_up(lab):
    lab.ip("gw-east", "link", "set", "lan0", "up")


def lan_without_address(lab):
    lab.ip("gw-east", "address", "del", f"{lab.east.gateway}/24", "dev", "lan0")


def lan_with_address(lab):
    lab.ip("gw-east", "address", "add", f"{lab.east.gateway}/24", "dev", "lan0")


def lan_deleted(lab):
    lab.ip("gw-east", "link", "del", "lan0")


def lan_made(lab):
    lab.connect_host("east")


def test_what_the_file_does_not_name_is_no_hindrance(pair, lab):
    """The host behind dmz0 is in the local subnets: it has the tunnel, both ways, and its neighbours."""
    with Outside(lab):
        assert_works(pair)
        assert send(lab, "dmz", lab.east.host) == SENT
        assert send(lab, "host-east", "10.1.9.2") == SENT


@pytest.mark.parametrize("interface", ["wan0", "ppp0"])
def test_a_local_subnet_is_wider_than_the_lan(pair, lab, interface):
    before = pair.east.drops()
    with default_by(lab, interface), Outside(lab):
        time.sleep(0.1)
        send(lab, "host-west", NOWHERE)
    assert difference(before, pair.east.drops(), "clear-outbound") == SENT


@pytest.mark.parametrize("interface", ["wan0", "ppp0"])
@pytest.mark.parametrize("break_it, mend_it", [
    (lan_down, lan_up), (lan_without_address, lan_with_address), (lan_deleted, lan_made)],
    ids=["down", "without-address", "deleted"])
def test_the_lan_goes_under_traffic(pair, lab, interface, break_it, mend_it):
    before = pair.east.drops()
    with default_by(lab, interface):
        try:
            with Outside(lab):
                running = lab.spawn("host-west", ["ping", "-q", "-i", "0.004", "-c", "250", "-W", "1", lab.east.host], stdout=-3)
                time.sleep(0.3)
                break_it(lab)
                running.wait(timeout=20)
            counted = difference(before, pair.east.drops(), "clear-outbound")
        finally:
            mend_it(lab)
            lab.ip("host-east", "route", "replace", "default", "via", lab.east.gateway)
    assert counted > 50, f"{counted} of the packets that had no way left are counted"
    pings_again(lab, "west")
    assert_works(pair)


def foreign_rules(one):
    """What the status says of policy rules that come before ours."""
    return [cause["sentence"] for cause in one.status()["causes"] if cause["code"] == "foreign-rule"]


@pytest.mark.parametrize("words, route", [
    (RULE, ("default", "via", "192.0.2.2")), (["lookup", "100"], ("default", "via", "198.51.100.2", "dev", "ppp0")),
    (["to", "10.2.0.0/24", "lookup", "100"], ("10.2.0.0/24", "via", "192.0.2.2"))], ids=["from", "all", "to"])
def test_a_rule_before_ours_takes_nothing_out(pair, lab, words, route):
    before = pair.east.drops()
    with rule(lab, *words, route=route):
        with Outside(lab):
            send_from_everywhere(lab)
        # The gateway's own and those of the host behind dmz0.
        assert difference(before, pair.east.drops(), "clear-outbound") >= 2 * SENT
        told = eventually(lambda: foreign_rules(pair.east), timeout=5, what="the rule is not named")
        assert "policy rule 100" in told[0] and "ip rule del priority 100" in told[0], told
        assert told[0] in pair.east.log()
        page = pair.east.client("diagnose", check=False)
        assert page.returncode == 1 and "policy rule 100" in page.stdout, page
    eventually(lambda: not foreign_rules(pair.east), timeout=5, what="the rule is gone and still named")
    assert_works(pair)


def test_a_rule_before_ours_without_a_route_is_no_matter(pair, lab):
    with rule(lab, *RULE, route=None), Outside(lab):
        assert_works(pair)
    assert not foreign_rules(pair.east)


def test_marks_and_source_routes_take_nothing_out(pair, lab):
    with rule(lab, "fwmark", "0x7", "lookup", "100"), Outside(lab):
        send(lab, "gw-east", lab.west.host, "-m", "7", "-I", "10.1.9.1")
        lab.execute("gw-east", ["sysctl", "-q", "-w", "net.ipv4.conf.all.accept_source_route=1"])
        # Loose source route by the peer's public address.
        words = ["ping", "-n", "-c", "3", "-i", "0.05", "-W", "1", lab.west.underlay, lab.west.host]
        lab.execute("dmz", words, check=False)


@pytest.mark.parametrize("kind", ["ppp0", "vlan", "macvlan"])
def test_spoofed_packets_come_in_by_no_interface(pair, lab, kind):
    """From the isp, and by children of the underlay's port."""
    packet = IP(src=lab.west.host, dst=lab.east.host, ttl=60) / UDP(sport=9, dport=9) / Raw(MARK)
    outer = ("isp", "eth0") if kind == "ppp0" else ("wire", "east")
    name = {"ppp0": "ppp0", "vlan": "wan0.7", "macvlan": "mv0"}[kind]
    words = {"vlan": ["type", "vlan", "id", "7"], "macvlan": ["type", "macvlan", "mode", "bridge"]}
    if kind in words and lab.ip("gw-east", "link", "add", "link", "wan0", "name", name, *words[kind], check=False).returncode:
        pytest.skip(f"this kernel has no {kind} devices")
    lab.ip("gw-east", "link", "set", name, "up")
    frame = Ether(dst=lab.mac("gw-east", name), src=lab.mac(*outer))
    frame = bytes(frame / Dot1Q(vlan=7) / packet if kind == "vlan" else frame / packet)
    before = pair.east.drops()
    with Tap(lab, "host-east", "eth0") as tap, contextlib.closing(lab.frames(*outer)) as port:
        for _ in range(10):
            port.send(frame)
    if kind != "ppp0":
        lab.ip("gw-east", "link", "del", name)
    assert not [frame for frame in tap.frames if MARK in frame]
    assert difference(before, pair.east.drops(), "clear-inbound") == 10


def test_a_reload_has_no_gap(pair, lab):
    with rule(lab, *RULE), Outside(lab):
        running = lab.spawn("dmz", ["ping", "-q", "-i", "0.002", "-w", "3", lab.west.host], stdout=-3)
        for lifetime in ("50m", "40m", "1h"):
            pair.east.configure(configuration(lab, "east", child={"local_subnets": [SITE], "lifetime": lifetime}))
            pair.east.client("reload")
            time.sleep(0.3)
        running.wait(timeout=10)
    pair.wait()
    assert_works(pair)


def test_flushed_rules_are_told_and_put_back_at_once(pair, lab):
    look = ["nft", "list", "chain", "ip", "culvert", "outbound"]
    for words in (["flush", "ruleset"], ["delete", "table", "ip", "culvert"], ["flush", "chain", "ip", "culvert", "outbound"]):
        told = pair.east.log().count("put back")
        lab.execute("gw-east", ["nft", *words])
        eventually(
            lambda: "10.2.0.0" in lab.execute("gw-east", look, check=False).stdout,
            timeout=2, what="the rules do not come back")
        assert told or "put back" in pair.east.log()
    with rule(lab, *RULE), Outside(lab):
        send_from_everywhere(lab)


def test_a_deleted_tunnel_device_is_made_again(pair, lab):
    for words in (["del", "culvert0"], ["set", "culvert0", "down"]):
        with Outside(lab):
            lab.ip("gw-east", "link", *words)
            eventually(
                lambda: send(lab, "gw-east", lab.west.host, "-I", "10.1.9.1", count=1), timeout=5,
                what=f"the gateway's own packets find no tunnel after `ip link {' '.join(words)}`")
            assert_works(pair)
    assert "deleted by somebody" in pair.east.log() and "set down by somebody" in pair.east.log()


def test_an_xdp_program_that_somebody_takes_off_is_put_back(pair, lab):
    with Outside(lab):
        for interface in ("wan0", "lan0"):
            for mode in ("xdp", "xdpgeneric"):
                lab.ip("gw-east", "link", "set", "dev", interface, mode, "off", check=False)
            eventually(
                lambda: "xdp" in lab.ip("gw-east", "link", "show", interface).stdout, timeout=5,
                what=f"{interface} stays without")
            assert f"{interface} had lost the XDP program" in pair.east.log()
        assert_works(pair)


def test_after_kill_9_and_with_the_filter_alone(pair, lab):
    """Last in the file but for the restart: routes, rules, program and filter are what a killed gateway left."""
    pair.east.kill()
    for interface in ("wan0", "lan0"):
        for mode in ("xdp", "xdpgeneric"):
            lab.ip("gw-east", "link", "set", "dev", interface, mode, "off", check=False)
    with Outside(lab):
        send_from_everywhere(lab)
        with rule(lab, *RULE):
            send_from_everywhere(lab)
        lan_down(lab)
        send_from_everywhere(lab)
        with rule(lab, *RULE, route=("default", "via", "198.51.100.2", "dev", "ppp0")):
            send_from_everywhere(lab)
        for priority in ("22000", "22010", "22011"):
            lab.ip("gw-east", "rule", "del", "pref", priority)
        send_from_everywhere(lab)
    lan_up(lab)
    pair.east.start()
    pair.wait()
    assert_works(pair)


def test_a_lan_that_comes_after_the_start(pair, lab):
    pair.east.end()
    lan_deleted(lab)
    pair.east.start()
    pair.wait()
    with Outside(lab):
        send(lab, "host-west", lab.east.host)
    lan_made(lab)
    pings_again(lab, "west")
    assert_works(pair)


def test_one_armed_a_default_route_serves_no_local_subnet(lab, labs):
    """10.1.0.0/24 is on the underlay's wire, behind the same port. Its host is reached in the clear there, of course."""
    armed = labs()
    lan_deleted(armed)
    armed.join("armed", "eth0", "10.1.0.7/24")
    armed.ip("armed", "route", "add", "default", "via", "10.1.0.1")
    armed.ip("gw-east", "address", "add", "10.1.0.1/24", "dev", "wan0")
    pair = Pair(armed)
    pair.east = gateway(armed, "east", interfaces=[{"name": "wan0", "role": "both"}], **EAST)
    pair.west = gateway(armed, "west", child={"remote_subnets": [SITE]})
    pair.up()
    assert_ping(armed, "west", target="10.1.0.7")
    before = pair.east.drops()
    with Wire(armed) as wire:
        send(armed, "host-west", NOWHERE)
        armed.ip("gw-east", "address", "del", "10.1.0.1/24", "dev", "wan0")
        send(armed, "host-west", "10.1.0.7")
    assert difference(before, pair.east.drops(), "clear-outbound") > SENT
    # None goes to the default route's gateway; of those under way while the address went, none to anybody.
    hop = bytes.fromhex(armed.mac("gw-west", "wan0").replace(":", ""))
    astray = [frame for frame in wire.of("clear") if frame[:6] == hop]
    assert not astray, astray[0].hex()


def test_the_sites_own_networks_stay_reachable_inside_a_wider_protected_prefix(labs):
    """10.1.5.0/24 lies behind a router of the site; the peer, which protects all of 10.0.0.0/8, is dead."""
    alone = labs()
    neighbours(alone)
    alone.ip("dmz", "address", "add", "10.1.5.1/32", "dev", "lo")
    alone.ip("gw-east", "route", "add", "10.1.5.0/24", "via", "10.1.9.2")
    for remote in ("10.0.0.0/8", "0.0.0.0/0"):
        ours = gateway(alone, "east", child={"local_subnets": [SITE], "remote_subnets": [remote]}).start()
        with Outside(alone):
            for role in ("gw-east", "host-east"):
                assert send(alone, role, "10.1.5.1") == SENT, f"{role} does not reach 10.1.5.1 beside {remote}"
            assert_no_ping(alone, "east")
            assert send(alone, "host-east", NOWHERE) == 0
        ours.end()


def test_the_lines_that_free_a_host_leave_nothing(lab):
    """Those of docs/operation.md, after a gateway was killed. Last in the file."""
    text = (REPOSITORY / "docs" / "operation.md").read_text()
    lines = re.search(r"```\n(for interface in .*?)```", text, re.S)[1]
    for daemon in lab.daemons:
        daemon.kill()
    lab.execute("gw-east", ["bash", "-c", lines])
    assert "220" not in lab.ip("gw-east", "rule", "show").stdout
    left = [line for line in lab.ip("gw-east", "route", "show", "table", "all").stdout.splitlines() if "proto 84" in line]
    assert not left, left
    assert "culvert" not in lab.execute("gw-east", ["nft", "list", "tables"]).stdout
    links = lab.ip("gw-east", "-d", "link", "show").stdout
    assert "culvert0" not in links and "xdp" not in links, links
    # As if there had been no gateway: the kernel sends it on in the clear.
    with Wire(lab) as wire:
        send(lab, "host-east", lab.west.host)
    assert wire.of("clear")
