"""Daemons that live in a namespace: a Culvert gateway and a strongSwan peer, started, asked, and killed."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from . import newer
from .shell import LabError, eventually, run

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class Daemon:
    """A process in a role's namespace whose standard output and error go to `log_path`."""

    def __init__(self, lab, role, name):
        self.lab, self.role, self.name = lab, role, name
        self.directory = lab.directory / f"{role}-{name}"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log_path = self.directory / "log"
        self.process = None
        lab.daemons.append(self)

    def launch(self, argv, env=None):
        with open(self.log_path, "ab") as log:
            self.process = self.lab.spawn(
                self.role, argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | (env or {}))

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        """Everything it has said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def end(self, number=signal.SIGTERM, patience_seconds=15):
        """Sends a signal and waits; returns the exit status (negative: the signal that ended it)."""
        if not self.alive():
            return self.process.returncode if self.process else None
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=patience_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise LabError(f"{self.name} in {self.role} did not end {patience_seconds} s after signal {number}") from None

    def kill(self):
        """kill -9, as a crash would."""
        return self.end(signal.SIGKILL)


def culvert_binary():
    """The binary under test: $CULVERT, else the release build of this repository."""
    named = os.environ.get("CULVERT")
    path = pathlib.Path(named) if named else REPOSITORY / ".build" / "release" / "culvert"
    if not path.exists():
        raise LabError(f"there is no culvert binary at {path}: run `swift build -c release`, or set CULVERT")
    return path


class Culvert(Daemon):
    """`culvert run` in a gateway's namespace.

    `configuration` is a dictionary in the shape of the configuration file (written as JSON, which is YAML), or YAML text.
    """

    def __init__(self, lab, role, configuration, name="culvert"):
        super().__init__(lab, role, name)
        self.socket = self.directory / "control.sock"
        self.configuration_path = self.directory / "culvert.yaml"
        self.configure(configuration)

    def configure(self, configuration):
        text = configuration if isinstance(configuration, str) else json.dumps(configuration, indent=2)
        self.configuration_path.write_text(text)
        self.configuration_path.chmod(0o600)

    def start(self, *options, prefix=(), answer_within=20, env=None):
        """Starts the gateway and waits until its socket answers; `prefix` is a command that runs it (setpriv, say)."""
        self.launch(
            [*prefix, culvert_binary(), "run", "--config", self.configuration_path, "--socket", self.socket, *options], env)
        if answer_within:
            eventually(
                self.answers, timeout=answer_within, what=lambda: f"culvert in {self.role} does not answer: {self.tail()}")
        return self

    def answers(self):
        """Whether the control socket answers; raises LabError when the process is gone."""
        if not self.alive():
            raise LabError(f"culvert in {self.role} ended with status {self.process.returncode}: {self.tail()}")
        return self.client("status", "--json", check=False).returncode == 0

    def tail(self, lines=8):
        return " / ".join(self.log().splitlines()[-lines:])

    def client(self, command, *words, check=True, timeout=60):
        """Runs `culvert COMMAND` against this gateway's socket."""
        return self.lab.execute(
            self.role, [culvert_binary(), command, *words, "--socket", self.socket], check=check, timeout=timeout)

    def status(self):
        """`culvert status --json` as a dictionary."""
        return json.loads(self.client("status", "--json").stdout)

    def connection(self, name):
        """One connection's entry of the status."""
        for entry in self.status()["connections"]:
            if entry["name"] == name:
                return entry
        raise LabError(f"status of {self.role} has no connection {name}")

    def drops(self):
        """Drop counters of the whole gateway, reason to packets."""
        return self.status()["drops"]

    def wait_installed(self, connection, timeout=30):
        """Waits until every child of a connection is installed and returns its status entry."""
        seen = {}

        def ready():
            seen["entry"] = entry = self.connection(connection)
            children = entry["children"]
            return entry["state"] == "established" and children and all(child["state"] == "installed" for child in children)

        eventually(
            ready, timeout=timeout,
            what=lambda: f"{connection} in {self.role} is not up: {json.dumps(seen.get('entry'))} log: {self.tail()}")
        return seen["entry"]

    def wait_reason(self, connection, wanted, timeout=30):
        """Waits until a connection's reason (or one of its children's) matches the regular expression; returns the sentence."""
        seen = {}

        def told():
            entry = self.connection(connection)
            reasons = [entry.get("reason")] + [child.get("reason") for child in entry["children"]]
            seen["reasons"] = [reason for reason in reasons if reason]
            return [reason for reason in seen["reasons"] if re.search(wanted, reason, re.IGNORECASE)]

        found = eventually(
            told, timeout=timeout,
            what=lambda: f"no reason of {connection} in {self.role} matches /{wanted}/: {seen.get('reasons')} log: {self.tail()}")
        return found[0]


PLUGINS = ("random nonce aes sha1 sha2 hmac kdf gcm openssl pem pkcs1 pkcs8 x509 revocation constraints pubkey "
           "kernel-libipsec kernel-netlink socket-default vici updown")


@dataclasses.dataclass(frozen=True)
class StrongSwanBuild:
    """Where charon and swanctl come from; `prefix` is a command that runs them."""

    directory: str = "/usr/sbin"
    plugins: str = PLUGINS
    prefix: tuple = ()


def newer_strongswan():
    """One that knows ML-KEM (strongSwan 6.0 and later) and RFC 4806: $STRONGSWAN, else a newer Debian's, or None."""
    if "STRONGSWAN" in os.environ:
        return DEFAULT_BUILD
    return StrongSwanBuild(prefix=tuple(newer.command())) if newer.ROOT.exists() else None


# STRONGSWAN=/opt/strongswan: the tests take another build, installed there. STRONGSWAN=newer: a newer Debian's.
if os.environ.get("STRONGSWAN") == "newer":
    DEFAULT_BUILD = StrongSwanBuild(prefix=tuple(newer.command()))
elif "STRONGSWAN" in os.environ:
    DEFAULT_BUILD = StrongSwanBuild(f"{os.environ['STRONGSWAN']}/sbin", PLUGINS.replace("kernel-libipsec", "ml kernel-libipsec"))
else:
    DEFAULT_BUILD = StrongSwanBuild()


def strongswan_conf(plugins, uri, log_path, settings):
    """A strongswan.conf; `settings` are more lines of it."""
    return f"""
            charon-systemd {{
                load = {plugins}
                retransmit_tries = 4
                retransmit_timeout = 1.0
                retransmit_base = 1.5
                make_before_break = yes
                {settings}
                plugins {{
                    vici {{ socket = {uri} }}
                    kernel-libipsec {{ load = yes
                        allow_peer_ts = yes }}
                }}
                filelog {{
                    log {{
                        path = {log_path}
                        default = 1
                        ike = 2
                        cfg = 2
                        knl = 2
                        esp = 1
                        flush_line = yes
                    }}
                }}
            }}
            """


class StrongSwan(Daemon):
    """charon, of this system unless `build` says otherwise, with its user-space ESP, no systemd needed.

    That ESP (kernel-libipsec) always encapsulates in UDP. One process per namespace: STRONGSWAN_CONF names its own
    file, vici its own socket.
    """

    def __init__(self, lab, role, swanctl, *, settings="", plugins="", credentials=None, build=DEFAULT_BUILD):
        """`credentials`: a folder of the shape of /etc/swanctl, with x509, x509ca, x509crl, private and pubkey."""
        super().__init__(lab, role, "strongswan")
        self.settings, self.build = settings, build
        self.uri = f"unix://{self.directory}/vici.sock"
        # swanctl looks for certificates and keys beside the file.
        self.swanctl_path = (credentials or self.directory) / "swanctl.conf"
        self.swanctl_path.write_text(swanctl)
        self.conf_path = self.directory / "strongswan.conf"
        self.conf_path.write_text(strongswan_conf(f"{build.plugins} {plugins}", self.uri, self.log_path, settings))

    def start(self):
        self.launch([*self.build.prefix, f"{self.build.directory}/charon-systemd"], env={"STRONGSWAN_CONF": str(self.conf_path)})
        eventually(
            lambda: self.alive() and self.swanctl("--version", "--daemon", check=False).returncode == 0, timeout=20,
            what=lambda: f"strongSwan in {self.role} does not answer: {self.log()[-500:]}")
        self.swanctl("--load-all", "--noprompt", "--file", self.swanctl_path)
        return self

    def give(self, kind, *files):
        """Puts PEM files where swanctl looks for them; `kind` is x509, x509ca, x509crl or private. Before `start`."""
        folder = self.directory / kind
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, folder)
        return self

    def swanctl(self, *words, check=True, timeout=60):
        return run([*self.build.prefix, f"{self.build.directory}/swanctl", *words, "--uri", self.uri],
                   check=check, timeout=timeout,
                   env=os.environ | {"STRONGSWAN_CONF": str(self.conf_path), "SWANCTL_DIR": str(self.directory)})

    def set(self, settings):
        """Other settings in the place of those it was made with, taken over at once."""
        self.conf_path.write_text(self.conf_path.read_text().replace(self.settings, settings))
        self.settings = settings
        self.swanctl("--reload-settings")

    def initiate(self, child="net", timeout=30, check=True):
        """Brings a child up; the completed `swanctl --initiate`."""
        return self.swanctl("--initiate", "--child", child, "--timeout", str(timeout), check=check, timeout=timeout + 10)

    def sas(self):
        """`swanctl --list-sas` as text."""
        return self.swanctl("--list-sas").stdout

    def wait_installed(self, timeout=30):
        eventually(lambda: "INSTALLED" in self.sas(), timeout=timeout,
                   what=lambda: f"strongSwan in {self.role} has no child SA: {self.log()[-800:]}")
        return self.sas()


def swanctl_conf(*, local, remote, local_id, remote_id, local_ts, remote_ts, psk, ike="aes256gcm16-prfsha384-ecp384",
                 esp="aes256gcm16-noesn", extra="", child_extra=""):
    """A swanctl.conf with one connection `gw` and one child `net`; addresses may be `%any`."""
    return f"""
        connections {{
            gw {{
                version = 2
                local_addrs = {local}
                remote_addrs = {remote}
                proposals = {ike}
                dpd_delay = 5s
                mobike = no
                {extra}
                local {{
                    auth = psk
                    id = {local_id}
                }}
                remote {{
                    auth = psk
                    id = {remote_id}
                }}
                children {{
                    net {{
                        local_ts = {local_ts}
                        remote_ts = {remote_ts}
                        esp_proposals = {esp}
                        {child_extra}
                    }}
                }}
            }}
        }}
        secrets {{
            ike-gw {{
                id-1 = {local_id}
                id-2 = {remote_id}
                secret = "{psk}"
            }}
        }}
        """


def address_of(lab, side):
    """Where the other site finds a side."""
    return lab.site(side).reachable_at
