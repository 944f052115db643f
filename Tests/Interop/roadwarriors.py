"""Single hosts that connect to a gateway: configurations of Culvert and strongSwan as either, and certificates for them."""

import json
import subprocess

from culvert_lab.daemons import DEFAULT_BUILD, Culvert, Daemon, StrongSwan
from culvert_lab.shell import eventually
from gateways import SECRET, merge

USER, PASSWORD = "alice@road.example", "a password of alice"
POOL = "10.9.0.0/24"
EAP_PLUGINS = "eap-identity eap-mschapv2 eap-tls eap-radius"
IKE, ESP = "aes256gcm16-prfsha256-x25519", "aes256gcm16-noesn"


def pruned(value):
    """Without the keys that a change set to None."""
    if not isinstance(value, dict):
        return value
    return {key: pruned(inner) for key, inner in value.items() if inner is not None}


def as_yaml(configuration):
    """JSON is YAML, but `any` and `dynamic` are words only where they are not quoted."""
    text = json.dumps(configuration, indent=2)
    return text.replace('"any"', "any").replace('"dynamic"', "dynamic")


def road_gateway(lab, *, connection=None, **sections):
    """Culvert in the west, for anybody who proves to be somebody: the address comes from a pool."""
    west = lab.west
    road = merge({
        "name": "road",
        "local": {"address": west.underlay, "id": "west.example", "auth": "psk"},
        "remote": {"address": "any", "id": "any", "auth": "eap-mschapv2"},
        "psk": SECRET,
        "eap": {"users": [{"name": USER, "password": PASSWORD}]},
        "ike_proposals": [IKE],
        "dpd_interval": "5s",
        "pools": ["road"],
        "children": [{"name": "net", "local_subnets": [west.subnet], "remote_subnets": "dynamic", "esp_proposals": [ESP]}],
    }, connection or {})
    whole = {
        "gateway": {"name": "west"},
        "interfaces": [{"name": "wan0", "role": "underlay"}, {"name": "lan0", "role": "protected"}],
        "dataplane": {"workers": 1},
        "pools": [{"name": "road", "addresses": POOL, "dns": ["10.2.0.53"]}],
        "connections": [road],
    }
    return Culvert(lab, "gw-west", as_yaml(merge(whole, sections) | {"connections": [pruned(road)]}))


def certificate_road(authority, *, auth="eap-tls", **more):
    """Changes for `road_gateway`: it proves itself by a certificate, and so do its peers within EAP-TLS."""
    key, certificate = authority.issue("west.example")
    return merge({
        "local": {"auth": "certificate", "certificate": str(certificate), "private_key": str(key)},
        "remote": {"auth": auth, "ca": [str(authority.certificate)]} if auth == "eap-tls" else {"auth": auth},
        "psk": None,
    }, more)


def road_server(lab, *, auth="eap-mschapv2", local_auth="psk", eap_id="%any", secrets="", certificate="", settings="",
                build=DEFAULT_BUILD):
    """strongSwan in the west as the gateway of single hosts, with a pool."""
    conf = f"""
        connections {{
            gw {{
                version = 2
                local_addrs = {lab.west.underlay}
                remote_addrs = %any
                proposals = {IKE}
                pools = road
                mobike = no
                send_cert = always
                local {{
                    auth = {local_auth}
                    id = west.example
                    {certificate}
                }}
                remote {{
                    auth = {auth}
                    {f"eap_id = {eap_id}" if eap_id else ""}
                }}
                children {{
                    net {{
                        local_ts = {lab.west.subnet}
                        esp_proposals = {ESP}
                    }}
                }}
            }}
        }}
        pools {{
            road {{
                addrs = {POOL}
                dns = 10.2.0.53
            }}
        }}
        secrets {{
            ike-gw {{
                id-1 = west.example
                secret = "{SECRET}"
            }}
            eap-alice {{
                id = {USER}
                secret = "{PASSWORD}"
            }}
            {secrets}
        }}
        """
    return StrongSwan(lab, "gw-west", conf, plugins=EAP_PLUGINS, settings=settings, build=build)


def culvert_host(lab, *, connection=None):
    """Culvert in the east as a single host."""
    office = merge({
        "name": "office",
        "local": {"address": lab.east.underlay, "id": USER, "auth": "eap-mschapv2"},
        "remote": {"address": lab.west.underlay, "id": "west.example", "auth": "psk"},
        "psk": SECRET,
        "eap": {"user": USER, "password": PASSWORD},
        "ike_proposals": [IKE],
        "virtual_address": "auto",
        "children": [{"name": "net", "local_subnets": "dynamic", "remote_subnets": [lab.west.subnet], "esp_proposals": [ESP],
                      "start": "immediately"}],
    }, connection or {})
    return Culvert(lab, "gw-east", as_yaml({
        "gateway": {"name": "east"},
        "interfaces": [{"name": "wan0", "role": "underlay"}, {"name": "lan0", "role": "protected"}],
        "dataplane": {"workers": 1},
        "connections": [pruned(office)],
    }))


def road_host(lab, *, role="gw-east", local=None, auth="eap-mschapv2", remote_auth="psk", identity=USER, eap_id=USER,
              password=PASSWORD, certificate="", extra="", secrets="", settings="", build=DEFAULT_BUILD):
    """strongSwan as a host that asks for an address."""
    conf = f"""
        connections {{
            gw {{
                version = 2
                local_addrs = {local or lab.east.underlay}
                remote_addrs = {lab.west.underlay}
                proposals = {IKE}
                vips = 0.0.0.0
                mobike = no
                {extra}
                local {{
                    auth = {auth}
                    id = {identity}
                    {f"eap_id = {eap_id}" if eap_id else ""}
                    {certificate}
                }}
                remote {{
                    auth = {remote_auth}
                    id = west.example
                }}
                children {{
                    net {{
                        remote_ts = {lab.west.subnet}
                        esp_proposals = {ESP}
                    }}
                }}
            }}
        }}
        secrets {{
            ike-gw {{
                id-1 = west.example
                secret = "{SECRET}"
            }}
            eap-alice {{
                id = {eap_id or identity}
                secret = "{password}"
            }}
            {secrets}
        }}
        """
    return StrongSwan(lab, role, conf, plugins=EAP_PLUGINS, settings=settings, build=build)


class Authority:
    """A CA in a folder, made with the openssl command."""

    def __init__(self, directory, name="lab ca"):
        self.directory = directory
        self.key, self.certificate = directory / "ca.key", directory / "ca.pem"
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                     f"/O=Lab/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-addext",
                     "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self.key, "-out", self.certificate)

    def openssl(self, *words):
        return subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, text=True).stdout

    def responder(self, lab, role, certificate, status, port):
        """An OCSP responder that knows one certificate: `V` is valid, `R` revoked."""
        serial = self.openssl("x509", "-in", certificate, "-noout", "-serial").strip().partition("=")[2]
        revoked = "260101000000Z,superseded" if status == "R" else ""
        index = self.directory / "index.txt"
        index.write_text(f"{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/O=Lab\n")
        daemon = Daemon(lab, role, "ocsp")
        daemon.launch([str(word) for word in (
            "openssl", "ocsp", "-index", index, "-port", port, "-CA", self.certificate, "-rsigner", self.certificate, "-rkey",
            self.key, "-ndays", "1")])
        eventually(lambda: lab.execute(role, ["ss", "-Hltn", f"sport = :{port}"]).stdout.strip(), timeout=10,
                   what="the responder does not listen")
        return daemon

    def issue(self, name, *alternative_names, responder=None):
        """Key and certificate files for a name; `responder` is the address of an OCSP responder."""
        stem = self.directory / name.replace("@", "-at-")
        key, request, certificate = stem.with_suffix(".key"), stem.with_suffix(".csr"), stem.with_suffix(".pem")
        extensions = stem.with_suffix(".ext")
        names = ",".join(alternative_names) or f"DNS:{name}"
        extensions.write_text(f"subjectAltName={names}\nkeyUsage=critical,digitalSignature\n"
                              "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"
                              + (f"authorityInfoAccess=OCSP;URI:{responder}\n" if responder else ""))
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/O=Lab/CN={name}",
                     "-keyout", key, "-out", request)
        self.openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days",
                     "30", "-extfile", extensions, "-out", certificate)
        key.chmod(0o600)
        return key, certificate
