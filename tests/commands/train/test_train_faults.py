"""`train` when memory, room on the disk or readable checkpoints run out; and what it shows meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from storage_toys import limited_files
from toys import tiny_model
from track_toys import Told
from training_toys import log, same, weights

from smoothtool.commands.train import loop as training_loop
from smoothtool.commands.train import run as train
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import MemoryExhaustedError, ModelError, StorageError, UsageError
from smoothtool.jobs import TrainJob
from smoothtool.training.checkpoints import newest_checkpoint, write_checkpoint
from smoothtool.training.gradients import StepGradients
from smoothtool.training.settings import TrainSettings
from smoothtool.types import silent

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the UNet run out of memory with more than so many pictures at once."""
    whole = DiffusionModel.predict_noise_at

    def limit(pictures: float) -> None:
        def predict(model: DiffusionModel, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
            if len(latents) > pictures:
                raise OUT_OF_MEMORY
            return whole(model, latents, *rest)

        monkeypatch.setattr(DiffusionModel, "predict_noise_at", predict)

    return limit


def test_a_full_memory_divides_the_batch_and_keeps_what_is_learned(
    job: Callable[..., TrainJob], tmp_path: Path, memory_for: Callable[..., None]
) -> None:
    settings = {"batch_size": 4, "accumulate": 2, "lambda": 0, "max_steps": 2, "learning_rate": 1e-3}
    whole = log(train.run(job(**settings, output=tmp_path / "whole"), silent))
    memory_for(1)
    watching = Told()
    divided = log(train.run(job(**settings), watching))
    assert [note for note in watching.notes if "memory" in note] == [
        "step 1: out of memory; from here 1 at once, added up to the same batch"
    ]
    for row, other in zip(whole, divided, strict=True):
        assert (row["at_once"], other["at_once"]) == (4, 1)
        assert row["samples"] == other["samples"] == 8
        assert other["base_loss"] == pytest.approx(row["base_loss"], rel=1e-4)


@pytest.mark.parametrize("gradient", ["central", "one-sided"])
def test_a_divided_batch_is_still_divided_when_resumed(
    job: Callable[..., TrainJob], tmp_path: Path, memory_for: Callable[..., None], gradient: str
) -> None:
    memory_for(2)
    whole = train.run(job(batch_size=3, gradient=gradient, output=tmp_path / "whole"), silent)
    train.run(job(batch_size=3, gradient=gradient, max_steps=2), silent)
    memory_for(math.inf)
    resumed = train.run(job(batch_size=3, gradient=gradient, resume=True), silent)
    assert [row["running_mean"] for row in log(resumed)] == [row["running_mean"] for row in log(whole)]
    assert same(weights(resumed), weights(whole))


def test_one_picture_that_does_not_fit_is_one_sentence_after_all_has_been_tried(
    job: Callable[..., TrainJob], memory_for: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_for(0)
    model = tiny_model(tmp_path / "tokenizer")
    monkeypatch.setattr(train, "open_session", lambda *asked: model)
    with pytest.raises(MemoryExhaustedError, match="step 1: out of memory with 1 picture at once") as caught:
        train.run(job(), silent)
    assert "--size" in caught.value.hint
    assert ["--gradient-checkpointing" in line for line in model.economies.lines] == [True]


def test_one_of_several_processes_names_flags_for_the_same_effective_batch() -> None:
    settings = TrainSettings(max_steps=1, batch_size=6, accumulate=4)
    one_of_two = SimpleNamespace(at_once=None, settings=settings, accelerator=SimpleNamespace(num_processes=2))
    with pytest.raises(MemoryExhaustedError, match="6 pictures at once") as caught:
        StepGradients._fewer(one_of_two, OUT_OF_MEMORY, step=0)
    assert "--batch-size 3 --accumulate 8" in caught.value.hint


def test_every_figure_is_shown_while_training_goes_on(
    job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SHOWN_EVERY_S", 0.0)
    watching = Told()
    train.run(job(), watching)
    assert [text.partition(":")[0] for text in watching.statuses] == [f"step {number}" for number in (1, 2, 3, 4)]
    for figure in ("loss ", "regulariser ", "running mean ", " samples/s", " MB at most"):
        assert figure in watching.statuses[-1]


def test_figures_are_shown_at_intervals(job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "SHOWN_EVERY_S", 1e9)
    watching = Told()
    train.run(job(), watching)
    assert len(watching.statuses) == 1


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    train.run(job(max_steps=2), silent)
    with limited_files(20_000), pytest.raises(StorageError, match=r"step-00000004.* cannot be written") as caught:
        train.run(job(resume=True), silent)
    assert "--resume" in caught.value.hint
    checkpoints = list((tmp_path / "out" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000002.safetensors"]
    assert load_file(checkpoints[0])


def test_a_dtype_that_is_too_coarse_for_differences_is_refused_before_anything_is_loaded(
    job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "open_session", lambda job, track, pool=None: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match="bfloat16 is too coarse"):
        train.run(job(dtype="bfloat16"), silent)
    with pytest.raises(UsageError, match="float16 alone loses small gradients"):
        train.run(job(dtype="float16"), silent)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_a_damaged_cache_is_computed_again_and_gives_the_same_lora(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    whole = train.run(job(max_steps=1, output=tmp_path / "whole"), silent)
    parts = sorted((tmp_path / "cache" / "training").glob("*/part-*.safetensors"))
    assert len(parts) == 2
    for part in parts:
        flip_a_bit(part)
    again = train.run(job(max_steps=1), silent)
    assert same(weights(again), weights(whole))


def test_a_cache_that_cannot_be_written_costs_a_training_a_note(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.run(job(max_steps=1, output=tmp_path / "whole"), silent)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "file"))
    told = Told()
    again = train.run(job(max_steps=1), told)
    assert [note.partition(":")[0] for note in told.notes if "cache" in note] == [
        "training data is kept in memory, not in the cache"
    ] * 2
    assert same(weights(again), weights(whole))


def test_two_equal_trainings_leave_the_same_bytes_with_the_usual_rights(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    files = [train.run(job(max_steps=1, output=tmp_path / name), silent).folder for name in ("one", "two")]
    for name in ("smooth-lora.safetensors", "smooth-lora-kohya.safetensors"):
        one, two = (folder / name for folder in files)
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_mode == (files[0] / "report.json").stat().st_mode


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:1000]), flip_a_bit])
def test_a_damaged_checkpoint_is_passed_over_and_replaced(
    job: Callable[..., TrainJob], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    whole = train.run(job(max_steps=6, output=tmp_path / "whole"), silent)
    train.run(job(), silent)
    newest = tmp_path / "out" / "checkpoints" / "step-00000004.safetensors"
    damage(newest)
    watching = Told()
    resumed = train.run(job(resume=True, max_steps=6), watching)
    assert "going on after step 2" in watching.notes
    assert [row["step"] for row in log(resumed)] == [1, 2, 3, 4, 5, 6]
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("lost", "said"), [("at_once", "of another smoothtool, and lacks 'at_once'"), ("seed", "none of its checkpoints")]
)
def test_a_checkpoint_that_lacks_what_others_have_is_refused_in_a_sentence(
    job: Callable[..., TrainJob], tmp_path: Path, lost: str, said: str
) -> None:
    train.run(job(max_steps=2), silent)
    found = newest_checkpoint(tmp_path / "out")
    assert found is not None
    tensors, facts = found
    facts.pop(lost, None)
    facts["identity"] = {key: value for key, value in facts["identity"].items() if key != lost}
    write_checkpoint(tmp_path / "out", 2, tensors, facts)
    with pytest.raises(ModelError, match=said):
        train.run(job(resume=True, seed=None if lost == "seed" else 3), silent)


def test_checkpoints_of_another_program_are_refused_and_kept(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    foreign = tmp_path / "out" / "checkpoints" / "step-00030000.safetensors"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"not ours")
    with pytest.raises(ModelError, match="none of its checkpoints can be read"):
        train.run(job(resume=True), silent)
    assert foreign.read_bytes() == b"not ours"
