"""scapy's IPsec layer opens what our workers seal and seals what they open: a second reading of RFC 4303 and RFC 4106.

`culvert debug esp` runs the real worker code over in-memory packet I/O. It reads one JSON object per line and answers each with
one line, in order; SAs live as long as the process, one per direction and SPI, made by the first request that names them.

    {"op": "seal", "spi": 1, "key": "hex, 16 or 32 bytes", "salt": "hex, 4 bytes", "esn": false, "udp": false, "seq": 1,
     "packet": "hex: inner IPv4 packet as it arrives from the protected side"}
        seq: sequence number that this packet is to have, 64 bits with ESN (the counter is set to it)
     →  {"packet": "hex: whole outer IPv4 packet, 192.0.2.1 to 192.0.2.2"}   or   {"drop": "too-big"}

    {"op": "open", "spi": 1, "key": …, "salt": …, "esn": …, "udp": …, "highest": 0,
     "packet": "hex: whole outer IPv4 packet, 192.0.2.2 to 192.0.2.1"}
        highest: highest sequence number accepted so far, 64 bits with ESN (only read when the SA is made)
    With "ipv6": true the outer packets are IPv6, 2001:db8::1 and 2001:db8::2 in place of 192.0.2.1 and 192.0.2.2.
     →  {"packet": "hex: inner IPv4 packet as it leaves to the protected side"}   or   {"drop": "authentication-failed"}

Selectors are 10.1.0.0/24 here and 10.2.0.0/24 there, replay window 64, path MTU 1500, UDP encapsulation from port 4500 to 4500.
"""

import itertools
import json
import os
import random
import subprocess

import pytest

from culvert_lab.daemons import culvert_binary
from frames import ICMP, IP, UDP, IPv6, Raw

pytest.importorskip("scapy.layers.ipsec")
from scapy.layers.ipsec import ESP, SecurityAssociation  # noqa: E402

HERE, THERE = "192.0.2.1", "192.0.2.2"
HERE6, THERE6 = "2001:db8::1", "2001:db8::2"
HIGH = 5 << 32  # a 64-bit sequence number whose upper half matters
SUITES = [pytest.param(bits, esn, udp, high, id=f"aes{bits}gcm{'-esn' * esn}{'-udp' * udp}{'-sixth-epoch' * (high > 0)}")
          for bits in (128, 256) for esn in (False, True) for udp in (False, True) for high in (0, HIGH)[:1 + esn]]
sequence_of_spis = itertools.count(0x1000)


class Worker:
    """`culvert debug esp`, one request at a time."""

    def __init__(self):
        self.process = subprocess.Popen(
            [str(culvert_binary()), "debug", "esp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ask(self, **request):
        """The answer: bytes of a packet, or the name of the drop reason."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the worker is gone: {self.process.stderr.read()}"
        answer = json.loads(line)
        return bytes.fromhex(answer["packet"]) if "packet" in answer else answer["drop"]

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0, self.process.stderr.read()


@pytest.fixture(scope="module")
def worker():
    running = Worker()
    yield running
    running.close()


class Association:
    """One SA with fresh keys, as scapy and as the worker know it."""

    def __init__(self, worker, bits, esn, udp, *, outbound, high=0, ipv6=False):
        self.worker, self.esn, self.high = worker, esn, high
        self.network = IPv6 if ipv6 else IP
        self.spi = next(sequence_of_spis)
        self.key, self.salt = os.urandom(bits // 8), os.urandom(4)
        here, there = (HERE6, THERE6) if ipv6 else (HERE, THERE)
        source, destination = (here, there) if outbound else (there, here)
        self.scapy = SecurityAssociation(
            ESP, spi=self.spi, seq_num=1, crypt_algo="AES-GCM", crypt_key=self.key + self.salt,
            tunnel_header=self.network(src=source, dst=destination), nat_t_header=UDP(sport=4500, dport=4500) if udp else None,
            esn_en=esn, esn=high >> 32)
        self.common = {"spi": self.spi, "key": self.key.hex(), "salt": self.salt.hex(), "esn": esn, "udp": udp,
                       "ipv6": ipv6}

    def seal_here(self, packet, sequence):
        return self.worker.ask(op="seal", seq=self.high + sequence, packet=bytes(packet).hex(), **self.common)

    def open_here(self, packet):
        return self.worker.ask(op="open", highest=self.high, packet=bytes(packet).hex(), **self.common)

    def seal_there(self, packet, sequence):
        return self.scapy.encrypt(packet, seq_num=sequence, esn_en=self.esn, esn=self.high >> 32)

    def open_there(self, packet):
        return self.scapy.decrypt(self.network(packet), esn_en=self.esn, esn=self.high >> 32)


def inner(size=64, *, outbound=True, ttl=64, tos=0, seed=0):
    """An inner packet of at least `size` bytes between the sites."""
    source, destination = ("10.1.0.2", "10.2.0.2") if outbound else ("10.2.0.2", "10.1.0.2")
    noise = random.Random(seed).randbytes(max(0, size - 28))
    network = IP(src=source, dst=destination, ttl=ttl, tos=tos, id=seed & 0xffff)
    return IP(bytes(network / UDP(sport=1000, dport=2000) / Raw(noise)))


def same_but_ttl(received, sent):
    """The packet is the one that was sent, one hop later, header checksum right."""
    received, expected = IP(bytes(received)), sent.copy()
    expected.ttl -= 1
    del expected.chksum
    assert bytes(received) == bytes(expected)


@pytest.mark.parametrize("bits, esn, udp, high", SUITES)
def test_scapy_opens_what_the_worker_seals(worker, bits, esn, udp, high):
    sa = Association(worker, bits, esn, udp, outbound=True, high=high)
    for sequence, size in enumerate([28, 29, 30, 31, 32, 64, 65, 100, 512, 1000, 1399, 1400], 1):
        packet = inner(size, seed=size)
        sealed = sa.seal_here(packet, sequence)
        assert isinstance(sealed, bytes), sealed
        outer = IP(sealed)
        assert (outer.src, outer.dst, outer.len) == (HERE, THERE, len(sealed))
        assert outer.proto == (17 if udp else 50)
        esp = bytes(outer[UDP].payload if udp else outer.payload)
        assert int.from_bytes(esp[:4], "big") == sa.spi and int.from_bytes(esp[4:8], "big") == sequence
        checksum, outer.chksum = outer.chksum, None
        assert IP(bytes(outer)).chksum == checksum
        same_but_ttl(sa.open_there(sealed), packet)


@pytest.mark.parametrize("bits, esn, udp, high", SUITES)
def test_the_worker_opens_what_scapy_seals(worker, bits, esn, udp, high):
    sa = Association(worker, bits, esn, udp, outbound=False, high=high)
    for sequence, size in enumerate([28, 29, 30, 31, 32, 64, 65, 100, 512, 1000, 1399, 1400], 1):
        packet = inner(size, outbound=False, seed=size)
        opened = sa.open_here(sa.seal_there(packet, sequence))
        assert isinstance(opened, bytes), opened
        same_but_ttl(opened, packet)


@pytest.mark.parametrize("esn, udp", [(esn, udp) for esn in (False, True) for udp in (False, True)])
def test_scapy_and_the_worker_understand_each_other_over_ipv6(worker, esn, udp):
    sa = Association(worker, 256, esn, udp, outbound=True, ipv6=True)
    back = Association(worker, 256, esn, udp, outbound=False, ipv6=True)
    for sequence, size in enumerate([28, 29, 30, 31, 64, 100, 512, 1399, 1400], 1):
        packet = inner(size, seed=size)
        sealed = sa.seal_here(packet, sequence)
        assert isinstance(sealed, bytes), sealed
        outer = IPv6(sealed)
        assert (outer.src, outer.dst, outer.plen + 40, outer.hlim) == (HERE6, THERE6, len(sealed), 64)
        assert outer.nh == (17 if udp else 50)
        if udp:
            checksum, outer[UDP].chksum = outer[UDP].chksum, None
            assert checksum and IPv6(bytes(outer))[UDP].chksum == checksum
        same_but_ttl(sa.open_there(sealed), packet)
        answer = inner(size, outbound=False, seed=size)
        opened = back.open_here(back.seal_there(answer, sequence))
        assert isinstance(opened, bytes), opened
        same_but_ttl(opened, answer)


def test_ivs_never_repeat(worker):
    sa = Association(worker, 256, True, False, outbound=True)
    ivs = {sa.seal_here(inner(), sequence)[28:36] for sequence in range(1, 201)}
    assert len(ivs) == 200


def test_every_flipped_byte_is_noticed(worker):
    sa = Association(worker, 256, True, False, outbound=False)
    sealed = bytes(sa.seal_there(inner(outbound=False), 7))
    for at in range(24, len(sealed)):  # from the sequence number on: SPI and outer header are not authenticated
        damaged = bytearray(sealed)
        damaged[at] ^= 0x40
        answer = sa.open_here(bytes(damaged))
        assert answer in ("authentication-failed", "replay"), (at, answer)
    assert isinstance(sa.open_here(sealed), bytes)


def test_replays_and_packets_behind_the_window_are_refused(worker):
    sa = Association(worker, 256, False, False, outbound=False)
    sealed = {sequence: sa.seal_there(inner(outbound=False, seed=sequence), sequence) for sequence in (1, 2, 36, 100)}
    for sequence in (1, 100):
        assert isinstance(sa.open_here(sealed[sequence]), bytes)
        assert sa.open_here(sealed[sequence]) == "replay"
    assert sa.open_here(sealed[36]) == "replay"
    late = sa.seal_there(inner(outbound=False, seed=37), 37)
    assert isinstance(sa.open_here(late), bytes)


def test_the_wrong_key_opens_nothing(worker):
    sa, other = (Association(worker, 256, False, False, outbound=False) for _ in range(2))
    other.scapy.spi = sa.spi
    assert sa.open_here(other.seal_there(inner(outbound=False), 1)) == "authentication-failed"


def test_an_inner_packet_outside_the_selectors_is_refused(worker):
    sa = Association(worker, 256, False, False, outbound=False)
    strangers = [("10.3.0.2", "10.1.0.2"), ("10.2.0.2", "10.9.0.2"), ("10.1.0.9", "10.1.0.2")]
    for number, (source, destination) in enumerate(strangers, 1):
        packet = IP(src=source, dst=destination) / ICMP()
        assert sa.open_here(sa.seal_there(packet, number)) == "selector-mismatch"


def test_marks_follow_rfc_6040(worker):
    """Outer CE reaches an inner packet that is capable, and drops one that is not; the outer copies ECN and DSCP."""
    out = Association(worker, 256, False, False, outbound=True)
    assert IP(out.seal_here(inner(tos=0xba), 1)).tos == 0xba
    into = Association(worker, 256, False, False, outbound=False)
    for number, (mark, expected) in enumerate([(2, 3), (1, 3), (3, 3)], 1):
        sealed = into.seal_there(inner(outbound=False, tos=mark), number)
        sealed.tos, sealed.chksum = 3, None
        assert IP(into.open_here(sealed)).tos == expected
    sealed = into.seal_there(inner(outbound=False, tos=0), 9)
    sealed.tos, sealed.chksum = 3, None
    assert into.open_here(sealed) == "ecn-incompatible"


def test_traffic_flow_confidentiality_padding_and_dummies_are_understood(worker):
    """RFC 4303 §2.6 and §2.7: extra padding after the inner packet is cut off, next header 59 is thrown away."""
    sa = Association(worker, 256, False, False, outbound=False)
    packet = inner(64, outbound=False)
    padded = IP(bytes(packet) + bytes(40))
    opened = sa.open_here(sa.seal_there(padded, 1))
    assert isinstance(opened, bytes), opened
    same_but_ttl(opened, packet)
