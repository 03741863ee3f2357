from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from smoothtool.errors import ModelError
from smoothtool.metrics.structure import Dino, load_dino


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Dino:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    folder = tmp_path_factory.mktemp("dino")
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return load_dino(folder)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand((count, 3, 40, 48), generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_picture_has_no_distance_from_itself(dino: Dino) -> None:
    assert dino.distance(pictures(), pictures()).abs().max() == 0


def test_distance_is_symmetric_and_positive(dino: Dino) -> None:
    first, second = pictures(4).chunk(2)
    torch.testing.assert_close(dino.distance(first, second), dino.distance(second, first))
    assert (dino.distance(first, second) > 0).all()


def test_self_similarity_has_a_unit_diagonal_and_a_row_per_token(dino: Dino) -> None:
    similarity = dino.self_similarity(pictures())
    assert similarity.shape == (2, 17, 17)
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(2, 17, dtype=torch.float64))


def test_self_similarity_is_of_the_last_layers_keys(dino: Dino) -> None:
    with torch.no_grad():
        layer = [module for name, module in dino.model.named_modules() if name.endswith((".key", ".k_proj"))][-1]
        layer.weight.mul_(3.0)
        layer.bias.mul_(3.0)
        scaled = dino.self_similarity(pictures())
        layer.weight.div_(3.0)
        layer.bias.div_(3.0)
    torch.testing.assert_close(scaled, dino.self_similarity(pictures()), atol=1e-6, rtol=1e-6)


def test_a_dino_that_is_not_here_is_named_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"nobody/dino: this DINO is not on this machine") as raised:
        load_dino("nobody/dino")
    assert "hf download nobody/dino" in str(raised.value.hint)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8).save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="cannot be read"):
        load_dino(tmp_path)
