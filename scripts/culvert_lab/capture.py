"""Captures in the wire namespace: AF_XDP traffic never shows on the gateway's own ports, the wire sees everything."""

import collections
import ipaddress
import signal
import struct
import subprocess
import time

from .shell import LabError

PROTECTED = (ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_network("10.2.0.0/24"))
CLEAR_FILTER = "net 10.1.0.0/24 or net 10.2.0.0/24"


class Capture:
    """tcpdump on one port of the wire; frames as bytes after `stop`.

    `expression` is a pcap filter, `snap_bytes` how much of each frame is kept (0: all of it).
    """

    def __init__(self, lab, interface="east", expression="", snap_bytes=0, role="wire"):
        self.path = lab.directory / f"{role}-{interface}-{time.monotonic_ns()}.pcap"
        words = ["tcpdump", "-Z", "root", "--immediate-mode", "-n", "-p", "-U", "-B", "8192", "-s", str(snap_bytes),
                 "-i", interface, "-w", self.path]
        if expression:
            words.append(expression)
        self.process = lab.spawn(role, words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        first = self.process.stderr.readline()
        if "listening" not in first:
            raise LabError(f"tcpdump does not capture on {interface}: {first.strip()}")

    def stop(self):
        """Ends the capture and returns its frames, oldest first."""
        if self.process.poll() is None:
            time.sleep(0.2)  # what has crossed is still on its way through the packet socket
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=10)
            self.process.stderr.close()
        return read_pcap(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def read_pcap(path):
    """Frames of a classic little-endian pcap file; a last record that was cut short is left out."""
    data = path.read_bytes()
    frames, offset = [], 24
    while offset + 16 <= len(data):
        kept = struct.unpack_from("<I", data, offset + 8)[0]
        if offset + 16 + kept > len(data):
            break
        frames.append(data[offset + 16:offset + 16 + kept])
        offset += 16 + kept
    return frames


def classify(frame):
    """What a frame on the wire is: `clear` (a protected address outside ESP), `esp`, `esp-in-udp`, `ike`, `arp`, `other`."""
    if len(frame) >= 54 and frame[12:14] == b"\x86\xdd":
        return classify_payload(frame[20], frame, 54)
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return "arp" if frame[12:14] == b"\x08\x06" else "other"
    source, destination = (ipaddress.ip_address(frame[at:at + 4]) for at in (26, 30))
    if any(address in network for address in (source, destination) for network in PROTECTED):
        return "clear"
    return classify_payload(frame[23], frame, 14 + (frame[14] & 15) * 4)


def classify_payload(protocol, frame, start):
    """The same for what an outer header carries, which begins at `start`."""
    if protocol == 50:
        return "esp"
    if protocol == 17:
        payload = start + 8
        ports = struct.unpack_from("!HH", frame, payload - 8) if len(frame) >= payload else (0, 0)
        if 500 in ports:
            return "ike"
        if 4500 in ports:
            return "ike" if frame[payload:payload + 4] == b"\0\0\0\0" else "esp-in-udp"
    return "other"


def tally(frames):
    """Counter of `classify` over frames."""
    return collections.Counter(classify(frame) for frame in frames)
