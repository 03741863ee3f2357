"""`train` begun again: what is there stays until the new training is done, and two never share a folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from storage_toys import names
from training_toys import log, weights

from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.train import run as train
from smoothtool.errors import ModelError, Stopped, UsageError
from smoothtool.files.storage.leftovers import held
from smoothtool.jobs import TrainJob
from smoothtool.types import Silent, Track, silent

T = TypeVar("T")


class Interrupting(Silent):
    """Presses Ctrl-C after the first step."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in items:
            if description == "training":
                signal.raise_signal(signal.SIGINT)
            yield item


@pytest.fixture(autouse=True)
def obeyed() -> Iterator[None]:
    """Ctrl-C is heard, also where a background shell starts us with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """What an earlier training left, as far as anyone looks at it."""
    folder = tmp_path / "out"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("training.jsonl", "report.json", "smooth-lora.safetensors", "checkpoints/step-00000004.safetensors"):
        (folder / name).write_text("old")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_that_cannot_begin_destroys_nothing(
    job: Callable[..., TrainJob], earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lora(job: TrainJob, track: Track, pool: ModelPool | None) -> NoReturn:
        raise ModelError("nosuch: there is no such LoRA", "check the path")

    before = contents(earlier)
    monkeypatch.setattr(train, "open_session", no_lora)
    with pytest.raises(ModelError):
        train.run(job(force=True), silent)
    assert contents(earlier) == before


def test_a_training_that_cannot_begin_leaves_no_folder(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "open_session", lambda *_: (_ for _ in ()).throw(ModelError("no", "yes")))
    with pytest.raises(ModelError):
        train.run(job(), silent)
    assert not (tmp_path / "out").exists()


def test_begun_again_and_stopped_the_old_one_stands_and_resume_finishes_the_new(
    job: Callable[..., TrainJob], earlier: Path
) -> None:
    before = contents(earlier)
    with pytest.raises(Stopped, match="checkpoint after step 1 is kept"):
        train.run(job(force=True, max_steps=2), Interrupting())
    after = contents(earlier)
    assert {name: after[name] for name in before} == before
    report = train.run(job(resume=True, max_steps=2), silent)
    assert report.folder == earlier
    assert [row["step"] for row in log(report)] == [1, 2]
    assert weights(report)
    assert names(earlier.parent / "out" / "checkpoints") == ["step-00000001.safetensors", "step-00000002.safetensors"]
    assert not (earlier / ".again").exists()


def test_a_second_training_in_the_same_folder_says_so(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out"), pytest.raises(UsageError, match="another run is at work there"):
        train.run(job(), silent)


def test_stopped_before_its_first_checkpoint_nothing_is_kept(
    job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train_to_the_end", lambda state: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped) as stop:
        train.run(job(), silent)
    assert stop.value.kept == ""
    assert not (tmp_path / "out").exists()
