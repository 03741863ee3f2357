"""What `gpu.py` promises of its time: a job that hangs is stopped and named, and the rest comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gpu import Report
from time_shares import LEAST_S, Child, JobFailedError, OverTimeError, Task, child, rows, share_s


@pytest.fixture
def worker() -> Iterator[Child]:
    with child() as made:
        yield made


def test_a_job_that_hangs_is_stopped_and_named_and_the_next_one_comes(
    worker: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time_shares.LEAST_S", 0.0)
    tasks = [Task("part", {"what": "hangs"}, "time:sleep", (60,)), Task("part", {"what": "comes"}, "builtins:dict")]
    worker.start(30)
    started = time.perf_counter()
    found = list(rows(tasks, worker, until=started + 4))
    assert time.perf_counter() - started < 10
    assert [row["what"] for _, row in found] == ["hangs", "comes"]
    assert found[0][1]["note"] == "not within 2 s"


def test_what_a_stopped_job_started_is_ended_too(worker: Child, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    worker.start(30)
    with pytest.raises(OverTimeError):
        worker.call("subprocess:run", (["sh", "-c", f"echo $$ > {pid}; sleep 60"],), 2)
    assert _is_gone(int(pid.read_text()))


def test_the_child_stays_for_the_next_job_and_is_ended_with_the_work() -> None:
    with child() as made:
        first, second = (made.call("os:getpid", (), 30) for _ in range(2))
        assert first == second != os.getpid()
    assert _is_gone(first)


def test_a_job_that_fails_or_ends_its_process_leaves_the_next_one_its_turn(worker: Child) -> None:
    with pytest.raises(JobFailedError, match="ZeroDivisionError: "):
        worker.call("operator:truediv", (1, 0), 30)
    with pytest.raises(JobFailedError, match="the process ended with 3"):
        worker.call("os:_exit", (3,), 30)
    assert worker.call("operator:add", (1, 2), 30) == 3


def test_imports_are_not_part_of_a_jobs_time_and_one_that_fails_is_a_row() -> None:
    with child(["no_module_of_this_name"]) as made:
        [(_, row)] = rows([Task("part", {}, "builtins:dict")], made, time.perf_counter() + 30)
    assert row["note"].startswith("error: ModuleNotFoundError: ")


def test_once_the_time_is_over_every_job_left_is_a_row_that_says_so(worker: Child) -> None:
    tasks = [Task("part", {"what": name}, "time:sleep", (60,)) for name in "ab"]
    found = list(rows(tasks, worker, time.perf_counter() - 1))
    assert [row for _, row in found] == [{"what": name, "note": "left out: no time"} for name in "ab"]


def test_a_part_whose_jobs_hang_leaves_the_next_part_its_time(worker: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time_shares.LEAST_S", 0.0)
    hanging = [Task("first", {}, "time:sleep", (60,)) for _ in range(3)]
    worker.start(30)
    found = list(
        rows([*hanging, Task("second", {}, "builtins:dict", ({"done": 1},))], worker, time.perf_counter() + 10)
    )
    assert [part for part, row in found if row["note"]] == ["first"] * 3
    assert found[-1] == ("second", {"note": "", "done": 1})


def test_a_process_that_does_not_start_in_time_is_not_the_fault_of_its_job(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(60)")
    sys.path.insert(0, str(tmp_path))
    try:
        with child(["slow_to_import"]) as made:
            [(_, row)] = rows([Task("part", {}, "builtins:dict")], made, time.perf_counter() + 2)
    finally:
        sys.path.remove(str(tmp_path))
    assert row == {"note": "left out: no time"}


@pytest.mark.parametrize(("left_s", "share"), [(480, 240), (30, 15), (12, LEAST_S), (4, 4), (-1, -1)])
def test_a_share_is_half_of_the_time_left_but_never_a_sliver(left_s: float, share: float) -> None:
    assert share_s(left_s) == share


def test_both_reports_are_whole_after_every_row(tmp_path: Path) -> None:
    report = Report(tmp_path, {"device": "a device", "torch": "2"})
    for count, row in enumerate([{"what": "a", "note": "not within 5 s"}, {"what": "b", "seconds": 1.5, "note": ""}]):
        report.add("part", row)
        assert len(json.loads((tmp_path / "gpu.json").read_text())["part"]) == count + 1
        assert len((tmp_path / "gpu.md").read_text().splitlines()) == 8 + count
    assert "| b    |     1.5 |                |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_the_program_writes_its_report_and_leaves_with_zero(tmp_path: Path) -> None:
    program = Path(__file__).with_name("gpu.py")
    command = [sys.executable, str(program), "--device", "cpu", "--parts", "tests", "--seconds", "60", "-o", "report"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "left out: this is a CPU" in (tmp_path / "report" / "gpu.md").read_text()


def _is_gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has waited for."""
    for _ in range(50):
        with suppress(ProcessLookupError, FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.1)
                continue
        return True
    return False
