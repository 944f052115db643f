"""Refusals and failed sends: both ends tell the cause, the remedy that they name cures it; `up` and `down` mean what they say."""

import json
import re
import time

import pytest

from checks import pings_again
from culvert_lab.daemons import culvert_binary
from culvert_lab.shell import eventually
from gateways import Pair, configuration, peer
from judgement import assert_cured, causes, codes, verdict, wait_code

AWAY = "192.0.2.99"  # nobody has this address


@pytest.fixture(scope="module")
def pair(shared_lab):
    made = Pair(shared_lab).up()
    yield made
    made.end()


def change(pair, side, **changes):
    """One end reads a changed configuration; without changes the one that works."""
    pair.side(side).configure(configuration(pair.lab, side, **changes))
    pair.side(side).client("reload")


def whole_again(pair):
    for side in ("west", "east"):
        change(pair, side)
    pair.east.client("up", "west")
    pair.wait()
    assert_cured(pair, pair.lab)


def refusal(one, connection, code):
    """The entry of the status with this code, on the connection or on the gateway."""
    status = one.status()
    everything = [entry for each in status["connections"] if each["name"] == connection for entry in each["refusals"]]
    found = [entry for entry in everything + status["refusals"] if entry["code"] == code]
    assert found, status
    return found[0]


# Sends that fail here


def test_a_way_to_the_peer_that_is_not_there(pair, shared_lab):
    shared_lab.ip("gw-east", "route", "del", "default")
    change(pair, "east", connection={"remote": {"address": "203.0.113.9"}})
    cause = wait_code(pair.east, "ike-send-failed")
    assert "there is no route to 203.0.113.9" in cause["sentence"] and "firewall" not in json.dumps(cause), cause
    assert pair.east.connection("west")["reason_code"] == "send-failed"
    shared_lab.ip("gw-east", "route", "add", "default", "via", shared_lab.east.next_hop)
    eventually(lambda: "ike-send-failed" not in codes(verdict(pair.east)), timeout=30, every=0.5, what="told for ever")
    whole_again(pair)


def test_a_filter_of_this_machine(pair, shared_lab):
    pair.east.client("down", "west")
    shared_lab.nft("gw-east", "table ip strict { chain o { type filter hook output priority 0; udp dport 500 drop; }; }")
    try:
        assert pair.east.client("up", "west", "--timeout", "2s", check=False).returncode == 1
        cause = wait_code(pair.east, "ike-send-failed")
        assert "EPERM" in cause["sentence"] and "UDP port 500" in cause["sentence"], cause
    finally:
        shared_lab.nft("gw-east", "delete table ip strict")
    pair.wait()
    assert_cured(pair, shared_lab)


# Peers that are refused


def test_a_peer_whose_address_is_written_wrongly(pair, shared_lab):
    """West expects east elsewhere: west tells who came, and where it was to come from."""
    change(pair, "west", connection={"remote": {"address": AWAY}})
    pair.east.client("up", "west", "--timeout", "3s", check=False)
    cause = wait_code(pair.west, "peers-refused")
    assert cause["severity"] == "warning" and shared_lab.east.underlay in cause["sentence"], cause
    assert "remote.address" in cause["sentence"], cause
    entry = refusal(pair.west, "east", "unknown-peer")
    assert entry["from"] == f"{shared_lab.east.underlay}:500" and entry["count"] >= 1 and entry["seconds_ago"] < 30, entry
    assert shared_lab.east.underlay in pair.west.client("status").stdout
    sentence = pair.east.wait_reason("west", "NO_PROPOSAL_CHOSEN")
    assert re.search(r"Candidate causes: .*no connection for our address 192\.0\.2\.1", sentence), sentence
    whole_again(pair)


def test_one_that_speaks_ikev1(lab):
    theirs = peer(lab, "west", extra="version = 1").start()
    ours = Pair(lab, child={"start": "manual"}).east.start()
    theirs.initiate(timeout=5, check=False)
    cause = wait_code(ours, "ike-failed")
    assert "IKEv1" in cause["sentence"] and "version = 2" in cause["sentence"], cause
    assert refusal(ours, "west", "ike-version")["from"].startswith(lab.west.underlay)
    assert "IKEv1" in ours.log()
    theirs.end()
    peer(lab, "west").start().initiate()
    ours.wait_installed("west")


def test_one_that_wants_transport_mode(lab):
    theirs = peer(lab, "west", child_extra="mode = transport\nlocal_ts = dynamic\nremote_ts = dynamic").start()
    ours = Pair(lab, child={"start": "manual"}).east.start()
    assert theirs.initiate(timeout=8, check=False).returncode != 0
    assert "transport mode" in refusal(ours, "west", "transport-mode")["reason"]
    told = verdict(ours)
    assert any("transport mode" in cause["sentence"] for one in told["connections"] for cause in one["causes"]), told
    assert "transport mode" in ours.log()
    theirs.end()
    peer(lab, "west").start().initiate()
    ours.wait_installed("west")


def test_subnets_that_are_exchanged_at_one_end(pair, shared_lab):
    """The end whose own hosts are among its remote subnets is the one to change; the other says that it is right."""
    here, there = shared_lab.west.subnet, shared_lab.east.subnet
    change(pair, "west", child={"local_subnets": [there], "remote_subnets": [here]})
    pair.east.client("up", "west", "--timeout", "3s", check=False)
    told = pair.west.wait_reason("east", "exchanged")
    assert "Change this end, because lan0" in told and "is in remote_subnets" in told, told
    told = pair.east.wait_reason("west", "TS_UNACCEPTABLE")
    assert "The peer's status shows both sides" in told, told
    whole_again(pair)


def test_a_rekey_that_the_peer_refuses_for_its_group(labs):
    """The reason stays, and the child is made anew, again and again, without a gap."""
    lab = labs()
    pair = Pair(lab, child={"lifetime": "5s"})
    for side, group in (("east", "x25519"), ("west", "ecp384")):
        child = {"lifetime": "5s", "esp_proposals": [f"aes256gcm16-{group}-esn"]}
        pair.side(side).configure(configuration(lab, side, child=child))
    pair.up()
    reasons = set()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for side, name in (("east", "west"), ("west", "east")):
            for child in pair.side(side).connection(name)["children"]:
                if child["reason"]:
                    reasons.add((side, child["reason"]))
        time.sleep(0.3)
    assert any(side == "east" and "NO_PROPOSAL_CHOSEN" in text and "esp_proposals" in text for side, text in reasons), reasons
    assert any(side == "west" and "x25519" in text and "ecp384" in text for side, text in reasons), reasons
    assert not any("reached the end of its lifetime before" in text for _, text in reasons), reasons
    pair.wait(timeout=10)
    pings_again(lab, timeout=10)
    assert "is made anew with a new IKE SA" in pair.east.log()
    change_both(pair, ["aes256gcm16-x25519-esn"])
    pair.wait()
    pair.east.client("rekey", "west/net")
    eventually(lambda: pair.east.connection("west")["children"][0]["rekeys"] >= 1, timeout=10, what="no rekey with equal groups")
    assert not pair.east.connection("west")["children"][0]["reason"]


def change_both(pair, proposals):
    for side in ("west", "east"):
        change(pair, side, child={"lifetime": "1h", "esp_proposals": proposals})


# up and down


def test_up_tells_of_its_own_attempt(pair, shared_lab):
    """What failed before is no outcome of this one."""
    change(pair, "east", connection={"psk": "quite-another-secret-of-enough-length"})
    failed = pair.east.client("up", "west", check=False)
    assert failed.returncode == 1 and "pre-shared" in failed.stderr, failed
    pair.east.client("down", "west")
    change(pair, "east")
    done = pair.east.client("up", "west", "--json")
    told = json.loads(done.stdout)
    assert told["done"] is True and told["exit_code"] == 0 and "installed" in told["message"], told
    pair.wait()
    assert pair.east.client("up", "west/net").returncode == 0


def test_what_is_taken_down_stays_down(pair, shared_lab):
    """East begins by itself; west takes it down; east is refused, and told why, until west wants it up."""
    done = json.loads(pair.west.client("down", "east", "--json").stdout)
    assert done["done"] is True and "culvert up east" in done["message"], done
    time.sleep(12)
    entry = pair.west.connection("east")
    assert entry["reason_code"] == "taken-down" and entry["children"][0]["state"] == "down", entry
    assert [cause["severity"] for cause in causes(verdict(pair.west), "taken-down")] == ["notice"]
    assert pair.east.connection("west")["reason_code"] == "peer-unwilling"
    assert "operator took the connection down" in pair.east.connection("west")["reason"]
    assert pair.east.log().count("operator took the connection down") <= 2, "the same at every attempt"
    pair.west.client("up", "east")
    pair.wait()
    for one in (pair.east, pair.west):
        down = re.search(r"(?s:.*)(deleted the IKE SA|was taken down)(?s:(.*))", one.log())
        assert "Child net is up" in down[2], one.log()
    assert_cured(pair, shared_lab)


def test_a_child_that_is_taken_down_stays_down_and_is_logged(pair, shared_lab):
    pair.west.client("down", "east/net")
    assert "east/net was taken down by the operator" in pair.west.log()
    eventually(lambda: pair.east.connection("west")["children"][0]["state"] == "down", timeout=5, what="east keeps the child")
    time.sleep(5)
    assert pair.west.connection("east")["children"][0]["state"] == "down"
    assert pair.west.connection("east")["state"] == "established"
    pair.west.client("up", "east/net")
    pair.wait()
    assert_cured(pair, shared_lab)


def test_up_on_a_connection_that_only_answers(lab):
    anybody = json.dumps(configuration(lab, "west", connection={"remote": {"address": "any"}})).replace('"any"', "any")
    pair = Pair(lab)
    pair.west.configure(anybody)
    pair.west.start()
    begun = time.monotonic()
    refused = pair.west.client("up", "east", check=False)
    assert refused.returncode == 1 and time.monotonic() - begun < 5 and "cannot initiate" in refused.stderr, refused
    pair.east.start()
    pair.wait()
    begun = time.monotonic()
    assert "established" in pair.west.client("up", "east").stdout and time.monotonic() - begun < 5
    json_refusal = pair.west.client("up", "nobody", "--json", check=False)
    told = json.loads(json_refusal.stdout)
    assert told["done"] is False and told["exit_code"] == json_refusal.returncode and told["message"], json_refusal


def test_a_command_that_is_not_there_is_guessed(shared_lab):
    for words, meant in ((["statu"], "culvert status"), (["pki", "verfy"], "culvert pki verify"), (["xyzzy"], "culvert --help")):
        done = shared_lab.execute("gw-east", [culvert_binary(), *words], check=False)
        assert done.returncode == 64 and f"`{meant}" in done.stderr, done
