"""Gateways that know each other by certificates: the example as its README makes it, revocation by list and by OCSP."""

import re
import subprocess

import pytest

from checks import assert_ping
from conftest import make, remove
from culvert_lab.daemons import REPOSITORY, Culvert, Daemon, StrongSwan, culvert_binary
from culvert_lab.shell import eventually
from gateways import NEWER, needs_newer

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
        reason = east.wait_reason("west", "revoked", timeout=15)
        assert "CN=west" in reason and connection(east)["state"] != "established"
        assert "shut out of connection west" in east.log()
        done = east.client("up", "west", "--timeout", "10s", check=False)
        assert done.returncode == 1, done.stdout
        assert "CN=west" in done.stderr and "revoked" in done.stderr and "key-compromise" in done.stderr
    finally:
        stop(east, west)


def responder_arguments(directory):
    """Of an `openssl ocsp` that answers from `index.txt`."""
    words = ["openssl", "ocsp", "-index", directory / "index.txt", "-port", RESPONDER_PORT, "-CA", directory / "ca.pem",
             "-rsigner", directory / "ca.pem", "-rkey", directory / "ca.key", "-ndays", "1"]
    return [str(word) for word in words]


def own_responder(lab, directory, side):
    """The example's files, with a certificate for `side` whose responder listens on its own loopback: nobody else can ask it."""
    files_of_the_example(directory)
    shown = pki(directory, "issue", "--ca", "ca", "--subject", f"O=Example, CN={side}", "--san", f"{side}.example", "--ocsp",
                f"http://127.0.0.1:{RESPONDER_PORT}/", "--out", side, "--force")
    serial = re.search(r"serial number ([0-9a-f]+)", shown)[1].upper()
    (directory / "index.txt").write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN={side}\n")
    responder = Daemon(lab, f"gw-{side}", "ocsp")
    responder.launch(responder_arguments(directory))
    return responder


def test_an_ocsp_responder_is_asked_and_its_answer_counts(lab, tmp_path):
    files_of_the_example(tmp_path)
    responder_url = f"http://{lab.west.underlay}:{RESPONDER_PORT}/"
    shown = pki(tmp_path, "issue", "--ca", "ca", "--subject", "O=Example, CN=west", "--san", "west.example", "--ocsp",
                responder_url, "--out", "west", "--force")
    serial = re.search(r"serial number ([0-9a-f]+)", shown)[1].upper()
    index = tmp_path / "index.txt"
    index.write_text(f"V\t491231235959Z\t\t{serial}\tunknown\t/CN=west\n")
    responder = Daemon(lab, "gw-west", "ocsp")
    arguments = responder_arguments(tmp_path)
    responder.launch(arguments)
    require = lambda text: text.replace("crl: [", "ocsp: auto\n    ocsp_response: off\n    crl: [")  # noqa: E731
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
        responder.launch(arguments)
        eventually(lambda: lab.execute("gw-west", ["ss", "-Hltn", f"sport = :{RESPONDER_PORT}"]).stdout.strip(), timeout=10,
                   what="the responder does not listen")
        done = east.client("up", "west", "--timeout", "15s", check=False)
        assert done.returncode == 1 and "revoked" in done.stderr and "superseded" in done.stderr, done.stderr
    finally:
        stop(east, west)
        responder.kill()


def test_a_certificate_brings_its_ocsp_response_along(lab, tmp_path):
    """RFC 4806. The responder listens on west's loopback, so that east can only hear of it through IKE; both roles."""
    responder = own_responder(lab, tmp_path, "west")
    text = text_of_the_example("west", tmp_path)
    west = Culvert(lab, "gw-west", text).start()
    strict = re.sub(r"    crl: \[.*", "    ocsp: require", text_of_the_example("east", tmp_path))
    east = Culvert(lab, "gw-east", strict).start()
    try:
        east.wait_installed("west", timeout=8)  # the first attempt: a second one comes after 10 s
        responder.kill()
        west.client("down", "east")
        west.client("up", "east", "--timeout", "10s")  # it has kept the response
        stop(west)
        west = Culvert(lab, "gw-west", text.replace("private_key:", "ocsp_response: off\n    private_key:")).start()
        done = east.client("up", "west", "--timeout", "10s", check=False)
        assert done.returncode == 1 and "OCSP" in done.stderr and "no responder answered" in done.stderr, done.stderr
    finally:
        stop(east, west)
        responder.kill()


STRICT_PEER = """
    connections {
        gw {
            version = 2
            local_addrs = %(west)s
            remote_addrs = %(east)s
            ocsp = request
            local {
                auth = pubkey
                certs = west.pem
                id = west.example
            }
            remote {
                auth = pubkey
                id = east.example
                revocation = strict
            }
            children {
                net {
                    local_ts = 10.2.0.0/24
                    remote_ts = 10.1.0.0/24
                    esp_proposals = aes256gcm16
                }
            }
        }
    }
"""


@needs_newer
@pytest.mark.parametrize("starter", ["culvert", "strongswan"])
def test_strongswan_believes_our_ocsp_response(lab, tmp_path, starter):
    """It wants to know for certain, has no revocation list, and cannot reach the responder."""
    responder = own_responder(lab, tmp_path, "east")
    theirs = StrongSwan(lab, "gw-west", STRICT_PEER % {"west": lab.west.underlay, "east": lab.east.underlay}, build=NEWER)
    theirs.give("x509ca", tmp_path / "ca.pem").give("x509", tmp_path / "west.pem").give("private", tmp_path / "west.key").start()
    text = text_of_the_example("east", tmp_path)
    ours = Culvert(lab, "gw-east", text if starter == "culvert" else text.replace("start: immediately", "start: manual")).start()
    try:
        if starter == "strongswan":
            theirs.initiate()
        ours.wait_installed("west", timeout=8)
        assert "received OCSP response issued by" in theirs.log() and "certificate status is good" in theirs.log()
        stop(ours, theirs)
        theirs.start()  # it would remember the response
        ours = Culvert(lab, "gw-east", text.replace("private_key:", "ocsp_response: off\n    private_key:")).start()
        assert ours.client("up", "west", "--timeout", "6s", check=False).returncode == 1
    finally:
        stop(ours, theirs)
        responder.kill()


@needs_newer
def test_the_ocsp_response_that_strongswan_brings_along_counts(lab, tmp_path):
    """RFC 4806. We insist on one and cannot reach the responder, which listens on strongSwan's loopback."""
    responder = own_responder(lab, tmp_path, "west")
    conf = STRICT_PEER % {"west": lab.west.underlay, "east": lab.east.underlay}
    conf = conf.replace("revocation = strict", "revocation = relaxed").replace("ocsp = request", "ocsp = reply")
    theirs = StrongSwan(lab, "gw-west", conf, plugins="curl", build=NEWER)
    theirs.give("x509ca", tmp_path / "ca.pem").give("x509", tmp_path / "west.pem").give("private", tmp_path / "west.key").start()
    strict = re.sub(r"    crl: \[.*", "    ocsp: require", text_of_the_example("east", tmp_path))
    ours = Culvert(lab, "gw-east", strict).start()
    try:
        ours.wait_installed("west", timeout=8)
    finally:
        stop(ours, theirs)
        responder.kill()
