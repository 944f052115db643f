"""The topology: two sites, a gateway each, and the wire between them.

    host-east          gw-east              wire              gw-west          host-west
    10.1.0.2 ──────── lan0  wan0 ──────── east  west ──────── wan0  lan0 ──────── 10.2.0.2
              10.1.0.1      192.0.2.1      (bridge)      192.0.2.2      10.2.0.1

Every name above is a network namespace `cv-<instance>-<role>`; the links are veth pairs made directly inside them, so nothing
appears in the machine's own namespace and several laboratories run side by side. Each gateway has a default route through the
other: without IPsec the kernel forwards between the sites in the clear, which is the plain-routing baseline, and which makes
every leak visible on the wire.

`wire` is a bridge, or a router, or a router that masquerades one side:

    routed     172.16.1.1 ── 172.16.1.254  172.16.2.254 ── 172.16.2.1
    nat-east   172.16.1.1 ── 172.16.1.254  192.0.2.254 ── 192.0.2.2      (west sees 192.0.2.254)
    nat-west   192.0.2.1 ── 192.0.2.254  172.16.2.254 ── 172.16.2.1      (east sees 192.0.2.254; ports 500, 4500 forwarded)
    ipv6       2001:db8::1 ── (bridge) ── 2001:db8::2
    ipv6-routed   2001:db8:1::1 ── 2001:db8:1::fe  2001:db8:2::fe ── 2001:db8:2::1

With an IPv6 wire the sites stay IPv4; the gateways' default route is then one of IPv4 by an IPv6 next hop, so that a leak shows.
"""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from .shell import LabError, require_root, run

ROLES = ("host-east", "gw-east", "wire", "gw-west", "host-west")
WIRES = ("bridge", "routed", "nat-east", "nat-west", "ipv6", "ipv6-routed")
STATE_DIRECTORY = pathlib.Path("/run/culvert-lab")
CLONE_NEWNET = 0x40000000
OFFLOADS = ("tx", "off", "tso", "off", "gso", "off", "gro", "off")


@dataclasses.dataclass(frozen=True)
class Site:
    """One side of the laboratory: its addresses as strings, its subnet in CIDR."""

    name: str
    subnet: str
    host: str
    gateway: str
    underlay: str
    next_hop: str
    reachable_at: str  # where the other side finds it: behind NAT not its own address


def sites(wire):
    """East and west as they are addressed when the wire is of kind `wire`."""
    east = Site("east", "10.1.0.0/24", "10.1.0.2", "10.1.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.1")
    west = Site("west", "10.2.0.0/24", "10.2.0.2", "10.2.0.1", "192.0.2.2", "192.0.2.1", "192.0.2.2")
    private_east = {"underlay": "172.16.1.1", "next_hop": "172.16.1.254", "reachable_at": "172.16.1.1"}
    private_west = {"underlay": "172.16.2.1", "next_hop": "172.16.2.254", "reachable_at": "172.16.2.1"}
    if wire == "ipv6":
        six = {side: {"underlay": f"2001:db8::{own}", "next_hop": f"2001:db8::{other}", "reachable_at": f"2001:db8::{own}"}
               for side, own, other in (("east", 1, 2), ("west", 2, 1))}
        return dataclasses.replace(east, **six["east"]), dataclasses.replace(west, **six["west"])
    if wire == "ipv6-routed":
        six = [{"underlay": f"2001:db8:{net}::1", "next_hop": f"2001:db8:{net}::fe", "reachable_at": f"2001:db8:{net}::1"}
               for net in (1, 2)]
        return dataclasses.replace(east, **six[0]), dataclasses.replace(west, **six[1])
    if wire == "routed":
        return dataclasses.replace(east, **private_east), dataclasses.replace(west, **private_west)
    if wire == "nat-east":
        hidden = dataclasses.replace(east, **private_east | {"reachable_at": "192.0.2.254"})
        return hidden, dataclasses.replace(west, next_hop="192.0.2.254")
    if wire == "nat-west":
        hidden = dataclasses.replace(west, **private_west | {"reachable_at": "192.0.2.254"})
        return dataclasses.replace(east, next_hop="192.0.2.254"), hidden
    return east, west


class Lab:
    """The namespaces of one instance. `up` is idempotent (it starts from nothing each time), `down` removes whatever is there."""

    def __init__(self, instance="lab", wire="bridge", queues=1):
        if wire not in WIRES:
            raise LabError(f"the wire is one of {', '.join(WIRES)}, not {wire}")
        if not instance.isalnum() or len(instance) > 24:
            raise LabError(f"an instance name has at most 24 letters and digits, not {instance!r}")
        self.instance, self.wire, self.queues = instance, wire, queues
        self.east, self.west = sites(wire)
        self.directory = STATE_DIRECTORY / instance
        self.daemons = []  # what was started in it, for reports

    @property
    def routes(self):
        """Whether the wire is a router and no bridge."""
        return self.wire not in ("bridge", "ipv6")

    @property
    def is_ipv6(self):
        return self.wire.startswith("ipv6")

    def namespace(self, role):
        return f"cv-{self.instance}-{role}"

    def site(self, name):
        return {"east": self.east, "west": self.west}[name]

    # Making and removing

    def up(self):
        """Makes everything anew; raises LabError when the kernel refuses a part, after removing the rest."""
        require_root()
        self.down()
        self.directory.mkdir(parents=True, mode=0o700)
        (self.directory / "owner").write_text(f"{os.getpid()}\n")
        try:
            for role in ROLES:
                run(["ip", "netns", "add", self.namespace(role)])
                self._quiet(role)
            for side in ("east", "west"):
                self._link(f"gw-{side}", "wan0", "wire", side)
                self._address_underlay(self.site(side))
                self.connect_host(side)
            self._join_wire()
        except LabError:
            self.down()
            raise

    def down(self):
        """Ends every process in the instance's namespaces, removes them and the instance's files. Nothing there: nothing done."""
        present = [name for name in namespaces() if name.startswith(self.namespace(""))]
        for name in present:
            end_processes_of(name)
        for name in present:
            run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        self.down()

    # Using

    def execute(self, role, argv, **options):
        """Runs a command in a role's namespace, see shell.run."""
        return run(["ip", "netns", "exec", self.namespace(role), *argv], **options)

    def spawn(self, role, argv, **options):
        """Starts a long-running command in a role's namespace; its pid is the command's own (`ip netns exec` becomes it)."""
        words = ["ip", "netns", "exec", self.namespace(role), *(str(word) for word in argv)]
        return subprocess.Popen(words, start_new_session=True, **options)

    def ip(self, role, *words, check=True):
        """`ip` inside a role's namespace."""
        return run(["ip", "-n", self.namespace(role), *words], check=check)

    def nft(self, role, rules):
        """Loads an nftables ruleset (text) in a role's namespace."""
        return self.execute(role, ["nft", "-f", "-"], stdin=rules)

    def mac(self, role, interface):
        return self.execute(role, ["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()

    def socket(self, role, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
        """A socket of this process that lives in a role's namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{self.namespace(role)}", "rb") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                raise LabError(f"cannot enter {self.namespace(role)}: {os.strerror(ctypes.get_errno())}")
            try:
                return socket.socket(family, kind, protocol)
            finally:
                libc.setns(home.fileno(), CLONE_NEWNET)

    def frames(self, role, interface):
        """A packet socket on an interface: what is sent to it goes out there as it is, what it receives is all that passes."""
        every_protocol = 0x0003
        raw = self.socket(role, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every_protocol))
        raw.bind((interface, every_protocol))
        return raw

    def join(self, role, interface, address):
        """One more namespace `role` with a port on the wire's bridge, addressed (`192.0.2.9/24`); it goes when the rest does."""
        run(["ip", "netns", "add", self.namespace(role)])
        self._quiet(role)
        self._link(role, interface, "wire", role)
        self.ip("wire", "link", "set", role, "master", "br0")
        self.ip(role, "address", "add", address, "dev", interface)

    def neighbour(self, role, address, gateway, interface, gateway_address):
        """One more namespace `role` behind an interface of its own of a gateway, both addressed (`10.1.9.2/24`)."""
        run(["ip", "netns", "add", self.namespace(role)])
        self._quiet(role)
        self._link(role, "eth0", gateway, interface)
        self.ip(role, "address", "add", address, "dev", "eth0")
        self.ip(gateway, "address", "add", gateway_address, "dev", interface)
        self.ip(role, "route", "add", "default", "via", gateway_address.partition("/")[0])

    # Parts

    def _quiet(self, role):
        """No IPv6 chatter and no redirects on the wire; source routes are not second-guessed."""
        self.ip(role, "link", "set", "lo", "up")
        settings = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1",
                    "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
                    "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.default.send_redirects=0"]
        if role.startswith("gw-") or (role == "wire" and self.routes):
            settings.append("net.ipv4.ip_forward=1")
        self.execute(role, ["sysctl", "-q", "-w", *settings])

    def _link(self, left_role, left, right_role, right):
        """A veth pair with both ends where they belong, offloads off: AF_XDP copies frames before checksums are filled in."""
        queues = ["numrxqueues", str(self.queues), "numtxqueues", str(self.queues)]
        run(["ip", "link", "add", left, *queues, "netns", self.namespace(left_role),
             "type", "veth", "peer", "name", right, *queues, "netns", self.namespace(right_role)])
        for role, interface in ((left_role, left), (right_role, right)):
            self.execute(role, ["ethtool", "-K", interface, *OFFLOADS])
            self.ip(role, "link", "set", interface, "up")

    def connect_host(self, side):
        """The link between a site's host and its gateway, addressed; again when it was deleted."""
        site, host, gateway = self.site(side), f"host-{side}", f"gw-{side}"
        self._link(host, "eth0", gateway, "lan0")
        self.ip(host, "address", "add", f"{site.host}/24", "dev", "eth0")
        self.ip(host, "route", "add", "default", "via", site.gateway)
        self.ip(gateway, "address", "add", f"{site.gateway}/24", "dev", "lan0")

    def _address_underlay(self, site):
        gateway = f"gw-{site.name}"
        if not self.is_ipv6:
            self.ip(gateway, "address", "add", f"{site.underlay}/24", "dev", "wan0")
            self.ip(gateway, "route", "add", "default", "via", site.next_hop)
            return
        self.enable_ipv6(gateway, "wan0")
        self.ip(gateway, "address", "add", f"{site.underlay}/64", "dev", "wan0", "nodad")
        if self.routes:
            self.ip(gateway, "-6", "route", "add", "default", "via", site.next_hop)
        self.ip(gateway, "-4", "route", "add", "default", "via", "inet6", site.next_hop, "dev", "wan0")

    def enable_ipv6(self, role, interface):
        """IPv6 on an interface, without router advertisements and without a pause for duplicate detection."""
        settings = [f"net.ipv6.conf.{interface}.{setting}" for setting in ("accept_ra=0", "accept_dad=0", "disable_ipv6=0")]
        self.execute(role, ["sysctl", "-q", "-w", *settings])

    def _join_wire(self):
        if not self.routes:
            self.ip("wire", "link", "add", "br0", "type", "bridge")
            for side in ("east", "west"):
                self.ip("wire", "link", "set", side, "master", "br0")
            self.ip("wire", "link", "set", "br0", "up")
            return
        if self.is_ipv6:
            self.execute("wire", ["sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1"])
            for site in (self.east, self.west):
                self.enable_ipv6("wire", site.name)
                self.ip("wire", "address", "add", f"{site.next_hop}/64", "dev", site.name, "nodad")
                self.ip("wire", "route", "add", site.subnet, "via", "inet6", site.underlay, "dev", site.name)
            return
        for site in (self.east, self.west):
            self.ip("wire", "address", "add", f"{site.next_hop}/24", "dev", site.name)
            self.ip("wire", "route", "add", site.subnet, "via", site.underlay)
        if self.wire != "routed":
            self.nft("wire", self._masquerade())

    def _masquerade(self):
        """Source NAT towards the open side; IKE that arrives for the NAT's own address goes in to the hidden gateway."""
        hidden, out = ("east", "west") if self.wire == "nat-east" else ("west", "east")
        return f"""
            table ip culvert_nat {{
                chain out {{
                    type nat hook postrouting priority 100
                    oifname "{out}" ip saddr 172.16.0.0/16 masquerade
                }}
                chain in {{
                    type nat hook prerouting priority -100
                    iifname "{out}" ip daddr 192.0.2.254 udp dport {{ 500, 4500 }} dnat to {self.site(hidden).underlay}
                }}
            }}
            """


def namespaces():
    """Names of all network namespaces on the machine."""
    lines = run(["ip", "netns", "list"], check=False).stdout.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def end_processes_of(namespace, patience_seconds=3.0):
    """SIGTERM, then SIGKILL, to what runs in a namespace of ours."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience_seconds
        listed = run(["ip", "netns", "pids", namespace], check=False).stdout.split()
        for pid in listed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)
        while listed and time.monotonic() < deadline:
            listed = run(["ip", "netns", "pids", namespace], check=False).stdout.split()
            time.sleep(0.05)
        if not listed:
            return


def instances():
    """Instance names that have namespaces now."""
    found = set()
    for name in namespaces():
        for role in ROLES:
            if name.startswith("cv-") and name.endswith("-" + role):
                found.add(name[len("cv-"):-len("-" + role)])
    return sorted(found)


def sweep():
    """Removes laboratories whose maker is gone without having cleaned up; returns their names. One kept on purpose stays."""
    swept = []
    for instance in instances():
        directory = STATE_DIRECTORY / instance
        if (directory / "keep").exists():
            continue
        try:
            owner = int((directory / "owner").read_text())
        except (OSError, ValueError):
            owner = None
        if owner is None or not pathlib.Path(f"/proc/{owner}").exists():
            Lab(instance).down()
            swept.append(instance)
    return swept
