"""Batches: what is done stays done, what fails is told, and the rest goes on. Commands are replaced by a fake."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from batch_toys import fake_invert, go, pictures, states, toy_model

from smoothtool.batch.journal import Journal
from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.errors import MemoryExhaustedError, ModelError, StorageError, UsageError
from smoothtool.recipe.plan import Plan, plan_flags
from smoothtool.types import Outcome

T = TypeVar("T")

TOYS = Path(__file__).parents[1] / "batch_toys.py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures in tmp/in, and `invert` replaced."""
    pictures(tmp_path / "in", 4)
    use(monkeypatch, tmp_path)
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, root: Path, **hooks: Callable[..., None]) -> None:
    monkeypatch.setitem(sys.modules, "smoothtool.commands.invert.run", fake_invert(root / "log", **hooks))


def calls(root: Path) -> list[str]:
    return [line.split()[0] for line in (root / "log").read_text().splitlines()]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".thumbnails"}


def test_every_picture_gets_a_folder_and_the_batch_a_record_and_a_page(root: Path) -> None:
    outcomes = go(root)
    assert states(outcomes) == dict.fromkeys(("p0", "p1", "p2", "p3"), "made")
    assert visible(root / "out") == {"p0", "p1", "p2", "p3", "items.jsonl", "batch.json", "index.html"}
    summary = json.loads((root / "out" / "batch.json").read_text())
    assert summary["counts"] == {"made": 4}
    assert summary["items"][0]["metrics"] == {"losses": 0.5, "unet_calls": 0}


def test_a_second_run_makes_nothing_again(root: Path) -> None:
    go(root)
    assert set(states(go(root)).values()) == {"skipped"}
    assert len(calls(root)) == 4


def test_pipes_devices_and_dead_links_fail_alone_and_nothing_waits_for_them(root: Path) -> None:
    os.mkfifo(root / "in" / "pipe.png")
    (root / "in" / "endless.png").symlink_to("/dev/zero")
    (root / "in" / "dead.png").symlink_to(root / "nothing.png")
    (root / "in" / "loop.png").symlink_to(root / "in" / "loop.png")
    outcomes = states(go(root))
    assert {name for name, state in outcomes.items() if state == "failed"} == {"pipe", "endless", "dead", "loop"}
    assert len(calls(root)) == 4


def test_a_bad_file_among_good_ones_is_told_and_not_tried_again_unless_asked(root: Path) -> None:
    (root / "in" / "p1.png").write_bytes(b"not a picture")
    outcomes = go(root)
    assert states(outcomes) == {"p0": "made", "p1": "failed", "p2": "made", "p3": "made"}
    assert outcomes[1].record["exit_code"] == 5
    assert "p1.png" in outcomes[1].record["error"]
    before = (root / "out" / "items.jsonl").read_text()
    assert states(go(root))["p1"] == "failed"
    assert (root / "out" / "items.jsonl").read_text() == before
    assert states(go(root, BatchOptions(retry_failed=True)))["p1"] == "failed"
    assert (root / "out" / "items.jsonl").read_text() != before


def test_a_mended_picture_is_made_without_being_asked(root: Path) -> None:
    good = (root / "in" / "p1.png").read_bytes()
    (root / "in" / "p1.png").write_bytes(b"")
    go(root)
    (root / "in" / "p1.png").write_bytes(good)
    assert states(go(root)) == {"p0": "skipped", "p1": "made", "p2": "skipped", "p3": "skipped"}


def test_content_counts_and_not_the_name(root: Path) -> None:
    go(root)
    (root / "in" / "p0.png").rename(root / "in" / "renamed.png")
    outcomes = go(root)
    assert states(outcomes)["renamed"] == "skipped"
    assert next(o for o in outcomes if o.name == "renamed").record["name"] == "p0"
    (root / "in" / "p1.png").write_bytes((root / "in" / "p2.png").read_bytes())
    assert states(go(root))["p1"] == "made"  # another picture under the old name


def test_other_settings_in_the_same_folder_are_refused_unless_forced(root: Path) -> None:
    go(root)
    with pytest.raises(UsageError, match="4 results there were made with other settings"):
        go(root, steps=7)
    assert len(calls(root)) == 4
    assert set(states(go(root, BatchOptions(force=True), steps=7)).values()) == {"made"}


def test_results_of_another_version_are_refused_as_such(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoothtool.files.storage.reports.__version__", "0.0.9")
    monkeypatch.setattr("smoothtool.batch.items.__version__", "0.0.9")
    go(root)
    monkeypatch.undo()
    use(monkeypatch, root)
    with pytest.raises(UsageError, match=r"4 results there were made by smoothtool 0\.0\.9, and this is") as told:
        go(root)
    assert "--force" in told.value.hint
    assert "pip install smoothtool==0.0.9" in told.value.hint
    assert set(states(go(root, BatchOptions(force=True))).values()) == {"made"}


def test_a_folder_of_other_things_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="not of a batch"):
        go(root, output=str(root / "in"))


def test_a_missing_model_stops_the_batch_before_it_begins(root: Path) -> None:
    with pytest.raises(ModelError):
        go(root, model="no-such-model")
    assert not (root / "log").exists()


def test_a_missing_lora_stops_the_batch_before_it_begins(root: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.safetensors: there is no such LoRA"):
        go(root, lora=["no.safetensors:0.5"])
    assert not (root / "log").exists()


def test_seeds_come_from_the_pictures_alone(root: Path) -> None:
    go(root)
    for name in ("p0.png", "p2.png"):
        (root / "in" / name).unlink()
    go(root, output=str(root / "other"))
    lines = (root / "log").read_text().splitlines()
    assert lines[4:] == [lines[1], lines[3]]
    assert len({line.split()[1] for line in lines[:4]}) == 4


@pytest.mark.parametrize("count", [2, 3])
def test_shards_make_each_item_once_and_the_last_one_sees_all(root: Path, count: int) -> None:
    for index in range(1, count + 1):
        outcomes = go(root, BatchOptions(shard=(index, count)))
        assert ("waiting" in states(outcomes).values()) == (index < count)
    assert sorted(calls(root)) == ["p0.png", "p1.png", "p2.png", "p3.png"]
    assert not {"waiting", "failed"} & set(states(outcomes).values())


def test_shards_on_different_devices_are_one_batch(root: Path) -> None:
    go(root, BatchOptions(shard=(1, 2)), device="cpu")
    assert set(states(go(root, BatchOptions(shard=(2, 2)))).values()) == {"made", "skipped"}


def test_any_exception_costs_its_own_item_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"p0.png": RuntimeError("boom"), "p1.png": MemoryExhaustedError("full"), "p2.png": MemoryError()}

    def before(name: str) -> None:
        if name in faults:
            raise faults[name]

    use(monkeypatch, root, before=before)
    outcomes = go(root)
    assert [outcome.record.get("exit_code") for outcome in outcomes] == [1, 6, 6, None]


def test_a_full_disk_ends_the_batch_and_the_next_run_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(folder: Path) -> None:
        if folder.parent.joinpath("p1").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "x.png"))

    use(monkeypatch, root, inside=inside)
    with pytest.raises(StorageError, match="No space left"):
        go(root)
    assert visible(root / "out") - {".locks"} == {"p0", "p1", "items.jsonl", "batch.json", "index.html"}
    use(monkeypatch, root)
    assert states(go(root)) == {"p0": "skipped", "p1": "skipped", "p2": "made", "p3": "made"}


def test_a_disk_too_full_for_the_record_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("smoothtool.batch.journal.append_record", full)
    monkeypatch.setattr("smoothtool.batch.run.write_summary", full)
    with pytest.raises(StorageError, match="No space left"):
        go(root)
    assert calls(root) == ["p0.png"]


def test_interrupted_once_it_finishes_the_item_at_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, root, before=lambda name: name == "p1.png" and signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        go(root)
    assert calls(root) == ["p0.png", "p1.png"]
    assert json.loads((root / "out" / "batch.json").read_text())["counts"] == {"made": 2, "waiting": 2}
    use(monkeypatch, root)
    assert list(states(go(root)).values()) == ["skipped", "skipped", "made", "made"]


def test_interrupted_twice_it_stops_at_once_and_leaves_nothing_half_done(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inside(folder: Path) -> None:
        if (root / "out" / "p0").exists():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    use(monkeypatch, root, inside=inside)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(root)
    assert calls(root) == ["p0.png"]
    assert visible(root / "out") - {".locks"} == {"p0", "items.jsonl", "batch.json", "index.html"}
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    "end",
    [lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)], lambda: sys.exit(143)],
    ids=["ctrl-c", "term"],
)
def test_stopped_at_once_it_decodes_no_picture_for_the_page(
    root: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    monkeypatch.setattr("smoothtool.batch.gallery.load_image", lambda *_, **__: pytest.fail("a picture was decoded"))
    use(monkeypatch, root, inside=lambda folder: end() if (root / "out" / "p0").exists() else None)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        go(root)
    assert json.loads((root / "out" / "batch.json").read_text())["counts"] == {"made": 1, "waiting": 3}
    assert "p0" in (root / "out" / "index.html").read_text()


def start(root: Path, accident: str, victim: str = "p2.png") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(TOYS), str(root), accident, victim],
        cwd=TOYS.parents[1],
        env={"PYTHONPATH": str(TOYS.parents[1]), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("accident", ["before", "inside", "record", "summary"])
def test_killed_at_any_moment_it_loses_the_item_in_work_at_most(root: Path, accident: str) -> None:
    assert start(root, accident).wait(60) == -signal.SIGKILL
    done = 4 if accident == "summary" else 2
    assert set(states(go(root)).values()) <= {"skipped", "made"}
    made = calls(root)
    assert sorted(set(made)) == ["p0.png", "p1.png", "p2.png", "p3.png"]
    assert len(made) <= 4 + (accident == "record")
    assert list(states(go(root)).values()) == ["skipped"] * 4
    assert made[:done] == [f"p{index}.png" for index in range(done)]
    assert visible(root / "out") == {"p0", "p1", "p2", "p3", "items.jsonl", "batch.json", "index.html"}


def test_two_processes_on_one_folder_make_each_item_once(root: Path) -> None:
    pictures(root / "in", 24)
    other = start(root, "slow")
    end = time.monotonic() + 60
    while not (root / "started").exists() and time.monotonic() < end:
        time.sleep(0.01)
    outcomes = go(root)
    assert other.wait(60) == 0
    made = calls(root)
    assert sorted(made) == sorted(set(made))
    assert len(made) == 24
    assert set(states(outcomes).values()) <= {"made", "skipped"}


def test_a_link_in_the_output_folder_that_leads_out_is_refused(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "items.jsonl").touch()
    (root / "elsewhere").mkdir()
    (root / "out" / "p0").symlink_to(root / "elsewhere")
    (root / "out" / "p1").symlink_to("p1")
    outcomes = go(root)
    assert [outcome.status for outcome in outcomes[:3]] == ["failed", "failed", "made"]
    assert "leads out" in outcomes[0].record["error"]
    assert "p1: this cannot be a folder" in outcomes[1].record["error"]
    assert not list((root / "elsewhere").iterdir())


def test_jobs_of_one_model_stand_together(root: Path) -> None:
    """A matrix over models must not load a model once per picture."""
    from smoothtool.recipe.reading import plan_recipe
    from smoothtool.yaml12 import read_yaml

    a, b = toy_model(root / "a"), toy_model(root / "b")
    text = f"jobs: [{{command: invert, image: '{root}/in', matrix: {{steps: [1, 2], model: ['{a}', '{b}']}}}}]"
    run_batch(plan_recipe(read_yaml(text, "r.yaml"), [f"output={root}/out"]), BatchOptions(), Recorder(order := []))
    assert order == sorted(order)
    assert len(order) == 16


class Recorder:
    """A track that writes down which model each item asks for."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in items if description == "items" else ():
            self.order.append(item.item.job.model)
            yield item

    def note(self, text: str) -> None:
        return None


def test_a_plan_of_one_plain_file_is_no_batch(root: Path) -> None:
    assert plan_flags("invert", {"image": [str(root / "in" / "p0.png")]}).folder is None


def test_the_page_at_work_is_no_leftover_to_another_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(plan: Plan, outcomes: Sequence[Outcome], folder: Path, *_: object, **__: object) -> None:
        (folder / ".0123456789ab.part.html").write_text("half")
        time.sleep(0.02)
        Journal(folder).sweep()
        (folder / ".0123456789ab.part.html").rename(folder / "index.html")

    monkeypatch.setattr("smoothtool.batch.run.write_summary", write)
    go(root)
    assert not list((root / "out").glob(".*"))
