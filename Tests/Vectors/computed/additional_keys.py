#!/usr/bin/env python3
"""Writes additional-keys.json: the keys of IKE SAs with additional key exchanges, by Python's hmac alone.

RFC 7296 §2.13 to §2.17, RFC 9370 §2.2.2 and §2.2.4, RFC 9242 §3.3.2 (IntAuth and AUTH), RFC 8784 §3 (PPK). Everything is written
from the formulas; nothing of the gateway is used.
"""

import hashlib
import hmac
import json
import pathlib
import struct


def octets(label, count):
    return hashlib.shake_256(label.encode()).digest(count)


class Suite:
    def __init__(self, prf_id, name, key_bits):
        self.prf_id, self.name, self.key_bits = prf_id, name, key_bits
        self.prf_octets = hashlib.new(name).digest_size

    def prf(self, key, data):
        return hmac.new(key, data, self.name).digest()

    def prf_plus(self, key, seed, count):
        stream, block, number = b"", b"", 1
        while len(stream) < count:
            block = self.prf(key, block + seed + bytes([number]))
            stream, number = stream + block, number + 1
        return stream[:count]

    def keys(self, skeyseed, seed):
        """SK_d, SK_ei, SK_er, SK_pi, SK_pr of an AES-GCM suite (key and 4 octets of salt, no SK_a)."""
        sealing = self.key_bits // 8 + 4
        stream = self.prf_plus(skeyseed, seed, 3 * self.prf_octets + 2 * sealing)
        result = {}
        for name, count in (("d", self.prf_octets), ("ei", sealing), ("er", sealing), ("pi", self.prf_octets),
                            ("pr", self.prf_octets)):
            result[name], stream = stream[:count], stream[count:]
        return result


def message(spis, is_response, message_id, inner):
    """IntAuth_*A | IntAuth_*P: a header, the generic header of an Encrypted payload with a KE payload first, the content."""
    flags = 0x20 if is_response else 0x08
    total = 28 + 4 + len(inner)
    return (spis + bytes([46, 0x20, 43, flags]) + struct.pack(">II", message_id, total)
            + bytes([34, 0]) + struct.pack(">H", 4 + len(inner)) + inner)


def key_exchange(method, data):
    return bytes([0, 0]) + struct.pack(">HHH", 8 + len(data), method, 0) + data


def case(suite, rounds, label):
    ni, nr = octets(label + " Ni", 32), octets(label + " Nr", 40)
    spis = octets(label + " SPIs", 16)
    secrets = [octets(f"{label} SK({n})", 32) for n in range(rounds + 1)]
    seed = ni + nr + spis
    keys = suite.keys(suite.prf(ni + nr, secrets[0]), seed)
    chain_i = chain_r = b""
    messages = []
    for number in range(1, rounds + 1):
        data_i, data_r = octets(f"{label} KEi({number})", 1184), octets(f"{label} KEr({number})", 1088)
        inner_i, inner_r = key_exchange(36, data_i), key_exchange(36, data_r)
        chain_i = suite.prf(keys["pi"], chain_i + message(spis, False, number, inner_i))
        chain_r = suite.prf(keys["pr"], chain_r + message(spis, True, number, inner_r))
        messages.append({"keyI": data_i.hex(), "keyR": data_r.hex()})
        keys = suite.keys(suite.prf(keys["d"], secrets[number] + ni + nr), seed)
    int_auth = chain_i + chain_r + struct.pack(">I", rounds + 1) if rounds else b""
    real, identity, psk, ppk = (octets(f"{label} {what}", 60) for what in ("RealMsg1", "IDi", "PSK", "PPK"))
    mixed = {name: suite.prf_plus(ppk, keys[name], suite.prf_octets) for name in ("d", "pi", "pr")}

    def auth(sk_pi):
        signed = real + nr + suite.prf(sk_pi, identity) + int_auth
        return suite.prf(suite.prf(psk, b"Key Pad for IKEv2"), signed).hex()

    extra = b"".join(secrets[1:])
    return {
        "prf": suite.prf_id, "keyBits": suite.key_bits, "ni": ni.hex(), "nr": nr.hex(), "spis": spis.hex(),
        "secrets": [secret.hex() for secret in secrets], "messages": messages,
        "keys": {name: value.hex() for name, value in keys.items()}, "intAuth": int_auth.hex(),
        "realMessage": real.hex(), "identity": identity.hex(), "psk": psk.hex(), "ppk": ppk.hex(),
        "auth": auth(keys["pi"]), "authWithPPK": auth(mixed["pi"]),
        "mixed": {name: value.hex() for name, value in mixed.items()},
        "rekeySeed": suite.prf(keys["d"], secrets[0] + ni + nr + extra).hex(),
        "childKeys": suite.prf_plus(keys["d"], secrets[0] + ni + nr + extra, 72).hex(),
    }


if __name__ == "__main__":
    suites = (Suite(5, "sha256", 128), Suite(6, "sha384", 256), Suite(7, "sha512", 256))
    cases = [case(suite, rounds, f"{suite.name} {rounds}") for suite in suites for rounds in (0, 1, 3)]
    target = pathlib.Path(__file__).with_name("additional-keys.json")
    target.write_text(json.dumps({"cases": cases}, indent=1) + "\n")
