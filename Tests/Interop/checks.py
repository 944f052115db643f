"""What the tests assert about traffic and about the wire, in words that fail with numbers."""

import contextlib
import time

from culvert_lab.capture import Capture, classify, tally
from culvert_lab.shell import eventually
from culvert_lab.traffic import Server, iperf, ping

UDP_TRIES = 3  # a receiver that gets no processor for a while loses packets to its own socket buffer

# What an SA can lose: no SA, a wrong one, one at its end. Rings and sockets that overflow are a matter of load.
SA_REASONS = ("no-sa", "unknown-spi", "replay", "authentication-failed", "selector-mismatch", "sequence-exhausted",
              "lifetime-ended")


def assert_ping(lab, side, *, target=None, count=3, **options):
    """Every ping from a site's host to the other's (or to `target`) is answered; returns the outcome."""
    other = {"east": lab.west, "west": lab.east}[side]
    outcome = ping(lab, f"host-{side}", target or other.host, count=count, patient=True, **options)
    assert outcome.received == outcome.sent, f"{outcome.received} of {outcome.sent} answered:\n{outcome.text}"
    return outcome


def assert_pings_both_ways(lab):
    for side in ("east", "west"):
        assert_ping(lab, side)


def assert_no_ping(lab, side, count=3):
    """No ping gets through."""
    other = {"east": lab.west, "west": lab.east}[side]
    outcome = ping(lab, f"host-{side}", other.host, count=count, interval=0.1, wait_seconds=1)
    assert outcome.received == 0, outcome.text


def pings_again(lab, side="east", timeout=30):
    """Waits until a ping is answered; returns the seconds it took."""
    other = {"east": lab.west, "west": lab.east}[side]
    start = time.monotonic()
    eventually(
        lambda: ping(lab, f"host-{side}", other.host, count=1, wait_seconds=1).received == 1, timeout=timeout,
        what=f"no ping from host-{side} was answered")
    return time.monotonic() - start


def assert_transfers(lab, *, udp_mbps, tcp_seconds=2, streams=1, lost_percent=2.0, payload_bytes=1200):
    """iperf3 TCP and UDP in both directions between the hosts; returns the TCP figures in Mb/s."""
    figures = []
    with Server(lab, "host-west"):
        for reverse in (False, True):
            tcp = iperf(lab, "host-east", lab.west.host, seconds=tcp_seconds, streams=streams, reverse=reverse)
            assert tcp.mbps > 1, f"TCP {'west to east' if reverse else 'east to west'} moved {tcp.mbps:.2f} Mb/s"
            figures.append(tcp.mbps)
            losses = []
            while len(losses) < UDP_TRIES and min(losses, default=100) > lost_percent:
                udp = iperf(lab, "host-east", lab.west.host, seconds=2, udp_mbps=udp_mbps, reverse=reverse,
                            payload_bytes=payload_bytes)
                losses.append(udp.lost_percent)
            assert min(losses) <= lost_percent, f"UDP lost {losses} % at {udp_mbps} Mb/s, reverse: {reverse}"
    return figures


class Wire:
    """A capture on both sides of the wire for as long as the `with` lasts; then `kinds` and `frames`."""

    def __init__(self, lab, expression="", snap_bytes=0):
        self.lab, self.expression, self.snap_bytes = lab, expression, snap_bytes

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.captures = [
            self.stack.enter_context(Capture(self.lab, side, self.expression, self.snap_bytes)) for side in ("east", "west")]
        return self

    def __exit__(self, *_):
        self.stack.close()
        self.frames = [frame for capture in self.captures for frame in capture.stop()]
        self.kinds = tally(self.frames)

    def of(self, kind):
        return [frame for frame in self.frames if classify(frame) == kind]

    def assert_nothing_clear(self):
        clear = self.of("clear")
        assert not clear, f"{len(clear)} frames crossed in the clear, the first: {clear[0].hex()}"


def difference(before, after, name):
    """How much a drop counter grew between two `drops()`."""
    return after.get(name, 0) - before.get(name, 0)
