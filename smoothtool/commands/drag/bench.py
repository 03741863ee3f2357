"""`smoothtool drag --bench`: every item of a folder in DragBench's layout, dragged and measured; resumable."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from PIL import Image

from smoothtool.commands.drag.picture import DragRequest, drag_one
from smoothtool.commands.shared.cost import measured
from smoothtool.commands.shared.folders import growing_result, stopped_with
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, finish, open_session
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import lora_disabled
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import BatchError, InputError, SmoothtoolError, explain, out_of_memory
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.drawing.trajectory import draw_points
from smoothtool.files.lists.points import check_mask, check_points, read_points
from smoothtool.files.pictures.images import fit_image, load_image, save_image, to_pixel_values
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.files.storage.reports import picture_document
from smoothtool.files.storage.writing import write_picture
from smoothtool.metrics.drag_distance import correspondence_feature, find_points, target_distances
from smoothtool.metrics.reconstruction import lpips, lpips_missing, psnr_db
from smoothtool.types import DragPoints, Report, Track
from smoothtool.version import __version__
from smoothtool.weights.models import find_model

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob

RECORDS = "items.jsonl"
FIDELITY_PX = 224
SHOWN = 24
"""Items on the sheet."""


@dataclass(frozen=True)
class _DragBenchRun:
    """What all items share; `eye` is the model whose features find points again."""

    job: DragJob
    model: DiffusionModel
    eye: DiffusionModel
    folder: Path
    key: str
    pool: ModelPool


def run_bench(job: DragJob, track: Track, pool: ModelPool) -> Report:
    """Measure; leaves items/, items.jsonl (which a second run continues), sheet.png, report.json, job.yaml."""
    assert job.bench is not None
    # 1. items, folder, models
    items = _items(job.bench)
    job, report, track = begin(job, [job.bench.name], track)
    assert job.bench is not None
    place = growing_result(report, job, _has_records)
    model = open_session(job, track, pool)
    eye = _eye(model, job, track)
    with place.opened(alone=False) as folder, stopped_with(lambda: _kept(folder, place.place)):
        report.folder = place.place
        rows = _drag_all(_DragBenchRun(job, model, eye, folder, _key(job, model), pool), items, report, track)
    failed = [row["item"] for row in rows if "error" in row]
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(rows)} items failed, the first is {failed[0]}", f"see {report.folder}/report.json"
        )
    return report


def _drag_all(state: _DragBenchRun, items: list[str], report: Report, track: Track) -> list[dict[str, Any]]:
    # 2. drag and measure what has no record yet
    earlier = read_records(state.folder, RECORDS, {"item": str, "key": str})
    known = {row["item"]: row for row in earlier if row["key"] == state.key}
    for name in track([name for name in items if name not in known], "dragging", len(items) - len(known)):
        known[name] = _measured(state, name, track)
        append_record(state.folder / RECORDS, known[name])
    # 3. means, sheet, report
    rows = [known[name] for name in items]
    report.figures = {"items": rows, **_means(rows)}
    if reason := lpips_missing(FIDELITY_PX):
        track.note(f"image fidelity is not measured: {reason}")
    _sheet(state, rows)
    report.files = {"records": RECORDS, "sheet": "sheet.png"}
    finish(report, state.model, state.folder, state.pool)
    return rows


def _has_records(folder: Path) -> bool:
    return (folder / RECORDS).is_file()


def _kept(folder: Path, place: Path) -> str:
    return f"the same command goes on, with -o {place}" if _has_records(folder) else ""


def _items(root: Path) -> list[str]:
    """Folders below `root` with a meta_data.pkl and an original_image.png, relative to it."""
    found = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("meta_data.pkl"))
    items = [name for name in found if (root / name / "original_image.png").is_file()]
    if not items:
        raise InputError(
            f"{root}: no items in DragBench's layout", "folders with original_image.png and meta_data.pkl in each"
        )
    return items


def _eye(model: DiffusionModel, job: DragJob, track: Track) -> DiffusionModel:
    """SD 2.1, as DragBench's figures have it, where it is on this machine; else the loaded model."""
    place = find_model("sd21")
    if place is not None and place.folder is not None:
        return load_model(place.folder, place.name, device=job.device, dtype=job.dtype)
    note = f"distances are found with the features of {model.name}, not of SD 2.1: published figures do not compare"
    track.note(note)
    return model


def _key(job: DragJob, model: DiffusionModel) -> str:
    """What a record depends on besides its item. Nothing is random in dragging a picture: the seed has no part."""
    settings = {name: value for name, value in job.settings().items() if name != "seed"}
    loras = [[lora["fingerprint"], lora["scale"]] for lora in model.loras]
    text = json.dumps([settings, model.fingerprint, loras, __version__], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _measured(state: _DragBenchRun, name: str, track: Track) -> dict[str, Any]:
    """One item's record; an item that cannot be used or does not fit into memory says why."""
    try:
        return {"item": name, "key": state.key, **_measure(state, name, track)}
    except (SmoothtoolError, RuntimeError, MemoryError) as error:
        if not (isinstance(error, SmoothtoolError) or out_of_memory(error)):
            raise
        return {"item": name, "key": state.key, "error": str(explain(error))}


def _measure(state: _DragBenchRun, name: str, track: Track) -> dict[str, Any]:
    assert state.job.bench is not None
    folder = state.job.bench / name
    picture, item = load_image(folder / "original_image.png"), read_points(folder / "meta_data.pkl")
    check_points(item.points, picture.size, folder / "meta_data.pkl")
    if item.mask is not None:
        check_mask(item.mask, picture.size, folder / "meta_data.pkl")
    request = DragRequest(picture, item.points, item.mask, item.prompt, name)
    with measured(state.model) as cost:
        dragged = drag_one(state.model, request, state.job, track)
    target = state.folder / "items" / name / "dragged_image.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    settings = picture_document(state.job.command, state.job.settings(), target.parent)
    save_image(dragged.after, target, settings=settings, parameters=None)
    pairs = zip(item.points.handles_xy_px, item.points.targets_xy_px, strict=True)
    return {
        "distance_px": _distances(state, picture, dragged.after, item.points, item.prompt),
        "no_edit_distance_px": [math.dist(*pair) for pair in pairs],  # a picture is found where it is in itself
        **_fidelity(picture, dragged.after),
        "arrived": dragged.arrived,
        "iterations": len(dragged.path),
        "seconds": cost.seconds,
        "peak_memory_mb": round(cost.peak_memory_mb or 0),
    }


def _distances(
    state: _DragBenchRun, before: Image.Image, after: Image.Image, points: DragPoints, prompt: str
) -> list[float]:
    """Pixels from each target to where its handle's feature is found in the result."""
    eye, features = state.eye, []
    fitted = [
        fit_image(p, multiple=eye.size_multiple, size=None, native_px=eye.native_size_px) for p in (before, after)
    ]
    with lora_disabled(eye):
        for one in fitted:
            feature = correspondence_feature(eye, one.pixel_values, prompt)
            width, height = one.size_px
            scale = feature.shape[-1] / one.pixel_values.shape[-1]
            features.append(feature[..., : math.ceil(height * scale), : math.ceil(width * scale)])
    return target_distances(find_points(features[0], features[1], points.handles_xy_px, before.size), points)


def _fidelity(before: Image.Image, after: Image.Image) -> dict[str, Any]:
    """1 - LPIPS at 224 px as DragBench has it, None where LPIPS cannot be had; and PSNR at full size."""
    pair = [to_pixel_values(picture) for picture in (before, after)]
    small = [F.interpolate(picture, (FIDELITY_PX, FIDELITY_PX), mode="bilinear") for picture in pair]
    distance = lpips(small[0], small[1])
    return {"image_fidelity": None if distance is None else 1 - float(distance), "psnr_db": float(psnr_db(*pair))}


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """DragBench's averages: distances over all points, the rest over items; the row of doing nothing beside them."""
    done = [row for row in rows if "error" not in row]

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None and math.isfinite(value)]
        return sum(known) / len(known) if known else None

    def over_items(name: str) -> float | None:
        return mean([row[name] for row in done])

    def over_points(name: str) -> float | None:
        return mean([distance for row in done for distance in row[name]])

    return {
        "dragged": {
            "mean_distance_px": over_points("distance_px"),
            "image_fidelity": over_items("image_fidelity"),
            "psnr_db": over_items("psnr_db"),
            "seconds": over_items("seconds"),
            "peak_memory_mb": over_items("peak_memory_mb"),
        },
        "no edit": {"mean_distance_px": over_points("no_edit_distance_px"), "image_fidelity": 1.0},
        "failed": len(rows) - len(done),
    }


def _sheet(state: _DragBenchRun, rows: list[dict[str, Any]]) -> None:
    """Points and result side by side, of the first items."""
    assert state.job.bench is not None
    shown, labels = [], []
    for row in [row for row in rows if "error" not in row][:SHOWN]:
        source = state.job.bench / row["item"]
        points = read_points(source / "meta_data.pkl").points
        picture = draw_points(load_image(source / "original_image.png"), points.handles_xy_px, points.targets_xy_px)
        shown.append([picture, load_image(state.folder / "items" / row["item"] / "dragged_image.png")])
        labels.append([row["item"], f"{sum(row['distance_px']) / len(row['distance_px']):.1f} px left"])
    if shown:
        write_picture(state.folder / "sheet.png", contact_sheet(shown, labels, cell_px=192))
