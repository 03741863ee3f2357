"""The loaded model: what goes in and comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from storage_toys import limited_files
from toys import tiny_model
from track_toys import Told

from smoothtool.diffusion.ddim import noise_from_velocity
from smoothtool.diffusion.loading import choose_device, load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import ModelError, StorageError
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.weights.models import STICKERS


def save(model: DiffusionModel, folder: Path) -> Path:
    """The model as a diffusers folder."""
    save_model(model, folder, write_json_atomic)
    return folder


def test_a_saved_text_encoder_has_the_names_that_every_version_of_transformers_reads(
    model: DiffusionModel, tmp_path: Path
) -> None:
    save_model(model, tmp_path, write_json_atomic)
    for place in (tmp_path, STICKERS):
        names = load_file(place / "text_encoder" / "model.safetensors").keys()
        assert {name.partition(".")[0] for name in names} == {"text_model"}


def test_a_full_disk_is_named_though_the_library_says_so_in_words_alone(model: DiffusionModel, tmp_path: Path) -> None:
    with limited_files(2_000), pytest.raises(StorageError, match="cannot be written") as told:
        save_model(model, tmp_path, write_json_atomic)
    assert (told.value.full, str(tmp_path) in told.value.what) == (True, True)


def test_a_loaded_folder_predicts_what_was_saved(model: DiffusionModel, tmp_path: Path) -> None:
    again = load_model(save(model, tmp_path / "model"), "again", device="cpu")
    latents = torch.randn(1, 4, 16, 16)
    text = model.encode_prompts(["a cat"])
    torch.testing.assert_close(
        again.predict_noise(latents, 500, again.encode_prompts(["a cat"])), model.predict_noise(latents, 500, text)
    )
    assert again.fingerprint == model.fingerprint


def test_other_weights_have_another_fingerprint(model: DiffusionModel, tmp_path: Path) -> None:
    assert tiny_model(tmp_path / "other", seed=1).fingerprint != model.fingerprint


def test_velocity_models_give_noise(tmp_path: Path) -> None:
    epsilon, velocity = tiny_model(tmp_path), tiny_model(tmp_path, prediction_type="v_prediction")
    latents, text = torch.randn(1, 4, 16, 16), epsilon.encode_prompts([""])
    raw = epsilon.predict_noise(latents, 300, text)
    expected = noise_from_velocity(latents, raw, epsilon.schedule.alpha_prod(300))
    torch.testing.assert_close(velocity.predict_noise(latents, 300, text), expected)


@torch.no_grad()
def test_a_batch_that_is_split_gives_the_same_noise(model: DiffusionModel) -> None:
    latents, text = torch.randn(5, 4, 16, 16), model.encode_prompts(["a cat", "a dog", "", "a fox", "a cake"])
    whole = model.predict_noise(latents, 300, text)
    model.max_batch = 2
    torch.testing.assert_close(model.predict_noise(latents, 300, text), whole, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_running_out_of_memory_halves_the_batch_and_goes_on(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, text = torch.randn(6, 4, 16, 16), model.encode_prompts([""]).expand(6)
    whole, predict = model.predict_noise(latents, 300, text), model._predict

    def small_memory(rows: torch.Tensor, *args: object) -> torch.Tensor:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("full")
        return predict(rows, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "_predict", small_memory)
    torch.testing.assert_close(model.predict_noise(latents, 300, text), whole, rtol=1e-5, atol=1e-5)
    assert model.max_batch <= 2


def test_what_is_cut_from_a_prompt_can_be_told(model: DiffusionModel) -> None:
    long = "a cat on a dog on a cake and a fox with a red blue cat on"
    assert model.cut_from(long) == "blue cat on"
    assert model.cut_from("a cat") == ""


def test_a_picture_that_is_not_finite_is_refused(model: DiffusionModel) -> None:
    with pytest.raises(ModelError, match="NaN"):
        model.decode_latents(torch.full((1, 4, 16, 16), torch.nan))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_vae_that_overflows_in_float16_goes_on_in_float32_and_says_so(
    model: DiffusionModel, dtype: torch.dtype
) -> None:
    told = Told()
    model.economies.tell(told.note)
    for conv in (model.vae.encoder.conv_in, model.vae.decoder.conv_in):
        conv.weight.data *= 2e5  # the group normalisation behind it takes that back, unless it has become infinite
    latents, picture = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 32, 32)
    expected = model.encode_images(picture), model.decode_latents(latents)
    assert not told.notes
    model.vae.to(dtype)
    for found, right in zip((model.encode_images(picture), model.decode_latents(latents)), expected, strict=True):
        assert torch.allclose(found, right, atol=1e-2)
    note = "the VAE gave NaN in float16: computed again in float32, in which it stays"
    assert told.notes == ([note] if dtype == torch.float16 else [])
    assert model.vae.dtype == torch.float32


def test_weights_never_require_gradients(model: DiffusionModel) -> None:
    assert not any(p.requires_grad for part in model.parts.values() for p in part.parameters())


def test_a_folder_without_weights_is_named(model: DiffusionModel, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"broken: .*unet has no weights"):
        load_model(folder, "broken", device="cpu")


def test_truncated_weights_are_named(model: DiffusionModel, tmp_path: Path) -> None:
    folder = save(model, tmp_path / "model")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cut short"):
        load_model(folder, "broken", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_said_so() -> None:
    with pytest.raises(ModelError, match="--device cuda"):
        choose_device("cuda")
