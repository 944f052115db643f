"""Frames made by hand and sent from the wire, and what a host receives of them. scapy does the packing."""

import contextlib
import logging
import time

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.all import ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6, Raw  # noqa: E402, F401

MARK = b"culvert-interop-spoofed-payload"


def to_gateway(lab, side, packet):
    """An Ethernet frame around an IP packet, from the wire to a gateway's underlay port."""
    return bytes(Ether(dst=lab.mac(f"gw-{side}", "wan0"), src=lab.mac("wire", side)) / packet)


def send_from_wire(lab, side, frames, *, pause_every=64, pause_seconds=0.002):
    """Sends frames out of the wire's port towards a gateway, paced so that the receive queue keeps up."""
    with contextlib.closing(lab.frames("wire", side)) as port:
        for number, frame in enumerate(frames):
            port.send(frame)
            if number % pause_every == pause_every - 1:
                time.sleep(pause_seconds)


def spoofed(lab, side, count):
    """Clear packets that pretend to come from the other site's host, as frames for one gateway, each with MARK inside."""
    here = lab.site(side)
    there = {"east": lab.west, "west": lab.east}[side]
    frames = []
    for number in range(count):
        layer = [UDP(sport=4000 + number, dport=5000), TCP(sport=4000 + number, dport=80, flags="S"), ICMP()][number % 3]
        frames.append(to_gateway(lab, side, IP(src=there.host, dst=here.host, ttl=60) / layer / Raw(MARK)))
    return frames


class Tap:
    """Everything an interface sends and receives while the `with` lasts."""

    def __init__(self, lab, role, interface, settle_seconds=0.3):
        self.port = lab.frames(role, interface)
        self.port.setblocking(False)
        self.settle_seconds, self.frames = settle_seconds, []

    def __enter__(self):
        return self

    def drain(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.frames.append(self.port.recv(65535))
        return self.frames

    def __exit__(self, *_):
        time.sleep(self.settle_seconds)
        self.drain()
        self.port.close()

    def packets(self, layer=IP):
        """Those frames that have a layer, parsed."""
        parsed = [Ether(frame) for frame in self.frames]
        return [packet for packet in parsed if layer in packet]
