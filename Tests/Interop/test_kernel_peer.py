"""strongSwan with the ESP of the Linux kernel, in a virtual machine: ESP without UDP, and extended sequence numbers."""

import concurrent.futures

import pytest

from checks import SA_REASONS, Wire, assert_pings_both_ways
from conftest import make, remove
from culvert_lab import machine
from culvert_lab.daemons import Culvert, swanctl_conf
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import IDENTITY, SECRET, gateway

pytestmark = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))


@pytest.fixture(scope="module")
def linux():
    """The machine in the west, for all tests: it takes ten seconds to boot."""
    lab = make()
    try:
        yield machine.Machine(lab, "gw-west").start()
    finally:
        remove(lab)


@pytest.fixture(autouse=True)
def tidy(linux):
    """A test that fails leaves nothing for the next one."""
    yield
    for daemon in linux.lab.daemons:
        if isinstance(daemon, Culvert):
            daemon.end()
    linux.try_shell("killall -9 charon-systemd; /usr/sbin/ip xfrm state flush; /usr/sbin/ip xfrm policy flush")


def peer(linux, *, esp="aes256gcm16-esn", ike="aes256gcm16-prfsha256-x25519", **more):
    here, there = linux.lab.west, linux.lab.east
    return machine.KernelStrongSwan(linux, swanctl_conf(
        local=here.underlay, remote=there.underlay, local_id=IDENTITY["west"], remote_id=IDENTITY["east"],
        local_ts=here.subnet, remote_ts=there.subnet, psk=SECRET, ike=ike, esp=esp, **more))


@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
@pytest.mark.parametrize("esp", ["aes256gcm16-esn", "aes128gcm16-noesn"])
def test_native_esp(linux, starter, esp):
    lab = linux.lab
    theirs = peer(linux, esp=esp).start()
    ours = gateway(lab, "east", child={"esp_proposals": [esp], "start": "immediately" if starter == "culvert" else "manual"})
    with Wire(lab) as wire:
        ours.start()
        if starter == "strongswan":
            theirs.initiate()
        entry = ours.wait_installed("west")
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp"] >= 12 and not wire.kinds["esp-in-udp"]
    assert entry["children"][0]["proposal"].endswith("-esn") is (esp == "aes256gcm16-esn")
    assert ("esn" in linux.shell("/usr/sbin/ip xfrm state")) is (esp == "aes256gcm16-esn")
    ours.end()
    theirs.end()


def rekeyed(ours, before, seconds=15):
    """Waits until both the IKE SA and the child are others than in `before`."""
    def both():
        now = ours.connection("west")
        return (now["ike"]["spi_initiator"] != before["ike"]["spi_initiator"]
                and now["children"][0]["spi_in"] != before["children"][0]["spi_in"])
    eventually(both, timeout=seconds, what=lambda: f"not everything was rekeyed: {ours.tail()}")


def test_rekeys_by_both_ends_lose_no_packet(linux):
    """Each end renews the IKE SA and, with perfect forward secrecy, the child; with extended sequence numbers on native ESP."""
    lab = linux.lab
    theirs = peer(linux, esp="aes256gcm16-x25519-esn").start()
    ours = gateway(lab, "east", child={"esp_proposals": ["aes256gcm16-x25519-esn"]}).start()
    ours.wait_installed("west")
    assert_pings_both_ways(lab)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pings = pool.submit(ping, lab, "host-east", lab.west.host, count=600, interval=0.02, patient=True)
        for _ in range(2):
            before = ours.connection("west")
            ours.client("rekey", "west/net")
            ours.client("rekey", "west", "--ike")
            rekeyed(ours, before)
            before = ours.connection("west")
            theirs.swanctl("--rekey", "--child", "net")
            theirs.swanctl("--rekey", "--ike", "gw")
            rekeyed(ours, before)
        outcome = pings.result()
    assert outcome.received == 600, outcome.text[-300:]
    drops = ours.drops()
    assert not any(drops[reason] for reason in SA_REASONS), drops
    counts = dict(line.split() for line in linux.shell("cat /proc/net/xfrm_stat").splitlines() if line.startswith("Xfrm"))
    theirs_dropped = {name: counts[f"XfrmIn{name}"] for name in ("NoStates", "StateSeqError", "StateProtoError", "StateInvalid")}
    assert set(theirs_dropped.values()) == {"0"}, theirs_dropped
    ours.end()
    theirs.end()


@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
def test_forced_encapsulation(linux, starter):
    """The kernel's ESP in UDP, without a NAT; forced by the end that begins."""
    lab = linux.lab
    theirs = peer(linux, extra="encap = yes" if starter == "strongswan" else "").start()
    ours = gateway(lab, "east", connection={"nat_traversal": "force"} if starter == "culvert" else {},
                   child={"start": "immediately" if starter == "culvert" else "manual"})
    with Wire(lab) as wire:
        ours.start()
        if starter == "strongswan":
            theirs.initiate()
        ours.wait_installed("west")
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp-in-udp"] >= 12 and not wire.kinds["esp"]
    ours.end()
    theirs.end()


def test_reauthentication_loses_what_the_peer_sends_too_early(linux):
    """Make-before-break. charon gives its kernel the new SA before its IKE_AUTH response leaves, so that ESP can come first: we
    cannot have the key yet."""
    lab = linux.lab
    theirs = peer(linux).start()
    ours = gateway(lab, "east", connection={"reauth_time": "6s"}).start()
    ours.wait_installed("west")
    assert_pings_both_ways(lab)
    before = ours.connection("west")["ike"]["spi_initiator"]
    outcome = ping(lab, "host-east", lab.west.host, count=500, interval=0.02, patient=True)
    assert ours.connection("west")["ike"]["spi_initiator"] != before
    drops = {reason: count for reason, count in ours.drops().items() if count}
    assert outcome.sent - outcome.received == drops.pop("unknown-spi", 0) < 50, outcome.text[-300:]
    assert not drops, drops
    ours.end()
    theirs.end()
