"""The `scripts/demo` command, after the build: two gateways, a tunnel, traffic, a verdict about the wire."""

import argparse
import contextlib
import os
import re
import signal
import sys
import time

from .capture import CLEAR_FILTER, Capture, tally
from .daemons import REPOSITORY, Culvert, culvert_binary
from .shell import LabError, Paint, require_root
from .topology import Lab, sweep
from .traffic import measure, ping

HEADERS_BYTES = 96

COUNT_ESP = """
    table bridge culvert_count {
        chain crossing {
            type filter hook forward priority 0
            ip protocol esp counter
        }
    }
    """


class Demo:
    """The steps in the order a person sees them."""

    def __init__(self, options):
        self.options, self.paint, self.started = options, Paint(), time.monotonic()
        self.lab = Lab(f"demo{os.getpid()}")
        self.gateways = {}

    def step(self, text):
        elapsed = self.paint.dim(f"[{time.monotonic() - self.started:5.1f} s]")
        print(f"{self.paint.bold('==>')} {elapsed} {text}", flush=True)

    def run(self):
        self.step("Making the laboratory: host-east ── gw-east ── wire ── gw-west ── host-west")
        sweep()
        self.lab.up()
        self.step(f"Measuring plain kernel routing, nothing encrypted ({4 * self.options.seconds} s)")
        plain = measure(self.lab, seconds=self.options.seconds)
        self.lab.nft("wire", COUNT_ESP)
        with contextlib.ExitStack() as captures:
            clear = [captures.enter_context(Capture(self.lab, side, CLEAR_FILTER, HEADERS_BYTES)) for side in ("east", "west")]
            self.start_gateways()
            seen = self.first_packets()
            self.step(f"Measuring through the tunnel ({4 * self.options.seconds} s)")
            tunnel = measure(self.lab, seconds=self.options.seconds)
        self.judge(seen, sum(len(capture.stop()) for capture in clear))
        self.step("culvert status (east)")
        print(self.gateways["east"].client("status").stdout)
        self.table(plain, tunnel)

    def start_gateways(self):
        self.step(f"Starting two gateways: {culvert_binary()}")
        for side in ("west", "east"):
            text = (REPOSITORY / "examples" / "two-site" / f"{side}.yaml").read_text()
            self.gateways[side] = Culvert(self.lab, f"gw-{side}", text).start()
        self.step("Waiting for the tunnel")
        for side, peer in (("east", "west"), ("west", "east")):
            entry = self.gateways[side].wait_installed(peer, timeout=30)
        child = entry["children"][0]
        print(f"    IKE {entry['ike']['proposal']}, ESP {child['proposal']}, encapsulation {child['encapsulation']}")

    def first_packets(self):
        """Pings both ways under a capture of everything; returns what crossed, by kind."""
        self.step("Ping both ways, capturing on the wire")
        with Capture(self.lab, "east", snap_bytes=HEADERS_BYTES) as everything:
            for role, target in (("host-east", self.lab.west.host), ("host-west", self.lab.east.host)):
                answer = ping(self.lab, role, target, count=5, patient=True)
                if answer.received != answer.sent:
                    raise LabError(f"{answer.received} of {answer.sent} pings from {role} to {target} were answered")
                print(f"    {role} → {target}: {answer.received} of {answer.sent} answered, {answer.average_ms:.2f} ms")
        return tally(everything.stop())

    def judge(self, seen, clear_frames):
        """Fails unless ESP crossed the wire and nothing that policy protects did in the clear."""
        listing = self.lab.execute("wire", ["nft", "list", "table", "bridge", "culvert_count"]).stdout
        counted = re.search(r"packets (\d+) bytes (\d+)", listing)
        packets = int(counted[1])
        clear = clear_frames + seen["clear"]
        if not seen["esp"] or not packets:
            raise LabError(f"no ESP crossed the wire (seen there: {dict(seen)})")
        if clear:
            raise LabError(f"{clear} packets between the sites crossed the wire in the clear")
        print(f"    {self.paint.green('On the wire:')} {packets} ESP packets, {int(counted[2]) / 1e9:.2f} GB; in the clear: none")

    def table(self, plain, tunnel):
        """Throughput and delay, plain routing beside the tunnel."""
        self.step("Two gateways and two hosts on this one machine")
        print(f"    {'':34}{'kernel, clear':>16}{'Culvert, ESP':>16}")
        rows = [("tcp_out", "TCP, 4 streams, east → west"), ("tcp_back", "TCP, 4 streams, west → east"),
                ("udp_out", "UDP at 300 Mb/s, east → west"), ("udp_back", "UDP at 300 Mb/s, west → east")]
        for key, title in rows:
            cells = [f"{result[key].mbps:,.0f} Mb/s" for result in (plain, tunnel)]
            print(f"    {title:34}{cells[0]:>16}{cells[1]:>16}")
        cells = [f"{result['ping_ms']:.3f} ms" for result in (plain, tunnel)]
        print(f"    {'ping, average':34}{cells[0]:>16}{cells[1]:>16}")

    def keep(self):
        """Leaves it all running and says how to play and how to end it."""
        (self.lab.directory / "keep").touch()
        east = self.gateways.get("east")
        print("\nThe laboratory stays up. To play with it (as root):")
        print(f"    scripts/lab exec --instance {self.lab.instance} host-east ping 10.2.0.2")
        print(f"    scripts/lab exec --instance {self.lab.instance} wire tcpdump -n -i east")
        if east:
            print(f"    {culvert_binary()} status --watch --socket {east.socket}")
        print(f"To remove it:\n    scripts/lab down --instance {self.lab.instance}")


def interrupted(number, _):
    raise KeyboardInterrupt(signal.Signals(number).name)


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--seconds", type=int, default=3, choices=range(1, 61), metavar="N")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    demo, status = None, 1
    try:
        require_root()
        demo = Demo(options)
        demo.run()
        print(demo.paint.green("The demo passed."))
        status = 0
    except LabError as error:
        print(f"{Paint(sys.stderr).red('demo failed:')} {error}", file=sys.stderr)
        for side, gateway in (demo.gateways if demo else {}).items():
            print(f"--- last lines of gw-{side}\n" + "\n".join(gateway.log().splitlines()[-20:]), file=sys.stderr)
    except KeyboardInterrupt as stop:
        print(f"\ndemo: stopped by {stop or 'SIGINT'}, removing everything", file=sys.stderr)
        status = 130
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if demo and options.keep and status != 130 and demo.gateways:
            demo.keep()
        elif demo and os.geteuid() == 0:
            with contextlib.suppress(LabError):
                demo.lab.down()
    return status


if __name__ == "__main__":
    sys.exit(main())
