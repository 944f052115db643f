"""UDP at an even rate: `python3 steady.py ADDRESS PORT OCTETS PER-SECOND SECONDS` prints how many datagrams it sent.

Unlike iperf3, which sends at once what it could not send in time, it lets go what is more than a few milliseconds late. So the
rate is never exceeded, whatever the machine does to this process.
"""

import socket
import sys
import time

TICK_S = 0.001
MOST_LATE_S = 0.003


def send(address, port, octets, per_second, seconds):
    """The number of datagrams sent."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect((address, port))
    payload = bytes(octets)
    sent = 0
    end = time.monotonic() + seconds
    due = time.monotonic()  # when the next datagram is to leave
    while (now := time.monotonic()) < end:
        due = max(due, now - MOST_LATE_S)
        while due <= now:
            try:
                link.send(payload)
            except ConnectionRefusedError:  # told of an earlier one; this one was not sent
                continue
            sent += 1
            due += 1 / per_second
        time.sleep(TICK_S)
    return sent


if __name__ == "__main__":
    print(send(sys.argv[1], *map(int, sys.argv[2:])))
