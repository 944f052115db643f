"""How long the machine stood still: a virtual CPU that its host takes away runs nothing, whatever its priority.

A process per CPU asks, before all others (SCHED_FIFO), to be woken every millisecond, and keeps what came late. Rings overflow
in such gaps, which is no fault of who empties them; a test that counts every packet needs to know.
"""

import json
import os
import signal
import subprocess
import sys
import time

PERIOD_S = 0.001
WORTH_TELLING_S = 0.004


class Standstill:
    """Measures for as long as the `with` lasts; then `gaps`, in seconds, the longest first, of all CPUs."""

    def __enter__(self):
        self.meters = [
            subprocess.Popen([sys.executable, __file__, str(cpu)], stdout=subprocess.PIPE, text=True)
            for cpu in sorted(os.sched_getaffinity(0))]
        for meter in self.meters:
            meter.stdout.readline()
        return self

    def __exit__(self, *_):
        for meter in self.meters:
            meter.send_signal(signal.SIGTERM)
        self.gaps = sorted((gap for meter in self.meters for gap in json.loads(meter.communicate(timeout=10)[0])), reverse=True)

    @property
    def longest(self):
        return self.gaps[0] if self.gaps else 0.0

    @property
    def total(self):
        return sum(self.gaps)


def measure(cpu):
    """Prints a line when it has begun, and at SIGTERM the gaps."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    print("measuring", flush=True)
    gaps, before = [], time.monotonic()
    while not ended:
        time.sleep(PERIOD_S)
        now = time.monotonic()
        if now - before - PERIOD_S >= WORTH_TELLING_S:
            gaps.append(now - before - PERIOD_S)
        before = now
    print(json.dumps(gaps))


if __name__ == "__main__":
    measure(int(sys.argv[1]))
