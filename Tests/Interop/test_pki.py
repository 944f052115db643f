"""`culvert pki` on the command line, judged by the openssl command as well."""

import datetime
import json
import re
import stat
import subprocess

import pytest

from culvert_lab.daemons import culvert_binary

KEY_TYPES = ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "ed448", "rsa-2048"]


@pytest.fixture
def pki(tmp_path):
    """Runs `culvert pki WORDS` in a folder of the test's own."""

    def run(*words, rc=0):
        done = subprocess.run([str(culvert_binary()), "pki", *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == rc, done.stdout + done.stderr
        return done

    return run


def openssl(directory, *words, rc=0):
    done = subprocess.run(["openssl", *words], cwd=directory, capture_output=True, text=True, timeout=30)
    assert (done.returncode == 0) == (rc == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_openssl_believes_certificates_of_every_key_type(pki, tmp_path):
    pki("ca", "--subject", "C=DE, O=Example, CN=Root", "--out", "root", "--path-length", 1)
    pki("ca", "--subject", "O=Example, CN=Below", "--parent", "root", "--key-type", "ed25519", "--out", "below")
    for kind in KEY_TYPES:
        pki("issue", "--ca", "below", "--subject", f"O=Example, CN={kind}", "--san", f"{kind}.example", "--key-type", kind,
            "--out", kind)
        openssl(tmp_path, "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "below.pem", f"{kind}.pem")
        assert "good" in pki("verify", f"{kind}.pem", "--ca", "root.pem").stdout
        for path in (f"{kind}.key", "root.key"):
            assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o600
        assert (tmp_path / f"{kind}.pem").read_text().count("BEGIN CERTIFICATE") == 2
        openssl(tmp_path, "pkey", "-in", f"{kind}.key", "-noout", "-check")


def next_update(pki):
    shown = json.loads(pki("show", "--json", "ca.crl").stdout)["items"][0]
    first, last = (datetime.datetime.strptime(shown[key], "%Y-%m-%d %H:%M:%S UTC") for key in ("this_update", "next_update"))
    return (last - first).days


def test_a_list_keeps_its_span_when_a_certificate_is_revoked(pki):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    pki("issue", "--ca", "ca", "--subject", "CN=east", "--out", "east")
    pki("issue", "--ca", "ca", "--subject", "CN=west", "--out", "west")
    pki("crl", "--ca", "ca", "--out", "ca.crl", "--days", 90)
    pki("revoke", "--ca", "ca", "--crl", "ca.crl", "east.pem")
    assert next_update(pki) == 90
    pki("revoke", "--ca", "ca", "--crl", "ca.crl", "--days", 7, "west.pem")
    assert next_update(pki) == 7


def test_names_of_every_kind_are_in_the_certificate(pki, tmp_path):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    names = ["east.example", "192.0.2.1", "2001:db8::1", "admin@east.example", "uri:urn:east", "dn:C=DE, CN=other"]
    pki("issue", "--ca", "ca", "--subject", "CN=east", *[word for name in names for word in ("--san", name)], "--out", "east")
    text = openssl(tmp_path, "x509", "-in", "east.pem", "-noout", "-ext", "subjectAltName")
    for shown in ("DNS:east.example", "IP Address:192.0.2.1", "IP Address:2001:DB8", "email:admin@east.example", "URI:urn:east",
                  "DirName:/C=DE/CN=other"):
        assert shown in text, text
    for identity in ("east.example", "192.0.2.1", "2001:db8::1", "admin@east.example", "CN=east", "C=DE, CN=other"):
        pki("verify", "east.pem", "--ca", "ca.pem", "--id", identity)
    refused = pki("verify", "east.pem", "--ca", "ca.pem", "--id", "west.example", rc=1)
    assert "the name does not match" in refused.stderr and "west.example" in refused.stderr
    shown = json.loads(pki("show", "--json", "east.pem").stdout)["items"][0]
    assert shown["type"] == "certificate" and shown["subject"] == "CN=east" and shown["ca"] is False
    assert shown["names"][0] == "dns:east.example" and shown["key"] == "ECDSA P-256" and shown["warning"] is None


def test_a_revoked_certificate_is_refused_here_and_by_openssl(pki, tmp_path):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    for name in ("east", "west"):
        pki("issue", "--ca", "ca", "--subject", f"CN={name}", "--out", name)
    assert "0 certificates" in pki("crl", "--ca", "ca", "--out", "ca.crl").stdout
    pki("verify", "west.pem", "--ca", "ca.pem", "--crl", "ca.crl", "--strict")
    pki("revoke", "--ca", "ca", "--crl", "ca.crl", "--reason", "key-compromise", "west.pem")
    assert "key-compromise" in pki("verify", "west.pem", "--ca", "ca.pem", "--crl", "ca.crl", rc=1).stderr
    pki("verify", "east.pem", "--ca", "ca.pem", "--crl", "ca.crl", "--strict")
    openssl(tmp_path, "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "ca.crl", "east.pem")
    assert "revoked" in openssl(tmp_path, "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "ca.crl", "west.pem", rc=1)
    # Renewed, the list still has it, under the next number; revoking twice changes nothing.
    pki("revoke", "--ca", "ca", "--crl", "ca.crl", "west.pem")
    assert "1 certificate " in pki("crl", "--ca", "ca", "--out", "ca.crl").stdout
    assert re.search(r"cRLNumber=0x0?4", openssl(tmp_path, "crl", "-in", "ca.crl", "-noout", "-crlnumber"), re.I)
    # Another CA's certificates and lists are not touched.
    pki("ca", "--subject", "CN=Other", "--out", "other")
    assert "other.pem" not in pki("revoke", "--ca", "other", "--crl", "other.crl", "west.pem", rc=1).stdout
    assert "not a revocation list of" in pki("crl", "--ca", "other", "--out", "ca.crl", rc=1).stderr


def test_a_certificate_is_no_authority_for_itself(pki):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    pki("issue", "--ca", "ca", "--subject", "CN=west", "--out", "west")
    refused = pki("verify", "west.pem", "--ca", "west.pem", rc=1)
    assert "not trusted" in refused.stderr and "itself in `ca`" in refused.stderr
    pki("verify", "west.pem", "--ca", "ca.pem")


def test_nothing_is_overwritten_without_force(pki, tmp_path):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "ca.key")}
    assert "--force" in pki("ca", "--subject", "CN=New", "--out", "ca", rc=1).stderr
    assert "--force" in pki("key", "--out", "ca", rc=1).stderr
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    pki("ca", "--subject", "CN=New", "--out", "ca", "--force")
    assert before["ca.key"] != (tmp_path / "ca.key").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem"]


def test_a_key_that_exists_gets_a_certificate(pki, tmp_path):
    pki("ca", "--subject", "CN=CA", "--out", "ca")
    pki("key", "--key-type", "ed448", "--out", "own")
    pki("issue", "--ca", "ca", "--subject", "CN=a", "--key", "own.pub", "--out", "a")
    pki("issue", "--ca", "ca", "--subject", "CN=b", "--key", "own.key", "--out", "b")
    assert not (tmp_path / "a.key").exists()
    hashes = {json.loads(pki("show", "--json", name).stdout)["items"][0]["public_key_sha1"]
              for name in ("a.pem", "b.pem", "own.pub", "own.key")}
    assert len(hashes) == 1
    assert "PRIVATE" not in pki("show", "own.key").stdout


@pytest.mark.parametrize("words, code, said", [
    (["ca", "--out", "x"], 64, "--subject"), (["ca", "--subject", "nonsense", "--out", "x"], 64, "nonsense"),
    (["issue", "--ca", "none", "--subject", "CN=x", "--out", "x"], 1, "none.pem does not exist"),
    (["ca", "--subject", "CN=x", "--days", "0", "--out", "x"], 64, "--days"),
    (["ca", "--subject", "CN=x", "--key-type", "rsa-512", "--out", "x"], 64, "rsa-512"),
    (["ca", "--subject", "CN=x", "--out", "/nonexistent/x"], 1, "cannot be written"),
    (["show", "/dev/null"], 1, "/dev/null"), (["verify", "none.pem"], 1, "none.pem does not exist"),
], ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, list) else None)
def test_what_cannot_be_done_is_said(pki, words, code, said):
    done = pki(*words, rc=code)
    assert said in done.stderr, done.stderr
