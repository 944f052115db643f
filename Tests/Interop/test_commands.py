"""The command line: exit codes, places of errors, examples. Most of it needs no tunnel."""

import json
import pathlib
import re
import subprocess

import pytest

from culvert_lab.daemons import REPOSITORY, culvert_binary
from culvert_lab.shell import eventually
from gateways import SECRET, configuration, gateway

# These name files that their READMEs make: test_certificates.py and the test of the road warrior below do.
WITH_FILES = ("certificates", "road-warrior")
EXAMPLES = sorted(path for path in (REPOSITORY / "examples").rglob("*.yaml") if path.parent.name not in WITH_FILES)

GOOD = """\
interfaces:
  - { name: wan0, role: underlay }
  - { name: lan0, role: protected }
connections:
  - name: west
    local:  { address: 192.0.2.1, id: east.example, auth: psk }
    remote: { address: 192.0.2.2, id: west.example, auth: psk }
    psk: "a-secret-of-more-than-twenty-characters"
    children:
      - name: net
        local_subnets:  [10.1.0.0/24]
        remote_subnets: [10.2.0.0/24]
"""

# What is changed in GOOD, and the line:column and words that the error must have.
BAD = {
    "unknown key": ("remote_subnets:", "remote_subnet: ", 12, 9, "remote_subnets"),
    "unknown role": ("role: underlay", "role: overlay", 2, 25, "underlay"),
    "bad address": ("address: 192.0.2.2,", "address: 192.0.2.256,", 7, 24, "192.0.2.256"),
    "bad prefix": ("[10.2.0.0/24]", "[10.2.0.0/33]", 12, 26, "33"),
    "weak group": ('    psk:', '    ike_proposals: [aes256-sha256-modp1024]\n    psk:', 8, 21, "modp1024"),
    "unknown algorithm": ('    psk:', '    ike_proposals: [aes257gcm16-prfsha256-x25519]\n    psk:', 8, 21, "aes257gcm16"),
    "bad duration": ('    psk:', '    dpd_interval: soon\n    psk:', 8, 19, "soon"),
}


def culvert(*words, timeout=30):
    return subprocess.run([str(culvert_binary()), *map(str, words)], capture_output=True, text=True, timeout=timeout)


def write(directory, text):
    path = directory / "culvert.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_version_is_told():
    done = culvert("version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+", done.stdout)


@pytest.mark.parametrize("words", [["--no-such-option"], ["no-such-command"], ["run"], ["check"], ["up"], ["status", "--jsn"]],
                         ids=" ".join)
def test_a_wrong_command_line_is_64(words):
    done = culvert(*words)
    assert done.returncode == 64 and done.stderr.strip()


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["up", "west"], ["down", "west"]], ids=" ".join)
def test_no_gateway_on_the_socket_is_69(words, tmp_path):
    done = culvert(*words, "--socket", tmp_path / "none.sock")
    assert done.returncode == 69
    assert "none.sock" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_example_passes_check(path, tmp_path):
    done = culvert("check", write(tmp_path, path.read_text()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout.strip() or "error" not in done.stdout


def test_a_good_file_passes_check_and_warnings_alone_do_not_fail(tmp_path):
    path = write(tmp_path, GOOD)
    assert culvert("check", path).returncode == 0
    path.write_text(GOOD.replace("a-secret-of-more-than-twenty-characters", "short"))
    done = culvert("check", path)
    assert done.returncode == 0
    assert re.search(rf"{re.escape(str(path))}:8:\d+: warning: ", done.stdout + done.stderr)
    path.write_text(GOOD)
    path.chmod(0o644)
    done = culvert("check", path)
    assert done.returncode == 0 and "warning" in done.stdout + done.stderr


@pytest.mark.parametrize("what", BAD)
def test_an_error_names_file_line_and_column(what, tmp_path):
    old, new, line, column, word = BAD[what]
    path = write(tmp_path, GOOD.replace(old, new, 1))
    for command in (["check", path], ["run", "--config", path, "--socket", tmp_path / "never.sock"]):
        done = culvert(*command)
        assert done.returncode == 78, (command, done)
        said = done.stdout + done.stderr
        found = re.search(rf"{re.escape(str(path))}:(\d+):(\d+): error: (.*)", said)
        assert found, said
        assert int(found[1]) == line and word in found[3], said
        assert abs(int(found[2]) - column) <= 2, said


def test_every_problem_of_a_file_is_told_at_once(tmp_path):
    text = GOOD.replace("192.0.2.2,", "192.0.2.256,").replace("role: underlay", "role: overlay")
    done = culvert("check", write(tmp_path, text))
    assert len(re.findall(r": error: ", done.stdout + done.stderr)) == 2


def test_check_speaks_json(tmp_path):
    path = write(tmp_path, GOOD.replace("role: underlay", "role: overlay"))
    done = culvert("check", path, "--json")
    assert done.returncode == 78
    assert "overlay" in json.dumps(json.loads(done.stdout))


def test_a_file_that_is_not_yaml_or_not_there_is_78(tmp_path):
    done = culvert("check", write(tmp_path, "connections: [\n"))
    assert done.returncode == 78 and re.search(r":\d+:\d+: error: ", done.stdout + done.stderr)
    done = culvert("check", tmp_path / "absent.yaml")
    assert done.returncode == 78 and "absent.yaml" in done.stdout + done.stderr


@pytest.mark.parametrize("dropped, named", [
    ("-net_admin", "CAP_NET_ADMIN"), ("-net_raw", "CAP_NET_RAW"), ("-bpf,-sys_admin", "CAP_BPF|CAP_SYS_ADMIN")])
def test_a_missing_privilege_is_77_and_named(shared_lab, dropped, named):
    ours = gateway(shared_lab, "east")
    done = shared_lab.execute("gw-east", [
        "setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", culvert_binary(), "run",
        "--config", ours.configuration_path, "--socket", ours.socket], check=False, timeout=20)
    assert done.returncode == 77, done
    assert re.search(named, done.stderr + done.stdout), done
    assert SECRET not in done.stderr + done.stdout


def test_up_is_1_when_nobody_answers_and_says_why(shared_lab):
    ours = gateway(shared_lab, "east", child={"start": "manual"}).start()
    try:
        done = ours.client("up", "west", "--timeout", "3s", check=False)
        assert done.returncode == 1
        assert "192.0.2.2" in done.stdout + done.stderr
        done = ours.client("up", "nowhere", check=False)
        assert done.returncode in (1, 64) and "nowhere" in done.stdout + done.stderr
    finally:
        ours.end()


def test_status_is_a_page_for_people_and_json_for_scripts(shared_lab):
    ours = gateway(shared_lab, "east", child={"start": "manual"}).start()
    try:
        page = ours.client("status").stdout
        assert "west" in page and "net" in page
        report = ours.status()
        assert {"version", "gateway", "uptime_seconds", "connections", "workers", "drops"} <= set(report)
        entry = report["connections"][0]
        assert entry["state"] == "down" and entry["reason"] and entry["ike"] is None
        assert entry["children"][0]["local_subnets"] == ["10.1.0.0/24"]
        assert report["workers"][0]["xdp_mode"] in ("native", "generic", "zero-copy")
        one = json.loads(ours.client("status", "west", "--json").stdout)
        assert [found["name"] for found in one["connections"]] == ["west"]
        assert SECRET not in page + json.dumps(report)
    finally:
        ours.end()


def test_sigterm_ends_it_with_0_and_removes_the_socket(shared_lab):
    ours = gateway(shared_lab, "east", child={"start": "manual"}).start()
    assert ours.end() == 0
    assert not pathlib.Path(ours.socket).exists()


def test_a_second_gateway_on_the_same_socket_is_refused(shared_lab):
    ours = gateway(shared_lab, "east", child={"start": "manual"}).start()
    try:
        done = shared_lab.execute("gw-east", [
            culvert_binary(), "run", "--config", ours.configuration_path, "--socket", ours.socket], check=False, timeout=20)
        assert done.returncode not in (0, 139, 134) and done.stderr.strip()
        assert ours.status()["gateway"] == "east"
    finally:
        ours.end()


def test_the_control_socket_of_the_file_is_used_when_none_is_named(shared_lab, tmp_path):
    described = configuration(
        shared_lab, "east", child={"start": "manual"}, gateway={"control_socket": str(tmp_path / "own.sock")})
    ours = gateway(shared_lab, "east")
    ours.configure(described)
    ours.socket = tmp_path / "own.sock"
    ours.launch([culvert_binary(), "run", "--config", ours.configuration_path])
    try:
        eventually(ours.answers, timeout=20, what="no answer on the file's control_socket")
    finally:
        ours.end()
