"""Settings models: what is accepted, and how mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest

from smoothtool.errors import UsageError
from smoothtool.jobs import JOBS, InterpolateJob, fields_of, make_job, parse_lora, parse_size, try_job
from smoothtool.jobs.options import PANELS, flag_of, kind_of


def told(command: str, **settings: object) -> list[str]:
    with pytest.raises(UsageError) as caught:
        make_job(command, settings)
    return caught.value.what.splitlines()


def test_every_mistake_is_told_at_once_as_a_flag() -> None:
    lines = told("interpolate", images=["a"], frames=0, steps="x", guidance=float("nan"), promt="y", device="gpu")
    assert lines == [
        "--device is gpu, not auto, cpu, mps, cuda or cuda:N",
        "--steps is x, not a whole number from 1 to 999",
        "--guidance is nan, not a number from 0 to 100",
        "IMAGES hold one picture: give two or more, or none and a prompt",
        "--frames is 0, not a whole number from 1 to 1000",
        "promt is not an option (did you mean prompt)",
    ]


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"guidance": "inf"}, "--guidance"),
        ({"guidance": -1}, "--guidance"),
        ({"guidance": 101}, "--guidance"),
        ({"steps": 1001}, "--steps"),
        ({"steps": True}, "--steps"),
        ({"frames": 1.5}, "--frames"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed"),
        ({"inner_steps": -1}, "--inner-steps"),
        ({"fps": 0}, "--fps"),
        ({"fps": 1e-3}, "--fps"),
        ({"size": "512x"}, "--size"),
        ({"size": 8}, "--size"),
        ({"lora": ["x:nan"]}, "--lora"),
        ({"lora": [":1"]}, "--lora"),
        ({"lora": ["none", "x"]}, "--lora"),
        ({"inversion": "NTI"}, "--inversion"),
        ({"loop": 3}, "--loop"),
        ({"src": ["a", "b", "c"]}, "--src"),
        ({"prompt": "x"}, "--prompt"),
    ],
)
def test_each_impossible_setting_is_refused_alone(settings: dict[str, object], flag: str) -> None:
    lines = told("interpolate", images=["a", "b"], **settings)
    assert len(lines) == 1
    assert lines[0].startswith(flag + " ")


def test_a_walk_without_pictures_needs_a_prompt() -> None:
    assert told("interpolate") == [
        "--prompt is missing: give two or more pictures, or a prompt for a walk through noise"
    ]
    assert make_job("interpolate", {"prompt": "a fox"}).settings()["prompt"] == "a fox"


def test_one_value_is_a_list_and_a_number_is_text_where_text_is_wanted() -> None:
    job = make_job("interpolate", {"images": ["a", "b"], "src": "a fox", "size": 512, "steps": "7"})
    settings = job.settings()
    assert (settings["src"], settings["size"], settings["steps"]) == (["a fox"], "512", 7)


def test_settings_leave_out_how_the_result_is_delivered() -> None:
    settings = make_job("interpolate", {"images": ["a", "b"], "force": True, "json": True, "output": "x"}).settings()
    assert not settings.keys() & {"force", "json", "json_output", "output"}
    assert settings.keys() >= {"images", "frames", "model", "seed"}


def test_the_recipe_of_a_job_makes_the_same_job_again() -> None:
    job = make_job("interpolate", {"images": ["a", "b"], "src": ["x", "y"], "loop": True, "seed": 3})
    row = job.recipe()["jobs"][0]
    assert make_job(row.pop("command"), row) == job


def test_every_option_has_help_and_a_known_panel() -> None:
    fields = [field for model in JOBS.values() for field in model.model_fields.values()]
    assert all(field.description and flag_of(field).panel in PANELS for field in fields)


def test_no_two_options_of_a_command_share_a_short_flag() -> None:
    for model in JOBS.values():
        shorts = [flag_of(field).short for field in model.model_fields.values() if flag_of(field).short]
        assert len(set(shorts)) == len(shorts)


def test_each_command_is_registered_under_its_own_name() -> None:
    assert all(model.command == name for name, model in JOBS.items())
    assert JOBS["interpolate"] is InterpolateJob


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.pt", ("a.pt", 1.0)),
        ("a:0.5", ("a", 0.5)),
        ("C:\\x", ("C:\\x", 1.0)),
        ("a:b:-1", ("a:b", -1.0)),
        ("~/a:0.5", ("/home/me/a", 0.5)),
        ("~nosuchuser/a", ("~nosuchuser/a", 1.0)),
    ],
)
def test_a_lora_is_a_path_with_an_optional_scale(
    text: str, parts: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_lora(text) == parts


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("x.safetensors:0,8", "x.safetensors:0.8"),
        ("x:,5", "x:.5"),
        ("<lora:style:0.7>", "style.safetensors:0.7"),
        ("<lora:style>", "style.safetensors:0.8"),
    ],
)
def test_another_notation_of_a_lora_is_refused_with_ours(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match="is ") as refused:
        parse_lora(text)
    assert meant in str(refused.value)


def test_a_size_is_one_side_or_width_and_height() -> None:
    assert parse_size("512") == (512, None)
    assert parse_size("768x512") == (768, 512)


EDIT = {"image": "x.png", "src": "a red fox", "trg": ["a blue fox"]}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "p2p", "trg": ["a blue fox", "a cat"], "reweight": ["blue=2"]}, "no word of a cat"),
        ({"method": "p2p", "src": "a", "trg": ["a category"], "blend": ["cat"]}, "no word of a category / a"),
        ({"method": "switch", "src_sentence": ["a fox sits"]}, "for the method pix2pix-zero"),
        ({"method": "pix2pix-zero", "trg": ["a cat", "a dog"], "trg_sentence": ["a cat"]}, "stands for one target"),
        ({"method": "switch", "map_rows": "one"}, "for the method pix2pix-zero"),
        ({"proximal": "hard"}, "for the inversion proxnpi"),
        ({"compare": True, "trg": ["a cat", "a dog"]}, "one target"),
        ({"compare": True, "ratio": ["0.6", "0.8"]}, "one number"),
        ({"compare": True, "inversion": "ddim"}, "each on its own inversion"),
        ({"method": "switch", "strength": 0.5}, "for the method sdedit, cycle or flowedit, not for switch"),
        ({"method": "sdedit", "cross_steps": 0.2}, "for the method p2p, not for sdedit"),
        ({"steps": 1000}, "999"),
    ],
)
def test_an_edit_that_would_drop_a_wish_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_job("edit", {**EDIT, **settings})


def test_a_method_has_the_defaults_of_its_program_unless_told_otherwise() -> None:
    assert make_job("edit", EDIT).guidance == 7.5
    assert make_job("edit", {**EDIT, "method": "pix2pix-zero"}).guidance == 5
    assert make_job("edit", {**EDIT, "method": "pix2pix-zero", "guidance": 7.5}).guidance == 7.5


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "vae", "adain": True}, "--adain is for the method slerp or attention, not for vae"),
        ({"attention_span": "always"}, "--attention-span is for the method attention, not for slerp"),
    ],
)
def test_an_option_of_walks_from_noise_is_refused_elsewhere(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_job("interpolate", {"images": ["a.png", "b.png"], **settings})


def test_words_of_two_prompts_and_repeated_ratios_are_understood() -> None:
    job = make_job("edit", {**EDIT, "method": "p2p", "blend": ["Fox", "red"], "reweight": ["blue fox=2"]})
    assert job.blend == ["Fox", "red"]
    assert make_job("edit", {**EDIT, "ratio": ["0.8,0.6,0.8"]}).ratio == ["0.8", "0.6"]
    assert make_job("edit", {**EDIT, "compare": True, "blend": ["fox"]}).blend == ["fox"]


def test_names_that_are_no_utf8_are_pictures_but_no_prompts() -> None:
    job = make_job("edit", {"image": "caf\udce9.png", "trg": "a fox"})
    assert job.image == "caf\udce9.png"
    with pytest.raises(UsageError, match="--trg is not UTF-8"):
        make_job("edit", {"image": "cat.png", "trg": "caf\udce9"})
    with pytest.raises(UsageError, match="IMAGE is empty"):
        make_job("edit", {"image": "", "trg": "a fox"})


def test_a_metric_refuses_what_it_would_not_read() -> None:
    with pytest.raises(UsageError, match="--prompts is for the metric clip, not for recon"):
        make_job("eval", {"metric": "recon", "folders": ["a", "b"], "prompts": "p.txt"})
    with pytest.raises(UsageError, match="--features is for the metric fid, not for walk"):
        make_job("eval", {"metric": "walk", "folders": ["a"], "features": "clip"})


@pytest.mark.parametrize("key", ["point", "lora", "size", "mask", "src", "model", "device", "steps"])
def test_bytes_that_are_no_text_are_a_job_or_a_problem_with_its_key(key: str) -> None:
    job, problems = try_job(JOBS["drag"], {"image": "a\udcff.png", "point": ["1,1:2,2"], key: "\udcff"})
    assert (job is not None) == (key in ("lora", "mask"))  # files may be called so
    assert {problem.key for problem in problems} <= {key, "points"}


def test_every_count_has_an_end() -> None:
    counts = [(command, name, field) for command, model in JOBS.items() for name, field in fields_of(model)]
    endless = [
        (command, name)
        for command, name, field in counts
        if kind_of(field) is int and not any(hasattr(bound, end) for bound in field.metadata for end in ("le", "lt"))
    ]
    assert not endless
