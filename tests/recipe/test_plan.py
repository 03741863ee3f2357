"""Names of items: never two the same, never outside the folder; plans from recipes and flags; the estimate."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from smoothtool.cli.shards import shard_from_environment
from smoothtool.errors import UsageError
from smoothtool.files.lists.inputs import Picture
from smoothtool.jobs import make_job
from smoothtool.recipe.estimate import estimate_unet_calls
from smoothtool.recipe.plan import Plan, draft_of, facts_of, plan_batch, plan_flags, render, unique_names
from smoothtool.recipe.reading import load_recipe, plan_recipe
from smoothtool.recipe.writing import dump_plan
from smoothtool.yaml12 import read_yaml


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("in/a/x.png", "in/b/x.png", "in/b/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(text: str, *overrides: str) -> Plan:
    return plan_recipe(read_yaml(text, "r.yaml"), overrides)


def names(text: str, *overrides: str) -> list[str]:
    return [item.name for item in planned(text, *overrides).items]


def told(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        planned(text, *overrides)
    return caught.value.what.splitlines()


def test_sub_folders_are_kept_and_kinds_tell_equal_stems_apart() -> None:
    assert names("jobs: [{command: invert, image: in}]") == ["a/x", "b/x-jpg", "b/x-png"]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ([("x", "png"), ("x", "jpg")], ["x-png", "x-jpg"]),
        ([("x", "png"), ("X", "png")], ["x-png", "X-png-2"]),
        ([("a", "png"), ("a/x", "png")], ["a-png", "a/x"]),
        ([("x", "png"), ("x", "jpg"), ("x-png", "gif")], ["x-png-2", "x-jpg", "x-png"]),
        ([("x", ""), ("x", "")], ["x-1", "x-1-2"]),
    ],
)
def test_names_never_collide(wanted: list[tuple[str, str]], given: list[str]) -> None:
    assert unique_names(wanted) == given


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("a/b.png", "a/b"),
        (".hidden/..png", "hidden/-"),
        ("a:b/x\n<y>.png", "a-b/x-y-"),
        ("ä" * 300 + ".png", "ä" * 60),
        ("con . .png", "con"),
        ("{trg}.png", "-trg-"),
        ("\udce4.png", "-"),
        ("batch.json.png", "batch.json-"),
        ("Index.HTML/x.png", "Index.HTML-/x"),
        ("items-1.jsonl.png", "items-1.jsonl-"),
        ("a/items.jsonl.png", "a/items.jsonl"),
    ],
)
def test_hostile_names_become_plain_ones(place: str, name: str) -> None:
    job = make_job("invert", {"image": "x"})
    assert render("{dir}/{stem}", facts_of(job, Picture("x", PurePosixPath(place)))) == name


@pytest.mark.parametrize("template", ["/abs", "../x", "a/../../x", "~/x", "C:x", "\\\\server\\x", "{dir}/../x"])
def test_a_template_that_leaves_the_output_folder_is_refused_with_its_place(template: str) -> None:
    (line,) = told(f"jobs: [{{command: invert, image: in, output: '{template}'}}]")
    assert line.startswith("r.yaml:1:37 jobs[0].output: is ")
    assert line.endswith("which leaves the output folder")
    (single,) = told(f"jobs: [{{command: invert, image: in/a/x.png, output: '{template}'}}]")
    assert single.endswith("which leaves the output folder")


def test_values_in_a_template_cannot_leave_the_folder_either() -> None:
    text = "jobs: [{command: invert, image: in/a, matrix: {src: [../../x, /etc, '..']}, output: '{src}'}]"
    assert names(text) == ["x", "etc", "none"]


def test_a_mistyped_placeholder_is_told() -> None:
    (line,) = told("jobs: [{command: invert, image: in/a/x.png, output: '{stm}'}]")
    assert "{stm}, which means nothing here (did you mean {stem})" in line


def test_a_matrix_names_its_items_by_what_it_varies() -> None:
    text = "jobs: [{command: edit, image: in/a/x.png, trg: t, matrix: {ratio: [0.6, 0.8], steps: [5]}}]"
    assert names(text) == ["x-ratio-0.6", "x-ratio-0.8"]
    assert names(text[:-2] + ", output: '{stem}-r{r}'}]") == ["x-r0.6", "x-r0.8"]


def test_captions_fill_in_src_and_mistakes_in_tables_carry_their_line(tree: Path) -> None:
    (tree / "t.csv").write_text("file_name,text,steps\nin/a/x.png,a fox,0\nin/b/x.png,a cat,7\n")
    text = "jobs: [{command: invert, captions: t.csv}]"
    assert told(text) == ["t.csv:2 steps: is 0, not a whole number from 1 to 999"]
    (tree / "t.csv").write_text("file_name,text,steps\nin/a/x.png,a fox,3\nin/b/x.png,a cat,7\n")
    jobs = [item.job.settings() for item in planned(text).items]
    assert [(job["src"], job["steps"]) for job in jobs] == [("a fox", 3), ("a cat", 7)]
    assert [item.name for item in planned(text).items] == ["a/x", "b/x"]


def test_captions_of_a_walk_are_one_per_picture(tree: Path) -> None:
    (tree / "in/a/x.txt").write_text("a fox")
    (item,) = planned("jobs: [{command: interpolate, images: in, captions: sidecars}]").items
    assert item.job.settings()["src"] == ["a fox", "", ""]


def test_an_empty_folder_is_one_of_all_the_mistakes(tree: Path) -> None:
    (tree / "empty").mkdir()
    assert told("jobs: [{command: invert, image: empty, stps: 3}, {command: invert, image: x, captions: no.csv}]") == [
        "r.yaml:1:26 jobs[0].image: empty: there is no picture",
        "r.yaml:1:40 jobs[0].stps: is not an option (did you mean steps)",
        "r.yaml:1:78 jobs[1].captions: no.csv: there is no such file",
    ]


def test_output_on_the_command_line_is_the_folder_of_the_batch_or_of_the_only_job() -> None:
    batch = planned("output: there\njobs: [{command: invert, image: in}]", "output=/elsewhere")
    assert batch.folder == Path("/elsewhere")
    alone = planned("jobs: [{command: invert, image: in/a/x.png}]", "output=/elsewhere")
    assert (alone.folder, alone.items[0].job.output) == (None, Path("/elsewhere"))


@pytest.mark.parametrize("name", ["010", "1e3", "true", "[a]", "a: b", "2024-01-01"])
def test_a_folder_on_the_command_line_is_called_as_it_is_written(tree: Path, name: str) -> None:
    assert planned("jobs: [{command: invert, image: in}]", f"output={name}").folder == Path(name)
    assert told("jobs: [{command: invert, image: in}]", "output=") == ["output=: is not a folder"]


def test_a_key_without_a_value_is_empty(tree: Path) -> None:
    (mistake,) = told("jobs: [{command: invert, image: in}]", "steps=")
    assert mistake.startswith("steps=: is empty, not a whole number")


def test_the_default_folder_is_the_same_for_the_same_words_and_another_for_others() -> None:
    text = "jobs: [{command: invert, image: in}]"
    assert planned(text).folder == planned(text).folder != planned(text, "steps=3").folder


def test_a_dumped_batch_reads_back_to_the_same_plan() -> None:
    plan = planned("output: out\njobs: [{command: invert, image: in}, {command: interpolate, prompt: p}]")
    again = planned(dump_plan(plan))
    assert (again.items, again.folder) == (plan.items, plan.folder)


def test_a_dumped_plan_says_how_many_go_together_although_no_result_is_known_by_it() -> None:
    several = plan_flags("invert", {"image": ["in"], "batch_size": 8})
    assert planned(dump_plan(several)).items == several.items
    assert [item.job.batch_size for item in several.items] == [8, 8, 8]
    assert several.items[0].job.settings() == plan_flags("invert", {"image": ["in"]}).items[0].job.settings()
    assert "force" not in dump_plan(several)


def test_several_seeds_make_a_result_each() -> None:
    walks = plan_flags("interpolate", {"prompt": "a fox", "seed": ["7,8", "3x"]})
    assert [item.job.settings()["seed"] for item in walks.items] == [7, 8, 0, 1, 2]
    assert [item.name for item in walks.items][:2] == ["interpolate-seed-7", "interpolate-seed-8"]
    edits = plan_flags("edit", {"image": ["in"], "trg": ["a cat"], "seed": ["1", "2"]})
    assert [item.name for item in edits.items][:2] == ["a/x-seed-1", "a/x-seed-2"]
    assert (
        plan_flags("interpolate", {"prompt": "a fox", "seed": ["3x"]}).folder
        == plan_flags("interpolate", {"prompt": "a fox", "seed": ["0", "1,2"]}).folder
    )
    assert plan_flags("interpolate", {"prompt": "a fox", "seed": ["7"]}).folder is None


@pytest.mark.parametrize(("seeds", "words"), [(["1", "1"], "twice"), (["1,many"], "--seed is many"), ([""], "--seed")])
def test_seeds_that_cannot_be_meant_are_told(seeds: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_flags("interpolate", {"prompt": "a fox", "seed": seeds})


def test_flags_plan_like_recipes() -> None:
    assert [item.name for item in plan_flags("invert", {"image": ["in"]}).items] == ["a/x", "b/x-jpg", "b/x-png"]
    (walk,) = plan_flags("interpolate", {"images": ["in"]}).items
    assert walk.job.settings()["images"] == ["in/a/x.png", "in/b/x.jpg", "in/b/x.png"]


SWITCH = {"image": "x", "trg": "t", "method": "switch", "inversion": "ddim", "steps": 10}


@pytest.mark.parametrize(
    ("command", "settings", "calls"),
    [
        ("invert", {"image": "x", "inversion": "ddim", "steps": 10}, 30),
        ("invert", {"image": "x", "inversion": "edict", "steps": 10}, 40),
        (
            "edit",
            {"image": "x", "trg": "t", "method": "switch", "inversion": "ddim", "steps": 10, "ratio": "0.4,1"},
            20 + 14,
        ),
        ("edit", {"image": "x", "trg": "t", "method": "sdedit", "steps": 10, "strength": 0.5}, 5),
        ("edit", {"image": "x", "trg": "t", "method": "cycle", "steps": 10, "strength": 0.5}, 5),
        ("edit", {"image": "x", "trg": "t", "method": "flowedit", "steps": 10, "strength": 0.5}, 5),
        ("invert", {"image": "x", "inversion": "dci", "steps": 10, "fixed_point_solver": "adamw"}, 250),
        ("invert", {"image": "x", "compare": True, "steps": 10}, 10 * (13 + 2 + 2 + 2 + 1 + 5 + 4 + 4 + 4 + 2 + 1)),
        ("interpolate", {"prompt": "x", "steps": 10}, 10 + 10),
        ("interpolate", {"images": ["x", "y", "z"], "inversion": "ddim", "steps": 10, "loop": True}, 20 + 3 * 10),
        ("interpolate", {"images": ["x", "y"], "method": "vae", "steps": 10}, 0),
        ("interpolate", {"images": ["x", "y"], "method": "freemorph", "steps": 10}, 8 * 7),
        ("interpolate", {"images": ["x", "y"], "method": "diffmorpher", "steps": 10, "reschedule": True}, 400 + 40),
        ("interpolate", {"images": ["x"] * 4, "grid": True, "inversion": "ddim", "steps": 10}, 20 + 10),
        ("interpolate", {"images": ["x"] * 4, "grid": True, "frames": 9, "inversion": "ddim", "steps": 10}, 20 + 40),
        ("interpolate", {"images": ["x", "y"], "compare": True, "inversion": "ddim", "steps": 10}, 45 + 56 + 430),
        ("tables", {"n": 2, "pictures": 32, "inverted": 1, "pairs": 2, "steps": 10, "train_steps": 0}, 60 + 320 + 610),
        ("eval", {"metric": "clip", "folders": ["x"]}, 0),
    ],
)
def test_the_estimate_counts_calls(command: str, settings: dict, calls: int) -> None:
    assert estimate_unet_calls([make_job(command, settings)]) == calls


def test_a_shared_inversion_is_counted_once() -> None:
    jobs = [make_job("edit", {**SWITCH, "ratio": ratio}) for ratio in (0, 1)]
    assert estimate_unet_calls(jobs) == 20 + 0 + 10


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, (1, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (1, 1)),  # a batch script that does not call srun
        ({"SLURM_ARRAY_TASK_ID": "11", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}, (2, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, (3, 3)),
        ({"JOB_COMPLETION_INDEX": "2"}, (1, 1)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, (1, 1)),
        ({"RANK": "x", "WORLD_SIZE": "4"}, (1, 1)),
    ],
)
def test_launchers_say_which_share_this_is(environment: dict[str, str], shard: tuple[int, int]) -> None:
    assert shard_from_environment(environment) == shard


def test_a_plan_says_once_what_all_its_jobs_share_and_is_read_back(tmp_path: Path) -> None:
    jobs = [make_job("invert", {"image": f"samples:{name}", "steps": 7, "seed": 3}) for name in ("fox", "cat")]
    jobs += [make_job("interpolate", {"images": ["samples:fox", "samples:cat"], "steps": 7})]
    plan = plan_batch([draft_of(job, None, f"{number}") for number, job in enumerate(jobs)], tmp_path / "out", "t", "")
    text = dump_plan(plan)
    assert text.count("steps: 7") == text.count("dtype: auto") == 1
    assert text.count("seed: 3") == 2  # the walk has none
    (tmp_path / "plan.yaml").write_text(text)
    assert load_recipe(tmp_path / "plan.yaml").items == plan.items
