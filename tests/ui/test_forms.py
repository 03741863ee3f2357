from __future__ import annotations

import pytest

from smoothtool.jobs import JOBS, make_job
from smoothtool.jobs.options import MODEL, OUTPUT, flag_of, key_of
from smoothtool.recipe.command_line import command_line
from smoothtool.ui.forms import COMMANDS, KEPT_BACK, accepted_keys, form_of


@pytest.mark.parametrize("command", COMMANDS)
def test_a_form_has_every_option_of_its_job_but_model_output_and_files(command: str) -> None:
    fields = JOBS[command].model_fields.items()
    wanted = {key_of(name, f) for name, f in fields if flag_of(f).panel not in (MODEL, OUTPUT)}
    assert accepted_keys(command) | {"image", "images", "mask"} >= wanted - set(KEPT_BACK) - {"clip"}
    assert not accepted_keys(command) & {"output", "model", "lora", "points", "bench", "clip"}


def test_fields_carry_the_jobs_own_words() -> None:
    fields = {field["key"]: field for field in form_of("edit")["fields"]}
    assert fields["method"]["kind"] == "choice"
    assert "switch" in fields["method"]["choices"]
    assert fields["strength"]["help"] == JOBS["edit"].model_fields["strength"].description
    assert fields["steps"]["wants"] == "a whole number from 1 to 999"


def test_a_command_line_makes_the_same_job_again() -> None:
    job = make_job("edit", {"image": "my fox.png", "src": "a fox", "trg": ["a cat's hat"], "ratio": "0.6,0.8"})
    line = command_line(job)
    assert line == "smoothtool edit 'my fox.png' --src 'a fox' --trg 'a cat'\"'\"'s hat' --ratio 0.6 --ratio 0.8"


def test_a_command_line_names_switches_and_pictures_alone() -> None:
    job = make_job("interpolate", {"images": ["samples:fox", "samples:cat"], "loop": True})
    assert command_line(job) == "smoothtool interpolate samples:fox samples:cat --loop"
