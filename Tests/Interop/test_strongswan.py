"""Culvert with strongSwan: who starts, where the NAT stands, which suites, with the traffic that a person would send.

strongSwan 5.9.8's user-space ESP (kernel-libipsec) always encapsulates in UDP and has no extended sequence numbers.
"""

import pytest

from checks import Wire, assert_pings_both_ways, assert_transfers
from culvert_lab.capture import Capture
from culvert_lab.shell import eventually
from frames import IP, UDP, Ether, Raw, send_from_wire, to_gateway
from gateways import DEFAULT_BUILD, IDENTITY, NEWER, SUITES, carry_with_strongswan, gateway, needs_newer, peer

UDP_MBPS = 50


@pytest.mark.parametrize("kind, starter", [
    ("bridge", "culvert"), ("bridge", "strongswan"),
    ("nat-east", "culvert"), ("nat-west", "strongswan"),
    ("nat-west", "culvert"), ("nat-east", "strongswan"),
])
def test_traffic_both_ways(labs, kind, starter):
    """Culvert is east, strongSwan west. The NAT hides one of them; whoever starts reaches the hidden one by forwarded ports."""
    lab = labs(kind)
    entry = carry_with_strongswan(lab, starter)
    assert entry["children"][0]["encapsulation"] == "udp"
    # The peer claims to be behind a NAT wherever it is: that is how kernel-libipsec gets its encapsulation.
    assert entry["remote"]["nat"] is True
    assert entry["local"]["nat"] is (kind == "nat-east")
    assert_transfers(lab, udp_mbps=UDP_MBPS)


def test_a_peer_without_esn_gets_the_proposal_without(lab):
    """The first proposal asks for ESN, the second does not; the peer takes what it can do, and traffic shows they agree."""
    peer(lab, "west", esp="aes256gcm16-noesn").start()
    ours = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16-esn", "aes256gcm16-noesn"]}).start()
    child = ours.wait_installed("west")["children"][0]
    assert "-esn" not in child["proposal"]
    assert_pings_both_ways(lab)


@pytest.mark.parametrize("build", [DEFAULT_BUILD, pytest.param(NEWER, marks=needs_newer)], ids=["here", "newer"])
def test_esn_alone_is_refused_by_a_peer_that_cannot_and_the_reason_says_proposal(lab, build):
    """strongSwan 6 agrees, finds that it cannot, and says both in one message."""
    peer(lab, "west", esp="aes256gcm16-esn", build=build).start()
    ours = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16-esn"]}).start()
    reason = ours.wait_reason("west", "proposal")
    assert "NO_PROPOSAL_CHOSEN" in reason
    assert ours.connection("west")["children"][0]["state"] != "installed"


def test_aes_128(lab):
    peer(lab, "west", esp="aes128gcm16-noesn").start()
    ours = gateway(lab, "east", child={"esp_proposals": ["aes128gcm16-noesn"]}).start()
    assert ours.wait_installed("west")["children"][0]["proposal"].startswith("aes128gcm16")
    assert_pings_both_ways(lab)


def test_selectors_are_narrowed_to_what_both_want(lab):
    """Culvert asks for a /16 and gets the peer's /24."""
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east", child={"remote_subnets": ["10.2.0.0/16"]}).start()
    ours.wait_installed("west")
    assert "10.2.0.0/24" in theirs.sas()
    assert_pings_both_ways(lab)


def test_every_suite_with_culvert_answering(shared_lab):
    """Handshakes only. One responder offers everything; strongSwan asks for one suite after the other."""
    lab = shared_lab
    ours = gateway(lab, "east", connection={"ike_proposals": SUITES}, child={"start": "manual"}).start()
    failed = {}
    for suite in SUITES:
        theirs = peer(lab, "west", ike=suite).start()
        try:
            theirs.initiate(timeout=10)
            chosen = ours.wait_installed("west", 5)["ike"]["proposal"]
            if not same_suite(chosen, suite):
                failed[suite] = f"status says {chosen}"
        except Exception as error:  # the whole matrix is told, not its first failure
            failed[suite] = str(error)
        finally:
            theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5", check=False)
            theirs.end()
    ours.end()
    assert not failed, failed


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_with_culvert_asking(shared_lab, suite):
    theirs = peer(shared_lab, "west", ike=suite).start()
    ours = gateway(shared_lab, "east", connection={"ike_proposals": [suite]}).start()
    try:
        assert same_suite(ours.wait_installed("west", 15)["ike"]["proposal"], suite)
    finally:
        ours.end()
        theirs.end()


def same_suite(shown, asked):
    """`aes128-sha256-modp2048` may be shown with its pseudo-random function spelled out."""
    return set(asked.split("-")) <= set(shown.split("-"))


def test_a_group_guessed_wrong_costs_one_more_round_and_no_more(lab):
    """The first proposal's group goes into the first message; the peer wants the second: INVALID_KE_PAYLOAD."""
    peer(lab, "west", ike="aes256gcm16-prfsha384-ecp384").start()
    ours = gateway(lab, "east", connection={
        "ike_proposals": ["aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp384"]}).start()
    assert ours.wait_installed("west")["ike"]["proposal"] == "aes256gcm16-prfsha384-ecp384"


def test_a_cookie_is_given_back(lab):
    """strongSwan asks for a cookie as soon as somebody else's exchange is half open; ours is repeated under another address."""
    theirs = peer(lab, "west", remote="%any", settings="cookie_threshold = 1").start()
    ours = gateway(lab, "east", child={"start": "manual"}).start()
    with Capture(lab, "west", "udp dst port 500") as capture:
        ours.client("up", "west")
    first = next(frame for frame in capture.stop() if IP in Ether(frame) and Ether(frame)[IP].dst == lab.west.underlay)
    ours.client("down", "west")
    message = bytearray(bytes(Ether(first)[UDP].payload))
    message[:8] = b"stranger"
    half_open = IP(src="192.0.2.50", dst=lab.west.underlay) / UDP(sport=500, dport=500) / Raw(bytes(message))
    send_from_wire(lab, "west", [to_gateway(lab, "west", half_open)])
    eventually(lambda: "192.0.2.50" in theirs.log(), timeout=5, what="strongSwan did not see the stranger")
    ours.client("up", "west")
    assert "N(COOKIE)" in theirs.log()
    assert_pings_both_ways(lab)


def test_strongswan_ends_the_tunnel_and_culvert_says_so(lab):
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east", child={"start": "manual"}).start()
    theirs.initiate()
    ours.wait_installed("west")
    theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    eventually(lambda: ours.connection("west")["children"][0]["state"] == "down", timeout=5,
               what=lambda: f"the child is still {ours.connection('west')}")
    assert ours.connection("west")["reason"]


def test_culvert_ends_the_tunnel_and_strongswan_follows(lab):
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east").start()
    ours.wait_installed("west")
    ours.client("down", "west")
    eventually(lambda: "INSTALLED" not in theirs.sas(), timeout=5, what=lambda: f"strongSwan still has {theirs.sas()}")


def test_liveness_checks_of_the_peer_are_answered(lab):
    """strongSwan probes every 5 s of silence; it must not give the tunnel up."""
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east", connection={"dpd_interval": "60s"}).start()
    ours.wait_installed("west")
    eventually(lambda: theirs.log().count("sending DPD request") >= 1, timeout=15, what="strongSwan sent no DPD request")
    assert_pings_both_ways(lab)
    assert "giving up after" not in theirs.log()
