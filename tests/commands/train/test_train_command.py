"""`train` as a whole on the tiny model: resuming to the bit, outputs that others read, and what is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pydantic import ValidationError
from safetensors.torch import load_file
from toys import tiny_model
from training_toys import Killed, log, processes, same, train_in_process, weights

from smoothtool.commands.train import run as train
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import InputError, ModelError, UsageError
from smoothtool.jobs import TrainJob
from smoothtool.jobs.options import SEED_END
from smoothtool.training import gradients
from smoothtool.types import Report, Silent, silent

T = TypeVar("T")


def figures(row: dict) -> dict:
    return {key: row[key] for key in ("step", "base_loss", "regulariser", "running_mean", "bands")}


def test_a_training_leaves_everything_that_is_promised(job: Callable[..., TrainJob]) -> None:
    report = train.run(job(sample_every=4, steps=2), silent)
    names = {path.name for path in report.folder.iterdir()}
    assert names == {
        "smooth-lora.safetensors",
        "smooth-lora-kohya.safetensors",
        "training.jsonl",
        "training.png",
        "checkpoints",
        "samples",
        "report.json",
        "job.yaml",
    }
    assert [row["step"] for row in log(report)] == [1, 2, 3, 4]
    assert report.figures["pictures"] == 5
    assert {"n", "regulariser", "base_loss", "samples"} == set(next(iter(report.figures["bands"].values())))


def test_every_kth_step_has_the_regulariser_with_k_times_its_weight(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    lazy = train.run(job(**{"lambda": 2.0}, every=3, output=tmp_path / "lazy"), silent)
    assert [row["regulariser"] is not None for row in log(lazy)] == [True, False, False, True]
    assert lazy.unet_calls == 3 + 1 + 1 + 3 + checks(lazy)
    one, other = (
        train.run(job(**{"lambda": weight}, every=every, max_steps=1, output=tmp_path / str(every)), silent)
        for weight, every in ((2.0, 3), (6.0, 1))
    )
    assert same(weights(one), weights(other))
    assert log(lazy)[0]["regulariser"] == log(other)[0]["regulariser"]
    assert "n" not in next(iter(log(lazy)[1]["bands"].values()))


def checks(report: Report) -> int:
    """UNet calls of comparing two lengths: three for each."""
    return 6 * sum(row["checked"] for row in log(report))


def test_a_step_without_the_regulariser_is_one_of_plain_training(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """Both go on from one checkpoint: the second of two lazy steps, and a second step of lambda 0."""
    lazy = train.run(job(every=2, max_steps=2, output=tmp_path / "lazy"), silent)
    train.run(job(every=2, max_steps=1), silent)
    plain = train.run(job(**{"lambda": 0.0}, max_steps=2, resume=True, force=True), silent)
    assert log(plain)[1]["base_loss"] == log(lazy)[1]["base_loss"]
    assert same(load_file(plain.folder / "lora.safetensors"), weights(lazy))


def test_the_log_and_the_report_say_how_often_the_difference_was_right(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = train.run(job(max_steps=1, output=tmp_path / "right"), silent)
    assert report.figures["difference"] == {"relative_step": 3e-4, "checked": 1, "unresolved": 0}
    monkeypatch.setattr(gradients, "disagreement", lambda *_: torch.tensor(0.5))
    wrong = train.run(job(max_steps=1, output=tmp_path / "wrong"), silent)
    assert (log(wrong)[0]["checked"], log(wrong)[0]["unresolved"]) == (1, 1)
    assert any("not resolved for 1 of the 1 samples" in note for note in wrong.notes)
    assert not same(weights(wrong), weights(report))


def test_a_difference_that_is_wrong_as_a_rule_ends_the_training(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "disagreement", lambda *_: torch.tensor(torch.nan))
    monkeypatch.setattr(gradients, "CHECKED_EVERY", 1)
    with pytest.raises(ModelError, match=r"step 4: .* is wrong for 8 of 8 samples") as refused:
        train.run(job(max_steps=9), silent)
    assert "--gradient double-backward" in refused.value.hint


@pytest.mark.parametrize("gradient", ["central", "one-sided", "forward-variation"])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(
    job: Callable[..., TrainJob], tmp_path: Path, gradient: str
) -> None:
    settings = {
        "gradient": gradient,
        "accumulate": 2,
        "prompt_dropout": 0.3,
        "ema": 0.9,
        "crop": "buckets",
        "every": 2 if gradient == "central" else 1,
    }
    whole = train.run(job(**settings, output=tmp_path / "whole"), silent)
    train.run(job(**settings, max_steps=2), silent)
    resumed = train.run(job(**settings, resume=True), silent)
    assert same(weights(resumed), weights(whole))
    assert [figures(row) for row in log(resumed)] == [figures(row) for row in log(whole)]


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_lines_in_the_log(
    job: Callable[..., TrainJob],
) -> None:
    folder = train.run(job(max_steps=2, checkpoint_every=9), silent).folder
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    resumed = train.run(job(resume=True), silent)
    assert [row["step"] for row in log(resumed)] == [1, 2, 3, 4]


def test_averages_may_begin_at_a_checkpoint(job: Callable[..., TrainJob]) -> None:
    train.run(job(max_steps=2), silent)
    resumed = train.run(job(resume=True, force=True, ema=0.5), silent)
    assert [row["step"] for row in log(resumed)] == [1, 2, 3, 4]


def test_float16_on_a_cpu_and_recomputed_second_derivatives_are_refused(job: Callable[..., TrainJob]) -> None:
    with pytest.raises(UsageError, match="needs a CUDA device"):
        train.run(job(mixed_precision="fp16", device="cpu"), silent)
    with pytest.raises(ValueError, match="gradient_checkpointing would compute otherwise"):
        TrainJob(data="x", gradient="double-backward", gradient_checkpointing=True)


def test_trainings_of_one_process_may_differ_in_precision(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    train.run(job(**{"lambda": 0}, mixed_precision="bf16", max_steps=1, output=tmp_path / "a"), silent)
    report = train.run(job(max_steps=1, output=tmp_path / "b"), silent)
    assert report.job["mixed_precision"] == "no"


def test_ctrl_c_writes_a_checkpoint_and_leaves(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    class Interrupting(Silent):
        def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
            for index, item in enumerate(items):
                if description == "training" and index == 0:
                    signal.raise_signal(signal.SIGINT)
                yield item

    whole = train.run(job(output=tmp_path / "whole"), silent)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train.run(job(checkpoint_every=1000), Interrupting())
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000001.safetensors"]
    assert same(weights(train.run(job(resume=True), silent)), weights(whole))


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint_to_the_same_end(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    whole = train.run(job(output=tmp_path / "whole"), silent)
    killed = job(output=tmp_path / "killed")
    threads = torch.get_num_threads()  # another number may add in another order
    given = (killed.model_dump_json(by_alias=True), tmp_path / "tokenizer2", {}, threads, Killed())
    process = processes().Process(target=train_in_process, args=given)
    process.start()
    process.join(280)
    assert process.exitcode == -signal.SIGKILL
    assert len((tmp_path / "killed" / "training.jsonl").read_text().splitlines()) == 3
    resumed = train.run(job(output=tmp_path / "killed", resume=True), silent)
    assert same(weights(resumed), weights(whole))
    assert [row["step"] for row in log(resumed)] == [1, 2, 3, 4]


def test_both_outputs_give_the_noise_of_the_trained_model(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tiny_model(tmp_path / "tokenizer")
    monkeypatch.setattr(train, "open_session", lambda job, track, pool=None: trained)
    report = train.run(job(), silent)
    latents = torch.randn(1, 4, 16, 16)

    def predict(model: DiffusionModel) -> torch.Tensor:
        with torch.no_grad():
            return model.predict_noise(latents, 400, model.encode_prompts(["a cat"]))

    expected = predict(trained)
    for name in ("smooth-lora.safetensors", "smooth-lora-kohya.safetensors"):
        loaded = tiny_model(tmp_path / "tokenizer")
        assert not torch.allclose(predict(loaded), expected, atol=1e-5)
        load_lora(loaded, report.folder / name)
        torch.testing.assert_close(predict(loaded), expected, atol=1e-5, rtol=1e-5)


def test_first_order_training_follows_the_double_backward(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """The curves differ by 2e-5. With half the weight on the regulariser they differ by 3e-3 and 9e-3."""
    settings = {"max_steps": 8, "learning_rate": 3e-2, "lambda": 300.0, "checkpoint_every": 8, "sample_every": 0}
    runs = {
        gradient: train.run(job(gradient=gradient, output=tmp_path / gradient, **settings), silent)
        for gradient in ("central", "double-backward")
    }
    for name in ("base_loss", "regulariser", "running_mean"):
        curves = {gradient: [row[name] for row in log(report)] for gradient, report in runs.items()}
        assert curves["central"] == pytest.approx(curves["double-backward"], rel=5e-4)


@pytest.mark.slow
def test_the_regulariser_lowers_the_variation(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    settings = {"max_steps": 30, "learning_rate": 5e-3, "running_mean_start": "zero"}
    plain = train.run(job(**{**settings, "lambda": 0.0, "max_steps": 1}, output=tmp_path / "plain"), silent)
    smooth = train.run(job(**{**settings, "lambda": 10.0}, output=tmp_path / "smooth"), silent)
    assert log(plain)[0]["regulariser"] is None
    rows = log(smooth)
    assert sum(row["regulariser"] for row in rows[-10:]) < 0.8 * sum(row["regulariser"] for row in rows[:10])


def test_a_lora_starts_as_the_papers_program_or_as_peft(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """One step at a rate of 1e-12 leaves the start: N(0, 1/rank^2), or uniform with a variance of 1 / (3 inputs)."""
    for init in ("gaussian", "uniform"):
        settings = {"max_steps": 1, "learning_rate": 1e-12, "rank": 8, "lambda": 0.0}
        report = train.run(job(init=init, output=tmp_path / init, **settings), silent)
        downs = [
            tensor
            for name, tensor in load_file(report.folder / report.files["lora"]).items()
            if "lora_A" in name or "lora.down" in name
        ]
        scaled = torch.cat(
            [(down * (8 if init == "gaussian" else (3 * down.shape[1]) ** 0.5)).flatten() for down in downs]
        )
        assert float(scaled.std()) == pytest.approx(1, abs=0.05)
        assert (float(scaled.abs().max()) < 3**0.5 + 1e-3) == (init == "uniform")


def test_the_start_of_a_lora_is_refused_where_there_is_none(job: Callable[..., TrainJob]) -> None:
    with pytest.raises(ValidationError, match="init uniform is the start of a LoRA"):
        job(full=True, init="uniform")


def test_full_training_leaves_a_whole_model_folder(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    from smoothtool.diffusion.loading import load_model

    report = train.run(job(full=True, learning_rate=1e-3), silent)
    loaded = load_model(report.folder / "model", "trained", device="cpu")
    base = tiny_model(tmp_path / "tokenizer")
    assert loaded.fingerprint != base.fingerprint
    assert loaded.schedule.alphas_cumprod == base.schedule.alphas_cumprod


def test_a_broken_picture_is_named_counted_and_skipped(job: Callable[..., TrainJob], data: Path) -> None:
    (data / "1.png").write_bytes(b"no picture")
    report = train.run(job(max_steps=1), silent)
    assert report.figures["skipped"] == 1
    assert "1.png" in report.notes[0]
    again = train.run(job(max_steps=1, force=True), silent)  # the cache remembers it
    assert again.figures["skipped"] == 1


def test_nothing_readable_is_an_input_error(job: Callable[..., TrainJob], data: Path) -> None:
    for path in data.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 5 pictures"):
        train.run(job(), silent)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    job: Callable[..., TrainJob], tmp_path: Path
) -> None:
    class Breaking(Silent):
        """Poisons a weight after the second step."""

        def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
            for index, item in enumerate(items):
                yield item
                if description == "training" and index == 1:
                    next(p for p in self.model.unet.parameters() if p.requires_grad).data.fill_(torch.nan)

    breaking, open_before = Breaking(), train.open_session
    train.open_session = lambda *given: setattr(breaking, "model", open_before(*given)) or breaking.model
    with pytest.raises(ModelError, match=r"step 3.*timesteps"):
        train.run(job(), breaking)
    kept = load_file(tmp_path / "out" / "checkpoints" / "step-00000002.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


def test_changed_settings_are_listed_and_refused_without_force(job: Callable[..., TrainJob]) -> None:
    train.run(job(max_steps=2), silent)
    with pytest.raises(UsageError, match=r"batch_size was 2, is 1.*learning_rate was 0.01, is 0.001") as caught:
        train.run(job(resume=True, batch_size=1, learning_rate=1e-3), silent)
    assert "--force" in caught.value.hint
    report = train.run(job(resume=True, learning_rate=1e-3, force=True), silent)
    assert [row["step"] for row in log(report)] == [1, 2, 3, 4]


def test_a_resumed_training_keeps_the_seed_and_folder_that_were_chosen_for_it(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train.run(job(max_steps=2, seed=None, output=None, resume=True), silent)
    second = train.run(job(seed=None, output=None, resume=True), silent)
    assert (second.folder, second.job["seed"]) == (first.folder, first.job["seed"])
    assert [row["step"] for row in log(second)] == [1, 2, 3, 4]


def test_a_training_by_the_largest_seed_is_resumed(job: Callable[..., TrainJob]) -> None:
    for steps in (2, 4):
        report = train.run(job(max_steps=steps, seed=SEED_END - 1, resume=True), silent)
    assert [row["step"] for row in log(report)] == [1, 2, 3, 4]


def test_an_earlier_training_is_not_overwritten_by_accident(job: Callable[..., TrainJob]) -> None:
    train.run(job(max_steps=1), silent)
    with pytest.raises(UsageError, match="earlier training"):
        train.run(job(), silent)


def test_a_foreign_folder_is_refused_with_and_without_resume(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.txt").write_text("mine")
    for settings in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(UsageError, match=r"not empty|no report\.json"):
            train.run(job(**settings), silent)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 0},
        {"lambda": -1},
        {"batch_size": 0},
        {"mixed_precision": "bf16"},
        {"full": True, "lora": ["a.safetensors"]},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        TrainJob(**{"data": "x", **settings})


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    """The running mean included: it is the mean over both. Gradients agree to rounding, so short runs are compared."""
    settings = {"accumulate": 2, "learning_rate": 1e-3}
    one = train.run(job(**settings, batch_size=2, output=tmp_path / "one"), silent)
    train.run(job(max_steps=1, output=tmp_path / "two"), silent)  # is cleared by one of the two
    two = job(**settings, batch_size=1, output=tmp_path / "two", force=True)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    started = []
    for rank in "01":
        given = (two.model_dump_json(by_alias=True), tmp_path / rank, {**common, "RANK": rank, "LOCAL_RANK": rank})
        started.append(processes().Process(target=train_in_process, args=given))
        started[-1].start()
    for process in started:
        process.join(280)
    assert [process.exitcode for process in started] == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "two" / "training.jsonl").read_text().splitlines()]
    for expected, found in zip(log(one), rows, strict=True):
        assert found["samples"] == expected["samples"] == 4
        for name in ("base_loss", "regulariser", "running_mean"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3)
    trained = load_file(tmp_path / "two" / "smooth-lora.safetensors")
    for key, value in weights(one).items():
        # Adam turns the rounding of a gradient near zero into a whole step of that one weight
        assert float((trained[key] - value).norm()) <= 0.2 * float(value.norm()), key


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("gradient", ["central", "one-sided"])
def test_gradient_checkpointing_changes_no_number(job: Callable[..., TrainJob], tmp_path: Path, gradient: str) -> None:
    plain = train.run(job(gradient=gradient, max_steps=2, output=tmp_path / "plain"), silent)
    saving = train.run(
        job(gradient=gradient, max_steps=2, gradient_checkpointing=True, output=tmp_path / "saving"), silent
    )
    for row, other in zip(log(plain), log(saving), strict=True):
        assert row["regulariser"] == pytest.approx(other["regulariser"], rel=1e-4)
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(saving)[key], value, atol=1e-4, rtol=1e-3)


def test_without_data_no_folder_is_made(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train.run(job(data=str(tmp_path / "nowhere"), output=tmp_path / "made"), silent)
    assert not (tmp_path / "made").exists()


class Compiled(torch.nn.Module):
    """A UNet whose gradient to its latents is `factor` of what it should be, and whose values are right."""

    def __init__(self, unet: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.unet, self.factor = unet, factor

    def forward(self, latents: torch.Tensor, *rest: Any, **options: Any) -> UNet2DConditionOutput:
        return self.unet(latents.detach() + self.factor * (latents - latents.detach()), *rest, **options)


@pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1.5, True)])
def test_a_compiled_unet_with_a_wrong_gradient_is_told_and_not_trained_with(
    job: Callable[..., TrainJob], monkeypatch: pytest.MonkeyPatch, factor: float, told: bool
) -> None:
    monkeypatch.setattr(train.shutil, "which", lambda name: name)
    plain = train.run(job(max_steps=2), silent)
    monkeypatch.setattr(torch, "compile", lambda unet: Compiled(unet, factor))
    compiled = train.run(job(max_steps=2, compile=True, output=plain.folder.with_name("compiled")), silent)
    assert any("going on without it" in note for note in compiled.notes) == told
    assert (compiled.figures["compiled_gradient_error"] > 0.03) == told
    weights = [load_file(folder / "smooth-lora.safetensors") for folder in (plain.folder, compiled.folder)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
