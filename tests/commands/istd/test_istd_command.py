"""`istd` as a whole on the tiny model: shards, resuming, pairs, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import tiny_model

from smoothtool.commands.istd import run as istd
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.diffusion.lora import add_trainable_lora, lora_file
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import BatchError, InputError, ModelError, UsageError
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.jobs import IstdJob
from smoothtool.methods.smoothness.istd import PromptWalk
from smoothtool.types import Conditioning, Report, Track, silent

PROMPTS = ["a cat", "a dog", "a red fox", "a cake on a fox", "a blue cat"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., IstdJob]:
    """A maker of jobs on the tiny model, five prompts and two steps."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    monkeypatch.setattr(istd, "open_session", lambda job, track, pool=None: tiny_model(tmp_path / "tokenizer"))

    def make(**settings: Any) -> IstdJob:
        return IstdJob(
            **{
                "prompts": str(tmp_path / "prompts.txt"),
                "steps": 2,
                "n": 5,
                "frames": 4,
                "output": tmp_path / "out",
                **settings,
            }
        )

    return make


def deviations(report: Report) -> dict[str, float]:
    return {prompt: part["population_std"] for prompt, part in report.figures["per_prompt"].items()}


def test_istd_is_the_mean_of_the_prompts_and_all_definitions_are_given(job: Callable[..., IstdJob]) -> None:
    report = istd.run(job(), silent)
    values = list(deviations(report).values())
    assert report.figures["istd"]["mean"] == pytest.approx(sum(values) / 5)
    assert report.figures["istd"]["low"] <= report.figures["istd"]["mean"] <= report.figures["istd"]["high"]
    spans = report.figures["by_definition"]["population"]
    assert spans["0..255"] == pytest.approx(255 * spans["0..1"])
    assert spans["-1..1"] == pytest.approx(2 * spans["0..1"])
    assert report.figures["by_definition"]["sample"]["0..1"] > spans["0..1"]
    names = {path.name for path in report.folder.iterdir()}
    assert names == {"walks.jsonl", "distances.png", "sheet-base.png", "report.json", "job.yaml"}


def test_the_definition_of_the_job_is_the_one_reported(job: Callable[..., IstdJob]) -> None:
    report = istd.run(job(std="sample", pixel_range="0..255"), silent)
    assert report.figures["istd"]["mean"] == pytest.approx(report.figures["by_definition"]["sample"]["0..255"])


@pytest.mark.parametrize("batch_size", [3, 9])
def test_two_shards_give_exactly_the_figures_of_one_run(
    job: Callable[..., IstdJob], tmp_path: Path, batch_size: int
) -> None:
    whole = istd.run(job(batch_size=batch_size), silent)
    shards = [
        istd.run(job(output=tmp_path / "shards", shard=shard, batch_size=batch_size), silent)
        for shard in ("1/2", "2/2")
    ]
    assert len(shards[0].figures["per_prompt"]) == 3
    assert "2 of 5 prompts are left to the other shards" in shards[0].notes[0]
    assert not any("left to the other" in note for note in shards[1].notes)
    assert shards[1].figures == whole.figures


def test_a_second_run_goes_on_where_a_killed_one_stopped_and_agrees_to_the_bit(job: Callable[..., IstdJob]) -> None:
    whole = istd.run(job(batch_size=8), silent)
    records = whole.folder / "walks.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:3]) + lines[3][:30])
    again = istd.run(job(batch_size=8), silent)
    assert again.unet_calls < whole.unet_calls
    assert again.figures == whole.figures
    assert istd.run(job(batch_size=8), silent).unet_calls == 0


def test_other_settings_in_the_same_folder_are_measured_anew(job: Callable[..., IstdJob]) -> None:
    istd.run(job(), silent)
    other = istd.run(job(seed=1), silent)
    assert other.unet_calls > 0
    assert len(other.figures["per_prompt"]) == 5


def test_the_sheet_shows_the_walks_of_the_last_run(job: Callable[..., IstdJob]) -> None:
    first = istd.run(job(), silent).folder / "sheet-base.png"
    shown = first.read_bytes()
    istd.run(job(seed=1), silent)
    assert first.read_bytes() != shown
    istd.run(job(), silent)
    assert first.read_bytes() == shown


def test_a_lora_that_is_not_there_is_told_before_the_base_is_walked(
    job: Callable[..., IstdJob], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="nope"):
        istd.run(job(compare_lora=["nope.safetensors"]), silent)
    assert not (tmp_path / "out").exists()


def test_force_begins_again(job: Callable[..., IstdJob]) -> None:
    first = istd.run(job(), silent)
    assert istd.run(job(force=True), silent).unet_calls == first.unet_calls


def test_a_folder_with_other_files_is_left_alone(job: Callable[..., IstdJob], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty"):
        istd.run(job(), silent)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA that changes the tiny model."""
    model = tiny_model(tmp_path / "tokenizer")
    add_trainable_lora(model.unet, 2, adapter="smooth")
    for name, weight in model.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    write_tensors(tmp_path / "smooth.safetensors", *lora_file(model.unet, "smooth"))
    return tmp_path / "smooth.safetensors"


def test_a_compared_lora_is_measured_on_the_same_noise_in_pairs(job: Callable[..., IstdJob], lora: Path) -> None:
    report = istd.run(job(compare_lora=[str(lora)]), silent)
    base, compared = report.figures["per_prompt"], report.figures["compared"]["per_prompt"]
    differences = [compared[p]["population_std"] - base[p]["population_std"] for p in PROMPTS]
    assert report.figures["difference"]["mean"] == pytest.approx(sum(differences) / 5)
    assert any(differences)
    unchanged = istd.run(job(compare_lora=[f"{lora}:0"], force=True), silent)
    assert unchanged.figures["difference"]["mean"] == pytest.approx(0, abs=1e-6)
    assert not unchanged.figures["difference"]["excludes_zero"]


def test_nan_walks_are_named_left_out_and_end_in_an_error(
    job: Callable[..., IstdJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken_session(job: IstdJob, track: Track, pool: ModelPool | None) -> DiffusionModel:
        model = tiny_model(tmp_path / "tokenizer")
        encode = model.encode_prompts

        def encode_prompts(prompts: Sequence[str]) -> Conditioning:
            rows = torch.tensor([prompt == "a dog" for prompt in prompts]).view(-1, 1, 1)
            return encode(prompts).map(lambda part: part.masked_fill(rows, torch.nan))

        model.encode_prompts = encode_prompts
        return model

    monkeypatch.setattr(istd, "open_session", broken_session)
    with pytest.raises(BatchError, match="'a dog'"):
        istd.run(job(), silent)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["figures"]["excluded"] == ["a dog"]
    assert report["figures"]["istd"]["count"] == 4


def test_prompts_that_repeat_count_once_and_are_noted(job: Callable[..., IstdJob], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na  cat\n\na dog\n")
    report = istd.run(job(), silent)
    assert list(report.figures["per_prompt"]) == ["a cat", "a dog"]
    assert report.notes == [
        "repeated prompts are walked once: 1 left out",
        "there are no more than 2 prompts, --n asks for 5",
        "intervals over 2 prompts are much too narrow: --n 30 or more",
    ]


def test_an_empty_prompt_file_is_refused(job: Callable[..., IstdJob], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n\n")
    with pytest.raises(InputError, match="no prompts"):
        istd.run(job(), silent)


def test_shards_at_work_together_see_each_other_at_the_end(
    job: Callable[..., IstdJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second share is walked while the first one is at work."""
    real, begun = istd.prompt_walks, []

    def interrupted(*given: Any) -> Iterator[PromptWalk]:
        if not begun:
            begun.append(istd)
            istd.run(job(shard="2/2", batch_size=4), silent)
        return real(*given)

    monkeypatch.setattr(istd, "prompt_walks", interrupted)
    report = istd.run(job(shard="1/2", batch_size=4), silent)
    assert len(report.figures["per_prompt"]) == 5


def test_the_models_own_lora_is_compared_with_the_model_without_it(
    job: Callable[..., IstdJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(istd, "open_session", lambda job, *_: opened.append(job) or tiny_model(tmp_path / "t"))
    monkeypatch.setattr(istd, "_compared", lambda job: [])
    report = istd.run(job(compare_lora=["default"]), silent)
    assert opened[0].lora == ["none"]
    assert report.job["lora"] == []


@pytest.mark.parametrize("shard", ["0/2", "3/2", "two", "1/0"])
def test_a_share_that_cannot_be_is_refused(shard: str) -> None:
    with pytest.raises(ValueError, match="not a share"):
        IstdJob(shard=shard)


def test_the_shipped_prompts_are_five_hundred_different_ones() -> None:
    lines = istd.DEFAULT_PROMPTS.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 500
