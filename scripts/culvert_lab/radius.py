"""A FreeRADIUS in a namespace, with a configuration of its own: EAP-MSCHAPv2 and EAP-TLS."""

import shutil

from .daemons import Daemon
from .shell import LabError, eventually

BINARY = "freeradius"


class FreeRADIUS(Daemon):
    """`users` is name to password; `replies` name to attributes of the Access-Accept, in the syntax of a users file.

    `certificate`, `key` and `ca` are PEM files for EAP-TLS; without them only EAP-MSCHAPv2 is served.
    """

    def __init__(self, lab, role, *, client, secret, users=None, replies=None, certificate=None, key=None, ca=None,
                 tls_most="1.3", port=1812, name="freeradius"):
        super().__init__(lab, role, name)
        self.port = port
        (self.directory / "users").write_text(self._users(users or {}, replies or {}))
        tls = self._tls(certificate, key, ca, tls_most) if certificate else ""
        (self.directory / "radiusd.conf").write_text(f"""
            name = radiusd
            prefix = /usr
            logdir = {self.directory}
            raddbdir = {self.directory}
            radacctdir = {self.directory}
            run_dir = {self.directory}
            libdir = /usr/lib/freeradius
            pidfile = {self.directory}/pid
            max_request_time = 30
            cleanup_delay = 5
            max_requests = 16384
            hostname_lookups = no
            log {{
                destination = stdout
                auth = yes
            }}
            security {{
                max_attributes = 200
                reject_delay = 0
                status_server = no
                allow_vulnerable_openssl = yes
            }}
            thread pool {{
                start_servers = 1
                max_servers = 4
                min_spare_servers = 1
                max_spare_servers = 2
            }}
            client gateway {{
                ipaddr = {client}
                secret = "{secret}"
                require_message_authenticator = yes
            }}
            {self._modules(tls)}
            server default {{
                listen {{
                    type = auth
                    ipaddr = *
                    port = {port}
                }}
                authorize {{
                    files
                    eap
                }}
                authenticate {{
                    Auth-Type MS-CHAP {{
                        mschap
                    }}
                    eap
                }}
            }}
            """)

    def _modules(self, tls):
        return f"""
            modules {{
                files {{
                    filename = {self.directory}/users
                }}
                mschap {{
                    use_mppe = yes
                    require_encryption = yes
                    require_strong = yes
                }}
                eap {{
                    default_eap_type = {"tls" if tls else "mschapv2"}
                    timer_expire = 60
                    ignore_unknown_eap_types = no
                    max_sessions = 1024
                    {tls}
                    mschapv2 {{ }}
                }}
            }}
            """

    @staticmethod
    def _users(users, replies):
        entries = []
        for name in sorted(set(users) | set(replies)):
            check = f' Cleartext-Password := "{users[name]}"' if name in users else ""
            reply = ",\n".join(f"\t{attribute}" for attribute in replies.get(name, []))
            entries.append(f"{name}{check}\n{reply}\n")
        return "\n".join(entries)

    @staticmethod
    def _tls(certificate, key, ca, most):
        return f"""
            tls-config tls-common {{
                private_key_file = {key}
                certificate_file = {certificate}
                ca_file = {ca}
                cipher_list = "DEFAULT"
                tls_min_version = "1.2"
                tls_max_version = "{most}"
                fragment_size = 1024
                ecdh_curve = ""
                check_crl = no
            }}
            tls {{
                tls = tls-common
            }}
            """

    def start(self):
        if not shutil.which(BINARY):
            raise LabError("freeradius is not installed: scripts/prerequisites.sh says what the tests need")
        self.launch([BINARY, "-f", "-X", "-d", self.directory, "-n", "radiusd"])
        eventually(lambda: "Ready to process requests" in self.log() or not self.alive(), timeout=20,
                   what=lambda: f"FreeRADIUS in {self.role} is not ready: {self.log()[-800:]}")
        if not self.alive():
            raise LabError(f"FreeRADIUS ended: {self.log()[-1200:]}")
        return self
