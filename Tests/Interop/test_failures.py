"""Negotiations that must fail: status names the cause, on both ends, in a sentence that says what to change."""

import re

import pytest

from gateways import SECRET, gateway, peer

LONG_ENOUGH = 30  # characters: a sentence, not a code


def start(lab, *, east=None, west=None):
    """East initiates with its changes, west answers with its own."""
    answering = gateway(lab, "west", **(west or {})).start()
    asking = gateway(lab, "east", **(east or {})).start()
    return asking, answering


def told(gateway_, connection, wanted):
    sentence = gateway_.wait_reason(connection, wanted)
    assert len(sentence) >= LONG_ENOUGH, sentence
    assert SECRET not in sentence
    entry = gateway_.connection(connection)
    assert all(child["state"] != "installed" for child in entry["children"])
    return sentence


def test_a_wrong_pre_shared_key(lab):
    east, west = start(lab, east={"connection": {"psk": "quite-another-secret-of-enough-length"}})
    sentence = told(east, "west", r"psk|pre-shared")
    assert "AUTHENTICATION_FAILED" in sentence
    told(west, "east", r"psk|pre-shared")
    for one in (east, west):
        assert SECRET not in one.log() and "quite-another-secret" not in one.log()


def test_no_common_ike_proposal(lab):
    east, west = start(
        lab, east={"connection": {"ike_proposals": ["aes256gcm16-prfsha384-ecp384"]}},
        west={"connection": {"ike_proposals": ["aes128gcm16-prfsha256-x25519"]}})
    sentence = told(east, "west", r"proposal")
    assert "NO_PROPOSAL_CHOSEN" in sentence and "aes256gcm16-prfsha384-ecp384" in sentence
    sentence = told(west, "east", r"proposal")
    assert "aes128gcm16-prfsha256-x25519" in sentence and "aes256gcm16-prfsha384-ecp384" in sentence
    assert re.search(r"ike_proposals of connection east \(line \d+\)", sentence), sentence


def test_no_common_esp_proposal(lab):
    east, west = start(
        lab, east={"child": {"esp_proposals": ["aes256gcm16-esn"]}}, west={"child": {"esp_proposals": ["aes128gcm16-noesn"]}})
    sentence = told(east, "west", r"proposal")
    assert "NO_PROPOSAL_CHOSEN" in sentence and "aes256gcm16" in sentence
    sentence = told(west, "east", r"proposal")
    assert "aes128gcm16" in sentence and "aes256gcm16" in sentence


def test_selectors_that_do_not_overlap(lab):
    east, west = start(lab, east={"child": {"remote_subnets": ["10.99.0.0/24"]}})
    sentence = told(east, "west", r"subnet|selector")
    assert "TS_UNACCEPTABLE" in sentence and "10.99.0.0/24" in sentence
    sentence = told(west, "east", r"subnet|selector")
    assert "10.99.0.0/24" in sentence and "10.2.0.0/24" in sentence


def test_a_silent_peer(lab):
    east = gateway(lab, "east").start()
    sentence = told(east, "west", r"answer|silent|respon")
    assert lab.west.underlay in sentence


def test_a_wrong_identity(lab):
    east, west = start(lab, east={"connection": {"local": {"id": "impostor.example"}}})
    told(east, "west", r"identit|\bid\b|AUTHENTICATION_FAILED")
    sentence = told(west, "east", r"identit|\bid\b")
    assert "impostor.example" in sentence and "east.example" in sentence


def test_a_responder_with_another_identity(lab):
    """The initiator names whom it wants (IDr): the responder refuses and shows both; the initiator shows what it expects."""
    east, west = start(lab, west={"connection": {"local": {"id": "impostor.example"}}})
    assert "west.example" in told(east, "west", r"identit|\bid\b")
    sentence = told(west, "east", r"identit|\bid\b|local\.id")
    assert "impostor.example" in sentence and "west.example" in sentence


@pytest.mark.parametrize("changes, wanted", [
    ({"psk": "quite-another-secret-of-enough-length"}, r"psk|pre-shared"),
    ({"ike": "aes128-sha256-modp2048"}, r"proposal"),
    ({"esp": "aes128gcm16-noesn"}, r"proposal"),
], ids=["psk", "ike-proposal", "esp-proposal"])
def test_refused_by_strongswan(lab, changes, wanted):
    peer(lab, "west", **changes).start()
    east = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16"]}).start()
    told(east, "west", wanted)


@pytest.mark.parametrize("changes, wanted", [
    ({"psk": "quite-another-secret-of-enough-length"}, r"psk|pre-shared"),
    ({"ike": "aes128-sha256-modp2048"}, r"proposal"),
    ({"esp": "aes128gcm16-noesn"}, r"proposal"),
], ids=["psk", "ike-proposal", "esp-proposal"])
def test_strongswan_is_refused(lab, changes, wanted):
    theirs = peer(lab, "west", **changes).start()
    east = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16"], "start": "manual"}).start()
    assert theirs.initiate(timeout=10, check=False).returncode != 0
    told(east, "west", wanted)


def test_after_a_failure_the_right_secret_brings_it_up(lab):
    east, west = start(lab, east={"connection": {"psk": "quite-another-secret-of-enough-length"}})
    told(east, "west", r"psk|pre-shared")
    east.end()
    east = gateway(lab, "east").start()
    east.wait_installed("west")
    assert west.connection("east")["reason"] is None
