"""Faults that no IKE message tells of: each is set up, both ends judge it, the remedy they name is applied, and cures it.

What counts is the code of the cause; that page and JSON agree, and that "nothing is wrong" is never said without evidence, is
looked at with every verdict.
"""

import contextlib
import json
import re
import signal
import subprocess
import time

import pytest

from culvert_lab.daemons import Culvert, culvert_binary
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import Pair, configuration, gateway, merge
from judgement import EVIDENCE, assert_cured, causes, codes, verdict, wait_code


@pytest.fixture(scope="module")
def pair(shared_lab):
    made = Pair(shared_lab).up()
    yield made
    made.end()


@contextlib.contextmanager
def pings(lab, role="host-east", to=None, interval=0.1, size=56):
    """Pings that go on, whatever becomes of them."""
    words = ["ping", "-n", "-q", "-i", str(interval), "-s", str(size), to or lab.west.host]
    process = lab.spawn(role, words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=5)


@contextlib.contextmanager
def on_the_wire(lab, rule):
    """A rule of the bridge between the gateways, without a word to anybody."""
    lab.nft("wire", "table bridge fault { chain c { type filter hook forward priority 0; " + rule + "; }; }")
    try:
        yield
    finally:
        lab.nft("wire", "delete table bridge fault")


def anew(pair):
    """New child SAs, and nothing remembered of the traffic before."""
    pair.east.client("down", "west/net")
    eventually(lambda: pair.west.connection("east")["children"][0]["state"] == "down", timeout=5, what="west keeps the child")
    eventually(lambda: pair.east.connection("west")["children"][0]["state"] == "down", timeout=5, what="east keeps the child")
    pair.east.client("up", "west/net")
    pair.wait()


def test_a_tunnel_without_traffic_is_not_called_well(pair, shared_lab):
    anew(pair)
    for one in (pair.east, pair.west):
        assert verdict(one)["verdict"] == "no-evidence"
        page = one.client("diagnose").stdout
        assert EVIDENCE not in page and "no tunnel carried packets" in page and "no packet has come or gone" in page, page
    assert_cured(pair, shared_lab)


def test_esp_that_is_dropped_on_the_path(pair, shared_lab):
    with on_the_wire(shared_lab, "ip protocol esp drop"):
        anew(pair)
        with pings(shared_lab):
            cause = wait_code(pair.east, "esp-no-return")
            assert "IKE passes" in cause["sentence"] and "nat_traversal: force" in cause["remedy"], cause
            assert cause["severity"] == "problem" and cause["child"] == "net" and cause["line"] > 0, cause
            # Nothing reaches the far end, which cannot know more; but it does not say that all is well.
            assert verdict(pair.west)["verdict"] == "no-evidence"
            status = pair.east.client("status").stdout
            assert "packets go out and none comes back" in status, status
        pair.east.configure(configuration(shared_lab, "east", connection={"nat_traversal": "force"}))
        pair.east.client("reload")
        pair.wait()
        assert pair.east.connection("west")["children"][0]["encapsulation"] == "udp"
        assert_cured(pair, shared_lab)
    pair.east.configure(configuration(shared_lab, "east"))
    pair.east.client("reload")
    pair.wait()


def test_a_host_without_a_way_back(pair, shared_lab):
    anew(pair)
    shared_lab.ip("host-west", "route", "del", "default")
    with pings(shared_lab):
        cause = wait_code(pair.west, "no-local-answer")
        assert "10.2.0.0/24" in cause["remedy"] and "route" in cause["remedy"], cause
        cause = wait_code(pair.east, "esp-no-return")
        assert "the far side does not answer" in cause["sentence"], cause
    shared_lab.ip("host-west", "route", "add", "default", "via", shared_lab.west.gateway)
    assert_cured(pair, shared_lab)


def test_large_packets_that_vanish(pair, shared_lab):
    anew(pair)
    assert_cured(pair, shared_lab)
    with on_the_wire(shared_lab, "ip length > 1300 drop"):
        assert ping(shared_lab, "host-east", shared_lab.west.host, count=2, size=1350, wait_seconds=1).received == 0
        for one, side in ((pair.east, "east"), (pair.west, "west")):
            cause = wait_code(one, "mtu-black-hole")
            assert "of 1300 octets reach" in cause["sentence"] and "of 1320 not" in cause["sentence"], cause
            remedy = re.search(r"`ip link set wan0 mtu (\d+)`", cause["remedy"])
            shared_lab.ip(f"gw-{side}", "link", "set", "wan0", "mtu", remedy[1])
        told = eventually(
            lambda: ping(shared_lab, "host-east", shared_lab.west.host, count=2, size=1350, extra=["-M", "dont"]).received,
            timeout=5, what="large packets still vanish")
        assert told
        assert_cured(pair, shared_lab)
        assert pair.east.connection("west")["state"] == "established"
    for side in ("east", "west"):
        shared_lab.ip(f"gw-{side}", "link", "set", "wan0", "mtu", "1500")


def test_a_path_that_loses_packets(pair, shared_lab):
    anew(pair)
    with pings(shared_lab, interval=0.01):
        with on_the_wire(shared_lab, "ip protocol esp numgen random mod 100 < 40 drop"):
            for one, name in ((pair.east, "west"), (pair.west, "east")):
                cause = wait_code(one, "path-loss")
                assert "did not arrive" in cause["sentence"], cause
                assert 20 < one.connection(name)["children"][0]["loss_percent"] < 60
        for one in (pair.east, pair.west):
            eventually(lambda: "path-loss" not in codes(verdict(one)), timeout=15, every=0.5, what="loss is told for ever")
    assert_cured(pair, shared_lab)


def test_less_agreed_than_configured(pair, shared_lab):
    wide = configuration(shared_lab, "east", child={"remote_subnets": ["10.2.0.0/16"]})
    pair.east.configure(wide)
    pair.east.client("reload")
    pair.wait()
    cause = wait_code(pair.east, "selectors-narrowed")
    assert "10.2.0.0/16" in cause["sentence"] and "agreed was 10.1.0.0/24 <-> 10.2.0.0/24" in cause["sentence"], cause
    assert pair.east.connection("west")["children"][0]["negotiated"] == {"local": ["10.1.0.0/24"], "remote": ["10.2.0.0/24"]}
    assert "selectors-narrowed" not in codes(verdict(pair.west))
    pair.east.configure(configuration(shared_lab, "east"))
    pair.east.client("reload")
    pair.wait()
    assert_cured(pair, shared_lab)


def test_an_inner_interface_that_is_down(pair, shared_lab):
    anew(pair)
    shared_lab.ip("gw-west", "link", "set", "lan0", "down")
    try:
        with pings(shared_lab):
            cause = wait_code(pair.west, "interface-unusable")
            assert re.search("lan0.*down", cause["sentence"]) and cause["interface"] == "lan0", cause
            assert "ip link set lan0 up" in cause["sentence"] + cause["remedy"], cause
            assert "no-local-answer" not in codes(verdict(pair.west))
            assert wait_code(pair.east, "esp-no-return")
    finally:
        shared_lab.ip("gw-west", "link", "set", "lan0", "up")
    eventually(lambda: "interface-unusable" not in codes(verdict(pair.west)), timeout=10, every=0.3,
               what=lambda: f"lan0 is up again, and called unusable: {verdict(pair.west)}")
    assert_cured(pair, shared_lab)


def test_a_peer_that_is_dead_and_a_gateway_that_is(pair, shared_lab):
    """From the first unanswered check on; then what is said where the gateway itself is dead."""
    anew(pair)
    assert_cured(pair, shared_lab)
    pair.west.process.send_signal(signal.SIGKILL)
    pair.west.process.wait(timeout=5)
    killed = time.monotonic()
    cause = wait_code(pair.east, "peer-silent", timeout=8)
    assert time.monotonic() - killed < 6, "the silence is told late"
    assert re.search(r"Nothing has come from 192.0.2.2 for \d+ s; \d of \d checks", cause["sentence"]), cause
    entry = pair.east.connection("west")
    if entry["state"] == "established":
        assert entry["liveness"]["pending_seconds"] > 0 and entry["liveness"]["unanswered"] >= 2, entry
    assert "has been silent for" in eventually(
        lambda: re.search("has been silent for", pair.east.log()) and pair.east.log(), timeout=5, what="no log line")

    for command in ("status", "diagnose"):
        done = pair.west.client(command, check=False)
        assert done.returncode == 69 and "has been dead for" in done.stderr, done
        assert "packets to 10.1.0.0/24 are blackholed on purpose" in done.stderr, done
    words = [culvert_binary(), "doctor", "--config", pair.west.configuration_path, "--socket", pair.west.socket, "--json"]
    done = shared_lab.execute("gw-west", words, check=False)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and not told["ready"], told
    assert any("blackholed on purpose" in one["found"] for one in told["findings"]), told

    eventually(lambda: pair.east.client("status", "--check", check=False).returncode == 1, timeout=20, what="--check says 0")
    page = pair.east.client("status", "--failed", "--short").stdout
    assert re.search(r"^west +(failed|connecting)", page, re.M), page
    # The kernel of the dead gateway answers for it: nobody listens.
    cause = wait_code(pair.east, "ike-port-unreachable", timeout=20)
    assert "is there" in cause["sentence"] and "start the IKE daemon" in cause["remedy"], cause
    pair.west.start()
    pair.wait()
    assert pair.east.client("status", "--check").returncode == 0
    assert_cured(pair, shared_lab)


def test_a_file_that_the_next_start_will_refuse(pair, shared_lab):
    good = pair.east.configuration_path.read_text()
    pair.east.configuration_path.write_text(good.replace("wan0", "wan0", 1).replace('"role": "underlay"', '"role": "overlay"', 1))
    try:
        told = verdict(pair.east)
        assert "configuration-refused" in codes(told), told
        cause = causes(told, "configuration-refused")[0]
        assert "overlay" in cause["sentence"] and "culvert check" in cause["remedy"] and cause["line"], cause
    finally:
        pair.east.configuration_path.write_text(good)
    assert "configuration-refused" not in codes(verdict(pair.east))


@pytest.mark.full
def test_two_gateways_with_one_identity(lab):
    """The hub sees two addresses take turns; each of the two sees its tunnel come and go."""
    lab.join("gw-twin", "wan0", "192.0.2.9/24")
    lab.ip("gw-twin", "link", "add", "lan0", "type", "veth", "peer", "name", "inner")
    for link in ("lan0", "inner"):
        lab.ip("gw-twin", "link", "set", link, "up")
    anybody = json.dumps(configuration(lab, "west", connection={"remote": {"address": "any"}})).replace('"any"', "any")
    hub = Culvert(lab, "gw-west", anybody).start()
    fast = {"dpd_interval": "1s"}
    east = gateway(lab, "east", connection=fast).start()
    east.wait_installed("west")
    same = configuration(lab, "east", connection=merge(fast, {"local": {"address": "192.0.2.9"}}))
    twin = Culvert(lab, "gw-twin", same).start()
    cause = wait_code(hub, "identity-shared", timeout=60)
    assert "192.0.2.1 and 192.0.2.9 take turns as east.example" in cause["sentence"], cause
    for one in (east, twin):
        cause = wait_code(one, "connection-flapping", timeout=60)
        assert "a second gateway with the identity east.example" in cause["remedy"], cause
    twin.end()
