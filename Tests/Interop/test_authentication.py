"""Every way to authenticate that strongSwan has, in both roles: one pair of daemons, one connection per way, handshakes only.

Culvert is east, strongSwan west; every connection has identities of its own, so both ends find it by them.
"""

import pytest

from credentials import Authority, DAY, KINDS, Store, pem, private_pem, public_pem
from culvert_lab.daemons import Culvert, StrongSwan
from culvert_lab.shell import eventually
from gateways import SECRET

IKE, ESP = "aes256gcm16-prfsha256-x25519", "aes256gcm16-noesn"
# Ways to authenticate, and how Culvert shows what strongSwan did: RFC 7427, and before it.
SIGNATURES = {
    "rsa": ("RSA-PSS with SHA-256", "RSA PKCS #1 with SHA-1"), "p256": ("ECDSA with SHA-256", "ECDSA with SHA-256"),
    "p384": ("ECDSA with SHA-384", "ECDSA with SHA-384"), "p521": ("ECDSA with SHA-512", "ECDSA with SHA-512"),
    "ed25519": ("Ed25519", None), "ed448": ("Ed448", None),
}
OTHERS = {
    "pkcs1": "RSA-PSS with SHA-256", "intermediate": "ECDSA with SHA-256", "names": "ECDSA with SHA-256",
    "childless": "ECDSA with SHA-256", "psk-cert": "ECDSA with SHA-256", "cert-psk": "pre-shared key",
    "public-key": "public key, Ed25519",
}
REFUSED_BY_US = {"expired": "expired", "revoked": "revoked", "untrusted": "issuer|trust", "wrong-name": "identifies as"}
REFUSED_BY_THEM = ("revoked-ours", "untrusted-ours")
CASES = [*SIGNATURES, *OTHERS, *REFUSED_BY_US, *REFUSED_BY_THEM]


def subnet(name):
    """A network behind strongSwan for every connection."""
    return f"10.2.{CASES.index(name)}.0/24"


class Ways:
    """The credentials and both configurations of every way."""

    def __init__(self, lab, directory):
        self.lab = lab
        self.store = Store(directory)
        self.root, self.foreign = Authority("Root"), Authority("Foreign")
        self.east_middle, self.west_middle = Authority("East's own", self.root), Authority("West's own", self.root)
        self.files = {
            "ca": self.store.write("x509ca/root.pem", pem(self.root.certificate)),
            "foreign": self.store.write("foreign.pem", pem(self.foreign.certificate)),
        }
        self.store.write("x509ca/west-middle.pem", pem(self.west_middle.certificate))
        self.ours, self.theirs, revoked = [], [], []
        for name in CASES:
            kind = "rsa" if name == "pkcs1" else "ed25519" if name == "public-key" else name if name in KINDS else "p256"
            revoked += self.add(name, kind)
        crl = pem(self.root.revocations(revoked))
        self.files["crl"] = self.store.write("x509crl/root.pem", crl)

    def add(self, name, kind):
        east, west = f"{name}.east.example", f"{name}.west.example"
        west_ca = {"intermediate": self.west_middle, "untrusted": self.foreign}.get(name, self.root)
        east_ca = {"intermediate": self.east_middle, "untrusted-ours": self.foreign}.get(name, self.root)
        valid = (-10 * DAY, -DAY) if name == "expired" else (-DAY, 90 * DAY)
        east_key, east_certificate = east_ca.issue(east, kind)
        west_key, west_certificate = west_ca.issue("other.example" if name == "wrong-name" else west, kind, valid)
        chain = pem(east_certificate) + (pem(self.east_middle.certificate) if name == "intermediate" else b"")
        files = {
            "certificate": self.store.write(f"{name}.east.pem", chain),
            "private_key": self.store.write(f"{name}.east.key", private_pem(east_key)),
            "public_key": self.store.write(f"pubkey/{name}.west.pem", public_pem(west_key)),
        }
        self.store.write(f"pubkey/{name}.east.pem", public_pem(east_key))
        self.store.write(f"private/{name}.west.pem", private_pem(west_key))
        self.store.write(f"x509/{name}.west.pem", pem(west_certificate))
        self.ours.append(self.our_connection(name, east, west, files))
        self.theirs.append(self.their_connection(name, east, west))
        return {"revoked": [west_certificate], "revoked-ours": [east_certificate]}.get(name, [])

    def our_connection(self, name, east, west, files):
        site = self.lab.east
        if name == "names":
            east, west = f"C=DE, O=Culvert, CN={east}", "C=DE, O=Culvert, CN=*"
        local = {"address": site.underlay, "id": east, "auth": "certificate",
                 "certificate": files["certificate"], "private_key": files["private_key"]}
        remote = {"address": self.lab.west.reachable_at, "id": west, "auth": "certificate", "ca": [self.files["ca"]]}
        more = {}
        if name == "untrusted-ours":
            remote["ca"].append(self.files["foreign"])
        if name == "revoked":
            remote["crl"] = [str(self.store.directory / "x509crl" / "root.pem")]
        if name == "public-key":
            local = {"address": site.underlay, "id": east, "auth": "public-key", "private_key": files["private_key"]}
            remote = {"address": remote["address"], "id": west, "auth": "public-key", "public_key": [files["public_key"]]}
        if name == "psk-cert":
            local, more = {"address": site.underlay, "id": east, "auth": "psk"}, {"psk": SECRET}
        if name == "cert-psk":
            remote, more = {"address": remote["address"], "id": west, "auth": "psk"}, {"psk": SECRET}
        if name == "pkcs1":
            more["rsa_padding"] = "pkcs1"
        if name == "rsa":
            more["allow_weak"] = ["sha1"]
        if name == "childless":
            more["childless"] = "prefer"
        return more | {
            "name": name, "local": local, "remote": remote, "ike_proposals": [IKE],
            "children": [{"name": "net", "local_subnets": [site.subnet], "remote_subnets": [subnet(name)],
                          "esp_proposals": [ESP], "start": "manual"}],
        }

    def their_connection(self, name, east, west):
        ours, theirs = f"auth = pubkey\ncerts = {name}.west.pem\nid = {west}", f"auth = pubkey\nid = {east}"
        if name == "wrong-name":
            ours = f"auth = pubkey\ncerts = {name}.west.pem\nid = other.example"
        if name == "names":
            ours, theirs = (f'auth = pubkey\ncerts = {name}.west.pem\nid = "C=DE, O=Culvert, CN={west}"',
                            f'auth = pubkey\nid = "C=DE, O=Culvert, CN={east}"')
        if name == "public-key":
            ours = f"auth = pubkey\npubkeys = {name}.west.pem\nid = {west}"
            theirs = f"auth = pubkey\npubkeys = {name}.east.pem\nid = {east}"
        if name == "psk-cert":
            theirs = f"auth = psk\nid = {east}"
        if name == "cert-psk":
            ours = f"auth = psk\nid = {west}"
        childless = "childless = force" if name == "childless" else ""
        return f"""
            {name} {{
                version = 2
                local_addrs = {self.lab.west.underlay}
                remote_addrs = {self.lab.east.reachable_at}
                proposals = {IKE}
                mobike = no
                {childless}
                local {{ {ours}
                }}
                remote {{ {theirs}
                }}
                children {{
                    {name} {{
                        local_ts = {subnet(name)}
                        remote_ts = {self.lab.east.subnet}
                        esp_proposals = {ESP}
                    }}
                }}
            }}"""

    def culvert(self):
        return Culvert(self.lab, "gw-east", {
            "gateway": {"name": "east"},
            "interfaces": [{"name": "wan0", "role": "underlay"}, {"name": "lan0", "role": "protected"}],
            "dataplane": {"workers": 1},
            "connections": self.ours,
        })

    def strongswan(self):
        secrets = "".join(f"ike-{name} {{ id-1 = {name}.east.example\nid-2 = {name}.west.example\nsecret = \"{SECRET}\"\n}}\n"
                          for name in ("psk-cert", "cert-psk"))
        text = f"connections {{ {''.join(self.theirs)}\n}}\nsecrets {{ {secrets} }}\n"
        # kernel-libipsec wants an address in every network that it protects.
        for name in CASES[1:]:
            self.lab.execute("gw-west", ["ip", "address", "add", subnet(name).replace(".0/24", ".1/32"), "dev", "lo"])
        return StrongSwan(self.lab, "gw-west", text, settings="rsa_pss = yes", credentials=self.store.directory)


@pytest.fixture(scope="module")
def ends(shared_lab, tmp_path_factory):
    ways = Ways(shared_lab, tmp_path_factory.mktemp("credentials"))
    theirs, ours = ways.strongswan().start(), ways.culvert().start()
    return ours, theirs


def begin(ours, theirs, name, starter):
    """One attempt; whether it comes up is the caller's business."""
    if starter == "culvert":
        ours.client("up", name, "--timeout", "6s", check=False)
    else:
        theirs.initiate(name, timeout=6, check=False)


def end(ours, theirs, name):
    ours.client("down", name, check=False)
    eventually(lambda: f"{name}: #" not in theirs.sas(), timeout=10, what=lambda: f"{name} stays up: {theirs.sas()}")


def came_up(ours, theirs, name, starter):
    begin(ours, theirs, name, starter)
    entry = ours.wait_installed(name, timeout=6)
    end(ours, theirs, name)
    return entry


# strongSwan first: what `culvert down` takes down is for `culvert up` to begin.
@pytest.mark.parametrize("starter", ["strongswan", "culvert"])
@pytest.mark.parametrize("name", [*SIGNATURES, *OTHERS])
def test_both_ends_believe_each_other(ends, name, starter):
    ours, theirs = ends
    entry = came_up(ours, theirs, name, starter)
    assert entry["ike"]["remote_auth"] == (SIGNATURES[name][0] if name in SIGNATURES else OTHERS[name])
    assert entry["ike"]["initiator"] is (starter == "culvert")
    if name == "pkcs1":
        assert entry["ike"]["local_auth"] == "RSA PKCS #1 with SHA-256"
    if name in SIGNATURES:
        assert entry["ike"]["local_auth"] == entry["ike"]["remote_auth"]
        [shown] = [certificate for certificate in entry["certificates"] if certificate["role"] == "peer"]
        assert f"{name}.west.example" in shown["subject"] and shown["expires_in_seconds"] > 0
    if name == "names":
        assert entry["remote"]["id"] == "C=DE, O=Culvert, CN=names.west.example"


# strongSwan never claims a name that its certificate has not; as responder it then finds no connection for the one that we want.
@pytest.mark.parametrize("name, starter", [
    (name, starter) for name in REFUSED_BY_US for starter in ("culvert", "strongswan")
    if (name, starter) != ("wrong-name", "culvert")
])
def test_we_refuse_and_say_why(ends, name, starter):
    ours, theirs = ends
    begin(ours, theirs, name, starter)
    ours.wait_reason(name, REFUSED_BY_US[name], timeout=6)
    assert "INSTALLED" not in theirs.sas()


@pytest.mark.parametrize("name", REFUSED_BY_THEM)
def test_a_refusal_of_theirs_names_the_causes(ends, name):
    ours, theirs = ends
    begin(ours, theirs, name, "culvert")
    reason = ours.wait_reason(name, "AUTHENTICATION_FAILED", timeout=6)
    assert "revoked" in reason and "ca there" in reason
    # With a certificate of an authority that strongSwan did not ask for, that is the first guess.
    assert (reason.index("ca there") < reason.index("revoked")) is (name == "untrusted-ours")


def test_peers_without_rfc_7427(ends):
    """The older methods 1, 9, 10 and 11 in both roles; RSA with SHA-1, because this connection allows it."""
    ours, theirs = ends
    theirs.set("signature_authentication = no")
    ours.end()
    ours.start()
    for name, (_, method) in SIGNATURES.items():
        for starter in ("strongswan", "culvert") if method else ():
            entry = came_up(ours, theirs, name, starter)
            assert entry["ike"]["remote_auth"] == entry["ike"]["local_auth"] == method, f"{name}, {starter} started"
    begin(ours, theirs, "ed25519", "culvert")
    ours.wait_reason("ed25519", "RFC 7427", timeout=6)
    # Where SHA-1 is not allowed its signature is refused.
    begin(ours, theirs, "pkcs1", "strongswan")
    ours.wait_reason("pkcs1", "SHA-1.*allow_weak", timeout=6)
