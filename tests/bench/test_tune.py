"""bench/tune.py with a stand-in for octoflow-bench whose numbers are known: test_tune.py TUNE_PY"""
import json
import os
import subprocess
import sys
import tempfile

# 100 tokens/s a sequence, twice that with norm_rows, a quarter less in the first round (the one that is verified);
# stream_rows has other bits, direct_input fails.
STAND_IN = '''#!/usr/bin/env -S python3 -SI
import json, sys
a = sys.argv[1:]
setting = a[a.index("--set") + 1] if "--set" in a else ""
assert "emulated" in a, a
if "direct_input" in setting:
    print("octoflow-bench: no memory of that kind")
    sys.exit(3)
if a[0] == "invariance":
    print("alone  7 rows  hash of all rows " + ("beef" if "stream" in setting else "cafe"))
elif a[0] in ("logits", "ppl"):
    print("fine")
elif "--profile" in a:
    print(json.dumps({"profile_decode_1": {"head": 2.5, "embed": 1}}))
else:
    rate = (200 if "norm" in setting else 100) * (1 if "--no-verify" in a else 0.75)
    out = {"decode_%s" % b: int(b) * rate for b in a[a.index("--batch") + 1].split(",")}
    out["decode_2"] *= 0.45 if "norm" in setting else 1
    print("words")
    print(json.dumps(out))
'''


def main():
    with tempfile.TemporaryDirectory() as folder:
        bench, out = os.path.join(folder, "bench"), os.path.join(folder, "t.json")
        with open(bench, "w", encoding="utf-8") as f:
            f.write(STAND_IN)
        os.chmod(bench, 0o755)
        command = [sys.executable, sys.argv[1], "--bench", bench, "-m", "m.gguf", "-o", out, "--family", "emulated",
                   "--trained", "t.gguf", "--golden", folder, "--batch", "1,2", "--rounds", "3", "--seconds", "300"]
        for setting in ("norm_rows=8", "stream_rows=16", "direct_input=1", "chain_rows=0"):
            command += ["--set", setting]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        with open(out, encoding="utf-8") as f:
            found = json.load(f)
        assert done.returncode == 1, done.stdout
        table = done.stdout.strip().split("\n")[-4:]
        assert table == ["| defaults | same | 3 | 100 (+0.0 %) | 200 (+0.0 %) | -100.0 % |",
                         "| norm_rows=8 | same | 3 | 200 (+100.0 %) | 180 (-10.0 %) | 10.0 % |",
                         "| stream_rows=16 | OTHER BITS | 3 | 100 (+0.0 %) | 200 (+0.0 %) | -100.0 % |",
                         "| chain_rows=0 | same | 3 | 100 (+0.0 %) | 200 (+0.0 %) | -100.0 % |"], table
        assert "failed: decode_first direct_input=1: exit 3: octoflow-bench: no memory of that kind" in done.stdout
        assert found["decode"]["defaults"]["1"] == [75, 100, 100] and "direct_input=1" not in found["decode"], found
        assert found["profile_us"]["chain_rows=0"]["1"] == {"head": 2.5, "embed": 1}, found
        # no time: nothing is begun, and that is said
        command[command.index("300")] = "1"
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.stdout.strip() == "nothing was measured", done.stdout
    print("tune: ok")


if __name__ == "__main__":
    main()
