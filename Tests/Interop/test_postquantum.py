"""ML-KEM beside the classical key exchange (RFC 9370), postquantum preshared keys (RFC 8784), and what happens without them.

strongSwan knows ML-KEM from 6.0 on, PPKs since 5.7. With a newer Debian's OpenSSL Culvert has ML-KEM from there, otherwise from
swift-crypto, which has no ML-KEM-512.
"""

import pytest

from checks import assert_pings_both_ways
from culvert_lab import newer
from culvert_lab.daemons import Culvert, culvert_binary
from culvert_lab.shell import eventually, run
from gateways import NEWER, configuration, gateway, needs_newer, peer

HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
PPK = "a-postquantum-secret-of-more-than-32-characters"

OURS, OPENSSL = "swift-crypto", "OpenSSL 3.5 or later"
openssl_35 = pytest.mark.skipif(not newer.ROOT.exists(), reason="scripts/test has unpacked no newer Debian")


def start(ours, library):
    """Culvert with this system's libraries or with a newer Debian's."""
    if library == OURS:
        return ours.start()
    return ours.start(prefix=newer.command(), env=newer.environment(culvert_binary()))


def default_gateway(lab, side, **changes):
    """A Culvert whose file does not mention proposals."""
    whole = configuration(lab, side, **changes)
    del whole["connections"][0]["ike_proposals"]
    del whole["connections"][0]["children"][0]["esp_proposals"]
    return Culvert(lab, f"gw-{side}", whole)


def ppk_peer(lab, ppk_id, secret, required="yes"):
    """strongSwan in the west with a PPK; without one when `ppk_id` is None."""
    extra = f"ppk_id = {ppk_id}\nppk_required = {required}" if ppk_id else ""
    theirs = peer(lab, "west", extra=extra)
    if ppk_id:
        with open(theirs.swanctl_path, "a") as file:
            file.write(f'secrets {{\n ppk-1 {{\n id-1 = {ppk_id}\n secret = "{secret}"\n }}\n}}\n')
    return theirs.start()


def renewals(entry):
    return entry["children"][0]["rekeys"]


def rekey_everything(ours, name):
    """The IKE SA and the child, by Culvert; both have to come back."""
    before = ours.connection(name)
    ours.client("rekey", name, "--ike")
    eventually(lambda: ours.connection(name)["ike"]["spi_initiator"] != before["ike"]["spi_initiator"], timeout=15,
               what=lambda: f"the IKE SA was not rekeyed: {ours.tail()}")
    ours.client("rekey", f"{name}/net")
    eventually(lambda: renewals(ours.connection(name)) > renewals(before), timeout=15,
               what=lambda: f"the child was not rekeyed: {ours.tail()}")
    return ours.wait_installed(name)


def test_two_culverts_use_mlkem_unless_told_otherwise(shared_lab):
    """Nothing about proposals in either file; with a PPK besides, and rekeys of both kinds."""
    ppk = {"ppk": {"id": "link-1", "secret": PPK, "required": True}}
    # strongSwan takes its place in the other tests: nothing of what fails closed may stay.
    west = default_gateway(shared_lab, "west", connection=ppk).start("--release")
    east = default_gateway(shared_lab, "east", connection=ppk).start()
    try:
        entry = east.wait_installed("west")
        assert entry["ike"]["proposal"] == HYBRID and entry["ike"]["ppk"] is True
        assert_pings_both_ways(shared_lab)
        assert rekey_everything(east, "west")["ike"]["proposal"] == HYBRID
        assert rekey_everything(west, "east")["ike"]["ppk"] is True
        assert_pings_both_ways(shared_lab)
        assert "ke1_mlkem768" in east.client("status").stdout
    finally:
        east.end()
        west.end()


@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
def test_the_defaults_fall_back_where_the_peer_is_classical(shared_lab, starter):
    ours = default_gateway(shared_lab, "east", child={"start": "immediately" if starter == "culvert" else "manual"})
    theirs = peer(shared_lab, "west", ike="aes256gcm16-prfsha384-x25519", esp="aes256gcm16-noesn").start()
    ours.start()
    try:
        if starter == "strongswan":
            theirs.initiate()
        assert ours.wait_installed("west")["ike"]["proposal"] == "aes256gcm16-prfsha384-x25519"
        assert_pings_both_ways(shared_lab)
    finally:
        ours.end()
        theirs.end()


@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
@pytest.mark.parametrize("required", [True, False])
def test_a_ppk_is_used_when_both_have_it(shared_lab, starter, required):
    theirs = ppk_peer(shared_lab, "link-1", PPK, "yes" if required else "no")
    ours = gateway(shared_lab, "east", connection={"ppk": {"id": "link-1", "secret": PPK, "required": required}},
                   child={"start": "immediately" if starter == "culvert" else "manual"}).start()
    try:
        if starter == "strongswan":
            theirs.initiate()
        assert ours.wait_installed("west")["ike"]["ppk"] is True
        assert "ppk" in theirs.log().lower()
        assert_pings_both_ways(shared_lab)
        assert rekey_everything(ours, "west")["ike"]["ppk"] is True
    finally:
        ours.end()
        theirs.end()


def test_an_optional_ppk_that_the_peer_knows_otherwise_is_gone_without(shared_lab):
    """strongSwan asks, and sends NO_PPK_AUTH along."""
    theirs = ppk_peer(shared_lab, "link-2", PPK, "no")
    ours = gateway(shared_lab, "east", connection={"ppk": {"id": "link-1", "secret": PPK}}, child={"start": "manual"}).start()
    try:
        theirs.initiate()
        assert ours.wait_installed("west")["ike"]["ppk"] is False
        assert "uses the postquantum key key-id:link-2" in ours.log()
        assert_pings_both_ways(shared_lab)
    finally:
        ours.end()
        theirs.end()


def test_a_peer_that_insists_on_another_ppk_refuses_and_the_reason_says_where_to_look(shared_lab):
    """strongSwan takes no other than the one that its connection names, required or not."""
    theirs = ppk_peer(shared_lab, "link-2", PPK, "no")
    ours = gateway(shared_lab, "east", connection={"ppk": {"id": "link-1", "secret": PPK}}).start()
    try:
        assert "key-id:link-1" in ours.wait_reason("west", "postquantum key")
    finally:
        ours.end()
        theirs.end()


def test_a_required_ppk_keeps_the_tunnel_down_where_the_peer_has_none(shared_lab):
    theirs = ppk_peer(shared_lab, None, None)
    ours = gateway(shared_lab, "east", connection={"ppk": {"id": "link-1", "secret": PPK, "required": True}}).start()
    try:
        assert "ppk: required: true" in ours.wait_reason("west", "postquantum")
    finally:
        ours.end()
        theirs.end()


@needs_newer
@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
@pytest.mark.parametrize("suite, esp, library", [
    (HYBRID, "aes256gcm16-x25519-ke1_mlkem768-noesn", OURS),
    ("aes256-sha256-ecp256-ke1_mlkem1024-ke2_x25519", "aes128gcm16-ecp256-ke1_mlkem768-ke2_mlkem1024-noesn", OURS),
    ("aes128gcm16-prfsha256-mlkem768", "aes256gcm16-mlkem768-noesn", OURS),
    pytest.param("aes128gcm16-prfsha256-x25519-ke1_mlkem512", "aes128gcm16-mlkem512-noesn", OPENSSL, marks=openssl_35),
    pytest.param("aes256gcm16-prfsha384-ecp384-ke1_mlkem1024-ke2_mlkem512", "aes256gcm16-ecp384-ke1_mlkem768-noesn", OPENSSL,
                 marks=openssl_35),
])
def test_mlkem_with_strongswan_also_when_rekeying(shared_lab, starter, suite, esp, library):
    """Rekeys of both kinds by both ends: IKE_FOLLOWUP_KE as initiator and responder."""
    theirs = peer(shared_lab, "west", ike=suite, esp=esp, build=NEWER).start()
    ours = start(gateway(shared_lab, "east", connection={"ike_proposals": [suite]}, child={
        "esp_proposals": [esp], "start": "immediately" if starter == "culvert" else "manual"}), library)
    try:
        if starter == "strongswan":
            theirs.initiate()
        assert set(suite.split("-")) <= set(ours.wait_installed("west")["ike"]["proposal"].split("-"))
        assert_pings_both_ways(shared_lab)
        rekey_everything(ours, "west")
        assert_pings_both_ways(shared_lab)
        before = ours.connection("west")
        theirs.swanctl("--rekey", "--ike", "gw")
        eventually(lambda: ours.connection("west")["ike"]["spi_initiator"] != before["ike"]["spi_initiator"], timeout=15,
                   what=lambda: f"strongSwan's rekey of the IKE SA did not succeed: {theirs.log()[-600:]}")
        theirs.swanctl("--rekey", "--child", "net")
        eventually(lambda: renewals(ours.connection("west")) > renewals(before), timeout=15,
                   what=lambda: f"strongSwan's rekey of the child did not succeed: {theirs.log()[-600:]}")
        assert_pings_both_ways(shared_lab)
    finally:
        ours.end()
        theirs.end()


@openssl_35
@pytest.mark.parametrize("suite, esp, east_library", [
    ("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024", "aes256gcm16-mlkem1024", OURS),
    ("aes128gcm16-prfsha256-x25519-ke1_mlkem512", "aes128gcm16-mlkem512", OPENSSL)])
def test_mlkem_of_two_libraries(shared_lab, suite, esp, east_library):
    """What swift-crypto encapsulates OpenSSL takes apart, and the other way round when the other end rekeys."""
    changes = {"connection": {"ike_proposals": [suite]}, "child": {"esp_proposals": [esp]}}
    west = start(gateway(shared_lab, "west", **changes), OPENSSL)
    east = start(gateway(shared_lab, "east", **changes), east_library)
    try:
        assert east.wait_installed("west")["ike"]["proposal"] == suite
        rekey_everything(east, "west")
        rekey_everything(west, "east")
        assert_pings_both_ways(shared_lab)
    finally:
        east.end()
        west.end()


def test_a_method_that_no_library_has_is_left_out_and_said(shared_lab):
    """ML-KEM-512 with this system's libraries, where they are Debian 12's."""
    if "OpenSSL 3.0" not in run(["openssl", "version"]).stdout:
        pytest.skip("this system's OpenSSL has ML-KEM-512")
    changes = {"connection": {"ike_proposals": ["aes256gcm16-prfsha384-x25519-mlkem512"]}}
    west, east = gateway(shared_lab, "west", **changes).start(), gateway(shared_lab, "east", **changes).start()
    try:
        assert east.wait_installed("west")["ike"]["proposal"] == "aes256gcm16-prfsha384-x25519"
        assert "mlkem512 needs OpenSSL 3.5" in " ".join(east.log().split())
    finally:
        east.end()
        west.end()
