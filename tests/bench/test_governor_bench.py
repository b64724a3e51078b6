"""octoflow-bench governor and bench/governor_live.py: what they print, their CSVs and what they refuse:
test_governor_bench.py BENCH plants.json MODEL.gguf governor_live.py fake_nvidia_smi.sh"""
import csv
import json
import os
import re
import subprocess
import sys
import tempfile

BENCH, PLANTS, MODEL, SCRIPT, FAKE_SMI = sys.argv[1:6]


def bench(*arguments, want=0):
    done = subprocess.run([BENCH, *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == want, (arguments, done.returncode, done.stdout, done.stderr)
    assert want == 0 or done.stderr.strip().count("\n") == 0, done.stderr
    return done


def call(*arguments, want=0, plants=PLANTS):
    return bench("governor", "--plants", plants, *arguments, want=want)


def last_line(out):
    return json.loads(out.strip().split("\n")[-1])


# All nights: the three numbers of the last line meet their goals.
out = call("--json").stdout.strip().split("\n")
found = json.loads(out[-1])
assert found["tokens_vs_ungoverned"] >= 1.01, found
assert 0 < found["overshoot_c"] <= 1, found
assert found["cool_speed"] >= 0.995, found
assert found["law"] == "pi" and found["seed"] == 1, found
assert len(out) == 3 + 4 * 2 * 3 + 1, len(out)
assert "seed 1" in out[0], out[0]

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "night.csv")
    out = call("--plant", "hysteresis", "--work", "compute_bound", "--hours", "0.5", "--csv", path, "--json").stdout
    with open(path, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 3 * 1800, len(rows)
    assert {row["law"] for row in rows} == {"none", "ramp", "pi"}
    assert all(0.1 <= float(row["duty"]) <= 1 and 20 < float(row["die_c"]) < 90 for row in rows)
    # What was not asked for is not known.
    assert last_line(out)["cool_speed"] is None, out

    broken = os.path.join(folder, "plants.json")
    for text, says in {"{": "plants.json:1", "{}": '"plants" is missing',
                       '{"plants": {"a": {"p_idle": "x"}}}': '"p_idle": expected a number',
                       '{"plants": {}, "work": {}, "night": {}, "sensor": {}}': "is missing"}.items():
        with open(broken, "w", encoding="utf-8") as f:
            f.write(text)
        done = call(plants=broken, want=3)
        assert says in done.stderr, done.stderr
    assert "no such" in call("--plant", "no such", want=2).stderr
    assert "/no such" in call("--csv", os.path.join(folder, "no such", "x"), want=3).stderr

    # The engine itself, with a sensor that says 10 degrees too many, and an nvidia-smi that says other things.
    sensor, smi, path = (os.path.join(folder, name) for name in ("sensor", "smi", "live.csv"))
    with open(sensor, "w", encoding="utf-8") as f:
        f.write("60 100 200 2 - - - 1410")
    with open(smi, "w", encoding="utf-8") as f:
        f.write("pci.bus_id=0000\ntemperature.gpu=61\ntemperature.gpu.tlimit=N/A\npower.draw=103\n"
                "power.limit=[Not Supported]\nclocks.sm=1410\nclocks_throttle_reasons.active=0x0000000000000024\n")
    os.symlink(os.path.abspath(FAKE_SMI), os.path.join(folder, "nvidia-smi"))
    live = [sys.executable, SCRIPT, "--bench", BENCH, "-m", MODEL, "-b", "2", "--prompt", "8", "-n", "8"]
    live += ["--target-c", "50", "--csv", path, "--sensor", "fake:" + sensor]
    environment = {**os.environ, "PATH": folder + ":" + os.environ["PATH"], "FAKE_SMI": smi}

    def script(*arguments, want=0):
        done = subprocess.run([*live, *arguments], capture_output=True, text=True, timeout=100, check=False,
                              env=environment)
        assert done.returncode == want, (done.returncode, done.stdout, done.stderr)
        return done

    # Runs of ten seconds in all, and as much for loading as a slow machine may take.
    out = script("--seconds", "90", "--loading", "80").stdout.strip().split("\n")
    none, ramp, pi = ({name: cell for name, cell in zip(re.split("  +", out[-5].strip()), line.split())}
                      for line in out[-3:])
    assert [run["run"] for run in (none, ramp, pi)] == ["none", "ramp", "pi"], out
    assert none["duty"] == "1" and float(ramp["duty"]) < 0.4 and float(pi["duty"]) < 0.8, out
    assert float(ramp["tokens/s"]) > 0 and 0 < float(ramp["busy"]) < 0.7 * float(none["busy"]), out
    assert none["watts"] == "100" and none["margin C"] == "unknown" and none["throttled s"] == "0", out
    columns, apart = (re.split(" +", out[at].strip()) for at in (-13, -11))
    apart = dict(zip(columns, apart))
    assert apart["run"] == "none" and apart["temp_c"] == "1" and apart["power_w"] == "3", out
    assert apart["clock_mhz"] == "0" and apart["throttle_bits"] == "1" and apart["margin_c"] == "unknown", out
    assert int(apart["seconds"]) >= 2 and apart["limit_w"] == "unknown", out
    with open(path, encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    delays = [float(row["delay_ms"]) for row in rows if row["phase"] == "ramp"]
    assert delays == sorted(delays) and delays[0] == 50 and delays[-1] >= 200, delays
    assert all(row["temp_c"] == "60" and row["margin_c"] == "" for row in rows), rows
    # Refused, or cut off in the middle: no table, or that of what was seen until then.
    assert "expected pi or ramp" in script("--governor", "off", want=1).stderr
    assert "not whole" in script("--seconds", "3", "--loading", "0", want=1).stderr
