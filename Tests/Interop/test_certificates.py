"""Gateways that know each other by certificates: the example as its README makes it, revocation by list and by OCSP."""

import re
import subprocess

import pytest

from checks import assert_ping
from conftest import make, remove
from culvert_lab.daemons import REPOSITORY, Culvert, Daemon, culvert_binary
from culvert_lab.shell import eventually

EXAMPLE = REPOSITORY / "examples" / "certificates"
RESPONDER_PORT = 8888


def pki(directory, *words):
    done = subprocess.run([str(culvert_binary()), "pki", *map(str, words)], cwd=directory, capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of_the_example(directory):
    """Runs the commands of the example's README in `directory`."""
    commands = re.search(r"```sh\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.S)[1]
    lines = [line for line in commands.splitlines() if line.strip()]
    assert len(lines) == 4 and all(line.startswith("culvert pki ") for line in lines)
    script = "set -e\n" + commands.replace("culvert pki", f"{culvert_binary()} pki")
    subprocess.run(["bash", "-c", script], cwd=directory, check=True, timeout=30, stdout=subprocess.DEVNULL)


def text_of_the_example(side, directory):
    """The configuration as it is printed there, its relative paths leading to `directory`."""
    text = (EXAMPLE / f"{side}.yaml").read_text()
    return re.sub(r"(?<=[\[ ])([a-z]+\.(?:pem|key|crl))\b(?=[\] ]|$)", lambda match: str(directory / match[1]), text, flags=re.M)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    files_of_the_example(directory)
    return directory


@pytest.fixture(scope="module")
def lab():
    lab = make()
    yield lab
    remove(lab)


def start(lab, directory, change=lambda text: text):
    """Both gateways of the example."""
    west = Culvert(lab, "gw-west", change(text_of_the_example("west", directory))).start()
    east = Culvert(lab, "gw-east", change(text_of_the_example("east", directory))).start()
    return east, west


def stop(*gateways):
    for gateway in gateways:
        gateway.end()


def connection(gateway):
    return gateway.status()["connections"][0]


def test_the_example_passes_check_with_the_files_its_readme_makes(directory, tmp_path):
    for side in ("east", "west"):
        (directory / f"{side}.yaml").write_text((EXAMPLE / f"{side}.yaml").read_text())
        done = subprocess.run([str(culvert_binary()), "check", str(directory / f"{side}.yaml")], capture_output=True, text=True,
                              timeout=30)
        assert done.returncode == 0 and "warning" not in done.stdout, done.stdout + done.stderr


def test_the_example_works_and_a_revoked_peer_is_shut_out(lab, directory):
    east, west = start(lab, directory)
    try:
        east.wait_installed("west")
        assert_ping(lab, "east")
        certificates = {entry["role"]: entry for entry in connection(east)["certificates"]}
        assert certificates["local"]["subject"] == "O=Example, CN=east" and certificates["local"]["warning"] is None
        assert certificates["ca"]["expires_in_seconds"] > 3000 * 86400
        # West's list changes on disk; nobody tells the gateway.
        pki(directory, "revoke", "--ca", "ca", "--crl", "ca.crl", "--reason", "key-compromise", "west.pem")
        east.client("down", "west")
        done = east.client("up", "west", "--timeout", "10s", check=False)
        assert done.returncode == 1, done.stdout
        assert "CN=west" in done.stderr and "revoked" in done.stderr and "key-compromise" in done.stderr
    finally:
        stop(east, west)


def test_an_ocsp_responder_is_asked_and_its_answer_counts(lab, tmp_path):
    files_of_the_example(tmp_path)
    responder_url = f"http://{lab.west.underlay}:{RESPONDER_PORT}/"
    shown = pki(tmp_path, "issue", "--ca", "ca", "--subject", "O=Example, CN=west", "--san", "west.example", "--ocsp",
                responder_url, "--out", "west", "--force")
    serial = re.search(r"serial number ([0-9a-f]+)", shown)[1].upper()
    index = tmp_path / "index.txt"
    index.write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN=west\n")
    responder = Daemon(lab, "gw-west", "ocsp")
    arguments = ["openssl", "ocsp", "-index", index, "-port", RESPONDER_PORT, "-CA", tmp_path / "ca.pem", "-rsigner",
                 tmp_path / "ca.pem", "-rkey", tmp_path / "ca.key", "-ndays", "1"]
    responder.launch([str(word) for word in arguments])
    require = lambda text: text.replace("crl: [", "ocsp: auto\n    crl: [")  # noqa: E731
    strict = lambda text: re.sub(r"    crl: \[.*", "    ocsp: require", text)  # noqa: E731
    west = Culvert(lab, "gw-west", require(text_of_the_example("west", tmp_path))).start()
    east = Culvert(lab, "gw-east", strict(text_of_the_example("east", tmp_path))).start()
    try:
        east.wait_installed("west")
        east.client("down", "west")
        responder.kill()
        done = east.client("up", "west", "--timeout", "15s", check=False)
        assert done.returncode == 1 and "OCSP" in done.stderr and "no responder answered" in done.stderr, done.stderr
        index.write_text(f"R\t491231235959Z\t260101000000Z,superseded\t{serial}\tunknown\t/CN=west\n")
        responder.launch([str(word) for word in arguments])
        eventually(lambda: lab.execute("gw-west", ["ss", "-Hltn", f"sport = :{RESPONDER_PORT}"]).stdout.strip(), timeout=10,
                   what="the responder does not listen")
        done = east.client("up", "west", "--timeout", "15s", check=False)
        assert done.returncode == 1 and "revoked" in done.stderr and "superseded" in done.stderr, done.stderr
    finally:
        stop(east, west)
        responder.kill()
