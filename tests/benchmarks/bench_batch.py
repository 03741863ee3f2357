"""What a batch costs beyond the model's own work: planning, and overhead per item, for 1,000 tiny pictures.

    python tests/benchmarks/bench_batch.py [COUNT]

Targets: planning under 2 s, overhead per item under 5 ms. The command is a stand-in that copies its picture; its own
time is taken off.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.jobs import InvertJob
from smoothtool.recipe.plan import Plan
from smoothtool.types import Report, Track

sys.path.insert(0, str(Path(__file__).parents[1]))

from batch_toys import fake_invert, pictures, toy_model

from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.recipe.estimate import estimate_unet_calls
from smoothtool.recipe.reading import load_recipe
from smoothtool.recipe.writing import dump_plan
from smoothtool.types import silent


def main(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pictures(root / "in", count)
        recipe = root / "r.yaml"
        recipe.write_text(f"jobs: [{{command: invert, image: {root / 'in'}, model: {toy_model(root / 'model')}}}]")
        started = time.process_time()
        plan = load_recipe(recipe, [f"output={root / 'out'}"])
        estimate_unet_calls(item.job for item in plan.items)
        dump_plan(plan)
        planning = time.process_time() - started
        first, own = _timed(plan, root)
        again, _ = _timed(plan, root)
        return {
            "items": count,
            "planning_s": planning,
            "overhead_ms_per_item": 1e3 * (first - own) / count,
            "skipping_ms_per_item": 1e3 * again / count,
            "page_mb": (root / "out" / "index.html").stat().st_size / 1e6,
        }


def _timed(plan: Plan, root: Path) -> tuple[float, float]:
    """CPU seconds of the batch, and of the command within it."""
    command, own = fake_invert(root / "log"), 0.0

    def run(job: InvertJob, track: Track, pool: ModelPool | None = None) -> Report:
        nonlocal own
        started = time.process_time()
        report = command.run(job, track)
        own += time.process_time() - started
        return report

    sys.modules["smoothtool.commands.invert.run"] = SimpleNamespace(run=run)  # type: ignore[assignment]
    started = time.process_time()
    run_batch(plan, BatchOptions(), silent)
    return time.process_time() - started, own


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000), indent=2))
