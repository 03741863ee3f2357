"""DiffMorpher and the LoRAs that differ by row: every row as if it were alone under its own LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from smoothtool.diffusion.lora import add_trainable_lora, lora_file, lora_state, remove_lora, set_lora_state
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.row_loras import mix_loras, read_state, row_loras
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import MemoryExhaustedError
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.methods.interpolation.diffmorpher import (
    diffmorpher_steps,
    keys_between_ends,
    learnt_inversion_steps,
    learnt_sampling_steps,
)
from smoothtool.methods.interpolation.rescheduling import adain
from smoothtool.methods.interpolation.slerp import slerp
from smoothtool.methods.inversion.ddim import ddim_inversion_steps

LoraStates = list[dict[str, torch.Tensor]]

PROMPTS = ["a cat", "a dog"]


def noise(count: int) -> torch.Tensor:
    return torch.randn((count, 4, 16, 16), generator=torch.Generator().manual_seed(0))


def put(model: DiffusionModel, state: dict[str, torch.Tensor]) -> None:
    add_trainable_lora(model.unet, 2, adapter="own")
    set_lora_state(model.unet, state, "own")


@pytest.fixture
def loras(model: DiffusionModel) -> LoraStates:
    """Two LoRAs that change much, and nothing on the model."""
    add_trainable_lora(model.unet, 2, adapter="own")
    zeros = lora_state(model.unet, "own")
    remove_lora(model, "own")
    generator = torch.Generator().manual_seed(7)
    return [
        {key: 0.5 * torch.randn(value.shape, generator=generator) for key, value in zeros.items()} for _ in range(2)
    ]


def lerped(loras: LoraStates, ratio: float) -> dict[str, torch.Tensor]:
    return {key: torch.lerp(loras[0][key], loras[1][key], ratio) for key in loras[0]}


@torch.no_grad()
def predict(model: DiffusionModel, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return model.predict_noise(latents, 501, model.encode_prompts(prompts))


def test_every_row_is_computed_under_its_own_mixture_of_loras(model: DiffusionModel, loras: LoraStates) -> None:
    latents, prompts = noise(3), ["a cat", "a cake", "a dog"]
    plain = predict(model, latents, prompts)
    with row_loras(model.unet, mix_loras(loras, torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.0, 1.0]]))):
        together = predict(model, latents, prompts)
    assert torch.equal(predict(model, latents, prompts), plain)
    for row, ratio in enumerate([0.0, 0.3, 1.0]):
        put(model, lerped(loras, ratio))
        assert_close(together[[row]], predict(model, latents[[row]], prompts[row : row + 1]), rtol=1e-4, atol=1e-5)
        remove_lora(model, "own")
        assert (together[row] - plain[row]).abs().max() > 1e-3


def test_row_loras_stack_on_a_lora_that_the_model_has(model: DiffusionModel, loras: LoraStates) -> None:
    put(model, loras[0])
    base = predict(model, noise(1), ["a cat"])
    remove_lora(model, "own")
    with row_loras(model.unet, mix_loras(loras, torch.tensor([[1.0, 0.0]]))):
        assert_close(predict(model, noise(1), ["a cat"]), base, rtol=1e-4, atol=1e-5)
    put(model, loras[0])
    with row_loras(model.unet, mix_loras(loras, torch.tensor([[-1.0, 0.0]]))):  # (-B)(-A) adds it again
        assert (predict(model, noise(1), ["a cat"]) - base).abs().max() > 1e-3


def test_a_call_of_other_rows_is_refused(model: DiffusionModel, loras: LoraStates) -> None:
    with row_loras(model.unet, mix_loras(loras, torch.eye(2))), pytest.raises(MemoryExhaustedError, match="needs 2"):
        predict(model, noise(1), ["a cat"])
    predict(model, noise(1), ["a cat"])


def test_the_ends_keep_their_own_keys_and_the_frames_between_take_the_ends(model: DiffusionModel) -> None:
    latents, prompts = noise(3), ["a cat", "a cake", "a dog"]
    plain = predict(model, latents, prompts)
    with keys_between_ends(model.unet, torch.tensor([0.0, 0.5, 1.0])):
        between = predict(model, latents, prompts)
    assert_close(between[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-5)
    assert (between[1] - plain[1]).abs().max() > 1e-3
    assert torch.equal(predict(model, latents, prompts), plain)


def test_a_frame_looks_through_keys_and_values_of_the_ends_mixed_hidden_states(model: DiffusionModel) -> None:
    model.unet.double()
    attention = model.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    attention.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with keys_between_ends(model.unet, torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)):
        predict(model, noise(3), ["a cat", "a cake", "a dog"])
    [(hidden, output)] = seen

    def heads(projected: torch.Tensor) -> torch.Tensor:
        """[L, C] -> [heads, L, d]."""
        return projected.unflatten(-1, (attention.heads, -1)).transpose(0, 1)

    mixed = 0.7 * hidden[0] + 0.3 * hidden[2]
    query, key, value = heads(attention.to_q(hidden[1])), heads(attention.to_k(mixed)), heads(attention.to_v(mixed))
    attended = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value
    assert_close(output[1], attention.to_out[0](attended.transpose(0, 1).flatten(1)), rtol=1e-10, atol=1e-10)


def test_only_the_decoders_self_attention_takes_the_ends_keys(model: DiffusionModel) -> None:
    with keys_between_ends(model.unet, torch.tensor([0.0, 0.3, 1.0])):
        hooked = {name for name, module in model.unet.named_modules() if module._forward_pre_hooks}
    attentions = {name.removesuffix(".processor") for name in model.unet.attn_processors}
    assert hooked == {name for name in attentions if name.startswith("up_blocks") and name.endswith("attn1")}


def test_each_picture_is_inverted_and_sampled_under_its_own_lora(model: DiffusionModel, loras: LoraStates) -> None:
    pictures, text = noise(2), model.encode_prompts(PROMPTS)
    *_, both = learnt_inversion_steps(model, pictures, text, loras, 3)
    *_, back = learnt_sampling_steps(model, both.latents, text, loras, 3)
    for row in range(2):
        put(model, loras[row])
        *_, alone = ddim_inversion_steps(model, pictures[[row]], text[[row]], 3)
        *_, given = denoise(model, alone.latents, constant(text[[row]]), constant(text[[row]]), 3, 1.0)
        remove_lora(model, "own")
        assert_close(both.latents[[row]], alone.latents, rtol=1e-4, atol=1e-4)
        assert_close(back.latents[[row]], given.latents, rtol=1e-4, atol=1e-4)


def test_a_frame_without_the_ends_keys_is_sampled_alone_under_the_lerped_lora(
    model: DiffusionModel, loras: LoraStates
) -> None:
    ends, text, ratio = noise(2), model.encode_prompts(PROMPTS), 0.3
    *_, frames = diffmorpher_steps(model, ends, text, loras, [0.1, ratio], 3, shared_to=0.0)
    put(model, lerped(loras, ratio))
    start = adain(slerp(ends[0], ends[1], ratio)[None], ends[0], ends[1], [ratio])
    own = constant(text.map(lambda part: torch.lerp(part[:1], part[1:], ratio)))
    *_, alone = denoise(model, start, own, own, 3, 1.0)
    assert_close(frames.latents[[1]], alone.latents, rtol=1e-3, atol=1e-3)


def test_guidance_treats_the_null_half_like_the_text_half(model: DiffusionModel, loras: LoraStates) -> None:
    text = model.encode_prompts(["a cat", "a cat"])
    *_, plain = diffmorpher_steps(model, noise(2), text, loras, [0.3, 0.6], 3)
    *_, guided = diffmorpher_steps(model, noise(2), text, loras, [0.3, 0.6], 3, null=text[:1], guidance_scale=4.0)
    assert_close(guided.latents, plain.latents, rtol=1e-3, atol=1e-3)
    *_, end = learnt_sampling_steps(model, noise(2), text, loras, 3)
    *_, guided_end = learnt_sampling_steps(model, noise(2), text, loras, 3, null=text[:1], guidance_scale=4.0)
    assert_close(guided_end.latents, end.latents, rtol=1e-3, atol=1e-3)


def test_a_lora_file_is_read_as_the_state_that_was_written(
    model: DiffusionModel, loras: LoraStates, tmp_path: Path
) -> None:
    put(model, loras[0])
    write_tensors(tmp_path / "own.safetensors", *lora_file(model.unet, "own"))
    remove_lora(model, "own")
    read = read_state(model.lora_parts, tmp_path / "own.safetensors")
    assert read.keys() == loras[0].keys()
    assert all(torch.equal(read[key], loras[0][key]) for key in read)


def test_the_ends_keys_are_used_in_the_first_part_of_the_steps(
    model: DiffusionModel, loras: LoraStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, predict_noise = [], model.predict_noise
    attention = model.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1

    def spy(*arguments: Any) -> torch.Tensor:
        hooked.append(bool(attention._forward_pre_hooks))
        return predict_noise(*arguments)

    monkeypatch.setattr(model, "predict_noise", spy)
    text = model.encode_prompts(PROMPTS)
    for _ in diffmorpher_steps(model, noise(2), text, loras, [0.5], 5):
        assert not attention._forward_pre_hooks
    assert hooked == [True] * 3 + [False] * 2


def test_more_frames_than_fit_one_call_are_the_same_frames(
    model: DiffusionModel, loras: LoraStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (model, noise(2), model.encode_prompts(PROMPTS), loras, [0.2, 0.4, 0.6, 0.8], 2)
    *_, whole = diffmorpher_steps(*arguments)
    monkeypatch.setattr(model, "max_batch", 5)
    *_, chunked = diffmorpher_steps(*arguments)
    assert_close(chunked.latents, whole.latents, rtol=1e-4, atol=1e-4)


def test_a_morph_run_backwards_gives_the_frames_in_reverse(model: DiffusionModel, loras: LoraStates) -> None:
    text = model.encode_prompts(PROMPTS)
    *_, forth = diffmorpher_steps(model, noise(2), text, loras, [0.2, 0.6], 3)
    *_, back = diffmorpher_steps(model, noise(2).flip(0), text[[1, 0]], loras[::-1], [0.4, 0.8], 3)
    assert_close(forth.latents, back.latents.flip(0), rtol=1e-3, atol=1e-3)
