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
