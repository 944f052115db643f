"""A virtual machine with a Linux kernel of its own in the place of a gateway: strongSwan with the kernel's ESP.

The kernel, strongSwan and tools are those of `newer`; the machine runs in software emulation and needs no KVM.
"""

import hashlib
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

from . import newer
from .daemons import PLUGINS, Daemon, StrongSwan, strongswan_conf
from .shell import LabError, eventually, run

EMULATOR = "qemu-system-x86_64"
BOOT_SECONDS = 150
# Of the kernel's modules those that are here, and what they need.
MODULES = ("net/ipv4", "net/ipv6", "net/xfrm", "net/core", "net/802", "net/llc", "crypto", "lib", "arch", "drivers/net")
DRIVERS = ("virtio_net.ko.xz", "net_failover.ko.xz")
INIT = """#!/usr/bin/busybox sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin
/usr/bin/busybox mkdir -p /usr/local/bin
/usr/bin/busybox --install -s /usr/local/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run
depmod
echo /usr/local/bin/modprobe >/proc/sys/kernel/modprobe
for module in virtio_net esp4 esp6 xfrm_user aesni-intel; do modprobe $module; done
ip link set lo up
sysctl -q -w net.ipv4.ip_forward=1
stty -F /dev/ttyS1 raw -echo
setsid sh -c 'echo ready; exec sh' </dev/ttyS1 >/dev/ttyS1 2>&1
"""


# Made anew when what it is made from is other than it was.
IMAGE = newer.ROOT / f"initrd-{hashlib.sha256(repr((MODULES, DRIVERS, INIT)).encode()).hexdigest()[:12]}"


def missing():
    """What a machine cannot be made without and is not here, as a sentence; None when all is."""
    if not (newer.ROOT / "usr/bin/busybox").exists():
        return "scripts/test has unpacked no newer Debian with a kernel"
    if not shutil.which(EMULATOR):
        return f"there is no {EMULATOR}"
    return None


def kernel():
    """The folder of the kernel and its modules."""
    return next((newer.ROOT / "usr/lib/modules").iterdir())


def image():
    """The initial file system as a cpio archive, made once."""
    if IMAGE.exists():
        return IMAGE
    with tempfile.TemporaryDirectory(dir=newer.ROOT) as directory:
        root = pathlib.Path(directory) / "root"
        for folder in ("dev", "proc", "sys", "run", "tmp", "etc", "var"):
            (root / folder).mkdir(parents=True)
        (root / "var/run").symlink_to("/run")
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        for part in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
            shutil.copytree(newer.ROOT / part, root / part, symlinks=True, ignore=shutil.ignore_patterns("modules", "gconv"))
        modules = pathlib.Path("usr/lib/modules") / kernel().name
        for part in MODULES:
            only = (lambda _, names: set(names) - set(DRIVERS)) if part == "drivers/net" else None
            if (newer.ROOT / modules / "kernel" / part).exists():
                shutil.copytree(newer.ROOT / modules / "kernel" / part, root / modules / "kernel" / part, ignore=only)
        for name in ("modules.builtin", "modules.order"):
            shutil.copy(newer.ROOT / modules / name, root / modules)
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        made = pathlib.Path(directory) / "initrd"
        with open(made, "wb") as out:
            names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
            subprocess.run([newer.ROOT / "usr/bin/busybox", "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=root,
                           stdout=out, stderr=subprocess.DEVNULL, check=True)
        made.replace(IMAGE)
    return IMAGE


class Machine(Daemon):
    """Takes the place of a gateway in a laboratory: eth0 for its wan0, eth1 for its lan0, with its addresses."""

    def __init__(self, lab, role):
        super().__init__(lab, role, "machine")
        self.control = None
        self.control_path = self.directory / "control.sock"

    def start(self):
        """Boots, and returns when commands can be given."""
        cards = []
        for index, interface in enumerate(("wan0", "lan0")):
            cards += self.wire(interface, f"52:54:00:00:00:0{index + 1}")
        self.launch([
            EMULATOR, "-accel", "tcg", "-cpu", "max", "-m", "384", "-display", "none", "-monitor", "none", "-no-reboot",
            "-kernel", kernel() / "vmlinuz", "-initrd", image(), "-append", "console=ttyS0 panic=-1 quiet",
            "-serial", "stdio", "-serial", f"unix:{self.control_path},server=on,wait=off", *cards])
        eventually(self.control_path.exists, timeout=10, what=lambda: f"{EMULATOR} did not start: {self.log()[-500:]}")
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(str(self.control_path))
        self.control.settimeout(1)
        # Nothing is said before: what the machine does not hear whole could leave its shell in the middle of a word.
        self.hear("ready\n", BOOT_SECONDS)
        site = self.lab.site(self.role.removeprefix("gw-"))
        self.shell(f"ip link set eth0 up; ip link set eth1 up; ip address add {site.underlay}/24 dev eth0; "
                   f"ip address add {site.gateway}/24 dev eth1; ip route add default via {site.next_hop}")
        return self

    def wire(self, interface, mac):
        """A bridge from the namespace's interface to a card of the machine; the emulator's words for the card."""
        tap, bridge = f"tap-{interface}", f"br-{interface}"
        self.lab.ip(self.role, "address", "flush", "dev", interface)
        self.lab.ip(self.role, "tuntap", "add", tap, "mode", "tap")
        self.lab.ip(self.role, "link", "add", bridge, "type", "bridge")
        for port in (tap, interface):
            self.lab.ip(self.role, "link", "set", port, "master", bridge, "up")
        self.lab.ip(self.role, "link", "set", bridge, "up")
        # Checksums are filled in, and frames as long as on a wire.
        plain = ",".join(f"{feature}=off" for feature in (
            "csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "guest_ufo", "host_tso4", "host_tso6", "host_ufo"))
        return ["-netdev", f"tap,id={interface},ifname={tap},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev={interface},mac={mac},{plain}"]

    def hear(self, mark, timeout):
        """What comes from the shell up to the line that `mark` begins, and the rest of that line."""
        deadline, said = time.monotonic() + timeout, ""
        while True:
            before, found, after = said.partition(mark)
            if found and (mark.endswith("\n") or "\n" in after):
                return before, after.partition("\n")[0]
            if time.monotonic() > deadline:
                raise LabError(f"the machine said nothing of the kind within {timeout} s: {said[-300:]} {self.log()[-500:]}")
            try:
                chunk = self.control.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                raise LabError(f"the machine ended: {self.log()[-500:]}")
            said += chunk.decode(errors="replace").replace("\r", "")

    def shell(self, command, timeout=60):
        """Runs a command inside and returns what it printed; raises LabError when it fails."""
        status, text = self.try_shell(command, timeout)
        if status:
            raise LabError(f"the machine's `{command}` ended with status {status}: {text[-500:]}")
        return text

    def try_shell(self, command, timeout=60):
        """Runs a command inside; its exit status and what it printed."""
        mark = f"ended {time.monotonic_ns()} "
        # Not whole in what is sent: a shell on a terminal shows what it hears.
        self.control.sendall(f"( {command}\n) 2>&1 </dev/null; echo; echo end'{mark[3:]}'$?\n".encode())
        text, status = self.hear(mark, timeout)
        _, shown, printed = text.partition("'$?\n")
        return int(status), (printed if shown else text).removesuffix("\n")

    def write(self, path, text):
        """A file inside."""
        self.shell(f"mkdir -p {shlex.quote(os.path.dirname(path))}; cat >{shlex.quote(path)} <<'-- end of file'\n{text}\n"
                   "-- end of file")


class KernelStrongSwan(StrongSwan):
    """strongSwan in a machine, with the ESP of its kernel."""

    def __init__(self, machine, swanctl, *, settings=""):
        self.machine, self.lab, self.role = machine, machine.lab, machine.role
        self.settings, self.text = settings, swanctl
        self.conf = strongswan_conf(
            PLUGINS.replace("kernel-libipsec ", ""), "unix:///run/vici.sock", "/dev/ttyS0", settings)

    def start(self):
        self.machine.write("/etc/strongswan.conf", self.conf)
        self.machine.write("/etc/swanctl/swanctl.conf", self.text)
        self.machine.shell("STRONGSWAN_CONF=/etc/strongswan.conf setsid charon-systemd >/dev/ttyS0 2>&1 & echo $! >/run/charon")
        eventually(lambda: self.swanctl("--version", "--daemon", check=False).returncode == 0, timeout=30,
                   what=lambda: f"strongSwan in the machine does not answer: {self.log()[-800:]}")
        self.swanctl("--load-all", "--noprompt")
        return self

    def swanctl(self, *words, check=True, timeout=60):
        command = "STRONGSWAN_CONF=/etc/strongswan.conf swanctl " + shlex.join(map(str, words)) + " --uri unix:///run/vici.sock"
        status, text = self.machine.try_shell(command, timeout)
        if check and status:
            raise LabError(f"`{command}` in the machine ended with status {status}: {text[-500:]}")
        return subprocess.CompletedProcess(words, status, text, "")

    def log(self):
        return self.machine.log()

    def end(self):
        """Deletes its SAs and ends it; the machine stays."""
        self.machine.shell("kill $(cat /run/charon); while kill -0 $(cat /run/charon) 2>/dev/null; do sleep 0.1; done; "
                           "/usr/sbin/ip xfrm state flush; /usr/sbin/ip xfrm policy flush")
