"""Nothing that policy protects leaves or enters in the clear, whatever happens to the tunnel or to the gateway.

The laboratory's kernels would forward between the sites in the clear (test_laboratory.py shows it): every leak reaches the wire.
"""

import signal

import pytest

from checks import Wire, assert_no_ping, assert_ping, assert_pings_both_ways, difference, pings_again
from frames import MARK, Tap, send_from_wire, spoofed
from culvert_lab.shell import eventually
from gateways import Pair, configuration, gateway

SPOOFS = 30


def assert_silent(lab, sides=("east", "west")):
    """Neither host gets through, and neither tries in the clear on the wire."""
    with Wire(lab) as wire:
        for side in sides:
            assert_no_ping(lab, side)
    wire.assert_nothing_clear()


def assert_spoofs_stay_out(lab, side):
    """Clear packets from the wire with the other site's addresses never reach this site's host."""
    with Tap(lab, f"host-{side}", "eth0") as tap:
        send_from_wire(lab, side, spoofed(lab, side, SPOOFS))
    arrived = [frame for frame in tap.frames if MARK in frame]
    assert not arrived, f"{len(arrived)} of {SPOOFS} spoofed packets reached host-{side}"


def blackholes(lab, side, prefix):
    """Blackhole routes for a prefix in any table of a gateway."""
    listing = lab.ip(f"gw-{side}", "route", "show", "table", "all").stdout.splitlines()
    return [line for line in listing if line.startswith(f"blackhole {prefix}")]


def test_before_the_tunnel_is_up(lab):
    gateway(lab, "east").start()
    assert_silent(lab, ["east"])
    assert_spoofs_stay_out(lab, "east")


def test_the_first_packets_after_the_start_do_not_race_the_policy(lab):
    """A ping runs while the gateway starts; from the moment its socket answers, none is in the clear."""
    ours = gateway(lab, "east")
    running = lab.spawn("host-east", ["ping", "-q", "-i", "0.01", "-w", "6", lab.west.host], stdout=-3)
    ours.start()
    with Wire(lab) as wire:
        running.wait(timeout=15)
    wire.assert_nothing_clear()


def test_while_the_peer_is_dead(lab):
    pair = Pair(lab).up()
    assert_pings_both_ways(lab)
    pair.west.kill()
    assert_silent(lab)
    pair.east.wait_reason("west", ".", timeout=20)
    assert_silent(lab)
    assert_spoofs_stay_out(lab, "east")
    assert_spoofs_stay_out(lab, "west")


def test_spoofed_clear_packets_are_dropped_and_counted_as_clear_inbound(lab):
    pair = Pair(lab).up()
    before = pair.east.drops()
    assert_spoofs_stay_out(lab, "east")
    assert difference(before, pair.east.drops(), "clear-inbound") == SPOOFS
    assert_pings_both_ways(lab)


@pytest.mark.parametrize("interface", ["wan0", "lan0"])
def test_with_xdp_detached(lab, interface):
    """An operator, or another program, takes the XDP program off: the kernel alone must hold the line, both ways."""
    pair = Pair(lab).up()
    for mode in ("xdp", "xdpdrv", "xdpgeneric"):
        lab.ip("gw-east", "link", "set", "dev", interface, mode, "off", check=False)
    with Wire(lab) as wire:
        assert_spoofs_stay_out(lab, "east")
        for side in ("east", "west"):
            pings_or_not(lab, side)
    wire_clear = [frame for frame in wire.of("clear") if MARK not in frame]
    assert not wire_clear, f"{len(wire_clear)} clear frames, the first: {wire_clear[0].hex()}"
    assert pair.east.alive()


def pings_or_not(lab, side):
    """Traffic is sent; whether it arrives is not this test's matter."""
    other = {"east": lab.west, "west": lab.east}[side]
    lab.execute(f"host-{side}", ["ping", "-n", "-c", "5", "-i", "0.1", "-W", "1", other.host], check=False)


def test_after_kill_9_and_recovery_after_a_restart(lab):
    pair = Pair(lab).up()
    pair.east.kill()
    assert_silent(lab)
    assert_spoofs_stay_out(lab, "east")
    for interface in ("wan0", "lan0"):
        for mode in ("xdp", "xdpdrv", "xdpgeneric"):
            lab.ip("gw-east", "link", "set", "dev", interface, mode, "off", check=False)
    assert_silent(lab, ["east"])
    assert_spoofs_stay_out(lab, "east")
    pair.east.start()
    pair.wait()
    assert_pings_both_ways(lab)


def test_kill_9_and_restart_leave_one_of_everything(lab):
    """What was left is adopted, not doubled: routes, rules, devices."""
    pair = Pair(lab).up()

    def kernel_state():
        routes = lab.ip("gw-east", "-o", "route", "show", "table", "all").stdout.splitlines()
        rules = lab.ip("gw-east", "rule", "show").stdout.splitlines()
        links = lab.ip("gw-east", "-o", "-br", "link").stdout.splitlines()
        return len(routes), len(rules), len(links)

    before = kernel_state()
    for _ in range(2):
        pair.east.kill()
        pair.east.start()
        pair.wait()
    assert kernel_state() == before
    assert_pings_both_ways(lab)


def test_sigterm_leaves_the_blackholes(lab):
    pair = Pair(lab).up()
    assert pair.east.end() == 0
    assert blackholes(lab, "east", "10.2.0.0/24")
    assert_silent(lab, ["east"])
    assert_spoofs_stay_out(lab, "east")
    pair.east.start()
    pair.wait()
    assert_pings_both_ways(lab)


def test_release_takes_everything_away(lab):
    """With --release on both sides the kernels route in the clear again, as if there had been no gateway."""
    pair = Pair(lab)
    before = lab.ip("gw-east", "route", "show", "table", "all").stdout
    pair.west.start("--release")
    pair.east.start("--release")
    pair.wait()
    assert pair.east.end() == 0 and pair.west.end() == 0
    assert not blackholes(lab, "east", "10.2.0.0/24")
    assert lab.ip("gw-east", "route", "show", "table", "all").stdout == before
    assert pings_again(lab, timeout=5) < 5
    assert_pings_both_ways(lab)


def test_a_tunnel_that_is_taken_down_by_hand_stays_closed(lab):
    pair = Pair(lab).up()
    pair.east.client("down", "west")
    assert_silent(lab)


def test_packets_outside_every_policy_are_the_kernels_business(lab):
    """A host reaches a third party on the public network in the clear: only the configured pairs are protected."""
    Pair(lab).up()
    third = "192.0.2.9"
    lab.ip("wire", "address", "add", f"{third}/24", "dev", "br0")
    lab.ip("wire", "route", "add", lab.east.subnet, "via", lab.east.underlay)
    assert_ping(lab, "east", target=third)


def test_a_hangup_while_the_gateway_starts_is_a_reload_later(lab):
    """The control socket is the first thing it opens; routes, XDP and workers come after."""
    ours = gateway(lab, "east").start(answer_within=None)
    eventually(ours.socket.exists, timeout=20, every=0.002, what="no control socket")
    ours.process.send_signal(signal.SIGHUP)
    eventually(ours.answers, timeout=20, what="no answer")
    eventually(lambda: "reload" in ours.log(), timeout=5, what=lambda: f"no reload: {ours.tail()}")


def test_flushed_filter_rules_are_put_back(lab):
    ours = gateway(lab, "east").start()

    def drops():
        return lab.execute("gw-east", ["nft", "list", "table", "ip", "culvert"]).stdout.count("drop")

    before = drops()
    assert before >= 1
    lab.execute("gw-east", ["nft", "flush", "table", "ip", "culvert"])
    eventually(lambda: "put back" in ours.log(), timeout=15, what="the gateway does not notice")
    eventually(lambda: drops() == before, timeout=5, what="the rules do not come back")


def test_a_killed_run_leaves_nothing_on_an_interface_that_is_configured_no_more(lab):
    """Without sockets the XDP program left there would drop what is to be protected, for ever."""
    lab.ip("gw-east", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    for name in ("spare0", "spare1"):
        lab.ip("gw-east", "link", "set", name, "up")

    def has_program(name):
        return "xdp" in lab.ip("gw-east", "link", "show", name).stdout

    plain = configuration(lab, "east")
    spare = {"name": "spare0", "role": "protected"}
    ours = gateway(lab, "east", interfaces=[*plain["interfaces"], spare]).start()
    assert has_program("spare0")
    ours.kill()
    assert has_program("spare0")
    ours.configure(plain)
    ours.start()
    assert not has_program("spare0") and has_program("lan0")
    assert "spare0" in ours.log()


def test_a_discard_policy_holds_for_the_gateway_itself_and_when_it_has_ended(lab):
    def goes_nowhere(*words):
        return lab.ip("gw-east", "route", "get", "203.0.113.9", *words, check=False).returncode != 0

    lab.ip("gw-east", "route", "replace", "default", "via", lab.west.underlay)
    ours = gateway(lab, "east", policies=[
        {"action": "bypass", "destination": "203.0.113.8/32"}, {"action": "discard", "destination": "203.0.113.0/24"}])
    forwarded = ["from", lab.east.host, "iif", "lan0"]
    assert not goes_nowhere() and not goes_nowhere(*forwarded)
    ours.start("--release")
    assert goes_nowhere() and goes_nowhere(*forwarded)
    eventually(
        lambda: lab.ip("gw-east", "route", "get", "203.0.113.8", check=False).returncode == 0, timeout=5,
        what="the bypass does not come before the discard")
    ours.kill()
    assert goes_nowhere() and goes_nowhere(*forwarded)
    ours.start()
    assert ours.end() == 0
    assert goes_nowhere() and goes_nowhere(*forwarded)
    ours.start("--release")
    ours.end()
    eventually(lambda: not goes_nowhere() and not goes_nowhere(*forwarded), timeout=5, what="the discard stays after --release")
    assert "22001" not in lab.ip("gw-east", "rule", "show").stdout
