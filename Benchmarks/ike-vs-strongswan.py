#!/usr/bin/env python3
"""IKE handshakes per second of CPU time, of Culvert and of strongSwan's load-tester, in turns on the same CPUs; their ratio.

    sudo Benchmarks/ike-vs-strongswan.py /opt/strongswan

strongSwan is one that was built from source with `--enable-load-tester --enable-openssl --enable-ml --enable-vici
--enable-swanctl --enable-systemd --enable-counters` (Debian's has no load-tester) and installed under the given prefix. On both
sides one process is both ends and may use all CPUs. CPU time is user and system; what others use of the machine is not in it.
What each counts as a handshake: Benchmarks/README.md.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
CASES = [
    ("x25519, pre-shared key", "aes256gcm16-prfsha384-x25519", "psk"),
    ("P-384, pre-shared key", "aes256gcm16-prfsha384-ecp384", "psk"),
    ("x25519 and ML-KEM-768, pre-shared key", "aes256gcm16-prfsha384-x25519-ke1_mlkem768", "psk"),
    ("x25519, certificates with RSA 2048", "aes256gcm16-prfsha384-x25519", "rsa2048"),
]
PLUGINS = ("random nonce openssl ml pem pkcs1 pkcs8 x509 constraints pubkey kdf load-tester kernel-netlink socket-default vici "
           "counters")
INITIATORS, HALF_OPEN = 4, 50  # threads of the load-tester that begin, and handshakes under way at once
WARM_UP_SECONDS = 1
STALL_SECONDS = 1.5  # without one handshake: the load-tester hangs
TRIES = 4
SUBJECT = "/O=strongSwan/OU=load-test/CN=srv"
IDENTITY = "CN=srv, OU=load-test, O=strongSwan"


class Stalled(Exception):
    """The load-tester has stopped to make handshakes."""


def configuration(directory, proposal, authentication, log_level):
    """strongswan.conf for a daemon that loads itself, without a kernel's part, logs, cookies and the machine's own files."""
    if authentication == "psk":
        proof = "initiator_auth = psk\n            responder_auth = psk"
    else:
        proof = f"""issuer_key = {directory}/key.pem
            issuer_cert = {directory}/certificate.pem
            initiator_id = "{IDENTITY}"
            responder_id = "{IDENTITY}"
            initiator_match = "{IDENTITY}\""""
    return f"""
charon-systemd {{
    # load-tester before kernel-netlink: otherwise that one installs the SAs.
    load = {PLUGINS}
    dos_protection = no
    install_routes = no
    install_virtual_ip = no
    ikesa_table_size = 1024
    ikesa_table_segments = 64
    journal {{
        default = -1
    }}
    filelog {{
        stderr {{
            default = -1
            ike = {log_level}
        }}
    }}
    plugins {{
        vici {{
            socket = unix://{directory}/vici
        }}
        load-tester {{
            enable = yes
            fake_kernel = yes
            initiator = 127.0.0.1
            responder = 127.0.0.1
            {proof}
            proposal = {proposal}
            esp = aes256gcm16
            initiators = {INITIATORS}
            iterations = 0
            init_limit = {HALF_OPEN}
            delay = 1
            delete_after_established = yes
        }}
    }}
}}
"""


def make_certificate(directory, bits):
    """A self-signed certificate with an RSA key, in the names that the load-tester uses."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-days", "2", "-subj", SUBJECT, "-addext",
         "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=digitalSignature,keyCertSign",
         "-keyout", directory / "key.pem", "-out", directory / "certificate.pem"], check=True, capture_output=True)


class LoadTester:
    """The daemon in a network namespace of its own, for as long as the `with` lasts."""

    def __init__(self, prefix, directory, proposal, authentication, log_level=-1):
        self.prefix, self.directory = prefix, directory
        if authentication != "psk":
            make_certificate(directory, int(authentication.removeprefix("rsa")))
        (directory / "strongswan.conf").write_text(configuration(directory, proposal, authentication, log_level))
        self.environment = os.environ | {"STRONGSWAN_CONF": str(directory / "strongswan.conf")}

    def __enter__(self):
        daemon = f"{self.prefix}/sbin/charon-systemd"
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0"', daemon], env=self.environment,
                stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # one that hangs does not end either
            self.process.kill()
            self.process.wait()

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def handshakes(self):
        """(monotonic time in seconds, IKE_AUTH responses so far, CPU seconds used so far)."""
        try:
            done = subprocess.run(
                [f"{self.prefix}/sbin/swanctl", "--counters", "--all", "--uri", f"unix://{self.directory}/vici"],
                env=self.environment, capture_output=True, text=True, timeout=5)
        except subprocess.TimeoutExpired:
            raise Stalled from None
        found = re.search(r"ike-auth-in-resp\s*:\s*(\d+)", done.stdout)
        return time.monotonic(), int(found[1]) if found else 0, self.cpu_seconds()

    def per_cpu_second(self, seconds):
        """Handshakes per second of CPU time, over so many seconds. Raises Stalled."""
        deadline = time.monotonic() + 10
        while self.handshakes()[1] == 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Stalled
            time.sleep(0.1)
        time.sleep(WARM_UP_SECONDS)
        first = moved = now = self.handshakes()
        while now[0] - first[0] < seconds:
            time.sleep(0.5)
            now = self.handshakes()
            if now[1] > moved[1]:
                moved = now
            elif now[0] - moved[0] > STALL_SECONDS:
                raise Stalled
        return (now[1] - first[1]) / (now[2] - first[2])


def check_strongswan(options, case):
    """A response to IKE_AUTH may also be a refusal: before anything is counted, the load-tester's log has to say that its SAs
    come up, and how they are authenticated. The measured runs have no log."""
    wanted = "with pre-shared key successful" if case[2] == "psk" else "with RSA_EMSA_PKCS1_SHA2_256 successful"
    with tempfile.TemporaryDirectory() as directory:
        with LoadTester(options.prefix, pathlib.Path(directory), case[1], case[2], log_level=1) as tester:
            deadline = time.monotonic() + 10
            log = ""
            while not (wanted in log and "established between" in log):
                if time.monotonic() > deadline or tester.process.poll() is not None:
                    sys.exit(f"strongSwan's load-tester brings no SA up ({case[0]}); its last words: {log[-600:]}")
                time.sleep(0.2)
                log = (tester.directory / "log").read_text(errors="replace")


def measure_strongswan(options, case, stalls):
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as directory:
            try:
                with LoadTester(options.prefix, pathlib.Path(directory), case[1], case[2]) as tester:
                    return tester.per_cpu_second(options.seconds)
            except Stalled:
                stalls[case] = stalls.get(case, 0) + 1
    sys.exit(f"strongSwan made no handshakes in {TRIES} runs ({case[0]}): does {options.prefix}/sbin/charon-systemd run, with "
             "the plugins load-tester, openssl, ml, vici and counters?")


def measure_culvert(options, case):
    done = subprocess.run(
        [options.culvert, "bench", "ike", "--proposals", case[1], "--auth", case[2], "--operation", "handshake",
         "--threads", str(options.threads), "--seconds", str(options.seconds), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{options.culvert} bench ike failed: {done.stderr.strip()}")
    return json.loads(done.stdout)["results"][0]["per_cpu_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", help="where strongSwan is installed")
    parser.add_argument("--culvert", default=REPOSITORY / ".build" / "release" / "culvert", help="the binary (the release build)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (5)")
    parser.add_argument("--seconds", type=float, default=3, help="per measurement (3)")
    options = parser.parse_args()
    options.threads = len(os.sched_getaffinity(0))
    if os.geteuid() != 0:
        sys.exit("This needs root: the load-tester gets a network namespace of its own.")
    help_text = subprocess.run([f"{options.prefix}/sbin/swanctl", "--help"], capture_output=True, text=True)
    version = (help_text.stdout + help_text.stderr).partition(" swanctl")[0].strip()
    for case in CASES:
        check_strongswan(options, case)
    results, stalls = {case: [] for case in CASES}, {}
    for number in range(options.rounds):
        for case in CASES:
            ours = measure_culvert(options, case)
            theirs = measure_strongswan(options, case, stalls)
            results[case].append((ours, theirs))
            print(f"round {number + 1}: {case[0]}: {ours:.0f} and {theirs:.0f}", file=sys.stderr, flush=True)
    print(f"{options.threads} CPUs, {options.rounds} rounds of {options.seconds:g} s; {version}; load average now "
          f"{os.getloadavg()[0]:.1f}; runs of the load-tester that hung and were repeated: {sum(stalls.values())}\n")
    print("| handshake | Culvert, per CPU s | strongSwan, per CPU s | ratio | lowest and highest |\n|---|---|---|---|---|")
    for case, pairs in results.items():
        ratios = [ours / theirs for ours, theirs in pairs]
        ours, theirs = (statistics.median(values) for values in zip(*pairs))
        print(f"| {case[0]} | {ours:.0f} | {theirs:.0f} | {statistics.median(ratios):.2f} | "
              f"{min(ratios):.2f} to {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
