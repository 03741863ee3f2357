"""`tables` as a whole on the tiny model, as small as it can be: what is written, what is resumed, what stays empty."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from toys import tiny_clip, tiny_model

from smoothtool.commands.istd import run as istd
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.tables import measurements as table_runs
from smoothtool.commands.tables import run as tables
from smoothtool.commands.tables.document import Cell, Ordering, Table, tables_html, tables_markdown
from smoothtool.commands.tables.figures import Figure, below, mean_figure
from smoothtool.diffusion.lora import add_trainable_lora, lora_file
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import BatchError, InputError, ModelError, UsageError
from smoothtool.files.storage.digests import Digests
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.jobs import IstdJob, TablesJob, make_job
from smoothtool.metrics.bootstrap import bootstrap_mean
from smoothtool.recipe.estimate import estimate_unet_calls
from smoothtool.recipe.reading import load_recipe
from smoothtool.types import Report, Track, silent

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all measurements
RECIPE = Path(__file__).parents[3] / "recipes" / "paper-tables.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a LoRA that changes it, a CLIP, two captioned pictures and a list of prompts."""
    place = tmp_path_factory.mktemp("tables")
    model = tiny_model(place / "tokenizer")
    save_model(model, place / "tiny", write_json_atomic)
    add_trainable_lora(model.unet, 2, adapter="smooth")
    for name, weight in model.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    write_tensors(place / "smooth.safetensors", *lora_file(model.unet, "smooth"))
    tiny_clip(place / "clip")
    (place / "data").mkdir()
    for index, caption in enumerate(("a cat", "a <b>dog</b>")):
        levels = np.random.default_rng(index).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(levels).save(place / "data" / f"{index}.png")
        (place / "data" / f"{index}.txt").write_text(caption)
    (place / "prompts.txt").write_text("a cat\na dog\n")
    return place


@pytest.fixture(scope="module")
def small(place: Path) -> Callable[..., Report]:
    def run(**settings: Any) -> Report:
        data = str(place / "data")
        base = {
            "model": str(place / "tiny"),
            "prompts": str(place / "prompts.txt"),
            "data": data,
            "train_data": data,
            "clip": str(place / "clip"),
            "steps": 4,
            "n": 2,
            "pictures": 2,
            "inverted": 1,
            "pairs": 1,
            "train_steps": 0,
            "train_batch_size": 1,
            "smooth": str(place / "smooth.safetensors"),
            "output": place / "out",
        }
        return tables.run(TablesJob(**{**base, **settings}), silent)

    return run


@pytest.fixture(scope="module")
def monkey() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def measured(small: Callable[..., Report], place: Path, monkey: pytest.MonkeyPatch) -> Report:
    monkey.setenv("SMOOTHTOOL_CACHE", str(place / "cache"))
    monkey.setattr(table_runs, "SEQUENCE_FRAMES", 3)  # four steps are enough for ANID's levels then
    return small()


def estimated(report: Report) -> int:
    return estimate_unet_calls([make_job("tables", report.job)])


def cells(report: Report) -> list[dict]:
    return [cell for table in report.figures["tables"] for _, row in table["rows"] for cell in row]


def test_every_table_is_measured_and_every_cell_leads_to_its_report(measured: Report) -> None:
    names = {path.name for path in measured.folder.iterdir()}
    assert names == {"tables.md", "tables.html", "walks.png", "report.json", "job.yaml", "runs"}
    titles = [table["title"].split(":")[0] for table in measured.figures["tables"]]
    assert titles == ["Table 1", "Table 2", "Table 3", "Table 4", "Interpolation"]
    for cell in cells(measured):
        assert (cell["value"] is None) == bool(cell["reason"])
        assert cell["value"] is None or (measured.folder / cell["report"]).exists()
    assert len(measured.figures["orderings"]) == 3 + 16 + 7 + 3


def test_the_estimate_is_near_the_calls_that_were_counted(measured: Report) -> None:
    assert estimated(measured) == pytest.approx(measured.unet_calls, rel=0.2)  # null-text ends when it is solved


def test_a_cell_is_the_figure_of_its_report(measured: Report) -> None:
    istd = measured.figures["tables"][0]["rows"][0][1][0]
    report = json.loads((measured.folder / istd["report"]).read_text())
    assert istd["value"] == pytest.approx(report["figures"]["istd"]["mean"])
    assert (istd["low"], istd["high"]) == (None, None)  # two prompts are too few
    assert istd["paper"] == 38.63


def test_a_cell_of_enough_items_has_the_interval_that_istd_gives() -> None:
    values = [1.0, 2.0, 2.5, 4.0, 1.5, 3.0]
    cell, interval = (
        mean_figure({str(at): value for at, value in enumerate(values)}, "x").cell(),
        bootstrap_mean(values),
    )
    assert (cell.value, cell.low, cell.high) == (interval.mean, interval.low, interval.high)


def test_the_page_links_every_figure_and_the_paper_stands_beside(measured: Report) -> None:
    page, text = ((measured.folder / f"tables.{kind}").read_text() for kind in ("html", "md"))
    filled = [cell["report"] for cell in cells(measured) if cell["value"] is not None]
    assert re.findall(r'href="([^"]*)"', page) == filled
    assert re.findall(r"\]\((runs[^)]*)\)", text) == filled
    assert '<td class="paper">38.63</td>' in page


def test_a_second_run_computes_nothing_again(
    measured: Report, small: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (measured.folder / "runs").rglob("report.json")}
    again = small()
    assert again.unet_calls == 0
    assert again.figures == measured.figures
    assert before == {path: path.stat().st_mtime_ns for path in (measured.folder / "runs").rglob("report.json")}


def test_without_training_its_cells_are_empty_and_say_so(measured: Report) -> None:
    for table in measured.figures["tables"][2:4]:
        for _, row in table["rows"]:
            assert all(cell["reason"] == "--train-steps is 0, so nothing was trained" for cell in row)
    verdicts = {o["verdict"] for o in measured.figures["orderings"] if o["claim"].startswith(("Table 3", "Table 4"))}
    assert verdicts == {"not measured"}
    others = [cell for table in measured.figures["tables"][:2] for _, row in table["rows"] for cell in row]
    assert all(cell["value"] is not None for cell in others)
    assert measured.figures["tables"][0]["rows"][0] != measured.figures["tables"][0]["rows"][1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_trained_models_are_measured_and_the_smooth_one_is_that_of_rank_8(
    measured: Report, small: Callable[..., Report]
) -> None:
    report = small(train_steps=1, smooth="default", **{"lambda": 10})
    assert estimated(report) - estimated(measured) <= report.unet_calls <= estimated(report)  # the base is known
    first, _, third, fourth, _ = report.figures["tables"]
    assert all(cell["value"] is not None for table in (third, fourth) for _, row in table["rows"] for cell in row)
    assert first["rows"][0] == measured.figures["tables"][0]["rows"][0]
    assert fourth["title"] == "Table 4: rank of the LoRA, lambda 10"
    assert [label for label, _ in third["rows"]] == ["lambda 1", "lambda 10", "lambda 100"]
    assert [row[0]["paper"] for _, row in third["rows"]] == [24.23, 16.54, 11.51]
    assert third["rows"][1][1][0]["report"] == first["rows"][1][1][0]["report"]
    assert fourth["rows"][1][1][0]["report"] == third["rows"][1][1][0]["report"]
    assert len({row[0]["value"] for _, row in fourth["rows"]}) == 4  # at the first step of Adam lambda plays no part


def test_a_folder_with_other_files_is_left_alone(small: Callable[..., Report], tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty"):
        small(output=tmp_path)


def test_a_smooth_lora_that_is_not_there_is_named_before_anything_is_measured(
    small: Callable[..., Report], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors: there is no such LoRA"):
        small(output=tmp_path / "out", smooth="none.safetensors:0.5")
    assert not (tmp_path / "out").exists()


def test_a_prompt_list_that_is_not_there_is_named_before_anything_is_measured(
    small: Callable[..., Report], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"prompts\.json: there is no such file"):
        small(output=tmp_path / "out", prompts=str(tmp_path / "prompts.json"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lower", "higher", "verdict"),
    [
        ([1.0, 2.0, 3.0], [1.5, 2.6, 3.7], "holds"),
        ([1.5, 2.6, 3.7], [1.0, 2.0, 3.0], "does not hold"),
        ([1.0, 2.0, 3.0], [1.5, 1.0, 3.1], "undecided"),
    ],
)
def test_an_ordering_is_decided_by_the_paired_interval(lower: list[float], higher: list[float], verdict: str) -> None:
    figures = [mean_figure({str(at): value for at, value in enumerate(2 * row)}, "x") for row in (lower, higher)]
    assert below("a", *figures).verdict == verdict


def test_a_few_items_decide_nothing_for_sure() -> None:
    lower, higher = (mean_figure({str(at): float(at + rise) for at in range(5)}, "x") for rise in (0, 1))
    ordering = below("a", lower, higher)
    assert ordering.verdict == "holds, without interval"
    assert "5 items are too few" in ordering.evidence


def test_an_ordering_of_figures_that_are_no_means_is_decided_by_the_parts_left_out() -> None:
    lower = Figure(1.0, left_out=tuple(1 + 0.01 * (part % 4) for part in range(20)))
    near, far = (
        Figure(value, left_out=tuple(value + 0.01 * (part % 5) for part in range(20))) for value in (1.02, 3.0)
    )
    assert lower.cell().low == pytest.approx(2 - lower.cell().high)
    assert below("a", lower, near).verdict == "undecided"
    assert below("a", lower, far).verdict == "holds"
    assert below("a", far, lower).verdict == "does not hold"
    assert below("a", lower, Figure(3.0)).verdict == "holds, without interval"


def test_one_item_has_no_interval_and_decides_nothing_for_sure() -> None:
    one, two = mean_figure({"a": 1.0}, "x"), mean_figure({"a": 2.0}, "x")
    assert one.cell().interval == ""
    assert below("a", one, two).verdict == "holds, without interval"


def test_the_papers_column_keeps_its_own_name_beside_a_stand_in(measured: Report) -> None:
    for table in measured.figures["tables"]:
        if "FID" in table["paper_columns"] and "FID" not in table["columns"]:
            assert any(column.startswith("Frechet distance in the CLIP") for column in table["columns"])
    assert "FID, paper" in (measured.folder / "tables.md").read_text()


def test_an_ordering_without_interval_or_figure_says_so() -> None:
    assert below("a", Figure(1.0), Figure(2.0)).verdict == "holds, without interval"
    assert below("a", Figure(2.0), Figure(1.0)).verdict == "does not hold, without interval"
    assert below("a", Figure(reason="no CLIP"), Figure(1.0)) == Ordering("a", "not measured", "no CLIP")


def test_a_mean_that_lacks_an_item_is_no_figure() -> None:
    assert mean_figure({"a.png": 1.0, "b.png": None}, "x").reason == "b.png has none"


def test_markup_is_escaped_in_the_page_and_empty_cells_give_their_reason() -> None:
    rows = (("<row>", (Cell(reason="<why>"),)), ("two", (Cell(0.5, 0.25, 0.75, "r"),)))
    table = Table("<T>", "n", ("A|B",), ("A",), rows)
    page, text = (make("x", "y", [table], [Ordering("c", "holds", "e")]) for make in (tables_html, tables_markdown))
    assert "<T>" not in page
    assert "not measured, because &lt;why&gt;: A|B of &lt;row&gt;" in page
    assert '<a href="r">0.5</a><small>0.25 to 0.75</small>' in page
    assert "- not measured, because <why>: A|B of <row>" in text
    assert "[0.5](r) (0.25 to 0.75)" in text


def test_the_recipe_is_one_job_of_this_command() -> None:
    plan = load_recipe(RECIPE, ["output=x", "steps=3"])
    (item,) = plan.items
    assert plan.folder is None
    assert isinstance(item.job, TablesJob)
    assert (item.job.model, item.job.steps) == ("stickers", 3)


def test_a_measurement_that_fails_empties_its_cells_and_is_told_at_the_end(
    measured: Report, small: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: IstdJob, track: Track, pool: ModelPool | None = None) -> NoReturn:
        raise InputError("no walk")

    monkeypatch.setattr(istd, "run", broken)
    with pytest.raises(BatchError, match="no walk"):
        small(n=1)
    assert "no walk" in (measured.folder / "tables.md").read_text()


def test_what_lies_behind_a_name_is_part_of_a_measurements_name(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    settings = {"lora": ["none"], "prompts": str(tmp_path / "prompts.txt"), "model": "stickers"}
    state = table_runs.TablesRun(TablesJob(), tmp_path, None, None, silent, silent, None)
    before = state.behind(settings)
    (tmp_path / "prompts.txt").write_text("a dog\n")
    state.digests = Digests()
    assert len(before) == 1
    assert state.behind(settings) != before
