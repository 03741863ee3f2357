"""What the cells of the paper's tables are measured by: other commands, each run once into a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import open_session
from smoothtool.commands.tables.figures import Figure, mean_figure, missing
from smoothtool.commands.tables.pictures import RealPictures, made_pictures
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import BatchError, MemoryExhaustedError, SmoothtoolError, StorageError
from smoothtool.figures import EvalClipScore, EvalFrechet, EvalReconstruction, EvalWalks, IstdFigures, TablesFigures
from smoothtool.files.storage.digests import Digests, digest
from smoothtool.files.storage.writing import write_bytes_atomic
from smoothtool.jobs import make_job, parse_lora
from smoothtool.metrics.fid import inception_missing
from smoothtool.metrics.reconstruction import lpips_missing
from smoothtool.types import Report, Track
from smoothtool.version import __version__
from smoothtool.weights.loras import find_lora

if TYPE_CHECKING:
    from smoothtool.jobs import TablesJob

T = TypeVar("T")
Figures = list[Figure]
RUNS = "runs"
RECONSTRUCTION = ("mse", "lpips", "ssim", "psnr_db")
SEQUENCE_FRAMES = 7
"""Between two pictures: ANID's 2^k - 1 nearest to the paper's 9, so that all sequences are of one length."""


@dataclass(frozen=True)
class Variant:
    """A model to measure; `reason` says why there is none."""

    name: str
    model: str = ""
    lora: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class TablesRun:
    """What all measurements share. `folder` holds the tables, `folder/runs` every run they come from.

    screen  the track of those runs, whose notes stand in reports of their own
    pool    the model that one run hands on to the next
    """

    job: TablesJob
    folder: Path
    real: RealPictures
    report: Report[TablesFigures]
    track: Track
    screen: Track
    pool: ModelPool
    failures: list[str] = field(default_factory=list)
    digests: Digests = field(default_factory=Digests)
    made: set[str] = field(default_factory=set)

    def attempt(self, measure: Callable[[], T], otherwise: Callable[[str], T]) -> T:
        """What `measure` gives, or `otherwise` with the reason: one figure that cannot be had costs no other."""
        try:
            return measure()
        except (MemoryExhaustedError, StorageError):
            raise
        except SmoothtoolError as error:
            self.failures.append(error.what)
            return otherwise(error.what)

    def once(self, name: str, command: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """The report of a job, and its path from the tables; run now unless its folder holds it already.

        The folder is named after everything that the job says and reads, so another job never meets its results.
        """
        job = make_job(command, settings)
        place = f"{RUNS}/{command}/{name}-{digest([job.settings(), self.behind(job.settings()), __version__])}"
        path = self.folder / place / "report.json"
        again = self.again(place)
        if again or not path.exists():
            extra = {"resume": not again} if command == "train" else {}
            job = job.model_copy(update={"output": path.parent, "force": again, **extra})
            done = run_job(job, self.screen, self.pool)
            self.report.unet_calls += done.unet_calls
        return json.loads(path.read_text("utf-8")), f"{place}/report.json"

    def again(self, place: str) -> bool:
        """Whether --force asks for what is there to be made again, which is done once."""
        first = place not in self.made
        self.made.add(place)
        return self.job.force and first

    def behind(self, settings: Mapping[str, Any]) -> list[str]:
        """Digests of the LoRAs, prompts and models that a job names, which may be others under the same name."""
        named = [find_lora(parse_lora(text)[0]) for text in settings.get("lora", []) if text != "none"]
        named += [Path(settings[key]) for key in ("prompts", "model") if settings.get(key)]
        return [self.digests.of(path) for path in named if path is not None and path.exists()]

    def common(self, variant: Variant) -> dict[str, Any]:
        """The settings that every run of a model shares."""
        return {**self.job.model_settings(), "model": variant.model, "lora": list(variant.lora)}

    def session(self, variant: Variant) -> DiffusionModel:
        update = {"model": variant.model, "lora": list(variant.lora)}
        return open_session(self.job.model_copy(update=update), self.track, self.pool)


def empty(count: int) -> Callable[[str], Figures]:
    return lambda reason: [missing(reason)] * count


def trained(state: TablesRun, base: Variant, name: str, settings: Mapping[str, Any]) -> Variant:
    """The base with a LoRA trained here, or the whole model trained here."""
    job = state.job
    if job.train_steps == 0:
        return Variant(name, reason="--train-steps is 0, so nothing was trained")
    given = {
        **state.common(base),
        "data": job.train_data,
        "max_steps": job.train_steps,
        "dtype": "auto",
        "batch_size": job.train_batch_size,
        "learning_rate": job.learning_rate,
        **settings,
    }

    def train_it() -> Variant:
        report, place = state.once(name, "train", given)
        made = (state.folder / place).parent
        if "model" in report["files"]:
            return Variant(name, str(made / report["files"]["model"]), base.lora)
        return Variant(name, base.model, (*base.lora, str(made / report["files"]["lora"])))

    return state.attempt(train_it, lambda reason: Variant(name, reason=reason))


def istd_figure(state: TablesRun, variant: Variant) -> Figure:
    """ISTD with the deviations of its prompts."""
    if variant.reason:
        return missing(variant.reason)

    def measure() -> Figure:
        settings = {**state.common(variant), "prompts": state.job.prompts, "n": state.job.n}
        report, place = state.once(variant.name, "istd", settings)
        figures: IstdFigures = report["figures"]
        if broken := figures["excluded"]:
            raise BatchError(f"NaN pictures under {len(broken)} prompts, the first {broken[0]!r}", "--dtype float32")
        rows = figures["per_prompt"]
        return mean_figure({prompt: row["population_std"] for prompt, row in rows.items()}, place)

    return state.attempt(measure, missing)


def clip_name(state: TablesRun) -> str:
    return f"the CLIP {Path(state.job.clip).name}"


def frechet_name(state: TablesRun) -> str:
    return f"Frechet distance in {clip_name(state)}" if inception_missing() else "FID"


def perceptual_name(state: TablesRun) -> str:
    return f"patch distance in {clip_name(state)}" if lpips_missing() else "LPIPS"


def picture_figures(state: TablesRun, variant: Variant) -> Figures:
    """Frechet distance and CLIP score of pictures made under the captions of the real ones."""
    if variant.reason:
        return [missing(variant.reason)] * 2

    def measure() -> Figures:
        model = state.session(variant)
        parent = state.folder / RUNS / "pictures"
        made = made_pictures(
            model,
            variant.name,
            state.real.captions,
            state.job,
            parent,
            state.track,
            fresh=state.again(f"made-{variant.name}"),
        )
        state.report.unet_calls += model.counter.calls
        scores = {"metric": "clip", "folders": [str(made)], "clip": state.job.clip}
        return [
            state.attempt(lambda: _distance(state, variant, made), missing),
            state.attempt(lambda: _per_picture(state, f"clip-{variant.name}", scores), missing),
        ]

    return state.attempt(measure, empty(2))


def _distance(state: TablesRun, variant: Variant, made: Path) -> Figure:
    """The features are named in the job, so that figures of two kinds never meet in one table."""
    features = "clip" if inception_missing() else "inception"
    settings = {
        "metric": "fid",
        "folders": [str(made), str(state.real.folder)],
        "features": features,
        "clip": state.job.clip,
    }
    report, place = state.once(f"fid-{variant.name}", "eval", settings)
    for note in report["notes"]:
        state.track.note(note)
    figures: EvalFrechet = report["figures"]
    distance = figures["fid"] if features == "inception" else figures["clip_frechet_distance"]
    return Figure(distance, place, left_out=tuple(figures.get("left_out", ())))


def _per_picture(state: TablesRun, name: str, settings: Mapping[str, Any]) -> Figure:
    report, place = state.once(name, "eval", settings)
    figures: EvalClipScore = report["figures"]
    return mean_figure(figures["per_picture"], place)


def rows_of_inversion(state: TablesRun, variant: Variant, label: str, inversion: str) -> dict[str, Figures]:
    """Figures of the reconstructions; for DDIM also of those sampled at guidance 1, under their own name."""
    if variant.reason:
        return {label: [missing(variant.reason)] * 4}

    def measure() -> dict[str, Figures]:
        name = f"{variant.name}-{inversion}"
        given_back = _inverted(state, variant, name, inversion)
        kinds = {"reconstruction": (label, name), "guidance_1": (f"{label}, guidance 1", f"{name}-guidance-1")}
        return {
            kinds[kind][0]: reconstruction_figures(state, folder, kinds[kind][1]) for kind, folder in given_back.items()
        }

    return state.attempt(measure, lambda reason: {label: [missing(reason)] * 4})


def _inverted(state: TablesRun, variant: Variant, name: str, inversion: str) -> dict[str, Path]:
    """Folders of what was given back: `reconstruction`, and `guidance_1` where the inversion makes it."""
    originals = state.real.paths(state.job.inverted)
    facts = [state.common(variant), originals, inversion, __version__]
    folders: dict[str, Path] = {}
    for path, caption in zip(originals, state.real.captions, strict=False):
        settings = {**state.common(variant), "image": str(path), "src": caption, "inversion": inversion}
        report, place = state.once(f"{name}/{path.stem}", "invert", settings)
        made = (state.folder / place).parent
        for part in made.glob("inversion.*"):
            part.unlink()  # megabytes a picture that no table reads; job.yaml beside it makes them again
        for kind in {"reconstruction", "guidance_1"} & report["files"].keys():
            folder = state.folder / RUNS / "pictures" / f"inverted-{name}-{kind}-{digest(facts)}"
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(folder / path.name, (made / report["files"][kind]).read_bytes())
            folders[kind] = folder
    return dict(sorted(folders.items(), reverse=True))


def reconstruction_figures(state: TablesRun, folder: Path, name: str) -> Figures:
    """MSE, LPIPS or its stand-in, SSIM and PSNR of saved pictures against the real ones they were made from."""
    originals = state.folder / RUNS / "pictures" / f"originals-{digest([state.real.folder.name, state.job.inverted])}"
    originals.mkdir(parents=True, exist_ok=True)
    for path in state.real.paths(state.job.inverted):
        write_bytes_atomic(originals / path.name, path.read_bytes())

    def measure() -> Figures:
        settings = {"metric": "recon", "folders": [str(originals), str(folder)], "clip": state.job.clip}
        report, place = state.once(f"recon-{name}", "eval", settings)
        figures: EvalReconstruction = report["figures"]
        rows = {
            key: mean_figure({n: row[key] for n, row in figures["per_picture"].items()}, place)
            for key in RECONSTRUCTION
        }
        stand_in = figures.get("stand_in")
        if stand_in is not None:
            rows["lpips"] = mean_figure({n: row[stand_in] for n, row in figures["per_picture"].items()}, place)
        elif rows["lpips"].value is None:
            rows["lpips"] = missing(figures.get("lpips_reason", "LPIPS is missing"))
        return [rows[key] for key in RECONSTRUCTION]

    return state.attempt(measure, empty(4))


def sequence_figures(
    state: TablesRun, variant: Variant, name: str, settings: Mapping[str, Any]
) -> tuple[Figures, list[Path]]:
    """Deviation of adjacent distances, PPL and PDV over the walks between pairs, and the folders of their frames."""
    if variant.reason:
        return [missing(variant.reason)] * 3, []
    paths, captions = state.real.paths(2 * state.job.pairs), state.real.captions
    folders: list[Path] = []

    def measure() -> Figures:
        for at in range(0, len(paths) - 1, 2):
            given = {
                **state.common(variant),
                "images": [str(path) for path in paths[at : at + 2]],
                "src": list(captions[at : at + 2]),
                "frames": SEQUENCE_FRAMES,
                **settings,
            }
            _, place = state.once(f"{name}/{paths[at].stem}-{paths[at + 1].stem}", "interpolate", given)
            folders.append((state.folder / place).parent / "frames")
        walks = {"metric": "walk", "folders": [str(folder) for folder in folders], "clip": state.job.clip}
        report, place = state.once(f"walk-{name}", "eval", walks)
        measured: EvalWalks = report["figures"]
        rows = [
            (walk["adjacent_l2"]["population_std"], walk["path"]["ppl"], walk["path"]["pdv"])
            for walk in measured.values()
        ]
        return [mean_figure({str(at): row[part] for at, row in enumerate(rows)}, place) for part in range(3)]

    return state.attempt(measure, empty(3)), folders
