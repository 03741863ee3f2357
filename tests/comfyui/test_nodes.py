"""The nodes without ComfyUI: what they ask for, and pictures in and out on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import smoothtool.comfyui
from smoothtool.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from smoothtool.comfyui.inputs import settings_of
from smoothtool.comfyui.nodes import image_of, pictures_of
from smoothtool.errors import UsageError
from smoothtool.jobs import JOBS
from smoothtool.weights.sample_pictures import SAMPLES

CHEAP: dict[str, Any] = {"model": "stickers", "lora": "none", "steps": 2, "seed": 1}
KINDS = {"INT", "FLOAT", "STRING", "BOOLEAN", "IMAGE", "MASK"}


def sample(name: str) -> torch.Tensor:
    return image_of([Image.open(SAMPLES / f"{name}.png")])


def defaults(node: str) -> dict[str, Any]:
    """What ComfyUI hands to a node whose widgets nobody touched."""
    inputs = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()
    return {
        key: options["default"]
        for part in inputs.values()
        for key, (_, options) in part.items()
        if "default" in options
    }


def test_every_node_has_a_name_and_inputs_of_kinds_that_comfyui_knows() -> None:
    assert set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS)
    for node in NODE_CLASS_MAPPINGS.values():
        for part in node.INPUT_TYPES().values():
            for kind, options in part.values():
                assert kind in KINDS or isinstance(kind, tuple)
                if "min" in options:
                    assert options["min"] <= options["default"] <= options["max"]
        assert hasattr(node, node.FUNCTION)


def test_inputs_carry_the_jobs_own_words() -> None:
    kind, options = NODE_CLASS_MAPPINGS["SmoothtoolEdit"].INPUT_TYPES()["optional"]["method"]
    assert "p2p" in kind
    assert options["tooltip"] == JOBS["edit"].model_fields["method"].description


def test_untouched_widgets_mean_the_defaults_of_the_command() -> None:
    values = defaults("SmoothtoolDrag") | {"point": "1,2:3,4\n"}
    settings = settings_of("drag", values)
    assert settings["point"] == ["1,2:3,4"]
    assert "lora_steps" not in settings
    assert "seed" not in settings


def test_pictures_survive_the_way_there_and_back() -> None:
    image = torch.rand(2, 8, 6, 3)
    assert (image_of(pictures_of(image)) - image).abs().max() < 1 / 255


def test_an_edit_gives_a_picture_per_picture() -> None:
    image = torch.cat([sample("fox"), sample("cat")])
    values = defaults("SmoothtoolEdit") | CHEAP | {"trg": "a 3d dog", "method": "sdedit"}
    (made,) = NODE_CLASS_MAPPINGS["SmoothtoolEdit"]().run(image=image, **values)
    assert made.shape == image.shape
    assert (made - image).abs().mean() > 0.01


def test_a_walk_is_a_batch_of_frames_with_its_ends() -> None:
    values = defaults("SmoothtoolInterpolate") | CHEAP | {"frames": 3, "method": "vae"}
    (frames,) = NODE_CLASS_MAPPINGS["SmoothtoolInterpolate"]().run(sample("fox"), sample("cat"), **values)
    assert frames.shape == (5, 64, 64, 3)
    assert (frames[0] - sample("fox")[0]).abs().mean() < 0.05


def test_an_inversion_leaves_its_file(tmp_path: Path) -> None:
    values = defaults("SmoothtoolInvert") | CHEAP | {"inversion": "ddim", "save_to": str(tmp_path / "fox.safetensors")}
    picture, file = NODE_CLASS_MAPPINGS["SmoothtoolInvert"]().run(image=sample("fox"), **values)
    assert picture.shape == (1, 64, 64, 3)
    assert Path(file).is_file()


def test_a_drag_takes_comfyuis_mask() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:56, 8:56] = 1
    values = defaults("SmoothtoolDrag") | CHEAP | {"point": "32,32:40,32", "method": "fastdrag"}
    (made,) = NODE_CLASS_MAPPINGS["SmoothtoolDrag"]().run(image=sample("apple"), mask=mask, **values)
    assert made.shape == (1, 64, 64, 3)


def test_a_mistake_is_said_as_everywhere() -> None:
    with pytest.raises(UsageError, match="--trg"):
        NODE_CLASS_MAPPINGS["SmoothtoolEdit"]().run(image=sample("fox"), **(defaults("SmoothtoolEdit") | CHEAP))


def test_the_example_workflow_fits_the_nodes() -> None:
    workflow = json.loads((Path(smoothtool.comfyui.__file__).parent / "example-workflow.json").read_text())
    for step in workflow.values():
        if node := NODE_CLASS_MAPPINGS.get(step["class_type"]):
            known = {key for part in node.INPUT_TYPES().values() for key in part}
            assert set(step["inputs"]) <= known
    assert np.sum([step["class_type"].startswith("Smoothtool") for step in workflow.values()]) == 2
