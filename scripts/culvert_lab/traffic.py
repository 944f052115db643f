"""ping and iperf3 between the hosts, with their results as numbers."""

import dataclasses
import json
import math
import re
import signal
import subprocess
import time

from .shell import LabError, eventually, run


# iperf3's server serves one client at a time and resets the next while it tidies up after the last.
SERVER_STILL_BUSY = re.compile("server is busy|Connection reset by peer|Connection refused")
SERVER_TRIES = 3


@dataclasses.dataclass(frozen=True)
class Ping:
    """Outcome of one ping run; times in milliseconds, None when nothing came back."""

    sent: int
    received: int
    average_ms: float | None
    text: str


def ping(lab, role, destination, *, count=3, interval=0.05, wait_seconds=2, size=56, extra=(), patient=False):
    """Pings from a role's namespace; never raises for lost packets.

    ping leaves `interval` after the last request once anything was answered, whatever `-W` says: an answer that a busy machine
    delays counts as lost. `patient` waits for the answers to the first `count` (and sends more meanwhile)."""
    patient = patient and count > 1
    words = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(wait_seconds), "-s", str(size), *extra, destination]
    if patient:
        words[1:1] = ["-w", str(math.ceil(count * interval + wait_seconds))]
    done = lab.execute(role, words, check=False, timeout=count * (interval + wait_seconds) + 10)
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    times = re.search(r"= [\d.]+/([\d.]+)/", done.stdout)
    if not counts:
        raise LabError(f"ping from {role} said: {done.stderr.strip() or done.stdout.strip()}")
    sent, received = int(counts[1]), int(counts[2])
    if patient:
        sent, received = count, len({number for number in map(int, re.findall(r"bytes from .* icmp_seq=(\d+)", done.stdout))
                                     if number <= count})
    return Ping(sent, received, float(times[1]) if times else None, done.stdout)


@dataclasses.dataclass(frozen=True)
class Flow:
    """Outcome of one iperf3 run: what the receiver got."""

    mbps: float
    lost_percent: float
    retransmits: int


class Server:
    """An iperf3 server in a namespace for as long as the `with` lasts."""

    def __init__(self, lab, role, port=5201):
        self.lab, self.role, self.port = lab, role, port

    def __enter__(self):
        self.process = self.lab.spawn(
            self.role, ["iperf3", "-s", "-p", self.port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        needle = f":{self.port} "
        eventually(
            lambda: needle in self.lab.execute(self.role, ["ss", "-Hltn"]).stdout, timeout=10,
            what=f"the iperf3 server in {self.role} did not come up")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def iperf(lab, client, server_address, *, seconds=3, udp_mbps=None, streams=1, reverse=False, payload_bytes=1200, port=5201):
    """One iperf3 run from role `client`; TCP unless `udp_mbps` is given; `reverse` makes the server send. Raises LabError."""
    words = ["iperf3", "-J", "-c", server_address, "-p", str(port), "-t", str(seconds), "-P", str(streams),
             "--connect-timeout", "5000"]
    if udp_mbps:
        words += ["-u", "-b", f"{udp_mbps}M", "-l", str(payload_bytes)]
    if reverse:
        words.append("-R")
    for _ in range(SERVER_TRIES):
        done = lab.execute(client, words, check=False, timeout=seconds + 40)
        try:
            result = json.loads(done.stdout)
        except ValueError as error:
            raise LabError(f"iperf3 from {client} gave no result: {(done.stderr or done.stdout).strip()[-300:]}") from error
        if not SERVER_STILL_BUSY.search(result.get("error", "")):
            break
        time.sleep(0.5)
    if "error" in result:
        raise LabError(f"iperf3 from {client} to {server_address}: {result['error']}")
    end = result["end"]
    if udp_mbps:
        total = end["sum"]
        delivered = 1 - total.get("lost_percent", 0) / 100
        return Flow(total["bits_per_second"] / 1e6 * delivered, total.get("lost_percent", 0.0), 0)
    return Flow(end["sum_received"]["bits_per_second"] / 1e6, 0.0, end["sum_sent"].get("retransmits") or 0)


def measure(lab, *, seconds=3, streams=4, udp_mbps=300):
    """Ping and iperf3 in both directions between the hosts: a dictionary of figures for a table."""
    with Server(lab, "host-west"):
        target = lab.west.host
        reach = ping(lab, "host-east", target, count=20, interval=0.02)
        return {
            "ping_ms": reach.average_ms,
            "tcp_out": iperf(lab, "host-east", target, seconds=seconds, streams=streams),
            "tcp_back": iperf(lab, "host-east", target, seconds=seconds, streams=streams, reverse=True),
            "udp_out": iperf(lab, "host-east", target, seconds=seconds, udp_mbps=udp_mbps),
            "udp_back": iperf(lab, "host-east", target, seconds=seconds, udp_mbps=udp_mbps, reverse=True),
        }


def cpu_seconds(pid):
    """User and system time a process has used so far, in seconds."""
    fields = open(f"/proc/{pid}/stat", encoding="ascii").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / int(run(["getconf", "CLK_TCK"]).stdout)


def resident_kilobytes(pid):
    """VmRSS of a process in kB."""
    for line in open(f"/proc/{pid}/status", encoding="ascii"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LabError(f"process {pid} has no resident memory: it is gone")
