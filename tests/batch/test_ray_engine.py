"""Batches on Ray: two workers on a local cluster, one of which may be killed. Skipped where Ray is not installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batch_toys import fake_invert, go, pictures, saved_tiny_model, states, toy_model
from PIL import Image

from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.errors import ModelError, SmoothtoolError, UsageError
from smoothtool.recipe.reading import plan_recipe
from smoothtool.types import Silent, silent
from smoothtool.yaml12 import read_yaml

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'smoothtool[ray]'")
TESTS = Path(__file__).parents[1]
RAY = BatchOptions(engine="ray", workers=2)
ALL = [f"p{index}.png" for index in range(5)]


def cluster(**environment: object) -> Iterator[None]:
    paths = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": paths, **environment},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def fakes() -> Iterator[None]:
    """A cluster whose workers have a fake `invert`."""
    yield from cluster(worker_process_setup_hook="batch_toys.replace_invert")


@pytest.fixture
def unconnected() -> None:
    """No cluster, so that the engine starts or looks for its own; these tests stand last."""
    ray.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    pictures(tmp_path / "in", 5)
    return tmp_path


def calls(root: Path) -> list[str]:
    return sorted(line.split()[0] for line in (root / "log").read_text().splitlines())


@pytest.mark.usefixtures("fakes")
def test_two_workers_make_every_item_once(root: Path) -> None:
    assert set(states(go(root, RAY)).values()) == {"made"}
    assert len(list((root / "workers").iterdir())) == 2
    assert calls(root) == ALL
    assert json.loads((root / "out" / "batch.json").read_text())["counts"] == {"made": 5}
    assert set(states(go(root, BatchOptions())).values()) == {"skipped"}


@pytest.mark.usefixtures("fakes")
def test_the_item_of_a_killed_worker_is_made_by_another(root: Path) -> None:
    (root / "once-p1.png").touch()
    assert set(states(go(root, RAY)).values()) == {"made"}
    assert not (root / "once-p1.png").exists()  # a worker was killed at it
    assert calls(root) == ALL
    assert not list((root / "out").glob(".[!t]*"))  # but for .thumbnails


@pytest.mark.usefixtures("fakes")
def test_an_item_that_kills_every_worker_fails_and_the_rest_goes_on(root: Path) -> None:
    (root / "always-p1.png").touch()
    outcomes = go(root, RAY)
    assert states(outcomes) == {"p0": "made", "p1": "failed", "p2": "made", "p3": "made", "p4": "made"}
    assert "died 3 times" in outcomes[1].record["error"]
    assert not list((root / "out").glob(".[!t]*"))  # but for .thumbnails
    (root / "always-p1.png").unlink()
    assert states(go(root, BatchOptions(engine="ray", workers=2, retry_failed=True)))["p1"] == "made"


@pytest.mark.usefixtures("fakes")
def test_a_bad_file_fails_alone(root: Path) -> None:
    (root / "in" / "p3.png").write_bytes(b"")
    outcomes = go(root, RAY)
    assert list(states(outcomes).values()) == ["made", "made", "made", "failed", "made"]
    assert outcomes[3].record["exit_code"] == 5


@pytest.mark.usefixtures("fakes")
def test_a_model_that_does_not_load_ends_the_batch_and_its_items_stay_to_do(root: Path) -> None:
    (root / "broken-model").touch()
    with pytest.raises(ModelError, match="unet: is broken") as told:
        go(root, RAY)
    assert told.value.hint == "another copy of it"
    assert json.loads((root / "out" / "batch.json").read_text())["counts"] == {"waiting": 5}
    (root / "broken-model").unlink()
    assert set(states(go(root, RAY)).values()) == {"made"}


@pytest.mark.usefixtures("fakes")
def test_without_room_in_the_cluster_it_is_told_once_what_is_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smoothtool.batch.ray_engine.ROOM_S", 0.1)
    other = ray.remote(num_cpus=2)(Silent).remote()
    ray.get(other.status.remote("here"))
    said: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            said.append(text)
            if "waiting" in text:
                ray.kill(other)

    assert set(states(go(root, RAY, Listener())).values()) == {"made"}
    waiting = (
        "--engine ray: still waiting for a worker, which asks for 1 CPU; free in the cluster: 0 of 2 CPU and 0 of 0 GPU"
    )
    assert said == [waiting]


@pytest.mark.usefixtures("fakes")
def test_asked_to_stop_it_finishes_what_is_at_hand_and_gives_out_no_more(root: Path) -> None:
    from smoothtool.batch.items import work_of
    from smoothtool.batch.journal import Journal
    from smoothtool.batch.ray_engine import work_on_ray
    from smoothtool.batch.worker import open_batch
    from smoothtool.files.storage.digests import Digests
    from smoothtool.recipe.plan import plan_flags

    (root / "out").mkdir()
    plan = plan_flags("invert", {"image": [str(root / "in")], "model": toy_model(root / "model")})
    works = [work_of(item, Digests()) for item in plan.items]
    batch = open_batch({work.name for work in works}, Journal(root / "out"), silent, retry_failed=False)
    with pytest.raises(KeyboardInterrupt):
        list(work_on_ray(batch, works, lambda: bool(batch.outcomes), workers=2, retry_failed=False))
    assert 1 <= len(batch.outcomes) < 5
    assert calls(root) == sorted(f"{name}.png" for name in batch.outcomes)


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    from smoothtool.batch.ray_engine import Posting, Worker

    with pytest.raises(UsageError, match="nowhere is not there on"):
        Worker().start(Posting(1, tmp_path, set(), False, str(tmp_path / "nowhere"), {}))


@pytest.mark.usefixtures("unconnected")
def test_workers_that_cannot_start_are_told_what_to_install(root: Path) -> None:
    for _ in cluster(worker_process_setup_hook="batch_toys.forget_smoothtool"):
        with pytest.raises(SmoothtoolError, match="every worker died at its start") as told:
            go(root, RAY)
        assert "on every machine of the cluster" in told.value.hint


@pytest.mark.usefixtures("unconnected")
def test_no_cluster_at_the_address_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "not-an-address")
    with pytest.raises(UsageError, match="no Ray cluster at not-an-address"):
        go(root, RAY)


def test_where_all_is_done_no_cluster_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smoothtool.commands.invert.run", fake_invert(root / "log"))
    go(root)
    monkeypatch.setattr("smoothtool.batch.ray_engine._connect", lambda workers: pytest.fail("asked"))
    assert set(states(go(root, RAY)).values()) == {"skipped"}


@pytest.mark.slow
@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_ray_and_one_process_make_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xl: bool) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    tiny = saved_tiny_model(tmp_path / "tiny", xl)
    job = f"command: edit, method: sdedit, model: '{tiny}', steps: 2, size: 16, image: 'samples:[fc]*', trg: a cat"
    pictures: list[dict[str, np.ndarray]] = []
    for name, options in (("one", BatchOptions()), ("ray", RAY)):
        outcomes = run_batch(
            plan_recipe(read_yaml(f"jobs: [{{{job}}}]", "r.yaml"), [f"output={tmp_path / name}"]), options, silent
        )
        assert set(states(outcomes).values()) == {"made"}
        found = sorted((tmp_path / name).glob("*/edited.png"))
        pictures.append({path.parent.name: np.asarray(Image.open(path)) for path in found})
    assert len(pictures[0]) == 3
    assert all(np.array_equal(picture, pictures[1][name]) for name, picture in pictures[0].items())
