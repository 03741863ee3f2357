"""Prompt-to-Prompt: alignment by hand, and controls that do nothing when nothing changes."""

from __future__ import annotations

import pytest
import torch
from scene_toys import Scene

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.diffusion.tokens import PromptTokens, prompt_tokens
from smoothtool.methods.editing import prompt_to_prompt
from smoothtool.methods.editing.prompt_to_prompt import (
    BlendWords,
    Controls,
    blend_mask,
    cross_edit,
    prompt_to_prompt_steps,
)
from smoothtool.methods.editing.token_alignment import align, refinement_map, replacement_matrix

N, W = 6, 3.0
CAT = PromptTokens((90, 1, 2, 91, 91, 91), ("a", "cat"), ((1,), (2,)))
DOG = PromptTokens((90, 1, 3, 91, 91, 91), ("a", "dog"), ((1,), (2,)))
FOXTAIL = PromptTokens((90, 1, 4, 5, 91, 91), ("a", "foxtail"), ((1,), (2, 3)))
RED_CAT = PromptTokens((90, 1, 6, 2, 91, 91), ("a", "red", "cat"), ((1,), (2,), (3,)))


def edit(
    scene: Scene,
    source_text: str,
    target_text: str,
    weights: dict[tuple[int, ...], float] | None = None,
    blend: BlendWords | None = None,
    **ratios: float,
) -> torch.Tensor:
    tokens = [prompt_tokens(scene.model.tokenizer, text) for text in (source_text, target_text)]
    source, target = (scene.model.encode_prompts([text]) for text in (source_text, target_text))
    controls = Controls([cross_edit(*tokens, weights or {})], blends=[blend] if blend else [], **ratios)
    *_, last = prompt_to_prompt_steps(scene.model, scene.inversion, scene.path, source, target, scene.null, W, controls)
    return last.latents


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)


def test_words_own_their_tokens_and_nothing_else(model: DiffusionModel) -> None:
    tokens = prompt_tokens(model.tokenizer, "a red cat, fox")
    ids = model.tokenizer("a red cat, fox").input_ids
    assert tokens.ids[: len(ids)] == tuple(ids)
    assert tokens.words == ("a", "red", "cat,", "fox")
    assert [p for span in tokens.spans for p in span] == list(range(1, len(ids) - 1))
    assert tokens.end == len(ids) - 1


def test_words_are_found_whatever_case_and_punctuation(model: DiffusionModel) -> None:
    tokens = prompt_tokens(model.tokenizer, "a red cat, fox")
    assert tokens.positions("CAT")[0] == tokens.spans[2][0]
    assert tokens.positions("red cat") == tokens.spans[1] + tokens.spans[2]
    assert tokens.positions("dog") == ()


def test_a_prompt_over_the_limit_loses_its_last_words(model: DiffusionModel) -> None:
    tokens = prompt_tokens(model.tokenizer, " ".join(["cat"] * 30))
    assert tokens.words == ("cat",) * 14
    assert tokens.end == 15


def test_equal_token_counts_are_replaced_one_to_one() -> None:
    assert torch.equal(replacement_matrix(CAT, DOG), torch.eye(6))


def test_a_word_of_two_tokens_shares_the_attention_of_one() -> None:
    matrix = replacement_matrix(CAT, FOXTAIL)
    assert torch.equal(matrix[2], torch.tensor([0, 0, 0.5, 0.5, 0, 0]))
    assert matrix[3, 4] == matrix[4, 5] == 1


def test_a_word_of_one_token_takes_the_attention_of_two() -> None:
    matrix = replacement_matrix(FOXTAIL, CAT)
    assert torch.equal(matrix[:, 2], torch.tensor([0.0, 0, 1, 1, 0, 0]))


def test_alignment_finds_the_longest_common_subsequence() -> None:
    assert align([1, 2, 3, 4], [1, 9, 3, 4]) == [(0, 0), (2, 2), (3, 3)]
    assert align([1, 2], [7, 1, 8, 2]) == [(0, 1), (1, 3)]


def test_a_token_is_paired_with_the_first_of_several_equal_ones() -> None:
    assert align([5], [5, 5, 5]) == [(0, 0)]
    assert align([5, 5, 5], [5]) == [(0, 0)]
    assert align([9, 1, 1, 2], [9, 1, 3, 1, 1, 2]) == [(0, 0), (1, 1), (2, 3), (3, 5)]


@pytest.mark.parametrize("steps", [6, 50, 51])
def test_controls_last_for_the_programs_whole_numbers_of_steps(steps: int) -> None:
    controls = Controls([lambda a_src, a_tgt: a_src], cross_ratio=0.4)
    each = [prompt_to_prompt._Attend(controls, index, steps, 0.6, blend=None) for index in range(steps)]
    assert sum(bool(attend.edits) for attend in each) == 4 * (steps + 1) // 10
    assert sum(attend.inject for attend in each) == 6 * steps // 10


def test_an_added_word_is_new_and_the_rest_is_mapped() -> None:
    mapper, alpha = refinement_map(CAT, RED_CAT)
    assert alpha.tolist() == [1, 1, 0, 1, 1, 1]
    assert mapper.tolist()[:2] == [0, 1]
    assert mapper.tolist()[3:5] == [2, 3]


def test_refining_keeps_the_new_words_own_attention() -> None:
    a_src, a_tgt = torch.rand(2, 4, 6), torch.rand(2, 4, 6)
    result = cross_edit(CAT, RED_CAT, {})(a_src, a_tgt)
    assert torch.equal(result[..., 2], a_tgt[..., 2])
    assert torch.equal(result[..., 3], a_src[..., 2])


def test_reweighting_scales_the_chosen_columns_only() -> None:
    a_src, a_tgt = torch.rand(2, 4, 6), torch.rand(2, 4, 6)
    plain, scaled = (cross_edit(CAT, DOG, weights)(a_src, a_tgt) for weights in ({}, {(2,): 3.0}))
    assert torch.equal(scaled[..., 2], 3 * plain[..., 2])
    assert torch.equal(scaled[..., [0, 1, 3, 4, 5]], plain[..., [0, 1, 3, 4, 5]])


def test_equal_prompts_give_the_reconstruction(scene: Scene) -> None:
    close(edit(scene, "a red cat", "a red cat"), scene.inversion.reconstruction)


def test_without_controls_it_is_plain_sampling(scene: Scene) -> None:
    *_, plain = denoise(scene.model, scene.path[0], constant(scene.target), constant(scene.null), N, W)
    close(edit(scene, "a red cat", "a red dog", cross_ratio=0.0, self_ratio=0.0), plain.latents)


def test_cross_and_self_controls_each_change_the_result(scene: Scene) -> None:
    free = edit(scene, "a red cat", "a red dog", cross_ratio=0.0, self_ratio=0.0)
    cross = edit(scene, "a red cat", "a red dog", cross_ratio=1.0, self_ratio=0.0)
    inner = edit(scene, "a red cat", "a red dog", cross_ratio=0.0, self_ratio=1.0)
    for one, other in ((free, cross), (free, inner), (cross, inner)):
        assert float((one - other).abs().max()) > 1e-5


def test_blend_mask_is_the_union_of_both_prompts_grown_by_one_cell() -> None:
    maps = torch.full((2, 6, 6), 0.1)
    maps[0, 1, 1], maps[1, 4, 4] = 1.0, 5.0
    mask = blend_mask(maps, (12, 12))[0, 0]
    wanted = torch.zeros(12, 12, dtype=torch.bool)
    wanted[0:6, 0:6] = wanted[6:12, 6:12] = True
    assert torch.equal(mask, wanted)


def test_local_blend_puts_the_source_where_no_word_looks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    left = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    left[..., :8] = True
    monkeypatch.setattr(prompt_to_prompt, "blend_mask", lambda maps, size: left)
    blended = edit(scene, "a red cat", "a red dog", blend=((3,), (3,)))
    assert torch.equal(blended[..., 8:], scene.path[-1][..., 8:])
    assert not torch.equal(blended[..., :8], scene.path[-1][..., :8])


def test_three_rows_are_computed_a_step(scene: Scene) -> None:
    edit(scene, "a red cat", "a red dog")
    assert (scene.model.counter.calls, scene.model.counter.rows) == (N, 3 * N)
