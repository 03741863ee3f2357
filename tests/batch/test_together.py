"""Items that go through the UNet together: which do, that none depends on its neighbours, and a memory that is full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_toys import pictures, states, toy_model
from PIL import Image

from smoothtool.batch.items import work_of
from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.batch.together import ON_GPU, grouped
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.pictures.picture_sizes import upright_size_px
from smoothtool.files.storage.digests import Digests
from smoothtool.recipe.plan import plan_flags
from smoothtool.recipe.reading import plan_recipe
from smoothtool.types import Outcome, silent
from smoothtool.yaml12 import read_yaml

EDIT = "command: edit, trg: a cat, image"


@pytest.fixture
def unet_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The rows of every call of the UNet; nothing comes from a cache."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE_MB", "0")
    return watched(monkeypatch, lambda rows: None)


def watched(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> list[int]:
    rows: list[int] = []
    predict = DiffusionModel._predict

    def counted(self: DiffusionModel, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(latents))
        before(len(latents))
        return predict(self, latents, *rest)

    monkeypatch.setattr(DiffusionModel, "_predict", counted)
    return rows


def run(tiny: Path, output: Path, job: str, batch_size: int) -> list[Outcome]:
    defaults = (
        f"defaults: {{model: '{tiny}', steps: 2, size: 16, inner_steps: 2, guidance: 2, batch_size: {batch_size}}}"
    )
    recipe = f"{defaults}\njobs: [{{{job}}}]"
    return run_batch(plan_recipe(read_yaml(recipe, "r.yaml"), [f"output={output}"]), BatchOptions(), silent)


def made(output: Path) -> dict[str, np.ndarray]:
    found = [*output.glob("*/edited.png"), *output.glob("*/reconstruction.png")]
    return {path.parent.name: np.asarray(Image.open(path)).astype(int) for path in found}


def agree(one: Path, other: Path) -> bool:
    first, second = made(one), made(other)
    return first.keys() == second.keys() and all(np.abs(first[name] - second[name]).max() <= 1 for name in first)


@pytest.mark.parametrize(
    "job",
    [
        f"{EDIT}: 'samples:[fc]*', src: x, method: switch",
        f"{EDIT}: 'samples:[fc]*', solver: adam, method: switch",
        f"{EDIT}: 'samples:[fc]*', method: sdedit",
        f"{EDIT}: 'samples:[fc]*', src: a fox, method: p2p, inversion: ddim, blend: [cat]",
        f"{EDIT}: 'samples:[fc]*', src: a big fox, method: p2p, inversion: npi",
        f"{EDIT}: 'samples:[fc]*', src: x, method: flowedit, seed: 3",
        f"{EDIT}: 'samples:[fc]*', src: x, method: cycle",
        "command: invert, image: 'samples:[fc]*', inversion: edict",
        "command: invert, image: 'samples:[fc]*', inversion: fixed-point",
    ],
)
def test_together_and_alone_make_the_same_pictures_with_fewer_calls(
    tiny: Path, tmp_path: Path, unet_calls: list[int], job: str
) -> None:
    outcomes = run(tiny, tmp_path / "alone", job, 1)
    alone = len(unet_calls)
    run(tiny, tmp_path / "three", job, 3)
    assert {outcome.status for outcome in outcomes} == {"made"}
    assert len(made(tmp_path / "three")) == 3
    assert agree(tmp_path / "alone", tmp_path / "three")
    assert 3 * (len(unet_calls) - alone) == alone


def test_a_report_counts_the_calls_that_its_picture_took_part_in(
    tiny: Path, tmp_path: Path, unet_calls: list[int]
) -> None:
    for size in (1, 3):
        run(tiny, tmp_path / str(size), f"{EDIT}: 'samples:[fc]*'", size)
    reports = [json.loads((tmp_path / size / "fox" / "report.json").read_text()) for size in ("1", "3")]
    assert reports[0]["unet_calls"] == reports[1]["unet_calls"]
    assert [report["figures"]["inversion"]["cached"] for report in reports] == [False, False]
    assert ["together" in report["seconds"] for report in reports] == [False, True]


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate")])
def test_out_of_memory_halves_the_batch_from_there_on(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE_MB", "0")
    refused: list[int] = []

    def before(rows: int) -> None:
        if rows > 3 and torch.is_grad_enabled():
            refused.append(rows)
            raise fault

    watched(monkeypatch, before)
    assert set(states(run(tiny, tmp_path / "four", f"{EDIT}: 'samples:[fcp]*', method: switch", 4)).values()) == {
        "made"
    }
    assert refused == [4]
    assert set(states(run(tiny, tmp_path / "one", f"{EDIT}: 'samples:[fcp]*', method: switch", 1)).values()) == {"made"}
    assert agree(tmp_path / "one", tmp_path / "four")


def test_what_does_not_fit_alone_fails_with_a_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE_MB", "0")

    def before(rows: int) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    watched(monkeypatch, before)
    outcomes = run(tiny, tmp_path / "out", "command: invert, image: 'samples:[fc]*'", 3)
    assert [outcome.record["exit_code"] for outcome in outcomes] == [6, 6, 6]
    assert outcomes[0].record["error"] == "out of memory with one picture at a time"


def test_a_broken_picture_fails_alone_among_those_that_go_together(
    tiny: Path, tmp_path: Path, unet_calls: list[int]
) -> None:
    pictures(tmp_path / "in", 3)
    whole = (tmp_path / "in" / "p1.png").read_bytes()
    (tmp_path / "in" / "p1.png").write_bytes(whole[:-30])  # the header says the same size
    outcomes = run(tiny, tmp_path / "out", f"command: invert, image: '{tmp_path}/in', inversion: ddim", 3)
    assert list(states(outcomes).values()) == ["made", "failed", "made"]
    assert "p1.png" in outcomes[1].record["error"]


def groups(root: Path, on_gpu: bool, **settings: object) -> list[list[str]]:
    command = "edit" if "trg" in settings else "invert"
    plan = plan_flags(command, {"image": [str(root / "in")], "model": toy_model(root / "model"), **settings})
    return [[work.name for work in group] for group in grouped([work_of(i, Digests()) for i in plan.items], on_gpu)]


def test_pictures_of_one_size_and_the_same_settings_go_together(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 5)
    Image.new("RGB", (16, 8)).save(tmp_path / "in" / "p1.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 16 x 8 upright
    Image.new("RGB", (8, 16)).save(tmp_path / "in" / "q.jpg", exif=exif)
    assert upright_size_px(tmp_path / "in" / "q.jpg") == (16, 8)
    assert groups(tmp_path, False, batch_size=3) == [["p0", "p2", "p3"], ["p4"], ["p1", "q"]]
    assert groups(tmp_path, False) == [["p0"], ["p1"], ["p2"], ["p3"], ["p4"], ["q"]]
    assert len(groups(tmp_path, True)[0]) == ON_GPU
    assert len(groups(tmp_path, True, device="cpu")) == 6
    assert len(groups(tmp_path, True, inversion="spdinv")[0]) == ON_GPU
    assert len(groups(tmp_path, True, src="a dog", trg=["a cat"], method="pix2pix-zero")) == 6
    assert len(groups(tmp_path, True, trg=["a cat"], compare=True)) == 6
