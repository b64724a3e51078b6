"""octoflow-bench run, mixed and device, small, on whatever device is there: test_commands.py BENCH MODEL.gguf WHAT"""
import json
import os
import subprocess
import sys

BENCH, MODEL = sys.argv[1], sys.argv[2]
RUN = ["run", "-m", MODEL, "--prompt", "16", "-n", "4", "--repeats", "1"]


def call(arguments, want=0):
    done = subprocess.run([BENCH] + arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=240,
                          check=False)
    assert done.returncode == want, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def numbers(arguments):
    """The JSON of the last line; every number in it is one, and positive where it says a rate."""
    out = call(arguments + ["--json"]).stdout
    found = json.loads(out.strip().split("\n")[-1], parse_constant=lambda name: sys.exit(f"{name} in the JSON"))
    for key in ("device", "driver", "build", "date", "command"):
        assert found[key], (key, found)
    assert found["device"] in out.split("\n{")[0], "the device is named above"
    return found, out


def check_run():
    found, out = numbers(RUN + ["-p", "16,40", "--prefill-seqs", "2", "-b", "5,1-3", "-t", "0.8", "--top-p", "0.95",
                                "--validate"])
    for key in ("prefill_16", "prefill_40", "decode_5", "decode_1", "decode_2", "decode_3", "ms_per_step_5",
                "bytes_per_step_5", "flops_per_step_5", "bytes_per_prompt_40"):
        assert found[key] > 0, (key, found)
    assert found["worst_drop_percent"] >= 0 and found["verified"] is True and not any("greedy" in key for key in found)
    assert "worst drop" in out
    # prompts longer than a step holds: the first sequences decode while the last ones are in their prompts
    found, _ = numbers(["run", "-m", MODEL, "-p", "", "-b", "5", "--prompt", "128", "-n", "4", "--repeats", "1"])
    assert found["decode_5_greedy"] > 0, found


def check_profile():
    found, out = numbers(RUN + ["-p", "16", "-b", "2", "--profile", "--no-verify"])
    times = found["profile_decode_2_greedy"]
    assert times["attention"] > 0 and times["head"] > 0 and found["verified"] is False, found
    assert 0 < found["limit_share_decode_2_greedy"] < 3 and found["read_bytes_per_s"] > 0, found
    assert "of the limit" in out, out


def check_mixed():
    mixed = ["mixed", "-m", MODEL, "--requests", "5", "--batch", "3", "--shortest", "3", "--longest", "9"]
    found, _ = numbers(mixed)
    assert found["mixed_5"] > 0 and found["cached_tokens"] == 0, found
    assert found["prefill_tokens"] == found["prompt_tokens"] and 15 <= found["output_tokens"] <= 45, found
    again, _ = numbers(mixed + ["-t", "0"])
    assert again["mixed_5_greedy"] > 0 and again["output_tokens"] == found["output_tokens"], again
    shared, _ = numbers(mixed + ["--shared-prefix", "70", "--validate"])
    # two whole pages of 32 tokens, for all but who came first
    assert shared["cached_tokens"] >= 64 * 2 and shared["shared_prefix_5"] > 0, shared
    assert shared["cached_tokens"] + shared["prefill_tokens"] == shared["prompt_tokens"], shared


def check_device():
    found, _ = numbers(["device", "--validate"])
    for key in ("read_bytes_per_s", "copy_bytes_per_s", "fma_flops_per_s", "dispatch_1_us", "submit_us"):
        assert found[key] > 0, (key, found)


def check_errors():
    for arguments, says in {
            ("run",): "-m FILE is missing",
            ("run", "-m", MODEL, "-b", "0"): "--batch 0: expected numbers",
            ("run", "-m", MODEL, "-b", "8,"): "--batch 8,: expected numbers",
            ("run", "-m", MODEL, "-p", "x"): "--prefill x: expected numbers",
            ("run", "-m", MODEL, "-n", "3"): "--gen: 3 is out of range",
            ("run", "-m", MODEL, "-p", "", "-b", "64", "--prompt", "4000"): "batch 64: sequences get",
            ("run", "-m", MODEL, "-b", "1,5000"): "--batch 5000: the engine takes",
            ("run", "-m", MODEL, "-p", "1000000"): "--prefill 1000000: the model sees",
            ("run", "-m", MODEL, "--device", "no such"): "no such",
            ("run", "-m", MODEL, "extra"): "extra",
            ("run", "-m", MODEL, "-p", "", "--set", "norm=8"): "--set norm=8: no tunable of that name",
            ("mixed", "-m", MODEL, "--shortest", "9", "--longest", "8"): "--shortest 9: more than --longest 8",
            ("mixed", "-m", MODEL, "--longest", "100000"): "make --longest or --shared-prefix smaller",
            ("device", "--device", "no such"): "no such",
            ("speed", "-m", MODEL): 'no command "speed"',
    }.items():
        done = call(list(arguments), want=3 if says == "no such" else 2)  # no device of that name: nothing can run
        lines = done.stderr.strip().split("\n")
        assert len(lines) == 1 and says in lines[0], (arguments, done.stderr)
    call(["run", "-m", os.path.join(os.path.dirname(MODEL), "no such file")], want=3)


for check in {"run": [check_run], "profile": [check_profile], "mixed": [check_mixed],
              "device": [check_device, check_errors]}[sys.argv[3]]:
    check()
