"""The front door: what goes to stdout, what to stderr, which exit code. Commands are replaced by fakes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_toys import call_main

from smoothtool.cli import console
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import BatchError, InputError, MemoryExhaustedError, ModelError, UsageError
from smoothtool.jobs import JOBS
from smoothtool.jobs.base import ModelJob
from smoothtool.types import Report, Track
from smoothtool.weights import settings
from smoothtool.weights.models import STICKERS_LORA

ROOT = Path(__file__).parents[2]
ALL = [
    [],
    *[[name] for name in JOBS],
    ["run"],
    ["doctor"],
    ["recipe"],
    ["recipe", "show"],
    ["models", "pull"],
    ["lora", "push"],
    ["cache"],
]


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run the command line with `interpolate` and `invert` replaced; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(console, "show", console.Show())

    def go(*arguments: str, run: Callable[..., Report] | None = None) -> tuple[int, str, str]:
        fake = SimpleNamespace(run=run or finished)
        monkeypatch.setitem(sys.modules, "smoothtool.commands.interpolate.run", fake)
        monkeypatch.setitem(sys.modules, "smoothtool.commands.invert.run", fake)
        return call_main(capsys, *arguments)

    return go


def finished(job: ModelJob, track: Track, pool: ModelPool | None) -> Report:
    track.note("model: [bold]toy[/bold]")
    for _ in track(range(3), "inverting", 3):
        pass
    track.note("[red]late[/red] note")
    return Report(command=job.command, folder=Path("out/it"), job=job.settings())


def failing(fault: BaseException) -> Callable[..., Report]:
    def run(job: ModelJob, track: Track, pool: ModelPool | None = None) -> Report:
        raise fault

    return run


def test_stdout_is_the_folder_alone_and_notes_go_to_stderr(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("interpolate", "samples:fox", "samples:cat")
    assert (code, out) == (0, "out/it\n")
    assert err == "model: [bold]toy[/bold]\n[red]late[/red] note\n"


def test_with_json_stdout_is_the_report_alone(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("interpolate", "samples:fox", "samples:cat", "--json", "-n", "3")
    report = json.loads(out)
    assert (code, report["command"], report["job"]["frames"]) == (0, "interpolate", 3)


def test_quiet_leaves_stderr_empty_wherever_it_stands(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("interpolate", "samples:fox", "samples:cat", "--quiet") == (0, "out/it\n", "")
    assert call("--quiet", "interpolate", "samples:fox", "samples:cat") == (0, "out/it\n", "")


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (RuntimeError("boom\nsecond line"), 1, "error: internal error: RuntimeError: boom\n"),
        (UsageError("wrong", "right"), 2, "error: wrong\ntry: right\n"),
        (BatchError("one failed"), 3, "error: one failed\n"),
        (ModelError("[x] is [red]gone"), 4, "error: [x] is [red]gone\n"),
        (InputError("two\nmistakes"), 5, "error: two\nerror: mistakes\n"),
        (MemoryExhaustedError("full"), 6, "error: full\n"),
        (MemoryError(), 6, "error: out of memory\n"),
        (OutOfMemoryError("CUDA"), 6, "error: out of memory\n"),
        (OSError(28, "No space left on device", "/x/y"), 7, "error: /x/y: No space left on device\n"),
        (FileExistsError(17, "File exists", "/x/y"), 7, "error: /x/y: File exists\n"),
        (KeyboardInterrupt(), 130, "stopped: nothing was kept\n"),
    ],
)
def test_a_fault_is_one_line_with_its_exit_code(
    call: Callable[..., tuple[int, str, str]], fault: BaseException, code: int, line: str
) -> None:
    found, out, err = call("interpolate", "samples:fox", "samples:cat", run=failing(fault))
    assert (found, out) == (code, "")
    assert line in err
    assert "Traceback" not in err


def test_ctrl_c_in_a_run_is_a_document_too(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("interpolate", "samples:fox", "samples:cat", "--json", run=failing(KeyboardInterrupt()))
    assert (code, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert err.endswith("stopped: nothing was kept\nerror: interrupted\n")


def test_debug_shows_the_traceback(call: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = call("interpolate", "samples:fox", "samples:cat", "--debug", run=failing(RuntimeError("boom")))
    assert code == 1
    assert "Traceback" in err


def test_every_mistake_is_told_at_once_before_anything_runs(call: Callable[..., tuple[int, str, str]]) -> None:
    wrong = ["interpolate", "samples:fox", "samples:cat", "-n", "0", "--steps", "x"]
    code, out, err = call(*wrong, run=failing(AssertionError("ran")))
    assert (code, out) == (2, "")
    assert "--steps is x" in err
    assert "--frames is 0" in err


@pytest.mark.parametrize("arguments", [["interpolate", "--promt", "x"], ["nosuch"], ["invert"], ["recipe", "validate"]])
def test_usage_errors_exit_with_2(call: Callable[..., tuple[int, str, str]], arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    "arguments",
    [
        ["interpolate", "--promt", "x"],
        ["nosuch"],
        ["recipe", "validate"],
        ["ui", "--port", "99999"],
        ["doctor", "--no"],
    ],
)
def test_every_mistake_in_a_command_line_has_the_same_form(
    call: Callable[..., tuple[int, str, str]], arguments: list[str]
) -> None:
    lines = call(*arguments)[2].splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "try"]
    assert lines[-1].endswith("--help")


@pytest.mark.parametrize("arguments", [[], ["recipe"], ["models"], ["lora"], ["cache"]])
def test_without_a_command_the_help_is_shown_and_nothing_else(
    call: Callable[..., tuple[int, str, str]], arguments: list[str]
) -> None:
    code, out, err = call(*arguments)
    assert (code, err) == (2, "")
    assert "Usage: smoothtool" in out


def test_a_dry_run_is_a_recipe_that_runs_the_same_job(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    seen = []

    def run(job: ModelJob, track: Track, pool: ModelPool | None = None) -> Report:
        seen.append(job)
        return finished(job, track, pool)

    options = ["--src", "x", "--src", "y", "--loop", "-g", "2", "-n", "3"]
    arguments = ["interpolate", "samples:fox", "samples:cat", *options]
    _, plan, _ = call(*arguments, "--dry-run", run=failing(AssertionError("ran")))
    (tmp_path / "plan.yaml").write_text(plan)
    call(*arguments, run=run)
    call("run", str(tmp_path / "plan.yaml"), run=run)
    assert seen[0] == seen[1]


def test_run_takes_jobs_one_after_another_with_overrides(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("jobs: [{command: interpolate, images: [a, b]}, {command: invert, image: c}]")
    seen = []

    def run(job: ModelJob, track: Track, pool: ModelPool | None = None) -> Report:
        seen.append(job)
        return finished(job, track, pool)

    output = tmp_path / "out"
    (tmp_path / "model_index.json").write_text("{}")
    more = ["steps=3", "json=true", f"model={tmp_path}", f"output={output}"]
    code, out, _ = call("run", str(recipe), *more, run=run)
    assert (code, [job.steps for job in seen]) == (0, [3, 3])
    assert [job.output for job in seen] == [output / "1-interpolate", output / "2-invert/c"]
    assert json.loads(out)["items"][0]["name"] == "1-interpolate"


def test_run_repeats_the_settings_inside_a_picture(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    from PIL import Image

    from smoothtool.files.pictures.images import save_image
    from smoothtool.jobs import make_job

    job = make_job("interpolate", {"images": ["samples:fox", "samples:cat"], "frames": 4, "seed": 1})
    save_image(Image.new("RGB", (8, 8)), tmp_path / "x.png", settings=job.recipe(), parameters=None)
    _, plan, _ = call("run", str(tmp_path / "x.png"), "--dry-run")
    assert "frames: 4" in plan
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert call("run", str(tmp_path / "plain.png"))[0] == 5


def test_recipe_mistakes_exit_with_2_and_correct_ones_with_0(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("jobs: [{command: invert, image: a}]")
    assert call("recipe", "validate", str(recipe))[0] == 0
    assert call("recipe", "validate", str(recipe), "stps=1")[0] == 2
    assert "image: a" in call("recipe", "show", str(recipe))[1]
    assert json.loads(call("recipe", "schema")[1])["title"] == "smoothtool recipe"


def test_a_recipe_that_is_not_there_is_a_usage_error_with_its_name(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("run", "nope.yaml")
    assert (code, out) == (2, "")
    assert "nope.yaml: cannot be read: No such file" in err


def test_models_and_cache_and_version_answer_on_stdout(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path))
    assert "sd15" in call("models", "list")[1]
    assert "OpenRAIL" in call("models", "info", "sd15")[1]
    assert call("cache", "list")[:2] == (0, "")
    assert call("cache", "clear")[0] == 0
    assert call("--version")[1].startswith("smoothtool ")


def test_pulling_without_a_network_is_one_sentence(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("models", "pull", "no-such-owner/no-such-model")  # the hub is offline in tests
    assert (code, out) == (4, "")
    assert err.startswith("error: no-such-owner/no-such-model cannot be downloaded: ")
    assert call("models", "pull", "sd16")[0] == 2


def test_pulling_clip_brings_the_tokenizer_alone(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"vocab.json": 900_000, "merges.txt": 500_000, "model.safetensors": 1_700_000_000}
    files = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    found = SimpleNamespace(siblings=files, card_data=None, sha="abc")
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *arguments, **options: found)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: asked.append(options) or "/words")
    code, out, err = call("models", "pull", "openai/clip-vit-large-patch14")
    assert (code, out) == (0, "/words\n")
    assert asked[0]["allow_patterns"] == ["vocab.json", "merges.txt"]
    assert "0.0 GB" not in err
    assert "--model FILE.safetensors" in err


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "20", **environment},
    )


def test_no_help_and_no_validation_imports_torch() -> None:
    script = f"""
import sys
from smoothtool.cli.app import main
import smoothtool, smoothtool.weights.models
others = [["interpolate", "a", "b", "--dry-run"], ["recipe", "schema"], ["invert", "-n"]]
for arguments in {[[*path, "--help"] for path in ALL]} + others:
    try:
        main(arguments)
    except SystemExit as left:
        assert left.code == (2 if arguments[-1] == "-n" else 0), arguments
heavy = {{"torch", "diffusers", "transformers", "peft", "accelerate"}} & set(sys.modules)
assert not heavy, heavy
"""
    found = python(script)
    assert found.returncode == 0, found.stderr


def test_a_terminated_process_exits_with_143_and_cleans_up() -> None:
    script = """
import os, signal, sys
from types import SimpleNamespace
def run(job, track, pool=None):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        print("cleaned", file=sys.stderr)
sys.modules["smoothtool.commands.invert.run"] = SimpleNamespace(run=run)
from smoothtool.cli.app import main
main(["invert", "samples:fox"])
"""
    found = python(script)
    assert (found.returncode, found.stdout) == (143, "")
    assert "cleaned" in found.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m smoothtool recipe schema | head -c 1"
    found = subprocess.run(command, shell=True, cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (found.stdout, found.stderr) == ("{", "")


@pytest.mark.parametrize("width", [20, 100])
def test_bars_fit_the_terminal_and_show_every_stage(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=width, color_system=None))
    with console.Progress() as progress:
        assert list(progress(range(4), "inverting", 4)) == [0, 1, 2, 3]
        assert next(iter(progress(iter("ab"), "sampling", 2))) == "a"
    shown = screen.getvalue()
    assert "inverting" in shown
    assert "sampling" in shown


def test_a_dry_run_says_that_unnamed_results_go_where_the_user_says(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "settings.yaml")
    (tmp_path / "settings.yaml").write_text(f"output: {tmp_path / 'films'}\n")
    one = ["invert", "samples:fox", "--dry-run"]
    line = f"output {tmp_path / 'films'}: the default of {tmp_path / 'settings.yaml'}"
    assert line in call(*one)[2]
    assert line not in call(*one, "-o", "here")[2]
    assert line in call(*one, "samples:cat")[2]
    assert f"into {tmp_path / 'films'}" in call(*one, "samples:cat")[2]
    assert line not in call(*one, "samples:cat", "-o", "here")[2]


@pytest.mark.parametrize("place", ["日" * 100, "loop/x", "loop"])
@pytest.mark.parametrize(
    "words",
    [
        ("bench", "--dry-run", "drag"),
        ("bench", "--dry-run", "pie"),
        ("bench", "--dry-run", "morph"),
        ("eval", "recon", "."),
        ("recipe", "cp", "noise-walks"),
        ("lora", "convert", str(STICKERS_LORA)),
        ("models", "info"),
        ("lora", "info"),
    ],
    ids=" ".join,
)
def test_a_name_that_no_file_can_have_is_no_internal_error(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], place: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*words, place)
    assert code in (2, 4, 5, 7), err
    assert err.count("error: ") == 1


def test_a_place_for_results_that_no_user_has_is_named(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "settings.yaml")
    (tmp_path / "settings.yaml").write_text("output: ~nosuchuser/films\n")
    code, _, err = call("invert", "samples:fox", "samples:cat", "--steps", "1")
    assert (code, "~nosuchuser/films" in err, "this cannot be a folder" in err) == (2, True, True)


def test_a_folder_that_was_deleted_under_ones_feet_is_said(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = "error: the folder that you are in was deleted\ntry: cd to another one first\n"
    assert call("doctor") == (2, "", said)
    monkeypatch.setattr("os.getcwd", lambda: str(tmp_path))  # it is deleted when the work has begun
    code, _, err = call("invert", "samples:fox", run=failing(FileNotFoundError(2, "No such file or directory")))
    assert (code, said in err) == (2, True)


def test_the_page_needs_a_folder_that_can_be_written(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, err = call("ui", "--no-browser", "-o", str(tmp_path / "taken"))
    assert (code, "taken is a file, not a folder" in err) == (2, True)
