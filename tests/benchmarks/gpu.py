"""The day a GPU is there: what works on it, how it agrees with the CPU, and what it costs at the true shapes.

    python tests/benchmarks/gpu.py [--device cuda] [--shapes sd15,sdxl] [--parts tests,sd15]
                                    [--steps 50] [--seconds 480] [-o gpu-report]

Nothing is downloaded. Three parts; what there is no time for is left out, with a line that says so:
1. the tests marked `gpu`;
2. every command on `stickers` in float16 and bfloat16, beside the CPU's own float32: PSNR of what they make, seconds;
3. Stable Diffusion 1.5's and XL's true shapes with random weights: seconds and peak memory of null-text inversion by
   both solvers, nine frames, an edit, 80 drag iterations, and a training step by every gradient.
The parts share the time, and a job has at most half of what its part has left: one that takes longer is stopped, and
its line says so. Two shapes at 50 steps take longer than eight minutes: `--parts sd15 --seconds 900` gives one more.
Writes gpu.json and gpu.md after every line. `--shapes tiny --device cpu --steps 2` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from time_shares import JobFailedError, OverTimeError, Task, child, rows

from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.storage.writing import write_json_atomic, write_text_atomic

Row = dict[str, Any]
SIDES_PX = {"sd15": 512, "sdxl": 1024, "tiny": 32}
GRADIENTS = ("central", "one-sided", "forward-variation", "double-backward")
FLOORS_S = {
    "nine frames, null-text by Adam": 3.1,
    "nine frames, null-text by Gauss-Newton": 1.3,
    "edit from a stored inversion": 0.1,
    "80 drag iterations": 0.18,
}
"""Seconds at 800 TFLOP/s for SD 1.5 at 512 px."""
STICKERS = {
    "invert": {"image": "samples:fox", "src": "a 3d fox", "inversion": "nti"},
    "edit": {"image": "samples:fox", "src": "a 3d fox", "trg": "a 3d cat"},
    "interpolate": {"images": ["samples:apple", "samples:pear"], "frames": 1},
    "drag": {
        "image": "samples:rose",
        "src": "a 3d rose",
        "point": "28,36:44,24",
        "method": "gooddrag",
        "lora_steps": 4,
        "iterations": 4,
    },
}


class Report:
    """The two files, which are whole after every row.

    facts   about the device, for the head
    """

    def __init__(self, output: Path, facts: Mapping[str, Any]) -> None:
        self.output, self.facts = output, dict(facts)
        self.parts: dict[str, list[Row]] = {}

    def add(self, part: str, row: Row) -> None:
        self.parts.setdefault(part, []).append(row)
        head = f"# {self.facts['device']}, torch {self.facts['torch']}\n\n"
        tables = (f"## {part}\n\n{markdown_table(_even(rows))}\n" for part, rows in self.parts.items())
        write_json_atomic(self.output / "gpu.json", {**self.facts, **self.parts})
        write_text_atomic(self.output / "gpu.md", head + "\n".join(tables))

    def has_errors(self) -> bool:
        return any(row["note"].startswith("error") for rows in self.parts.values() for row in rows)


def main() -> int:
    options = _options()
    until = time.perf_counter() + options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the child is ended too
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smoothtool-gpu-") as name, child(["gpu_jobs"]) as worker:
        os.environ["SMOOTHTOOL_CACHE"] = str(Path(name) / "cache")
        try:
            worker.start(options.seconds)
            report = Report(options.output, worker.call("gpu_jobs:device_facts", (options.device,), options.seconds))
        except (JobFailedError, OverTimeError) as error:
            print(f"{options.device}: {error or 'nothing could be started within the time'}", file=sys.stderr)
            return 1
        for part, row in rows(tasks(Path(name), options), worker, until):
            report.add(part, row)
            print(part, json.dumps(row), flush=True)
    print(options.output / "gpu.md")
    return int(report.has_errors())


def tasks(root: Path, options: argparse.Namespace) -> list[Task]:
    """Every job in the order in which they run."""
    parts = {
        "tests": [Task("tests", {"tests": "marked gpu"}, "gpu_jobs:marked_tests", (options.device,))],
        "stickers": list(sticker_tasks(root / "stickers", options.device, options.steps)),
        **{shape: list(shape_tasks(root / shape, shape, options)) for shape in options.shapes.split(",")},
    }
    wanted = options.parts.split(",") if options.parts else parts
    return [task for part in wanted for task in parts[part]]


def sticker_tasks(root: Path, device: str, steps: int) -> Iterator[Task]:
    """Every command on the CPU in float32, and on the device from the same seed."""
    for command, settings in STICKERS.items():
        base = {**settings, "model": "stickers", "seed": 1, "steps": steps}
        truth = root / f"{command}-cpu"
        for on, dtype in (("cpu", "float32"), (device, "float16"), (device, "bfloat16")):
            place = truth if dtype == "float32" else root / f"{command}-{dtype}"
            job = {**base, "device": on, "dtype": dtype, "output": place}
            names = {"what": command, "device": on, "dtype": dtype}
            arguments = (command, job, None if place == truth else truth)
            yield Task("stickers", names, "gpu_jobs:sticker_job", arguments)


def shape_tasks(root: Path, shape: str, options: argparse.Namespace) -> Iterator[Task]:
    """Everything that takes long, at a published model's shape: what takes longest, and what compiles, comes last."""
    side = SIDES_PX[shape]
    dtype = "float32" if options.device == "cpu" else "float16"
    base = {"model": f"shape {shape}", "device": options.device, "dtype": dtype, "steps": options.steps, "seed": 1}
    pair = {"images": ["apple", "pear"], "src": ["a red cake"], "frames": 9}
    one = {"image": "apple", "src": "a red cake"}
    drag = {"point": [f"{side // 3},{side // 2}:{side // 2},{side // 2}"], "method": "dragdiffusion", "lora_steps": 0}
    asked: list[tuple[str, str, Mapping[str, Any]]] = [
        ("null-text by Gauss-Newton", "invert", {**one, "solver": "gauss-newton"}),
        ("edit from a stored inversion", "edit", {**one, "trg": ["a blue cake"], "solver": "gauss-newton"}),
        ("80 drag iterations", "drag", {**one, **drag, "iterations": 80}),
        ("null-text by Adam", "invert", {**one, "solver": "adam"}),
        ("nine frames, null-text by Gauss-Newton", "interpolate", {**pair, "solver": "gauss-newton"}),
        ("nine frames, null-text by Adam", "interpolate", {**pair, "solver": "adam"}),
    ]
    for name, command, settings in asked:
        job = {**base, **settings, "output": root / name.replace(" ", "-").replace(",", "")}
        floor = {"floor s": FLOORS_S.get(name)} if shape == "sd15" else {}
        yield Task(shape, {"what": name, **floor}, "gpu_jobs:shape_job", (root, shape, command, job))
    for compiled in (False, True):
        for gradient in GRADIENTS[: -1 if compiled else None]:  # no compiled layer has a second derivative
            settings = {"max_steps": 3, "batch_size": 1, "gradient": gradient, "compile": compiled, "tracker": "none"}
            job = {**base, **settings, "dtype": "float32", "output": root / f"train-{gradient}-{compiled}"}
            name = f"training, {gradient}{', compiled' if compiled else ''}"
            yield Task(shape, {"what": name}, "gpu_jobs:training_job", (root, shape, job))


def _even(rows: list[Row]) -> list[Row]:
    """The same rows with one set of columns, the note last: a row that was stopped has no figures."""
    heads = [*dict.fromkeys(head for row in rows for head in row if head != "note"), "note"]
    return [{head: row.get(head) for head in heads} for row in rows]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default="sd15,sdxl", help=f"with commas between: {', '.join(SIDES_PX)}")
    parser.add_argument("--parts", default="", help="tests, stickers and names of shapes; all by default")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-report"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
