#!/usr/bin/env python3
"""Writes the named inputs of the corpora of IKEMessage, IKESession, EAP and Packet: real messages, and such as their RFCs draw.

Needs scapy and cryptography (scripts/test makes a .venv with both). The certificates' inputs are of certificates.sh.
"""

import pathlib
import re
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scapy.all import ICMP, IP, TCP, UDP, IPv6, Raw, rdpcap

PLACE = pathlib.Path(__file__).parent
VECTORS = PLACE.parent / "Vectors" / "tcpdump"
HEADER_BYTES = 28
SK = 46


def write(harness, name, *parts):
    (PLACE / "Corpus" / harness / name).write_bytes(b"".join(parts))


def chain(payloads):
    """(type, body) pairs as octets behind a header that names the first type."""
    octets = b""
    for index, (_, body) in enumerate(payloads):
        following = payloads[index + 1][0] if index + 1 < len(payloads) else 0
        octets += struct.pack("!BBH", following, 0, len(body) + 4) + body
    return octets


# IKE messages

def captured():
    """The messages of the captures, and what the Encrypted payload of one holds whose keys are known."""
    for name in ("ikev2four", "ikev2pI2"):
        for index, frame in enumerate(rdpcap(str(VECTORS / f"{name}.pcap"))):
            octets = bytes(frame[UDP].payload)
            octets = octets[4:] if frame[UDP].dport == 4500 or frame[UDP].sport == 4500 else octets
            yield f"{name}-{index}", octets


def opened(message):
    """(first type, octets) inside of the Encrypted payload of ikev2pI2's IKE_AUTH: AES-128-CBC and HMAC-SHA1-96."""
    keys = dict(re.findall(r"^ikev2 ([IR]) .* aes128:0x([0-9a-f]+)", (VECTORS / "ikev2pI2-secrets.txt").read_text(), re.M))
    key = bytes.fromhex(keys["I"])
    first, sealed = message[HEADER_BYTES], message[HEADER_BYTES + 4:-12]
    cipher = Cipher(algorithms.AES(key), modes.CBC(sealed[:16])).decryptor()
    clear = cipher.update(sealed[16:]) + cipher.finalize()
    return first, clear[:-clear[-1] - 1]


def transform(last, kind, identifier, key_bits=None):
    attribute = struct.pack("!HH", 0x800E, key_bits) if key_bits else b""
    return struct.pack("!BBHBBH", 0 if last else 3, 0, 8 + len(attribute), kind, 0, identifier) + attribute


def proposal(last, number, protocol, spi, transforms):
    body = b"".join(transform(index == len(transforms) - 1, *each) for index, each in enumerate(transforms))
    return struct.pack("!BBHBBBB", 0 if last else 2, 0, 8 + len(spi) + len(body), number, protocol, len(spi), len(transforms)) \
        + spi + body


def selectors(*ranges):
    octets = bytes([len(ranges), 0, 0, 0])
    for low, high in ranges:
        octets += struct.pack("!BBHHH", 7 if len(low) == 4 else 8, 0, 8 + 2 * len(low), 0, 65535) + low + high
    return octets


def notify(kind, data=b"", protocol=0, spi=b""):
    return 41, struct.pack("!BBH", protocol, len(spi), kind) + spi + data


ESP = proposal(True, 1, 3, b"\x11\x22\x33\x44", [(1, 20, 256), (5, 1), (5, 0)])
ESP_PFS = proposal(True, 1, 3, b"\x11\x22\x33\x44", [(1, 20, 256), (4, 31), (5, 0)])
# ML-KEM-768 as an additional key exchange (RFC 9370) beside x25519.
IKE = proposal(True, 1, 1, b"", [(1, 20, 256), (2, 6), (4, 31), (4, 19), (6, 36), (6, 0)])
NONCE = 40, bytes(range(32))
WEST, EAST = (bytes([10, 2, 0, 0]), bytes([10, 2, 0, 255])), (bytes([10, 1, 0, 0]), bytes([10, 1, 0, 255]))
SIX = bytes.fromhex("20010db8000000000000000000000000"), bytes.fromhex("20010db80000ffffffffffffffffffff")

# The payloads of every exchange, by exchange type.
EXCHANGES = {
    "init": (34, [(33, IKE), (34, struct.pack("!HH", 31, 0) + bytes(range(1, 33))), NONCE, notify(16388, bytes(20)),
                  notify(16389, bytes(20)), notify(16430), notify(16431, struct.pack("!HHH", 2, 3, 4)), notify(16438)]),
    "auth-psk": (35, [(35, b"\2\0\0\0west.example"), notify(16384), (36, b"\2\0\0\0east.example"), (39, b"\2\0\0\0" + bytes(32)),
                      (33, ESP), (44, selectors(WEST, SIX)), (45, selectors(EAST)), notify(16396), notify(16417)]),
    "auth-cert": (35, [(35, b"\2\0\0\0west.example"), (37, b"\4" + bytes(40)), (37, b"\x0e" + bytes(30)),
                       (38, b"\4" + bytes(20)), (39, b"\x0e\0\0\0\x0c" + bytes(60)), (33, ESP), (44, selectors(WEST)),
                       (45, selectors(EAST)), notify(16420)]),
    "auth-eap": (35, [(35, b"\3\0\0\0alice@example"), (47, b"\1\0\0\0" + struct.pack("!HHHHHHHH", 1, 0, 3, 0, 8, 0, 10, 0)),
                      (33, ESP), (44, selectors((bytes(4), b"\xff" * 4))), (45, selectors((bytes(4), b"\xff" * 4)))]),
    "eap": (35, [(48, b"\2\1\0\x0a\1alice")]),
    "child": (36, [(33, ESP), NONCE, (44, selectors(WEST)), (45, selectors(EAST))]),
    "rekey-child": (36, [notify(16393, b"", 3, b"\0\0\x10\1"), (33, ESP_PFS), NONCE,
                         (34, struct.pack("!HH", 31, 0) + bytes(range(1, 33))), (44, selectors(WEST)), (45, selectors(EAST))]),
    "rekey-ike": (36, [(33, proposal(True, 1, 1, bytes(range(8)), [(1, 20, 256), (2, 6), (4, 31)])), NONCE,
                       (34, struct.pack("!HH", 31, 0) + bytes(range(1, 33)))]),
    "delete": (37, [(42, b"\3\4\0\1\x11\x22\x33\x44"), (42, b"\1\0\0\0")]),
    "mobike": (37, [notify(16400), notify(16388, bytes(20)), notify(16389, bytes(20)), notify(16401, b"cookie2!")]),
    "redirect": (34, [notify(16406, b"\1\4\xc0\0\2\3" + bytes(range(16)))]),
    "cookie": (34, [notify(16390, bytes(range(24)))]),
    "invalid-ke": (34, [notify(17, b"\0\x13")]),
    "intermediate": (43, [(34, struct.pack("!HH", 36, 0) + bytes(1184))]),
    "follow-up": (44, [(34, struct.pack("!HH", 36, 0) + bytes(1184)), notify(16441, b"link")]),
    "ppk": (35, [notify(16436, b"\2a key's name"), notify(16437, bytes(32))]),
    "vendor": (37, [(43, b"somebody"), (200, b"unknown")]),
}


def message(exchange, first, body, flags=0x08):
    return struct.pack("!8s8sBBBBII", b"initiate", bytes(8), first, 0x20, exchange, flags, 0, HEADER_BYTES + len(body)) + body


def ike_messages():
    for name, octets in captured():
        write("IKEMessage", f"capture-{name}", b"\0", octets)
        if name == "ikev2pI2-1":
            first, inner = opened(octets)
            write("IKEMessage", "capture-ikev2pI2-opened", bytes([first << 1 | 1]), inner)
    for name, (exchange, payloads) in EXCHANGES.items():
        body = chain(payloads)
        write("IKEMessage", f"clear-{name}", b"\0", message(exchange, payloads[0][0], body))
        write("IKEMessage", f"chain-{name}", bytes([payloads[0][0] << 1 & 0xFF | 1]), body)
    # RFC 7383 §2.5: one fragment of three.
    for number in (1, 3):
        body = struct.pack("!BBHHH", 35 if number == 1 else 0, 0, 8 + 60, number, 3) + bytes(range(60))
        write("IKEMessage", f"fragment-{number}-of-3", b"\0", message(35, 53, body))


def ike_sessions():
    """Scripts: a stage, then steps. Step 0 seals a request: exchange, first payload, octets / 4, the payloads."""
    def padded(octets):
        return bytes([(len(octets) + 3) // 4]) + octets + bytes(-len(octets) % 4)

    for name, (exchange, payloads) in EXCHANGES.items():
        sealed = bytes([exchange, payloads[0][0]]) + padded(chain(payloads)[:1020])
        for end in (0, 1):
            # All messages of the honest ends, then this as a request, as a response to our own rekey, and the time that follows.
            write("IKESession", f"{name}-{'responder' if end else 'initiator'}", bytes([0x0E | end, 0]), sealed,
                  bytes([8, 0, 16]), sealed, bytes([6, 20, 9, 40]))
        write("IKESession", f"{name}-half-open", bytes([0x05, 0]), sealed, bytes([4, exchange, payloads[0][0], 1]),
              padded(chain(payloads)[:1020]), bytes([6, 16]))
    delete = chain([(42, b"\1\0\0\0")])
    write("IKESession", "fragments", bytes([0x0F, 0x20, 42, 0x22, 1]), delete[4:], bytes([0x20, 42, 0x21, 1]), delete[:4],
          bytes([6, 14, 9, 20]))
    write("IKESession", "fragment-of-other-total", bytes([0x0F, 0x20, 42, 0x21, 1]), delete[4:], bytes([0x20, 42, 0x31, 1]),
          delete[:4], bytes([0x20, 0, 0x33, 0, 6, 16]))


# EAP

def eap(code, identifier, kind=None, data=b""):
    body = b"" if kind is None else bytes([kind]) + data
    return struct.pack("!BBH", code, identifier, 4 + len(body)) + body


def radius(code, attributes):
    body = b"".join(bytes([kind, 2 + len(value)]) + value for kind, value in attributes)
    return struct.pack("!BBH16s", code, 0, 20 + len(body), bytes(16)) + body


def scaled(octets, scale=8):
    return bytes([len(octets) // scale + 1]) + octets.ljust((len(octets) // scale + 1) * scale, b"\0")


def eap_conversations():
    for name, selector in (("server-mschapv2", 7), ("server-tls", 8), ("client-mschapv2", 9), ("client-tls", 10)):
        write("EAP", f"{name}-honest", bytes([selector]), b"\4" * 40)
        # One of the answers is falsified; its header stays right.
        for number in range(1, 6):
            write("EAP", f"{name}-falsified-{number}", bytes([selector]), b"\4" * number, bytes([6, 6, 4]), b"\xff\0\xff\0",
                  b"\4" * 30)
    write("EAP", "server-nak", b"\7\4", bytes([0, 2, 3, 13]), bytes([0, 2, 13, 0x80]), bytes([0, 3, 13, 0x20, 0]))
    write("EAP", "server-wrong-password", b"\7\4", bytes([0, 60, 26, 2, 7, 0, 59, 49]), bytes(49) + b"alice",
          bytes([0, 2, 26, 4]))
    write("EAP", "client-challenge", b"\x09", bytes([0, 1, 1]), bytes([0, 28, 26, 1, 7, 0, 27, 16]), bytes(16), b"gateway",
          bytes([0, 47, 26, 3, 7, 0, 46]), b"S=" + b"0" * 40, bytes([0x40, 0]))
    write("EAP", "client-notification", b"\x09", bytes([0, 6, 2]), b"hello", bytes([0, 5, 4, 1, 2, 3, 4]))
    write("EAP", "tls-pieces", b"\x08\4", bytes([0, 2, 3, 13]), bytes([0, 10, 13, 0xC0, 0, 0, 0, 8, 22, 3, 1, 0]),
          bytes([0, 6, 13, 0, 1, 1, 3, 3]))
    challenge = radius(11, [(79, eap(1, 9, 26, bytes(20))), (24, b"state"), (18, b"hello"), (80, bytes(16))])
    accept = radius(2, [(79, eap(3, 9)), (1, b"bob"), (8, bytes([10, 9, 0, 7])), (27, struct.pack("!I", 3600)),
                        (26, struct.pack("!IBB", 311, 17, 36) + b"\x80\1" + bytes(32)),
                        (26, struct.pack("!IBB", 311, 16, 36) + b"\x80\2" + bytes(32)),
                        (26, struct.pack("!IBB", 311, 28, 6) + bytes([10, 0, 0, 53])), (168, bytes(16)), (80, bytes(16))])
    without_keys = radius(2, [(79, eap(3, 9)), (1, b"bob"), (8, bytes([10, 9, 0, 7])), (27, struct.pack("!I", 3600))])
    reject = radius(3, [(79, eap(4, 9)), (18, b"no \x1b[31m")])
    response = bytes([0, 4, 26, 2, 0, 0])
    write("EAP", "radius-accept", b"\x0b\0\7", scaled(challenge), response, b"\7", scaled(accept))
    write("EAP", "radius-accept-without-keys", b"\x0b\0\7", scaled(challenge), response, b"\7", scaled(without_keys))
    write("EAP", "radius-reject", b"\x0b\1", bytes([0, 6, 1]), b"alice", b"\7", scaled(challenge), response, b"\7",
          scaled(reject))
    write("EAP", "radius-code", b"\x0b\0\7", scaled(radius(5, [])))
    for name, packet in (("challenge", challenge), ("accept", accept), ("reject", reject)):
        write("EAP", f"packet-radius-{name}", b"\5", packet)


# Packets

def packets():
    inner = {
        "tcp-syn": IP(src="10.2.0.1", dst="10.1.0.1") / TCP(flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]),
        "udp": IP(src="10.2.0.1", dst="10.1.0.1") / UDP(sport=1, dport=2) / Raw(bytes(100)),
        "fragment": IP(src="10.2.0.1", dst="10.1.0.1", frag=100, flags="MF") / Raw(bytes(64)),
        "echo": IP(src="10.2.0.1", dst="10.1.0.1") / ICMP() / Raw(b"echo"),
        "too-big": IP(src="10.2.0.1", dst="10.1.0.1") / ICMP(type=3, code=4, nexthopmtu=1300) / IP() / UDP(),
        "v6-tcp-syn": IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(flags="S", options=[("MSS", 1440)]),
        "v6-udp": IPv6(src="2001:db8::1", dst="2001:db8::2", tc=2) / UDP(sport=1, dport=2) / Raw(bytes(20)),
    }
    for name, packet in inner.items():
        write("Packet", f"inner-{name}", bytes(packet))
    write("Packet", "segment-syn", bytes(inner["tcp-syn"][TCP]))


def esp():
    """Scripts: bit 0 of the first octet UDP encapsulation, bit 1 an IPv6 underlay, bit 2 extended sequence numbers."""
    ours = bytes([3, 17, 0, 2]) + bytes(16)
    theirs = bytes([1, 17, 0, 2]) + bytes(16) + bytes([2, 0, 1])
    syn = bytes(TCP(flags="S", options=[("MSS", 1460)]))
    for mode in range(8):
        one = bytes([mode])
        write("ESP", f"both-ways-{mode}", one, ours, theirs)
        write("ESP", f"replayed-and-falsified-{mode}", one, theirs, bytes([6]), theirs, bytes([7, 40, 0x27, 30]), theirs)
        write("ESP", f"syn-{mode}", one, bytes([3, 6, 0]), scaled(syn), bytes([1, 6, 0]), scaled(syn), bytes([2, 0, 1]))
        write("ESP", f"dummy-{mode}", one, bytes([2, 4]), bytes(32), bytes([1, 0x80 | 59, 1]))
        write("ESP", f"wrong-padding-{mode}", one, bytes([1, 17, 0, 2]), bytes(16), bytes([255, 0, 1]), theirs)
        write("ESP", f"made-up-{mode}", one, bytes([0, 6, 0, 0, 0x10, 0]), bytes(44), bytes([0, 0, 0, 1, 0]))
        # The TTL ends inside; congestion was experienced outside.
        write("ESP", f"expired-{mode}", one, bytes([9, 17, 0, 2]), bytes(16), bytes([8, 1, 0, 0, 1]), bytes([11, 17, 0, 2]),
              bytes(16), bytes([8, 1]))
        write("ESP", f"congested-{mode}", one, bytes([0x61, 17, 2, 2]), bytes(16), bytes([0, 0, 1]), bytes([0x61, 17, 0, 2]),
              bytes(16), bytes([0, 0, 1]))
        write("ESP", f"too-big-{mode}", one, bytes([3, 17, 0, 184]), bytes(1472), bytes([0x13, 17, 0, 2]), bytes(16), bytes([9]))


if __name__ == "__main__":
    ike_messages()
    ike_sessions()
    eap_conversations()
    packets()
    esp()
