"""Single hosts that connect to Culvert: EAP, RADIUS, addresses from a pool, several at once. And Culvert as such a host."""

import ipaddress

import pytest

from checks import Wire
from culvert_lab.radius import FreeRADIUS
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import NEWER, needs_newer
from roadwarriors import (
    PASSWORD, POOL, USER, Authority, certificate_road, culvert_host, road_gateway, road_host, road_server)

RADIUS_SECRET = "a RADIUS secret of the lab"
RESPONDER_PORT = 8889
# strongSwan's libtls stops at TLS 1.2 unless told.
TLS_13 = "tls { version_max = 1.3 }"


def virtual_address(text):
    """The address that strongSwan shows for its child's local side."""
    pool = ipaddress.ip_network(POOL)
    words = text.replace("/", " ").replace("|", " ").split()
    found = [word for word in words if word.startswith("10.9.0.")]
    assert found and ipaddress.ip_address(found[0]) in pool, text
    return found[0]


def assert_reaches(lab, role, target, source=None, count=3):
    outcome = ping(lab, role, target, count=count, patient=True, extra=("-I", source) if source else ())
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
    assert "EAP_MSCHAPV2 method failed" in theirs.log()


# The second host stands on the gateway's other side, which takes IKE only where it has both roles.
PEERS_ON_BOTH = [{"name": "wan0", "role": "underlay"}, {"name": "lan0", "role": "both"}]


def test_two_hosts_at_once_each_with_its_own_address(lab):
    """The second host stands in the east too, with another address of the underlay and another identity."""
    ours = road_gateway(lab, interfaces=PEERS_ON_BOTH, connection={"eap": {"users": [
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
    pool = [{"name": "road", "addresses": "10.9.0.5-10.9.0.5"}]
    ours = road_gateway(lab, interfaces=PEERS_ON_BOTH, pools=pool, connection={"eap": {"users": [
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
    assert "processing INTERNAL_IP4_DNS attribute" in theirs.log()
    assert_reaches(lab, "gw-east", lab.west.host, source="10.9.0.77")
    assert "does not answer" in ours.log()
    theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    theirs.end()
    wrong = road_host(lab, password="not the password").start()
    assert wrong.initiate(timeout=10, check=False).returncode != 0
    assert "refuses user" in ours.wait_reason("road", "RADIUS")
    radius.end()


def tls_host(lab, authority, *, remote_auth="pubkey", server="", settings="", responder=None, **more):
    """strongSwan as an EAP-TLS client with a certificate for USER."""
    key, certificate = authority.issue(USER, f"email:{USER}", responder=responder)
    host = road_host(lab, auth="eap-tls", remote_auth=remote_auth, settings=settings, **more,
                     certificate=f"certs = {certificate.name}" + (f"\n aaa_id = {server}" if server else ""))
    return host.give("x509", certificate).give("private", key).give("x509ca", authority.certificate)


def test_certificates_within_eap_tls(lab):
    """TLS 1.2: strongSwan 5.9.8 ends with a segmentation fault in its own TLS 1.3."""
    authority = Authority(lab.directory)
    ours = road_gateway(lab, connection=certificate_road(authority)).start()
    theirs = tls_host(lab, authority).start()
    theirs.initiate()
    address = virtual_address(theirs.sas())
    assert_reaches(lab, "gw-east", lab.west.host, source=address)
    assert "negotiated TLS 1.2" in theirs.log()
    assert peers(ours)[0]["virtual_addresses"] == [address]


@needs_newer
def test_tls_13_within_eap_tls_of_strongswan(lab):
    """RFC 9190, strongSwan 6 as the client."""
    authority = Authority(lab.directory)
    ours = road_gateway(lab, connection=certificate_road(authority)).start()
    theirs = tls_host(lab, authority, settings=TLS_13, build=NEWER).start()
    theirs.initiate()
    assert_reaches(lab, "gw-east", lab.west.host, source=virtual_address(theirs.sas()))
    assert "negotiated TLS 1.3" in theirs.log()
    assert peers(ours)[0]["id"] == USER


def test_a_certificate_of_somebody_else_is_refused_with_the_reason(lab):
    trusted, other = Authority(lab.directory), None
    folder = lab.directory / "other"
    folder.mkdir()
    other = Authority(folder, "another ca")
    ours = road_gateway(lab, connection=certificate_road(trusted)).start()
    theirs = tls_host(lab, other).give("x509ca", trusted.certificate).start()
    assert theirs.initiate(timeout=10, check=False).returncode != 0
    reason = ours.wait_reason("road", "EAP")
    assert "another ca" in reason or "trust" in reason


def test_a_responder_is_asked_about_a_certificate_within_eap_tls(lab):
    authority = Authority(lab.directory)
    ours = road_gateway(lab, connection=certificate_road(authority, remote={"ocsp": "require"})).start()
    theirs = tls_host(lab, authority, responder=f"http://127.0.0.1:{RESPONDER_PORT}/").start()
    certificate, = lab.directory.glob("alice*.pem")
    responder = authority.responder(lab, "gw-west", certificate, "V", RESPONDER_PORT)
    theirs.initiate()
    virtual_address(theirs.sas())
    theirs.swanctl("--terminate", "--ike", "gw", "--timeout", "5")
    responder.kill()
    responder = authority.responder(lab, "gw-west", certificate, "R", RESPONDER_PORT)
    assert theirs.initiate(timeout=10, check=False).returncode != 0
    assert "superseded" in ours.wait_reason("road", "was revoked by its CA")
    responder.kill()
    assert theirs.initiate(timeout=10, check=False).returncode != 0
    assert "no responder answered" in ours.wait_reason("road", "No OCSP response")


def test_eap_only_leaves_our_certificate_out(lab):
    """RFC 5998: the gateway proves itself within EAP-TLS alone."""
    authority = Authority(lab.directory)
    ours = road_gateway(lab, connection=certificate_road(authority, eap={"eap_only": "allow", "users": None})).start()
    theirs = tls_host(lab, authority, remote_auth="eap-tls").start()
    theirs.initiate()
    assert_reaches(lab, "gw-east", lab.west.host, source=virtual_address(theirs.sas()))
    assert ours.connection("road")["state"] == "established"


def test_culvert_is_the_host_with_a_password(lab):
    theirs = road_server(lab).start()
    ours = culvert_host(lab).start()
    entry = ours.wait_installed("office")
    address, = entry["virtual_addresses"]
    assert address.startswith("10.9.0.")
    assert entry["children"][0]["local_subnets"] == [f"{address}/32"]
    assert_reaches(lab, "gw-east", lab.west.host)
    # The kernel chose the address by itself: the route says so.
    assert address in lab.execute("gw-east", ["ip", "route", "get", lab.west.host]).stdout
    ours.client("down", "office")
    eventually(lambda: address not in lab.ip("gw-east", "address", "show", "culvert0").stdout, timeout=5,
               what="the address is still on culvert0")
    assert "INSTALLED" not in theirs.sas()


@pytest.mark.parametrize("version", ["1.2", pytest.param("1.3", marks=needs_newer)])
def test_culvert_is_the_host_with_a_certificate(lab, version):
    """EAP-TLS, the server proving itself by its certificate too."""
    authority = Authority(lab.directory)
    key, certificate = authority.issue("west.example")
    more = {"settings": TLS_13, "build": NEWER} if version == "1.3" else {}
    theirs = road_server(lab, auth="eap-tls", local_auth="pubkey", certificate=f"certs = {certificate.name}", **more)
    theirs.give("x509", certificate).give("private", key).give("x509ca", authority.certificate).start()
    own_key, own = authority.issue(USER, f"email:{USER}")
    ours = culvert_host(lab, connection={
        "local": {"auth": "eap-tls", "certificate": str(own), "private_key": str(own_key)},
        "remote": {"auth": "certificate", "ca": [str(authority.certificate)]}, "psk": None, "eap": None}).start()
    ours.wait_installed("office")
    assert_reaches(lab, "gw-east", lab.west.host)
    assert f"negotiated TLS {version}" in theirs.log()


def test_radius_with_certificates(lab):
    """EAP-TLS between strongSwan and FreeRADIUS, in pieces through Culvert: TLS 1.2."""
    authority, ours = certificate_radius(lab, tls_most="1.2")
    theirs = tls_host(lab, authority, server="radius.example").start()
    theirs.initiate()
    assert_reaches(lab, "gw-east", lab.west.host, source=virtual_address(theirs.sas()))
    assert peers(ours)[0]["id"] == USER


def test_tls_13_with_freeradius(lab):
    """RFC 9190 between Culvert as the host and FreeRADIUS, in pieces through Culvert as the gateway."""
    authority, gateway = certificate_radius(lab, tls_most="1.3")
    key, certificate = authority.issue(USER, f"email:{USER}")
    ours = culvert_host(lab, connection={
        "local": {"auth": "eap-tls", "certificate": str(certificate), "private_key": str(key)},
        "remote": {"auth": "certificate", "ca": [str(authority.certificate)]}, "psk": None,
        "eap": {"user": None, "password": None, "server": "radius.example"}}).start()
    ours.wait_installed("office")
    assert_reaches(lab, "gw-east", lab.west.host)
    log = lab.daemons[0].log()
    assert "TLS 1.3 Handshake, Finished" in log, log[-2000:]


def certificate_radius(lab, *, tls_most):
    """A CA, FreeRADIUS with a certificate for radius.example, and Culvert before it."""
    authority = Authority(lab.directory)
    key, certificate = authority.issue("radius.example")
    FreeRADIUS(lab, "host-west", client=lab.west.gateway, secret=RADIUS_SECRET, certificate=certificate, key=key,
               ca=authority.certificate, tls_most=tls_most).start()
    ours = road_gateway(
        lab, connection=certificate_road(authority, auth="eap-radius", eap={"users": None}),
        radius={"servers": [{"address": lab.west.host, "secret": RADIUS_SECRET}]}).start()
    return authority, ours
