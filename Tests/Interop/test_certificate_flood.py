"""A stranger who shows certificates that take long to verify with, to a gateway with many connections for any peer of a CA.

    attacker ────────────┐
    host-east ── gw-east ── wire ── gw-west ── host-west         the attack is on gw-west

Its chain of eight ends with the name of the gateway's CA; the RSA keys have public exponents as long as the modulus.
"""

import pathlib
import socket
import subprocess
import time

import pytest

from checks import assert_ping
from conftest import make, remove
from culvert_lab.daemons import Culvert, culvert_binary
from gateways import configuration, merge
from roadwarriors import as_yaml

VECTORS = pathlib.Path(__file__).parents[1] / "Vectors" / "computed"
ATTACKER, CONNECTIONS, STRANGERS = "192.0.2.66", 16, 28
ATTACK_SECONDS, ANSWER_SECONDS, NEW_PEER_SECONDS = 4, 0.1, 2


@pytest.fixture(scope="module")
def lab():
    lab = make()
    lab.join("attacker", "wan0", f"{ATTACKER}/24")
    lab.ip("attacker", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    for interface in ("lan0", "lan1"):
        lab.ip("attacker", "link", "set", interface, "up")
    yield lab
    remove(lab)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("flood")

    def pki(*words):
        subprocess.run([str(culvert_binary()), "pki", *words], cwd=directory, check=True, timeout=30, capture_output=True)

    # The stranger's chain says that a CA of this name issued it.
    pki("ca", "--subject", "O=Example, CN=Test CA", "--out", "ca")
    for name in ("east", "west", "late"):
        pki("issue", "--ca", "ca", "--subject", f"O=Example, CN={name}", "--san", f"{name}.example", "--out", name)
    return directory


def own(directory, name):
    return {"id": f"{name}.example", "auth": "certificate", "certificate": str(directory / f"{name}.pem"),
            "private_key": str(directory / f"{name}.key")}


def answer_seconds(gateway):
    """What the control thread takes for an answer on its socket."""
    start = time.monotonic()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(gateway.socket))
        client.sendall(b'{"command":"version"}\n')
        assert client.recv(1)
    return time.monotonic() - start


def ends(lab, directory):
    """West with connections for anybody from the CA; east with one that is up and one that comes later; the stranger."""
    trust = {"auth": "certificate", "ca": [str(directory / "ca.pem")]}
    west = configuration(lab, "west", child={"remote_subnets": [lab.east.subnet, "10.77.0.0/24"]})
    any_peer = {key: value for key, value in west["connections"][0].items() if key != "psk"}
    any_peer |= {"local": {"address": lab.west.underlay} | own(directory, "west"),
                 "remote": {"address": "any", "id": "any"} | trust}
    # Who comes gets the first; a proof that fails is tried on all of them.
    others = [merge(any_peer, {"name": f"any{number}", "children": [
        any_peer["children"][0] | {"remote_subnets": [f"10.80.{number}.0/24"]}]}) for number in range(1, CONNECTIONS)]
    west["connections"] = [any_peer | {"name": "any0"}, *others]

    east = configuration(lab, "east")
    peer = {key: value for key, value in east["connections"][0].items() if key != "psk"}
    peer["remote"] = {"address": lab.west.underlay, "id": "west.example"} | trust
    east["connections"] = [
        peer | {"local": {"address": lab.east.underlay} | own(directory, "east")},
        merge(peer, {"name": "late", "children": [peer["children"][0] | {"start": "manual", "local_subnets": ["10.77.0.0/24"]}]})
        | {"local": {"address": lab.east.underlay} | own(directory, "late")}]

    stranger = {"id": "west.example", "auth": "certificate", "certificate": str(VECTORS / "costly-chain.pem"),
                "private_key": str(directory / "stranger.key")}
    key = directory / "stranger.key"
    key.write_bytes((VECTORS / "costly-chain.key").read_bytes())
    key.chmod(0o600)
    attack = configuration(lab, "east")
    attack["gateway"]["name"] = "attacker"
    attack["connections"] = [
        merge(peer, {"name": f"stranger{number}",
                     "children": [peer["children"][0] | {"local_subnets": [f"10.66.{number}.0/24"]}]})
        | {"local": {"address": ATTACKER} | stranger} for number in range(STRANGERS)]
    return Culvert(lab, "gw-west", as_yaml(west)), Culvert(lab, "gw-east", east), Culvert(lab, "attacker", attack)


def test_costly_chains_of_a_stranger_hold_nobody_up(lab, directory):
    west, east, attacker = ends(lab, directory)
    try:
        west.start()
        east.start()
        east.wait_installed("west")
        assert_ping(lab, "east")
        answer_seconds(west)
        attacker.start(answer_within=0)
        answers, end = [], time.monotonic() + ATTACK_SECONDS
        while time.monotonic() < end:
            answers.append(answer_seconds(west))
            time.sleep(0.01)
        start = time.monotonic()
        east.client("up", "late", "--timeout", "10s")
        took = time.monotonic() - start
        refused = west.status()["ike"]
        print(f"longest answer {max(answers) * 1000:.0f} ms, new peer {took:.2f} s, {refused}")
        assert "not computed with" in west.log(), "the attack did not get through: " + attacker.tail()
        assert max(answers) < ANSWER_SECONDS, sorted(answers)[-5:]
        assert took < NEW_PEER_SECONDS
        assert east.connection("west")["state"] == "established"
        assert_ping(lab, "east")
    finally:
        for gateway in (attacker, east, west):
            gateway.end()
