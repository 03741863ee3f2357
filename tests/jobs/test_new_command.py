"""A new command is its job among `JOBS` and its `run`: command line, recipes and Python then know it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar

from PIL import Image
from pydantic import Field

from smoothtool.jobs import JOBS
from smoothtool.jobs.base import ReportJob
from smoothtool.jobs.options import Flag
from smoothtool.types import Report


class GreyJob(ReportJob):
    "Make a grey picture."

    command: ClassVar[str] = "grey"
    made: ClassVar[str] = "grey.png"
    name: Annotated[str, Flag(positional=True)] = Field(description="Of the picture")
    level: Annotated[int, Flag("-l")] = Field(9, ge=0, le=255, description="How light")


def run(job, track, pool=None):
    job.output.mkdir()
    Image.new("L", (4, 4), job.level).save(job.output / "grey.png")
    return Report(command="grey", folder=job.output, job=job.settings())


JOBS["grey"] = GreyJob
sys.modules["smoothtool.commands.grey.run"] = SimpleNamespace(run=run)
"""


def output_of(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_runs_it_and_shows_its_plan(tmp_path: Path) -> None:
    line = "from smoothtool.cli.app import main; main({arguments!r})"
    assert output_of(line.format(arguments=["grey", "a", "-l", "7", "-o", "out"]), tmp_path).strip() == "out"
    assert (tmp_path / "out" / "grey.png").is_file()
    shown = output_of(line.format(arguments=["grey", "a", "--dry-run"]), tmp_path)
    assert "command: grey" in shown
    assert "level: 9" in shown


def test_recipes_know_its_keys(tmp_path: Path) -> None:
    schema = json.loads(output_of("from smoothtool.cli.app import main; main(['recipe', 'schema'])", tmp_path))
    assert "grey" in json.dumps(schema)
    (tmp_path / "grey.yaml").write_text("jobs: [{command: grey, name: a, level: 300}]")
    wrong = "from smoothtool.recipe.reading import load_recipe\ntry: load_recipe(Path('grey.yaml'), [])\n"
    assert "level: is 300, not a whole number from 0 to 255" in output_of(
        wrong + "except Exception as error: print(error)", tmp_path
    )


def test_python_has_it_as_a_function(tmp_path: Path) -> None:
    program = "import smoothtool as st; frames, report = st.grey('a', level=3, output='out')\n"
    assert output_of(program + "print(frames[0].getpixel((0, 0)), report.command)", tmp_path) == "3 grey\n"
