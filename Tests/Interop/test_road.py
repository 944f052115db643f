"""Single hosts that connect to Culvert: EAP, RADIUS, addresses from a pool, several at once. And Culvert as such a host."""

import ipaddress

import pytest

from checks import Wire
from culvert_lab.daemons import Culvert, StrongSwan
from culvert_lab.radius import FreeRADIUS
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import SECRET
from roadwarriors import ESP, IKE, PASSWORD, POOL, USER, Authority, road_gateway, road_host

RADIUS_SECRET = "a RADIUS secret of the lab"


def virtual_address(text):
    """The address that strongSwan shows for its child's local side."""
    pool = ipaddress.ip_network(POOL)
    words = text.replace("/", " ").replace("|", " ").split()
    found = [word for word in words if word.startswith("10.9.0.")]
    assert found and ipaddress.ip_address(found[0]) in pool, text
    return found[0]


def assert_reaches(lab, role, target, source=None, count=3):
    outcome = ping(lab, role, target, count=count, extra=("-I", source) if source else ())
    assert outcome.received == outcome.sent, outcome.text


def peers(gateway):
    return gateway.connection("road")["peers"]


def test_a_host_with_a_password_gets_an_address_and_reaches_the_site(lab):
    ours = road_gateway(lab).start()
    theirs = road_host(lab).start()
    with Wire(lab) as wire:
        theirs.initiate()
        address = virtual_address(theirs.sas())
        assert_reaches(lab, "gw-east", lab.west.host, source=address)
        # And back: the host behind the gateway reaches the lone one.
        assert_reaches(lab, "host-west", address)
    wire.assert_nothing_clear()
    entry = ours.connection("road")
    assert entry["remote"]["id"] == USER
    assert entry["children"][0]["remote_subnets"] == [f"{address}/32"]
    theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    eventually(lambda: not peers(ours), timeout=5, what=lambda: f"still there: {peers(ours)}")
    # The same host, the same address.
    theirs.initiate()
    assert virtual_address(theirs.sas()) == address
    theirs.end()


def test_a_wrong_password_is_told_on_the_gateway(lab):
    ours = road_gateway(lab).start()
    theirs = road_host(lab, password="not the password").start()
    assert theirs.initiate(timeout=10, check=False).returncode != 0
    reason = ours.wait_reason("road", "password")
    assert USER in reason and PASSWORD not in reason
    assert "EAP_FAILURE" in theirs.log() or "EAP/FAIL" in theirs.log()


def test_two_hosts_at_once_each_with_its_own_address(lab):
    """The second host stands in the east too, with another address of the underlay and another identity."""
    ours = road_gateway(lab, connection={"eap": {"users": [
        {"name": USER, "password": PASSWORD}, {"name": "bob@road.example", "password": "bob's password here"}]}}).start()
    alice = road_host(lab).start()
    alice.initiate()
    address = virtual_address(alice.sas())
    bob = road_host(lab, role="host-west", local=lab.west.host, identity="bob@road.example", eap_id="bob@road.example",
                    password="bob's password here")
    bob.start()
    bob.initiate()
    other = virtual_address(bob.sas())
    assert other != address
    assert_reaches(lab, "gw-east", lab.west.gateway, source=address)
    assert {peer["id"] for peer in peers(ours)} == {USER, "bob@road.example"}
    assert {peer["virtual_addresses"][0] for peer in peers(ours)} == {address, other}
    bob.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    eventually(lambda: len(peers(ours)) == 1, timeout=5, what=lambda: f"{peers(ours)}")
    assert_reaches(lab, "gw-east", lab.west.host, source=address)


def test_a_full_pool_says_so(lab):
    ours = road_gateway(lab, pools=[{"name": "road", "addresses": "10.9.0.5-10.9.0.5"}], connection={"eap": {"users": [
        {"name": USER, "password": PASSWORD}, {"name": "bob@road.example", "password": "bob's password here"}]}}).start()
    alice = road_host(lab).start()
    alice.initiate()
    bob = road_host(lab, role="host-west", local=lab.west.host, identity="bob@road.example", eap_id="bob@road.example",
                    password="bob's password here").start()
    assert bob.initiate(timeout=10, check=False).returncode != 0
    assert "no address is left in pool road" in ours.log()
    assert "INTERNAL_ADDRESS_FAILURE" in bob.log() or "INT_ADDR_FAIL" in bob.log()


def radius_gateway(lab, **changes):
    return road_gateway(
        lab, connection={"remote": {"auth": "eap-radius"}, "eap": {"users": None, "identity": "ask"}},
        radius={"servers": [{"address": "10.2.0.99", "secret": RADIUS_SECRET},
                            {"address": lab.west.host, "secret": RADIUS_SECRET}], "timeout": "500ms", "tries": 2}, **changes)


def test_radius_decides_after_the_first_server_stayed_silent(lab):
    """The first server does not exist; the second grants an address of its own choice."""
    radius = FreeRADIUS(lab, "host-west", client=lab.west.gateway, secret=RADIUS_SECRET, users={USER: PASSWORD},
                        replies={USER: ["Framed-IP-Address = 10.9.0.77", "MS-Primary-DNS-Server = 10.2.0.54"]}).start()
    ours = radius_gateway(lab).start()
    theirs = road_host(lab).start()
    theirs.initiate()
    assert virtual_address(theirs.sas()) == "10.9.0.77"
    assert "10.2.0.54" in theirs.log()
    assert_reaches(lab, "gw-east", lab.west.host, source="10.9.0.77")
    assert "does not answer" in ours.log()
    theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    theirs.end()
    wrong = road_host(lab, password="not the password").start()
    assert wrong.initiate(timeout=10, check=False).returncode != 0
    assert "refuses user" in ours.wait_reason("road", "RADIUS")
    radius.end()
