"""Rekeying, reauthentication, lifetimes, dead peers and start modes, as traffic sees them: an SA loses nothing."""

import contextlib
import math
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from checks import SA_REASONS, assert_ping, pings_again
from conftest import make, remove
from culvert_lab import steady
from culvert_lab.capture import Capture
from culvert_lab.daemons import Culvert, culvert_binary
from culvert_lab.shell import eventually
from culvert_lab.standstill import Standstill
from culvert_lab.traffic import Server, iperf, ping
from gateways import Pair, configuration, gateway, peer

# 5 s is the shortest lifetime; the end that made a child renews it after 3.5 to 4 s.
SHORT = {"connection": {"ike_lifetime": "13s"}, "child": {"lifetime": "5s"}}
UDP_TRIES = 3
UDP_OCTETS = 1200


def sa_losses(pair):
    return {(side, name): count for side in ("east", "west") for name, count in pair.side(side).drops().items()
            if name in SA_REASONS and count}


def ike_spi(gateway_, connection):
    return gateway_.connection(connection)["ike"]["spi_initiator"]


def assert_one_pair(pair):
    """Both ends have one child, the same, and one IKE SA, the same."""
    def agree():
        east, west = pair.east.connection("west"), pair.west.connection("east")
        (mine,), (theirs,) = east["children"], west["children"]
        return ((mine["spi_in"], mine["spi_out"]) == (theirs["spi_out"], theirs["spi_in"])
                and east["ike"]["spi_initiator"] == west["ike"]["spi_initiator"])

    eventually(agree, timeout=15, what="the two ends do not agree on child and IKE SA")


class Pings:
    """A ping every `interval` seconds for as long as the `with` lasts; then `sent` and `received`."""

    def __init__(self, lab, side="east", interval=0.02):
        other = {"east": lab.west, "west": lab.east}[side]
        self.lab, self.role, self.target, self.interval = lab, f"host-{side}", other.host, interval

    def __enter__(self):
        self.process = self.lab.spawn(
            self.role, ["ping", "-n", "-q", "-i", self.interval, "-W", 2, self.target], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        time.sleep(0.3)
        self.process.send_signal(signal.SIGINT)
        text = self.process.communicate(timeout=10)[0]
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        self.sent, self.received = int(counts[1]), int(counts[2])

    def assert_none_lost(self, at_least=50):
        assert self.sent >= at_least
        # The last one may be on its way when ping is told to end.
        assert self.received >= self.sent - 1, f"{self.sent - self.received} of {self.sent} pings were lost"


# Make before break, under load


def loaded(lab, seconds, workers):
    pair = Pair(lab, dataplane={"workers": workers}, **SHORT).up()
    before = ike_spi(pair.east, "west")
    with Server(lab, "host-west"):
        flow = iperf(lab, "host-east", lab.west.host, seconds=seconds, streams=4)
    entry = pair.east.connection("west")
    drops = {side: {name: count for name, count in pair.side(side).drops().items() if count} for side in ("east", "west")}
    print(f"{flow.mbps:.0f} Mb/s for {seconds} s, {entry['children'][0]['rekeys']} rekeys of the child; drops: {drops}")
    assert not sa_losses(pair)
    assert entry["children"][0]["rekeys"] >= seconds // 5
    assert ike_spi(pair.east, "west") != before, "the IKE SA was not rekeyed"
    assert flow.mbps > 50
    assert_one_pair(pair)
    pair.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_packet_is_lost_to_a_rekey_under_full_load(labs, workers):
    loaded(labs(queues=workers), 15 if workers == 2 else 12, workers)


@pytest.mark.full
def test_no_packet_is_lost_to_a_rekey_under_full_load_for_a_minute(labs):
    loaded(labs(queues=2), 60, 2)


def counted(lab, side):
    """UDP packets of the tunnel's hosts that a host sent, and that reached it: as the kernel counts them, whatever sockets do."""
    text = lab.execute(f"host-{side}", ["nft", "list", "table", "ip", "count"]).stdout
    return [int(number) for number in re.findall(r"packets (\d+)", text)]


def udp(lab, seconds):
    """UDP from east to west at half of what TCP makes of the lab: packets sent, lost on the way, and those of the time in which
    the machine stood still, which overflow rings whatever a rekey does."""
    with Server(lab, "host-west"):
        rate = iperf(lab, "host-east", lab.west.host, seconds=2, streams=2).mbps / 2
        for side in ("east", "west"):
            lab.nft(f"host-{side}", """
                table ip count
                delete table ip count
                table ip count {
                    chain out { type filter hook output priority 0; udp dport 5201 udp length > 1000 counter; }
                    chain in { type filter hook input priority 0; udp dport 5201 udp length > 1000 counter; }
                }""")
        with Standstill() as machine:
            lab.execute("host-east", [sys.executable, steady.__file__, lab.west.host, 5201, UDP_OCTETS,
                                      int(rate * 1e6 / 8 / UDP_OCTETS), seconds], timeout=seconds + 30)
    sent, arrived = counted(lab, "east")[0], counted(lab, "west")[1]
    print(f"UDP at {rate:.0f} Mb/s: {sent} packets, {sent - arrived} lost; the machine stood still for {machine.total:.3f} s, "
          f"{machine.longest:.3f} s at a time at most")
    return sent, sent - arrived, math.ceil(sent / seconds * machine.total)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.full)])
def test_udp_at_half_of_the_rate_loses_nothing_at_all(labs, seconds):
    lab = labs(queues=2)
    pair = Pair(lab, dataplane={"workers": 2}, **SHORT).up()
    outcomes = []
    while len(outcomes) < UDP_TRIES and (not outcomes or outcomes[-1][1]):
        outcomes.append(udp(lab, seconds))
        print({side: {name: count for name, count in pair.side(side).drops().items() if count} for side in ("east", "west")})
        assert not sa_losses(pair)
        sent, lost, excused = outcomes[-1]
        assert sent > 1000 and lost <= excused, outcomes
    assert pair.east.connection("west")["children"][0]["rekeys"] >= seconds // 5
    pair.end()


# Rekeys on demand, one lab for all


@pytest.fixture(scope="module")
def quiet():
    """Two Culverts with a tunnel whose ends rekey only when they are told to, with a group of its own for children."""
    lab = make(queues=2)
    yield Pair(lab, dataplane={"workers": 2}, child={
        "esp_proposals": ["aes256gcm16-ecp384-esn"], "lifetime_packets": 100_000}).up()
    remove(lab)


@pytest.mark.parametrize("words", [("west", "east"), ("west/net", "east/net"), ("west --ike", "east --ike"),
                                   ("west/net", "east --ike")])
def test_both_ends_rekey_at_once(quiet, words):
    """The children use ecp384, the IKE SA x25519: perfect forward secrecy with another group."""
    with Pings(quiet.lab) as pings:
        for _ in range(4):
            clients = [
                quiet.lab.spawn(one.role, [*command], stdout=subprocess.DEVNULL)
                for one, command in (
                    (one, [str(culvert_binary()), "rekey", *word.split(), "--socket", one.socket])
                    for one, word in zip((quiet.east, quiet.west), words))]
            assert [client.wait(timeout=10) for client in clients] == [0, 0]
            time.sleep(0.5)
    pings.assert_none_lost()
    assert_one_pair(quiet)
    assert not sa_losses(quiet)


@pytest.mark.parametrize("limits, rate", [({"lifetime_packets": 400}, 0.005), ({"lifetime_bytes": "32K"}, 0.005)])
def test_packets_and_octets_are_limited_without_a_loss(lab, limits, rate):
    """A ping of 84 octets every 5 ms on each end: both limits come every two seconds."""
    pair = Pair(lab, child=limits).up()
    with Pings(lab, "east", rate) as pings:
        eventually(lambda: pair.east.connection("west")["children"][0]["rekeys"] >= 3, timeout=30,
                   what=lambda: f"no rekeys: {pair.east.connection('west')}")
    pings.assert_none_lost(500)
    assert not sa_losses(pair)
    assert_one_pair(pair)


def test_liveness_is_asked_only_when_the_link_is_silent(quiet):
    """dpd_interval is 2 s. Traffic in both directions is sign of life enough."""
    with Pings(quiet.lab, interval=0.1):
        time.sleep(1)
        with Capture(quiet.lab, "west", "udp port 500 or udp port 4500") as busy:
            time.sleep(5)
        asked = len(busy.stop())
    with Capture(quiet.lab, "west", "udp port 500 or udp port 4500") as idle:
        time.sleep(5)
    assert asked == 0, f"{asked} IKE messages while packets came in all the time"
    assert len(idle.stop()) >= 2


# Reauthentication


def test_reauthentication_loses_nothing(lab):
    pair = Pair(lab, connection={"reauth_time": "6s"}).up()
    seen = set()
    with Pings(lab) as pings:
        end = time.monotonic() + 14
        while time.monotonic() < end:
            seen.add(ike_spi(pair.east, "west"))
            time.sleep(0.3)
    pings.assert_none_lost(200)
    assert len(seen) >= 3, "the IKE SA was not set up anew"
    assert pair.east.log().count("Authenticating anew") + pair.west.log().count("Authenticating anew") >= 2
    assert not sa_losses(pair)
    assert_one_pair(pair)


# Dead peers


@pytest.mark.waits
@pytest.mark.parametrize("action", ["wait", "clear"])
def test_what_happens_after_a_death_is_configured(lab, action):
    pair = Pair(lab, connection={"dpd_action": action, "dpd_interval": "1s"}).up()
    pair.west.kill()
    eventually(lambda: pair.east.connection("west")["state"] != "established", timeout=15, what="a dead peer was not noticed")
    pair.west.start()
    time.sleep(2)
    assert pair.east.connection("west")["children"][0]["state"] == "down"
    if action == "wait":
        assert ping(lab, "host-east", lab.west.host, count=1, wait_seconds=5).received == 1, "the packet that opened it is lost"
    else:
        assert ping(lab, "host-east", lab.west.host, count=2, wait_seconds=1).received == 0
        assert pair.east.connection("west")["children"][0]["state"] == "down"
        pair.east.client("up", "west")
        assert_ping(lab, "east")


# Start modes


@pytest.mark.waits
def test_the_ping_that_opens_the_tunnel_is_answered(lab):
    pair = Pair(lab, child={"start": "on-traffic"})
    pair.west.start()
    pair.east.start()
    once = ping(lab, "host-east", lab.west.host, count=1, wait_seconds=5)
    assert once.received == 1, once.text
    assert not sa_losses(pair)
    pair.end()


@pytest.mark.waits
def test_a_single_datagram_opens_the_tunnel_and_arrives(lab):
    """Nobody repeats it: what the gateway does not keep is lost."""
    pair = Pair(lab, child={"start": "on-traffic"}, dataplane={"workers": 2})
    pair.west.start()
    pair.east.start()
    with contextlib.closing(lab.socket("host-west", kind=socket.SOCK_DGRAM)) as inbox, \
            contextlib.closing(lab.socket("host-east", kind=socket.SOCK_DGRAM)) as sender:
        inbox.bind((lab.west.host, 7000))
        inbox.settimeout(6)
        sender.sendto(b"once", (lab.west.host, 7000))
        assert inbox.recv(100) == b"once"
    assert not sa_losses(pair)


# strongSwan


@pytest.fixture(params=["culvert", "strongswan"], scope="module")
def mixed(request):
    """Culvert in the east with a strongSwan in the west; children with ecp384 where the IKE SA has x25519. Who begins varies.

    What the initiator of a rekey guesses first is a group that the other end does not take: INVALID_KE_PAYLOAD both ways.
    """
    lab = make()
    theirs = peer(lab, "west", esp="aes256gcm16-ecp384-noesn").start()
    ours = gateway(lab, "east", child={
        "start": "immediately" if request.param == "culvert" else "manual",
        "esp_proposals": ["aes256gcm16-ecp256-ecp384"]}).start()
    if request.param == "strongswan":
        theirs.initiate()
    ours.wait_installed("west")
    yield lab, ours, theirs
    remove(lab)


def children_of(theirs):
    return len(re.findall(r"net: #\d+.*INSTALLED", theirs.sas()))


@pytest.mark.parametrize("who, what", [("culvert", "child"), ("culvert", "ike"), ("strongswan", "child"), ("strongswan", "ike")])
def test_either_end_rekeys_without_a_loss(mixed, who, what):
    lab, ours, theirs = mixed
    before = ours.connection("west")
    with Pings(lab, interval=0.05) as pings:
        time.sleep(0.5)
        if who == "culvert":
            ours.client("rekey", "west", *(["--ike"] if what == "ike" else []))
        else:
            theirs.swanctl("--rekey", "--ike" if what == "ike" else "--child", "gw" if what == "ike" else "net")
        time.sleep(2)
    after = ours.connection("west")
    if what == "ike":
        assert after["ike"]["spi_initiator"] != before["ike"]["spi_initiator"]
        assert after["children"][0]["spi_in"] == before["children"][0]["spi_in"]
    else:
        assert after["children"][0]["spi_in"] != before["children"][0]["spi_in"]
        assert after["children"][0]["rekeys"] == before["children"][0]["rekeys"] + 1
    pings.assert_none_lost(30)
    eventually(lambda: children_of(theirs) == 1, timeout=15, what=lambda: f"strongSwan has {theirs.sas()}")


def test_a_group_guessed_wrong_is_corrected(mixed):
    """After the rekeys above: ours offered ecp256 first and was told ecp384."""
    _, ours, theirs = mixed
    ours.client("rekey", "west")
    time.sleep(1)
    assert "INVAL_KE" in theirs.log()
    assert ours.connection("west")["children"][0]["state"] == "installed"


@pytest.mark.waits
def test_strongswans_guess_is_corrected_too(lab):
    theirs = peer(lab, "west", esp="aes256gcm16-ecp256-ecp384-noesn").start()
    ours = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16-ecp384"]}).start()
    before = ours.wait_installed("west")["children"][0]["spi_in"]
    theirs.swanctl("--rekey", "--child", "net")
    eventually(lambda: ours.connection("west")["children"][0]["spi_in"] != before, timeout=10, what="no rekey came through")
    assert "INVAL_KE" in theirs.log()
    assert_ping(lab, "east")


@pytest.mark.parametrize("esp, group", [
    ("aes256gcm16-noesn", None), ("aes256gcm16-x25519-noesn", "CURVE_25519"), ("aes256gcm16-modp2048-noesn", "MODP_2048"),
], ids=["without", "x25519", "modp2048"])
@pytest.mark.waits
def test_the_default_proposals_rekey_with_the_peers_group_or_without(lab, esp, group):
    """Whoever asks: perfect forward secrecy where strongSwan has it, of its group, and none where it has none."""
    theirs = peer(lab, "west", esp=esp).start()
    whole = configuration(lab, "east")
    del whole["connections"][0]["children"][0]["esp_proposals"]
    ours = Culvert(lab, "gw-east", whole).start()
    before = ours.wait_installed("west")["children"][0]["spi_in"]
    for rekey in (lambda: ours.client("rekey", "west"), lambda: theirs.swanctl("--rekey", "--child", "net")):
        rekey()
        eventually(lambda: ours.connection("west")["children"][0]["spi_in"] != before and children_of(theirs) == 1, timeout=10,
                   what="no rekey came through")
        before = ours.connection("west")["children"][0]["spi_in"]
        suite = re.search(r"INSTALLED.*ESP(?:-in-UDP)?:(\S+)", theirs.sas(), re.S).group(1)
        assert suite.partition("/")[2] == (group or ""), suite
    assert_ping(lab, "east")


@pytest.mark.waits
@pytest.mark.parametrize("make_before_break", ["yes", "no"])
def test_strongswan_reauthenticates(lab, make_before_break):
    """Made before broken nothing is lost; broken before made there is a gap, and then traffic again."""
    theirs = peer(lab, "west", settings=f"make_before_break = {make_before_break}").start()
    ours = gateway(lab, "east", child={"start": "manual"}).start()
    theirs.initiate()
    ours.wait_installed("west")
    before = ike_spi(ours, "west")
    with Pings(lab, interval=0.05) as pings:
        time.sleep(0.5)
        theirs.swanctl("--rekey", "--ike", "gw", "--reauth")
        eventually(lambda: (ours.connection("west")["ike"] or {}).get("spi_initiator", before) != before, timeout=15,
                   what="the IKE SA is the old one")
        time.sleep(1)
    if make_before_break == "yes":
        pings.assert_none_lost(20)
    ours.wait_installed("west")
    assert_ping(lab, "east")
    eventually(lambda: children_of(theirs) == 1, timeout=15, what=lambda: f"strongSwan has {theirs.sas()}")


@pytest.mark.waits
def test_culvert_reauthenticates_with_strongswan(lab):
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east", connection={"reauth_time": "8s"}).start()
    ours.wait_installed("west")
    before = ike_spi(ours, "west")
    with Pings(lab, interval=0.05) as pings:
        eventually(lambda: ike_spi(ours, "west") != before, timeout=15, what="nothing was set up anew")
        time.sleep(1)
    pings.assert_none_lost(50)
    eventually(lambda: len(re.findall(r"gw: #\d+", theirs.sas())) == 1, timeout=10, what=lambda: f"it has {theirs.sas()}")
    assert pings_again(lab) < 5
