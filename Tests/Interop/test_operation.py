"""What an operator meets: diagnose and doctor, a file that is not there, the example for single hosts, words of scripts/test."""

import pathlib
import re
import socket
import subprocess

import pytest

from culvert_lab.daemons import REPOSITORY, Culvert, culvert_binary
from culvert_lab.shell import eventually
from culvert_lab.traffic import ping
from gateways import Pair, gateway
from test_certificates import pki

ROAD = REPOSITORY / "examples" / "road-warrior"


def idle(lab, **changes):
    return gateway(lab, "east", child={"start": "manual"}, **changes).start()


def test_a_service_manager_is_told_when_the_routes_are_in_place(lab, tmp_path):
    """sd_notify: what waits for the service, the network above all, finds it protected."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        ours = gateway(lab, "east", child={"start": "manual"})
        ours.start(env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, answer_within=0)
        assert manager.recv(100) == b"READY=1\n"
        assert lab.west.subnet in lab.ip("gw-east", "route", "show", "table", "22000").stdout
    ours.end()


def test_a_gateway_that_cannot_have_its_memory_still_protects(lab):
    if int(pathlib.Path("/proc/sys/vm/nr_hugepages").read_text()):
        pytest.skip("huge pages are reserved here")
    ours = gateway(lab, "east", dataplane={"huge_pages": "require"})
    ours.start(answer_within=0)
    eventually(lambda: not ours.alive(), timeout=15, what=lambda: f"it runs without huge pages: {ours.log()}")
    assert "MAP_HUGETLB" in ours.log()
    routes = lab.ip("gw-east", "route", "show", "table", "22000").stdout
    assert f"blackhole {lab.west.subnet}" in routes, routes


@pytest.mark.parametrize("words", [["status"], ["down", "west"], ["rekey", "west"], ["reload"], ["diagnose"]], ids=" ".join)
def test_a_config_that_is_named_and_not_there_is_78(words, tmp_path):
    for more in ([], ["--socket", str(tmp_path / "none.sock")]):
        done = subprocess.run([str(culvert_binary()), *words, "--config", str(tmp_path / "absent.yaml"), *more],
                              capture_output=True, text=True, timeout=20)
        assert done.returncode == 78 and "absent.yaml: No such file" in done.stderr, done


def test_diagnose_finds_nothing_wrong_with_a_connection_that_waits(shared_lab):
    ours = idle(shared_lab)
    try:
        done = ours.client("diagnose", check=False)
        assert done.returncode == 0 and "Nothing is wrong" in done.stdout, done
        assert re.search(r"^ok +west: idle", done.stdout, re.M) and "fail" not in done.stdout, done.stdout
    finally:
        ours.end()


def test_diagnose_blames_a_firewall_only_when_nobody_answers(shared_lab):
    ours = idle(shared_lab)
    shared_lab.nft("wire", "table bridge silent { chain c { type filter hook forward priority 0; ip protocol udp drop; }; }")
    try:
        ours.client("up", "west", "--timeout", "3s", check=False)
        done = ours.client("diagnose", check=False)
        assert done.returncode == 1 and "No answer" in done.stdout and "firewall" in done.stdout, done
        shared_lab.ip("gw-east", "link", "set", "wan0", "down")
        eventually(lambda: "wan0" in (ours.connection("west")["reason"] or ""), timeout=5, what="nobody minds the interface")
        done = ours.client("diagnose", check=False)
        assert done.returncode == 1 and "is down" in done.stdout and "firewall" not in done.stdout, done
    finally:
        shared_lab.nft("wire", "delete table bridge silent")
        shared_lab.ip("gw-east", "link", "set", "wan0", "up")
        ours.end()


def test_diagnose_tells_of_an_installed_child_that_carries_nothing(lab):
    pair = Pair(lab).up()
    assert pair.east.client("diagnose", check=False).returncode == 0
    lab.ip("gw-east", "address", "del", f"{lab.east.underlay}/24", "dev", "wan0")
    eventually(lambda: pair.east.connection("west")["children"][0]["reason"], timeout=5, what="the child has no reason")
    assert pair.east.connection("west")["state"] == "established"
    done = pair.east.client("diagnose", check=False)
    assert done.returncode == 1 and re.search(r"fail +west: established\n +child net: installed: Nothing goes", done.stdout), done


def test_diagnose_reads_the_file_of_the_running_gateway_and_names_an_interface_that_is_not_there(shared_lab):
    ours = idle(shared_lab, interfaces=[{"name": "wan9", "role": "underlay"}, {"name": "lan0", "role": "protected"}])
    try:
        done = ours.client("diagnose", check=False)
        assert done.returncode == 1 and re.search(r"fail.*wan9: there is no such interface", done.stdout), done
    finally:
        ours.end()


def test_diagnose_names_an_interface_that_lost_its_program(shared_lab):
    """Until the gateway has put it back, which takes it seconds."""
    ours = idle(shared_lab)
    try:
        for word in ("xdp", "xdpgeneric"):
            shared_lab.ip("gw-east", "link", "set", "dev", "lan0", word, "off", check=False)
        done = ours.client("diagnose", check=False)
        if done.returncode == 0:  # it was quicker
            assert "lan0 had lost the XDP program" in ours.log(), done
        else:
            assert re.search(r"fail.*lan0: the gateway is not attached", done.stdout), done
        eventually(
            lambda: "xdp" in shared_lab.ip("gw-east", "link", "show", "lan0").stdout, timeout=5, what="lan0 stays without")
        assert ours.client("diagnose", check=False).returncode == 0
    finally:
        ours.end()


def test_an_mtu_that_outgrows_the_frames_is_told_with_what_to_do(lab):
    ours = idle(lab)
    lab.ip("gw-east", "link", "set", "lan0", "mtu", "3000")
    eventually(lambda: "lan0 has an MTU of 3000" in ours.log(), timeout=10, what=ours.tail)
    assert re.search(r"lan0 has an MTU of 3000.* lower it to 1778 .*restart the gateway", ours.log()), ours.log()
    ours.end()
    ours = idle(lab)
    again = ours.log().rsplit(" ended", 1)[-1]
    assert "lan0: XDP" in again and "MTU of 3000" not in again, again
    ours.end()


def test_doctor_knows_a_gateway_on_another_socket_and_reserves_what_run_asks_for(shared_lab, tmp_path):
    ours = idle(shared_lab)
    try:
        words = [culvert_binary(), "doctor", "--config", ours.configuration_path, "--socket", tmp_path / "other.sock"]
        done = shared_lab.execute("gw-east", words, check=False)
        assert done.returncode == 1 and "Culvert itself runs" in done.stdout, done
        asked = re.search(r"reserve (\d+) with sysctl", ours.log())
        told = re.search(r"vm\.nr_hugepages=(\d+)", done.stdout)
        if "no huge pages" in ours.log():
            assert asked and told and asked[1] == told[1], (ours.log(), done.stdout)
        else:
            assert not told, done.stdout
    finally:
        ours.end()


def test_the_example_for_single_hosts_is_accepted_and_carries_traffic(lab, tmp_path):
    commands = re.search(r"```sh\n(.*?)```", (ROAD / "README.md").read_text(), re.S)[1]
    for line in commands.strip().splitlines():
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        assert words[:2] == ["culvert", "pki"]
        pki(tmp_path, *words[2:])
    sides = {}
    for name in ("gateway", "client"):
        path = tmp_path / f"{name}.yaml"
        path.write_text((ROAD / path.name).read_text())
        path.chmod(0o600)
        done = subprocess.run([str(culvert_binary()), "check", str(path)], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "warning" not in done.stdout, done
        text = re.sub(r"([a-z]+\.(?:pem|key))\b(?=[\]\n]| {2})", lambda match: str(tmp_path / match[1]), path.read_text())
        sides[name] = text
    # The lab's western gateway is the single host: its address and its interface are other ones.
    client = sides["client"].replace("198.51.100.7", lab.west.underlay).replace("name: eth0", "name: wan0")
    server = Culvert(lab, "gw-east", sides["gateway"]).start()
    host = Culvert(lab, "gw-west", client).start()
    host.wait_installed("office")
    page = host.client("status").stdout
    assert re.search(r"our addresses +10\.9\.0\.\d+", page), page
    outcome = ping(lab, "gw-west", lab.east.host, count=3, patient=True)
    assert outcome.received == outcome.sent, outcome.text
    assert len(server.connection("road")["peers"]) == 1
    host.client("down", "office")
    assert re.search(r"net +down +dynamic <-> 10\.1\.0\.0/24", host.client("status").stdout), host.client("status").stdout


@pytest.mark.parametrize("words, runs", [
    ([], True), (["--full"], True), (["--only", "imports,style"], False), (["--only=style"], False),
    (["--only", "style,interop", "--", "-k", "x"], True), (["--only=interop"], True), (["--seeds", "5", "--only", "unit"], False),
    (["--", "--only", "style"], True), (["--only"], True)], ids=str)
def test_only_the_interop_part_unpacks_a_newer_debian(words, runs):
    script = 'source "$0"; if runs_part interop "$@"; then echo yes; else echo no; fi'
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script, str(REPOSITORY / "scripts" / "prerequisites.sh"), *words],
                          capture_output=True, text=True, timeout=10)
    assert done.stdout.strip() == ("yes" if runs else "no"), done
