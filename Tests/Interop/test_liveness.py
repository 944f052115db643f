"""Peers and interfaces that go away and come back."""

import time

import pytest

from checks import assert_pings_both_ways, pings_again
from culvert_lab.shell import eventually
from gateways import Pair, gateway, peer

DEAD_WITHIN_SECONDS = 15
BACK_WITHIN_SECONDS = 30


def wait_dead(gateway_, connection):
    start = time.monotonic()
    eventually(
        lambda: gateway_.connection(connection)["state"] != "established", timeout=DEAD_WITHIN_SECONDS + 1,
        what="a dead peer was not noticed")
    assert gateway_.connection(connection)["reason"]
    return time.monotonic() - start


def test_a_dead_peer_is_noticed_and_the_tunnel_comes_back_with_it(lab):
    pair = Pair(lab).up()
    pair.west.kill()
    wait_dead(pair.east, "west")
    pair.west.start()
    pair.wait(BACK_WITHIN_SECONDS)
    assert_pings_both_ways(lab)


def test_a_peer_that_restarts_at_once_is_followed(lab):
    """The peer has forgotten everything while we still think the tunnel is up."""
    pair = Pair(lab).up()
    pair.west.kill()
    pair.west.start()
    assert pings_again(lab, "east", BACK_WITHIN_SECONDS) < BACK_WITHIN_SECONDS
    pair.wait()
    assert_pings_both_ways(lab)


def test_an_initiator_that_restarts_replaces_its_old_tunnel(lab):
    pair = Pair(lab).up()
    pair.east.kill()
    pair.east.start()
    pair.wait()
    assert_pings_both_ways(lab)
    assert len(pair.west.connection("east")["children"]) == 1


def test_a_dead_strongswan_is_noticed_and_its_return_too(lab):
    theirs = peer(lab, "west").start()
    ours = gateway(lab, "east").start()
    ours.wait_installed("west")
    theirs.kill()
    wait_dead(ours, "west")
    theirs = peer(lab, "west").start()
    ours.wait_installed("west", BACK_WITHIN_SECONDS)
    assert pings_again(lab, "east") < 10


def test_start_on_traffic_waits_for_traffic_after_a_death(lab):
    pair = Pair(lab, child={"start": "on-traffic"})
    pair.west.start()
    pair.east.start()
    pings_again(lab, "east", 20)
    pair.west.kill()
    wait_dead(pair.east, "west")
    pair.west.start()
    time.sleep(3)
    assert pair.east.connection("west")["children"][0]["state"] != "installed"
    assert pings_again(lab, "east", BACK_WITHIN_SECONDS) < BACK_WITHIN_SECONDS


@pytest.mark.parametrize("role, interface", [("gw-east", "wan0"), ("gw-east", "lan0"), ("gw-west", "wan0")])
def test_an_interface_goes_down_and_comes_back(lab, role, interface):
    pair = Pair(lab).up()
    assert_pings_both_ways(lab)
    lab.ip(role, "link", "set", interface, "down")
    time.sleep(3)
    assert pair.east.alive() and pair.west.alive()
    assert pair.east.status()["connections"]
    lab.ip(role, "link", "set", interface, "up")
    site = lab.site(role.removeprefix("gw-"))
    lab.ip(role, "route", "replace", "default", "via", site.next_hop, check=False)
    assert pings_again(lab, "east", BACK_WITHIN_SECONDS) < BACK_WITHIN_SECONDS
    pair.wait()
    assert_pings_both_ways(lab)


@pytest.mark.parametrize("interface, address", [("lan0", "10.1.0.1/24"), ("wan0", "192.0.2.1/24")])
def test_an_interface_that_is_missing_at_the_start_is_taken_when_it_appears(lab, interface, address):
    lab.ip("gw-east", "link", "set", interface, "down")
    lab.ip("gw-east", "link", "set", interface, "name", "elsewhere")
    pair = Pair(lab)
    pair.west.start()
    pair.east.start()
    time.sleep(2)
    assert pair.east.alive()
    lab.ip("gw-east", "link", "set", "elsewhere", "name", interface)
    lab.ip("gw-east", "link", "set", interface, "up")
    lab.ip("gw-east", "address", "replace", address, "dev", interface)
    lab.ip("gw-east", "route", "replace", "default", "via", lab.east.next_hop, check=False)
    pair.wait(BACK_WITHIN_SECONDS)
    assert pings_again(lab, "east", BACK_WITHIN_SECONDS) < BACK_WITHIN_SECONDS
    assert_pings_both_ways(lab)


def test_an_interface_that_is_deleted_and_made_again_is_taken_back(lab):
    """The same name, another index: a hot-plugged card."""
    pair = Pair(lab).up()
    lab.ip("gw-east", "link", "delete", "lan0")
    time.sleep(2)
    assert pair.east.alive()
    lab.connect_host("east")
    assert pings_again(lab, "east", BACK_WITHIN_SECONDS) < BACK_WITHIN_SECONDS
    pair.wait()
    assert_pings_both_ways(lab)


def test_a_wire_that_is_cut_and_mended(lab):
    """No link goes down at the gateways; packets just stop crossing for longer than liveness allows."""
    pair = Pair(lab).up()
    lab.ip("wire", "link", "set", "west", "nomaster")
    wait_dead(pair.east, "west")
    lab.ip("wire", "link", "set", "west", "master", "br0")
    pair.wait(BACK_WITHIN_SECONDS)
    assert_pings_both_ways(lab)


def test_reload_keeps_an_untouched_tunnel(lab):
    pair = Pair(lab).up()
    before = pair.east.connection("west")["children"][0]["spi_in"]
    done = pair.east.client("reload", check=False)
    assert done.returncode == 0, done.stderr
    assert pair.east.connection("west")["children"][0]["spi_in"] == before
    assert_pings_both_ways(lab)
