"""Seconds of a round: the paper's public PyTorch code and this one, on the same data, in turn.

    git clone https://github.com/mtics/FedVLR ../FedVLR               # a folder of your own
    python -m venv ../torch && ../torch/bin/pip install torch -r ../FedVLR/requirements.txt
    python benchmarks/public_code.py --folder=../FedVLR --python=../torch/bin/python

Both train all clients of a set for some rounds: five local epochs or steps, four negatives for each positive,
embeddings of 64 numbers, cross entropy, on the CPU. The public code runs as it is, in a process of its own with the
interpreter that is given; its seconds of a round are those that it prints, without its evaluation. Here they are
medians of compiled rounds, and compiling is reported apart. The two differ in loss, initial values and what they keep
between rounds: rounds of the same size are compared, not equal ones.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import measure
from throughput import ROUNDS, advance

from configs.base import get_config
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_client_data

NAMES = {
    "fcf+base": "FCF",
    "fcf+fedvlr": "MMFCF",
    "fedavg+base": "FedAvg",
    "fedavg+fedvlr": "MMFedAvg",
    "fedncf+base": "FedNCF",
    "fedncf+fedvlr": "MMFedNCF",
    "pfedrec+base": "PFedRec",
    "pfedrec+fedvlr": "MMPFedRec",
    "fedrap+base": "FedRAP",
    "fedrap+fedvlr": "MMFedRAP",
}
"""What the public code calls a method."""

ROUND = re.compile(r"\[Train\] Time: ([\d.]+)s")
SCRIPT = "import json, sys; from utils.quick_start import quick_start; quick_start(**json.loads(sys.argv[1]))"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="checkout of the public code")
    parser.add_argument("--python", required=True, help="interpreter with PyTorch and what the public code needs")
    parser.add_argument("--set", default="KU")
    parser.add_argument("--methods", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=4, help="of the public code; the first is not counted")
    parser.add_argument("--repeats", type=int, default=7, help="of our compiled rounds")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(NAMES):
        parser.error(f"--methods: expected some of {', '.join(NAMES)}, found {', '.join(sorted(unknown))}")
    rows = []
    for method in methods:
        try:
            theirs = public_seconds(arguments, NAMES[method])
        except RuntimeError as error:
            print(f"{method}: left out: {error}", file=sys.stderr, flush=True)
            continue
        ours, compiled = own_seconds(arguments.set, method, arguments.repeats)
        spread = f"{min(theirs):.3g} to {max(theirs):.3g}"
        row = {"method": method, "public s a round": statistics.median(theirs), "from, to": spread}
        row |= {"s a round": ours.median, "times as fast": statistics.median(theirs) / ours.median}
        rows.append(row | {"compile s": compiled})
        print(rows[-1], file=sys.stderr, flush=True)
    if not rows:
        parser.exit(1, "no method of the public code ran\n")
    measure.write_results(arguments.out, f"public_code_{arguments.set}", rows, {"set": arguments.set})


def public_seconds(arguments: argparse.Namespace, model: str) -> Sequence[float]:
    """Seconds of all rounds but the first, as the public code prints them.

    Raises:
      RuntimeError: if it ends without having printed two rounds; the message has its last lines.
    """
    data = pathlib.Path(os.environ.get("FEDVLR_DATA", "data")).resolve()
    given = {
        **{"use_gpu": False, "device": "cpu", "data_path": f"{data}/", "epochs": arguments.rounds},
        **{"eval_step": 10 * arguments.rounds, "local_epochs": 5, "hyper_parameters": [], "early_stop": False},
        **{"lr": 0.01, "l2_reg": 1e-6},
        **{"id_mode": "None", "txt_mode": "None", "vis_mode": "None", "fusion_module": "moe"},
        **{"save_model": False, "save_results": False, "type": "speed", "gpu_id": 0},
        "comment": f"{time.time_ns()}",  # what has a result under its name already is not run again
    }
    call = {"model": model, "dataset": arguments.set, "config_dict": given, "save_model": False}
    folder = pathlib.Path(arguments.folder).resolve()
    done = subprocess.run(
        [os.path.abspath(arguments.python), "-c", SCRIPT, json.dumps(call)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = [*map(float, ROUND.findall(done.stdout))]
    if len(seconds) < 2:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise RuntimeError(
            f"{model} in {folder}: expected at least two rounds, found {len(seconds)}; it said\n{last}"
        )
    return seconds[1:]


def own_seconds(name: str, method: str, repeats: int) -> tuple[measure.Timing, float]:
    """Seconds of one of our rounds, and of compiling."""
    config = get_config()
    config.host.name, config.variant = method.split("+")
    config.objective, config.data.name = "bce", name
    settings = config.to_dict()
    dataset = load_configured(settings["data"])
    algorithm, data = make_algorithm(settings, dataset), jax.device_put(make_client_data(dataset))
    holder = [jax.jit(algorithm.init)(jax.random.key(0))]
    run = jax.jit(algorithm.run, static_argnames="num_rounds", donate_argnames="state")
    program, compiled = compile_ahead(run, holder[0], data, num_rounds=ROUNDS)
    timing = measure.interleaved({"": lambda: advance(program, holder, data)}, repeats)[""]
    return measure.Timing(*(x / ROUNDS for x in timing)), compiled


if __name__ == "__main__":
    main()
