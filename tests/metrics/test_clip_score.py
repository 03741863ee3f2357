"""CLIP score and patch distance on a tiny random CLIP, against transformers' own processor and logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import tiny_clip

from smoothtool.errors import InputError, ModelError
from smoothtool.metrics.clip_score import Clip, load_clip

PROMPTS = ["a cat", "a dog with a cake", "a red fox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("stickers") / "clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(folder)


def pixels(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_score_is_a_hundred_times_the_cosine_behind_clips_own_logits(clip: Clip) -> None:
    tokens = clip.tokenizer(PROMPTS, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(pixel_values=pixels(), **tokens)
    cosines = (out.logits_per_image / clip.model.logit_scale.exp()).diag()
    assert clip.score(pixels(), PROMPTS).float() == pytest.approx((100 * cosines.clamp(min=0)).numpy(), abs=1e-4)


def test_a_prompt_over_the_limit_is_cut_not_a_crash(clip: Clip) -> None:
    assert clip.score(pixels(1), ["a cat and " * 40]).shape == (1,)


def test_the_name_is_folder_and_parent(clip: Clip) -> None:
    assert clip.name.endswith("/clip")
    assert clip.name.startswith("stickers")


def test_other_sizes_are_scaled_and_cropped(clip: Clip) -> None:
    wide = torch.zeros(1, 3, 32, 64)
    wide[..., 16:48] = pixels(1)
    assert torch.allclose(clip.image_features(wide), clip.image_features(pixels(1)), atol=1e-6)
    plain = torch.full((1, 3, 77, 50), 0.25)
    same = clip.image_features(torch.full((1, 3, 32, 32), 0.25))
    assert torch.allclose(clip.image_features(plain), same, atol=1e-5)


def test_pixel_statistics_come_from_the_folder(folder: Path, clip: Clip, tmp_path: Path) -> None:
    other = tmp_path / "clip"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.0] * 3, "image_std": [1.0] * 3}))
    expected = clip.image_features((pixels() + 1) / 2)
    assert torch.allclose(load_clip(other).image_features(pixels()), expected, atol=1e-5)


def test_patch_distance_is_zero_for_equal_pictures_and_symmetric(clip: Clip) -> None:
    a, b = pixels(), pixels().flip(0)
    assert clip.patch_distance(a, a) == pytest.approx(torch.zeros(3).numpy(), abs=1e-12)
    assert torch.allclose(clip.patch_distance(a, b), clip.patch_distance(b, a))
    assert 0 < clip.patch_distance(a, b)[0] <= 4


def test_patch_distance_grows_with_noise(clip: Clip) -> None:
    a = pixels(1) * 0.5
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    near, far = (clip.patch_distance(a, (a + scale * noise).clamp(-1, 1)) for scale in (0.05, 0.5))
    assert near < far


def test_unequal_counts_are_refused(clip: Clip) -> None:
    with pytest.raises(InputError, match="3 pictures have 1 prompts"):
        clip.score(pixels(), ["a cat"])


def test_a_clip_that_is_not_here_is_one_clear_line() -> None:
    with pytest.raises(ModelError, match="not on this machine"):
        load_clip("nobody/no-such-clip")


def test_a_folder_without_a_clip_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        load_clip(tmp_path)


def test_a_clip_with_a_missing_key_is_refused_and_not_filled_with_random_weights(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.final_layer_norm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights lack text_model\.final_layer_norm\.bias"):
        load_clip(folder)


def test_the_pickle_of_a_clip_is_never_opened(tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle alone \(pytorch_model\.bin\)"):
        load_clip(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"image_mean": "x", "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}',
    ],
)
def test_pixel_statistics_that_cannot_be_meant_are_refused(tmp_path: Path, content: str) -> None:
    folder = tiny_clip(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        load_clip(folder)
