"""`--method auto`: the kind of edit, the method for it, and why."""

from __future__ import annotations

import pytest

from smoothtool.errors import UsageError
from smoothtool.jobs import EDIT_INVERSIONS, EditJob, chosen, kind_of_edit, make_job
from smoothtool.jobs.edit_choice import ADD, ANY, ASKED, BACKGROUND, NO_SOURCE, REPLACE, STYLE, WINNERS, Winner
from smoothtool.recipe.defaults import with_defaults
from smoothtool.recipe.plan import plan_flags


def job(**settings: object) -> EditJob:
    made = make_job("edit", {"image": "x.png", "src": "a cake", "trg": "a pie", "method": "auto", **settings})
    assert isinstance(made, EditJob)
    return made


@pytest.mark.parametrize(
    ("src", "trg", "kind"),
    [
        ("a fox in snow", "a wolf in snow", REPLACE),
        ("a red car", "a blue car", REPLACE),
        ("a cat sitting on a sofa", "a dog sitting on a sofa", REPLACE),
        ("a cake", "a cake with strawberries", ADD),
        ("a fox on a white background", "a fox and an apple on a white background", ADD),
        ("a house with a tree on a hill", "a house with a tall tree on a hill", ADD),
        ("a 3d fox on a white background", "a flat fox on a white background", STYLE),
        ("a house", "a watercolour painting of a house", STYLE),
        ("a photo of a dog", "a sketch of a dog", STYLE),
        ("a fox on a white background", "a fox on a sky blue background", BACKGROUND),
        ("a house", "a house in snow", BACKGROUND),
        ("a cat on a sofa", "a cat on a wooden bench", BACKGROUND),
        ("a photo of a cat on a sofa", "a painting of a dog on a sofa", ANY),
        ("a cake with strawberries", "a cake", ANY),
        ("a cake", "a cake", ANY),
        ("", "a cake", NO_SOURCE),
    ],
)
def test_the_kind_of_edit_is_read_off_the_words_that_change(src: str, trg: str, kind: str) -> None:
    assert kind_of_edit(src, trg) == kind


def test_every_winner_is_a_method_with_an_inversion_that_it_takes() -> None:
    assert WINNERS.keys() <= ASKED.keys()
    assert {ANY, NO_SOURCE} <= WINNERS.keys()
    for winner in WINNERS.values():
        assert winner.inversion in (*EDIT_INVERSIONS[winner.method][0], "none")


def test_auto_becomes_the_measured_winner_and_says_why() -> None:
    picked, winner = chosen(job()), WINNERS.get(REPLACE, WINNERS[ANY])
    assert picked.method == winner.method
    assert "words are replaced" in picked.origins["method"]
    assert f"{winner.to_truth_db:g} dB" in picked.origins["method"]


def test_a_winners_settings_hold_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    best = Winner("switch", "npi", 15, 14.0, 20.0, {"guidance": "3", "ratio": "0.6"})
    monkeypatch.setitem(WINNERS, REPLACE, best)
    picked, asked = chosen(job()), chosen(job(guidance=5, inversion="nti"))
    assert (picked.method, picked.inversion, picked.guidance, picked.ratio) == ("switch", "npi", 3.0, ["0.6"])
    assert (asked.inversion, asked.guidance, asked.ratio) == ("nti", 5.0, ["0.6"])
    assert "guidance 3" in picked.origins["method"]


@pytest.mark.parametrize("settings", [{"image": "fox.safetensors"}, {"inversion": "ddim"}, {"inversion": "nti"}])
def test_an_inversion_of_the_source_prompt_is_used_and_not_made_anew_under_the_empty_one(
    settings: dict[str, str],
) -> None:
    assert WINNERS[REPLACE].method == "pnp"
    picked = chosen(job(**settings))
    assert picked.method == WINNERS[ANY].method
    assert "an inversion under --src is given" in picked.origins["method"]


def test_without_a_source_prompt_auto_takes_a_method_that_needs_none() -> None:
    assert chosen(job(src="")).method == WINNERS[NO_SOURCE].method


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"ratio": "0.6"}, "switch"),
        ({"source_guidance": 2}, "flowedit"),
        ({"blend": "cake"}, "p2p"),
        ({"inversion": "edict"}, "switch"),
        ({"inversion": "ddim", "cross_steps": 0.3}, "p2p"),
        ({"inversion": "belm", "ratio": "0.6"}, "switch"),
    ],
)
def test_options_that_only_some_methods_read_come_before_the_table(settings: dict[str, object], method: str) -> None:
    assert chosen(job(**settings)).method == method


def test_options_that_no_method_reads_together_are_refused_with_their_names() -> None:
    with pytest.raises(UsageError, match="--ratio and --blend together"):
        chosen(job(ratio="0.6", blend="cake"))


def test_targets_of_different_kinds_share_a_method_for_any_edit() -> None:
    assert ASKED[ANY] in chosen(job(trg=["a pie", "a cake with strawberries"])).origins["method"]


def test_a_job_that_names_its_method_is_left_alone() -> None:
    named = job(method="sdedit")
    assert chosen(named) is named


def test_a_comparison_has_nothing_to_choose() -> None:
    compared = job(compare=True)
    assert chosen(compared) is compared


def test_a_plan_holds_the_method_that_will_be_used() -> None:
    plan = plan_flags("edit", {"image": ["samples:fox"], "src": "a fox", "trg": "a cat", "method": "auto"})
    assert plan.items[0].job.settings()["method"] == WINNERS.get(REPLACE, WINNERS[ANY]).method


def test_a_choice_is_made_once() -> None:
    once = with_defaults(job())
    assert with_defaults(once).origins == once.origins
