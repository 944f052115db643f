"""`culvert bench esp`: the figures are there and make sense. How large they are is for Benchmarks to report, not for a test."""

import json
import subprocess

import pytest

from culvert_lab.daemons import culvert_binary

KEYS = {"engine", "direction", "packet_bytes", "workers", "sas", "clocks_per_packet", "raw_clocks_per_packet", "mpps", "gbps"}


@pytest.mark.parametrize("direction", ["out", "in"])
def test_bench_times_the_worker_and_the_raw_engine_in_one_run(direction):
    done = subprocess.run(
        [str(culvert_binary()), "bench", "esp", "--engine", "openssl", "--sizes", "64,512,1400", "--direction", direction,
         "--json"],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["packet_bytes"] for result in results] == [64, 512, 1400]
    for result in results:
        assert KEYS <= set(result)
        assert result["engine"] == "openssl" and result["direction"] == direction and result["workers"] == result["sas"] == 1
        assert 0 < result["raw_clocks_per_packet"] and 0 < result["mpps"]
        above = result["clocks_per_packet"] - result["raw_clocks_per_packet"]
        print(f"{direction} {result['packet_bytes']} bytes: {above:.0f} clocks above the raw engine")


def test_bench_has_a_table_for_people():
    done = subprocess.run([str(culvert_binary()), "bench", "esp", "--sizes", "64"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "64" in done.stdout
    with pytest.raises(ValueError):
        json.loads(done.stdout)


def bench_ike(*words):
    done = subprocess.run([str(culvert_binary()), "bench", "ike", *words], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_bench_ike_counts_handshakes_and_rekeys_of_both_ends():
    status, output, errors = bench_ike("--proposals", "aes256gcm16-prfsha384-x25519", "--seconds", "0.05", "--json")
    assert status == 0, errors
    results = json.loads(output)["results"]
    assert [result["operation"] for result in results] == ["handshake", "rekey-child", "rekey-ike"]
    for result in results:
        assert result["threads"] == 1 and result["authentication"] == "psk"
        # One core cannot be both ends faster than it is one of them.
        assert result["per_cpu_second"] > 0
        assert 0 < result["per_second"] < min(result["initiator_per_second"], result["responder_per_second"])
    handshake, rekey_child, _ = (result["per_second"] for result in results)
    assert handshake < rekey_child  # without perfect forward secrecy a child costs no key exchange


def test_bench_ike_authenticates_with_certificates_too():
    methods = ["psk", "rsa2048", "ecdsa256", "ecdsa384", "ed25519"]
    status, output, errors = bench_ike("--proposals", "aes256gcm16-prfsha256-x25519", "--auth", ",".join(methods), "--operation",
                                       "handshake", "--seconds", "0.3", "--json")
    assert status == 0, errors
    speed = {result["authentication"]: result["per_second"] for result in json.loads(output)["results"]}
    assert list(speed) == methods
    assert all(0 < speed[method] < speed["psk"] for method in methods[1:]), speed


def test_bench_ike_authenticates_with_certificates_too():
    methods = ["psk", "rsa2048", "ecdsa256", "ecdsa384", "ed25519"]
    status, output, errors = bench_ike("--proposals", "aes256gcm16-prfsha256-x25519", "--auth", ",".join(methods), "--operation",
                                       "handshake", "--seconds", "0.3", "--json")
    assert status == 0, errors
    speed = {result["authentication"]: result["per_second"] for result in json.loads(output)["results"]}
    assert list(speed) == methods
    assert all(0 < speed[method] < speed["psk"] for method in methods[1:]), speed


def test_bench_ike_holds_many_sas_and_tells_their_memory():
    status, output, errors = bench_ike("--sas", "300", "--json")
    assert status == 0, errors
    report = json.loads(output)
    assert report["sas"] == 300 and report["bytes_per_sa"] > 0 and report["established_per_second"] > 0


@pytest.mark.parametrize("words, said", [
    (["--proposals", "aes256gcm16-prfsha384-x25519,nonsense"], "nonsense"), (["--auth", "nonsense"], "psk"),
    (["--sas", "0"], "--sas")])
def test_bench_ike_says_what_it_cannot_read(words, said):
    status, output, errors = bench_ike(*words, "--seconds", "0.01")
    assert status == 64 and not output and said in errors
