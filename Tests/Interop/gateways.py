"""Configurations and pairs of gateways that the tests start from. Everything is a dictionary, changed per test."""

import copy

import pytest

from checks import Wire, assert_pings_both_ways
from culvert_lab.daemons import DEFAULT_BUILD, Culvert, StrongSwan, newer_strongswan, swanctl_conf

SECRET = "interop-secret-of-more-than-20-characters"
OTHER = {"east": "west", "west": "east"}
# Every cipher, pseudo-random function, integrity and group that both sides speak appears at least once.
SUITES = [
    "aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-ecp256", "aes256gcm16-prfsha384-ecp384",
    "aes256gcm16-prfsha512-ecp521", "aes128gcm16-prfsha384-modp2048", "aes256gcm16-prfsha512-modp3072",
    "aes256gcm16-prfsha256-modp4096", "aes128-sha256-x25519", "aes128-sha256-modp2048", "aes256-sha384-ecp384",
    "aes256-sha512-ecp521", "aes256-sha256-modp4096",
]
IDENTITY = {"east": "east.example", "west": "west.example"}

NEWER = newer_strongswan()
needs_newer = pytest.mark.skipif(
    NEWER is None, reason="this system's strongSwan cannot do it, and scripts/test has unpacked no newer one")


def merge(base, changes):
    """A deep copy of `base` with `changes` laid over it; dictionaries merge, everything else replaces."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def configuration(lab, side, *, connection=None, child=None, **sections):
    """The configuration of one side, connection named after its peer, child `net`; changes are laid over it.

    East initiates, west answers. `sections` are top-level keys such as `dataplane`, `policies`, `interfaces`.
    """
    here, there = lab.site(side), lab.site(OTHER[side])
    net = merge({
        "name": "net",
        "local_subnets": [here.subnet],
        "remote_subnets": [there.subnet],
        "esp_proposals": ["aes256gcm16-esn", "aes256gcm16"],
        "start": "immediately" if side == "east" else "manual",
    }, child or {})
    peer = merge({
        "name": OTHER[side],
        "local": {"address": here.underlay, "id": IDENTITY[side], "auth": "psk"},
        "remote": {"address": there.reachable_at, "id": IDENTITY[OTHER[side]], "auth": "psk"},
        "psk": SECRET,
        "ike_proposals": ["aes256gcm16-prfsha256-x25519"],
        "dpd_interval": "2s",
        "children": [net],
    }, connection or {})
    whole = {
        "gateway": {"name": side},
        "interfaces": [{"name": "wan0", "role": "underlay"}, {"name": "lan0", "role": "protected"}],
        "dataplane": {"workers": 1},
        "connections": [peer],
    }
    return merge(whole, sections)


def gateway(lab, side, **changes):
    """A Culvert for one side, not started."""
    return Culvert(lab, f"gw-{side}", configuration(lab, side, **changes))


class Pair:
    """Two Culverts with a tunnel between them."""

    def __init__(self, lab, **changes):
        self.lab = lab
        self.west = gateway(lab, "west", **changes)
        self.east = gateway(lab, "east", **changes)

    def up(self, timeout=30):
        self.west.start()
        self.east.start()
        self.wait(timeout)
        return self

    def wait(self, timeout=30):
        self.east.wait_installed("west", timeout)
        self.west.wait_installed("east", timeout)

    def side(self, name):
        return {"east": self.east, "west": self.west}[name]

    def end(self):
        for one in (self.east, self.west):
            one.end()


def peer(lab, side, *, remote=None, ike="aes256gcm16-prfsha256-x25519", esp="aes256gcm16-noesn", psk=SECRET, settings="",
         build=DEFAULT_BUILD, **more):
    """A strongSwan for one side, not started; its connection is `gw`, its child `net`."""
    here, there = lab.site(side), lab.site(OTHER[side])
    return StrongSwan(lab, f"gw-{side}", swanctl_conf(
        local=here.underlay, remote=remote or there.reachable_at, local_id=IDENTITY[side], remote_id=IDENTITY[OTHER[side]],
        local_ts=here.subnet, remote_ts=there.subnet, psk=psk, ike=ike, esp=esp, **more), settings=settings, build=build)


def carry_with_strongswan(lab, starter):
    """Culvert is east, strongSwan west. `starter` brings the tunnel up, pings go both ways and never in the clear; the
    status entry that Culvert had then."""
    ours = gateway(lab, "east", child={"start": "immediately" if starter == "culvert" else "manual"})
    theirs = peer(lab, "west").start()
    with Wire(lab) as wire:
        ours.start()
        if starter == "strongswan":
            theirs.initiate()
        entry = ours.wait_installed("west")
        theirs.wait_installed()
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp-in-udp"] >= 12 and not wire.kinds["esp"]
    assert entry["ike"]["initiator"] is (starter == "culvert")
    assert entry["remote"]["id"] == IDENTITY["west"]
    return entry
