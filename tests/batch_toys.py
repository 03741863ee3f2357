"""A stand-in for `invert` without a model: copies its picture, notes each call, and can be told to break down."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import ModelError
from smoothtool.files.pictures.images import load_image, save_image
from smoothtool.files.storage.output import new_folder
from smoothtool.files.storage.reports import write_report
from smoothtool.jobs import InvertJob
from smoothtool.recipe.plan import plan_flags
from smoothtool.types import Outcome, Report, Track, silent


def fake_invert(
    log: Path, before: Callable[[str], None] = lambda name: None, inside: Callable[[Path], None] = lambda folder: None
) -> SimpleNamespace:
    """`log` gets one line per call; `before` is told the picture's name, `inside` the folder that is being filled."""

    def run(job: InvertJob, track: Track, pool: ModelPool | None = None) -> Report:
        before(Path(job.image).name)
        report = Report(command="invert", folder=job.output, job=job.settings(), figures={"losses": [0.5]})
        with new_folder(job.output, job.force) as folder:
            picture = load_image(Path(job.image))
            inside(folder)
            save_image(picture, folder / "reconstruction.png", settings=None, parameters=None)
            report.files = {"reconstruction": "reconstruction.png"}
            write_report(report, folder, {})
        with log.open("a") as file:
            file.write(f"{Path(job.image).name} {job.seed}\n")
        return report

    return SimpleNamespace(run=run)


def replace_invert() -> None:
    """For the workers of Ray: `invert` without a model, which waits at first until two of them are at work.

    A file root/broken-model says that no model loads.
    A file root/always-p1.png kills every process that is half done with that picture, root/once-p1.png the first.
    """

    def no_model() -> None:
        raise ModelError("model/unet: is broken", "another copy of it")

    def run(job: InvertJob, track: Track, pool: ModelPool | None = None) -> Report:
        root, name = job.output.parents[1], Path(job.image).name

        def inside(folder: Path) -> None:
            (folder / "half.png").write_bytes(b"half")
            marks = [mark for mark in (root / f"once-{name}", root / f"always-{name}") if mark.exists()]
            if marks:
                (root / f"once-{name}").unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / "half.png").unlink()

        if (root / "broken-model").exists():
            pool.open(job, no_model)
        (root / "workers").mkdir(exist_ok=True)
        (root / "workers" / str(os.getpid())).touch()
        end = time.monotonic() + 20
        while len(list((root / "workers").iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return fake_invert(root / "log", inside=inside).run(job, track, pool)

    sys.modules["smoothtool.commands.invert.run"] = SimpleNamespace(run=run)  # type: ignore[assignment]


def forget_smoothtool() -> None:
    """For the workers of Ray on a machine where it is not installed."""
    sys.modules["smoothtool.batch.ray_engine"] = None  # type: ignore[assignment]


def pictures(folder: Path, count: int, suffix: str = ".png") -> Path:
    """`count` different pictures of 8 px."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (8, 8), (index % 256, index // 256, 99)).save(folder / f"p{index}{suffix}")
    return folder


def toy_model(folder: Path) -> str:
    """A folder that passes for a model as long as nobody loads it."""
    if not folder.exists():
        folder.mkdir()
        (folder / "model_index.json").write_text("{}")
    return str(folder)


def saved_tiny_model(root: Path, xl: bool = False) -> Path:
    """The tiny random Stable Diffusion, or Stable Diffusion XL, as a diffusers folder."""
    from toys import tiny_model, tiny_xl_model

    from smoothtool.diffusion.saving import save_model
    from smoothtool.files.storage.writing import write_json_atomic

    save_model((tiny_xl_model if xl else tiny_model)(root / "tokenizer"), root / "model", write_json_atomic)
    return root / "model"


def go(root: Path, options: BatchOptions | None = None, track: Track = silent, **settings: object) -> list[Outcome]:
    """Invert all pictures of root/in into root/out."""
    given = {"image": [str(root / "in")], "output": str(root / "out"), "model": toy_model(root / "model"), **settings}
    return run_batch(plan_flags("invert", given), options or BatchOptions(), track)


def states(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in outcomes}


if (
    __name__ == "__main__"
):  # a batch in a process of its own, to be killed: root, then what goes wrong, on which picture
    root, accident, victim = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def on_victim(name: str) -> None:
        if name == victim and accident == "before":
            kill()
        if accident == "slow":
            (root / "started").touch()
            time.sleep(0.05)

    def inside(folder: Path) -> None:
        if accident == "inside" and (root / "out" / "p1").exists():
            (folder / "half.png").write_bytes(b"half")
            kill()

    if accident == "record":
        import smoothtool.batch.journal as journal

        original = journal.append_record

        def torn(path: Path, record: dict) -> None:
            if record["name"] == Path(victim).stem:
                with path.open("ab") as file:
                    file.write(b'{"name": "torn')
                kill()
            original(path, record)

        journal.append_record = torn
    if accident == "summary":
        import smoothtool.batch.summary as page

        page.write_json_atomic = kill
    sys.modules["smoothtool.commands.invert.run"] = fake_invert(root / "log", on_victim, inside)  # type: ignore[assignment]
    go(root)
