"""Mutated ESP and IKE packets by the thousand, from seeds of a real exchange: no crash, no leak, no disturbed tunnel."""

import random
import struct
import time

import pytest

from checks import assert_ping, assert_pings_both_ways
from conftest import make, remove
from culvert_lab.capture import Capture, classify
from culvert_lab.traffic import resident_kilobytes
from frames import send_from_wire
from gateways import Pair

ROUNDS = 5
ESP_PER_ROUND, IKE_PER_ROUND = 2000, 2000  # 10,000 of each
SEED = 20240317
GROWTH_KILOBYTES = 8 * 1024
SOURCES = 256  # spoofed senders: one alone would be shed by the flood limit before it is parsed


@pytest.fixture(scope="module")
def exchange():
    """A tunnel, and every frame that went to the eastern gateway while it came up and carried pings."""
    lab = make()
    pair = Pair(lab)
    with Capture(lab, "east") as capture:
        pair.up()
        assert_pings_both_ways(lab)
        pair.east.client("down", "west")
        pair.east.client("up", "west")
        pair.wait()
        assert_pings_both_ways(lab)
    mac = bytes.fromhex(lab.mac("gw-east", "wan0").replace(":", ""))
    frames = [frame for frame in capture.stop() if frame[:6] == mac]
    seeds = {kind: [frame for frame in frames if classify(frame) == kind] for kind in ("esp", "ike")}
    assert len(seeds["esp"]) >= 10 and len(seeds["ike"]) >= 3
    yield pair, seeds
    remove(lab)


def checksummed(header):
    """An IPv4 header with its checksum set right, so that the mutation behind it is what is judged."""
    header = bytearray(header)
    header[10:12] = b"\0\0"
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    header[10:12] = struct.pack("!H", ~total & 0xffff)
    return bytes(header)


def mutate(chance, frame, protected_bytes):
    """One to eight changes behind the first `protected_bytes` of the IP payload; lengths and checksums follow or lie."""
    header, body = bytearray(frame[14:34]), bytearray(frame[34:])
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(min(protected_bytes, len(body) - 1), len(body))
        match chance.randrange(6):
            case 0:
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                body[at] = chance.choice((0, 1, 0x7f, 0x80, 0xff))
            case 2:
                body[at:at + 4] = chance.randbytes(4)
            case 3 if len(body) > protected_bytes + 2:
                del body[at:]
            case 4:
                body += chance.randbytes(chance.randrange(1, 64))
            case 5:
                body[at:at + 2] = struct.pack("!H", chance.choice((0, 1, 3, 4, len(body), 0xffff)))
        if len(body) <= protected_bytes + 1:
            break
    header[2:4] = struct.pack("!H", min(20 + len(body), 1500) if chance.random() < 0.9 else chance.randrange(65536))
    if header[9] == 17 and len(body) >= 8:
        body[4:6] = struct.pack("!H", len(body) if chance.random() < 0.9 else chance.randrange(65536))
        body[6:8] = b"\0\0"
    if chance.random() < 0.5:
        header[12:16] = bytes((192, 0, 2, 10 + chance.randrange(SOURCES) % 240))
    return frame[:14] + checksummed(header) + bytes(body[:1480])


def storm(lab, seeds, chance, count, protected_bytes):
    send_from_wire(lab, "east", [mutate(chance, chance.choice(seeds), protected_bytes) for _ in range(count)])


def state(pair):
    """What must not change: the IKE SA and the child's SPIs."""
    entry = pair.east.connection("west")
    return entry["state"], entry["ike"]["spi_initiator"], entry["children"][0]["spi_in"], entry["children"][0]["spi_out"]


@pytest.mark.timeout(300)
def test_ten_thousand_of_each_neither_crash_nor_leak_nor_disturb(exchange):
    pair, seeds = exchange
    lab, chance = pair.lab, random.Random(SEED)
    before, pid = state(pair), pair.east.pid
    sizes = []
    for _ in range(ROUNDS):
        storm(lab, seeds["esp"], chance, ESP_PER_ROUND, protected_bytes=4)
        storm(lab, seeds["ike"], chance, IKE_PER_ROUND, protected_bytes=8)
        assert_ping(lab, "east", count=2)
        sizes.append(resident_kilobytes(pid))
    time.sleep(1)
    assert pair.east.alive() and pair.west.alive()
    assert state(pair) == before
    assert_pings_both_ways(lab)
    print(f"resident kB after each round: {sizes}")
    assert sizes[-1] - sizes[0] < GROWTH_KILOBYTES, sizes
    drops = pair.east.drops()
    assert drops.get("authentication-failed", 0) + drops.get("replay", 0) + drops.get("unknown-spi", 0) > ESP_PER_ROUND


def test_replayed_esp_is_counted_and_does_not_reach_the_host(exchange):
    pair, _ = exchange
    lab = pair.lab
    mac = bytes.fromhex(lab.mac("gw-east", "wan0").replace(":", ""))
    with Capture(lab, "east") as capture:
        assert_ping(lab, "east", count=10)
    replayed = [frame for frame in capture.stop() if frame[:6] == mac and classify(frame) == "esp"]
    before = pair.east.drops().get("replay", 0)
    packets = pair.east.connection("west")["children"][0]["packets_in"]
    send_from_wire(lab, "east", replayed)
    time.sleep(1)
    assert pair.east.drops()["replay"] - before == len(replayed) == 10
    assert pair.east.connection("west")["children"][0]["packets_in"] == packets


def test_a_flood_of_ike_from_one_source_leaves_the_tunnel_alone(exchange):
    pair, seeds = exchange
    before = state(pair)
    send_from_wire(pair.lab, "east", [seeds["ike"][0]] * 5000, pause_every=500)
    assert_pings_both_ways(pair.lab)
    assert state(pair) == before


def test_frames_of_every_length_do_not_crash_it(exchange):
    pair, seeds = exchange
    frames = [seed[:length] for seed in (seeds["esp"][0], seeds["ike"][0]) for length in range(14, len(seed))]
    send_from_wire(pair.lab, "east", frames)
    assert pair.east.alive()
    assert_pings_both_ways(pair.lab)
