"""The laboratory itself: if these fail, nothing that the other files say about Culvert counts."""

import pytest

from checks import Wire, assert_pings_both_ways, assert_transfers
from conftest import make, remove
from culvert_lab import topology
from gateways import SUITES, peer

pytestmark = pytest.mark.peer_only


def test_without_gateways_the_kernel_forwards_in_the_clear_so_that_a_leak_would_show(lab):
    with Wire(lab) as wire:
        assert_pings_both_ways(lab)
    assert wire.kinds["clear"] >= 12
    assert not wire.kinds["esp"]


@pytest.mark.parametrize("kind", topology.WIRES)
def test_two_strongswans_talk_over_every_kind_of_wire(labs, kind):
    lab = labs(kind)
    east, west = peer(lab, "east").start(), peer(lab, "west").start()
    with Wire(lab) as wire:
        (west if kind == "nat-west" else east).initiate()
        assert_pings_both_ways(lab)
    wire.assert_nothing_clear()
    assert wire.kinds["esp-in-udp"] >= 12
    assert "TUNNEL-in-UDP" in east.sas()
    if kind == "bridge":
        assert_transfers(lab, udp_mbps=20)


@pytest.mark.parametrize("suite", SUITES)
def test_the_peer_itself_speaks_every_suite_that_is_tried_with_it(shared_lab, suite):
    east, west = peer(shared_lab, "east", ike=suite).start(), peer(shared_lab, "west", ike=suite).start()
    try:
        east.initiate()
        assert "INSTALLED" in east.sas()
    finally:
        east.end()
        west.end()


def test_two_laboratories_stand_side_by_side_and_going_down_leaves_nothing():
    first, second = make(), make()
    try:
        assert_pings_both_ways(first)
        assert_pings_both_ways(second)
    finally:
        remove(first)
        remove(second)
    assert first.instance not in topology.instances()
    assert not first.directory.exists()
