"""`smoothtool models pull` beside a hub that is a folder on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_toys import call_main
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from toys import tiny_model, tiny_xl_model

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.weights.models import KNOWN, resolve_model

Call = Callable[..., tuple[int, str, str]]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNET = ["diffusers", "UNet2DConditionModel"]
SD_UNET = {"in_channels": 4, "cross_attention_dim": 768}
XL_UNET = {"in_channels": 4, "cross_attention_dim": 2048, "addition_embed_type": "text_time"}
EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
PARTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class FolderHub:
    """Repositories as folders `owner/name`; downloads go into a cache as huggingface_hub lays it out.

    downloads  (repository, file or None for the snapshot, revision)
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root, cache
        self.downloads: list[tuple[str, str | None, str | None]] = []

    def model_info(self, api: HfApi, name: str, revision: str | None = None, **options: Any) -> SimpleNamespace:
        folder = self.root / name
        if not folder.is_dir() or revision not in (None, "main", "v1"):
            raise OSError("404: no such repository or revision")
        files = [path for path in folder.rglob("*") if path.is_file()]
        siblings = [
            SimpleNamespace(rfilename=path.relative_to(folder).as_posix(), size=path.stat().st_size) for path in files
        ]
        index = folder / "model_index.json"
        config = {"diffusers": json.loads(index.read_text())} if index.is_file() else None
        return SimpleNamespace(siblings=siblings, card_data=None, sha=COMMIT, config=config)

    def hf_hub_download(self, name: str, file: str, revision: str | None = None, local_dir: str = "") -> str:
        self.downloads.append((name, file, revision))
        target = Path(local_dir) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.root / name / file, target))

    def snapshot_download(self, name: str, revision: str | None = None, allow_patterns: Sequence[str] = ()) -> str:
        """A branch or tag is noted in `refs`, a commit is not: no plain name leads to it afterwards."""
        self.downloads.append((name, None, revision))
        repository = self.cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / COMMIT
        for path in (self.root / name).rglob("*"):
            inside = path.relative_to(self.root / name)
            if path.is_file() and any(fnmatch(inside.as_posix(), pattern) for pattern in allow_patterns):
                (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / inside)
        if revision != COMMIT:
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / (revision or "main")).write_text(COMMIT)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    hub = FolderHub(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **options: hub.model_info(*args, **options))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    return lambda *arguments: call_main(capsys, "models", *arguments)


def publish(hub: FolderHub, name: str, model: DiffusionModel, variants: tuple[str, ...]) -> Path:
    """A whole model, its weights in these variants; "" is the plain one."""
    folder = hub.root / name
    save_model(model, folder, write_json_atomic)
    for path in [*folder.rglob("*.safetensors")]:
        weights = load_file(path)
        path.unlink()
        for variant in variants:
            kept = {key: value.half() for key, value in weights.items()} if variant == "fp16" else weights
            save_file(
                kept, path.with_suffix(f".{variant}.safetensors" if variant else ".safetensors"), {"format": "pt"}
            )
    (folder / "README.md").write_text("not wanted")
    return folder


def describe(
    hub: FolderHub,
    name: str,
    index: dict[str, Any],
    unet: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
) -> None:
    """The small files of a model, and weights of a few bytes."""
    folder = hub.root / name
    small = {"model_index.json": index, "unet/config.json": unet, "scheduler/scheduler_config.json": scheduler}
    for file, content in small.items():
        if content is not None:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(json.dumps(content))
    for part in ("transformer",) if unet is None else ("unet", *PARTS):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")


@pytest.mark.parametrize("toy", [tiny_model, tiny_xl_model], ids=["sd", "sdxl"])
def test_an_fp16_only_repository_is_pulled_and_loaded_by_its_name(
    hub: FolderHub, call: Call, tmp_path: Path, toy: Callable[[Path], DiffusionModel]
) -> None:
    made = toy(tmp_path / "tokenizer")
    publish(hub, "some/model", made, ("fp16",))
    code, out, err = call("pull", "some/model")
    assert (code, "use it with --model some/model" in err) == (0, True)
    place = resolve_model("some/model")
    assert place.folder == Path(out.strip())
    assert not (place.folder / "README.md").exists()
    loaded = load_model(place.folder, place.name, device="cpu")
    assert (loaded.unet.dtype, loaded.fingerprint) == (torch.float32, made.fingerprint)


def test_the_plain_weights_are_pulled_unless_a_variant_is_asked_for(hub: FolderHub, call: Call, tmp_path: Path) -> None:
    made = tiny_model(tmp_path / "tokenizer")
    publish(hub, "some/model", made, ("", "fp16"))
    publish(hub, "other/model", made, ("", "fp16"))
    code, out, err = call("pull", "some/model")
    assert (code, "GB with --variant fp16" in err) == (0, True)
    assert [path.name for path in Path(out.strip(), "unet").glob("*.safe*")] == ["diffusion_pytorch_model.safetensors"]
    code, out, err = call("pull", "other/model", "--variant", "fp16")
    assert (code, "with --variant" in err) == (0, False)
    names = [path.name for path in Path(out.strip(), "unet").glob("*.safe*")]
    assert names == ["diffusion_pytorch_model.fp16.safetensors"]


def test_a_variant_that_is_not_there_is_a_sentence(hub: FolderHub, call: Call, tmp_path: Path) -> None:
    publish(hub, "some/model", tiny_model(tmp_path / "tokenizer"), ("fp16",))
    code, out, err = call("pull", "some/model", "--variant", "bf16")
    assert (code, out) == (4, "")
    assert "error: some/model: there is no variant bf16" in err
    assert "fp16" in err


def test_a_revision_is_pulled_and_used_by_its_own_name(hub: FolderHub, call: Call, tmp_path: Path) -> None:
    publish(hub, "some/model", tiny_model(tmp_path / "tokenizer"), ("",))
    code, out, err = call("pull", "some/model", "--revision", "v1")
    assert (code, "--model some/model@v1" in err) == (0, True)
    assert hub.downloads[-1] == ("some/model", None, "v1")
    assert resolve_model("some/model@v1").folder == Path(out.strip())
    assert resolve_model(f"some/model@{COMMIT}").folder == Path(out.strip())
    assert "not here" in call("info", "sd15")[1]
    code, _, err = call("info", "some/model")
    assert (code, "no such model in the local cache" in err) == (4, True)
    code, _, err = call("pull", "some/model", "--revision", "v9")
    assert (code, err.startswith("error: some/model cannot be downloaded: ")) == (4, True)
    assert call("pull", "some/model", "--revision", "../../x")[0] == 2


def test_what_is_here_is_not_asked_for_again_but_what_was_cut_short_is(
    hub: FolderHub, call: Call, tmp_path: Path
) -> None:
    publish(hub, "some/model", tiny_model(tmp_path / "tokenizer"), ("",))
    folder = Path(call("pull", "some/model")[1].strip())
    asked = len(hub.downloads)
    assert call("pull", "some/model")[0] == 0
    assert len(hub.downloads) == asked
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert call("pull", "some/model")[0] == 0
    assert len(hub.downloads) > asked
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").is_file()


XL = {"_class_name": "StableDiffusionXLPipeline", "unet": UNET}


@pytest.mark.parametrize(
    ("name", "described", "what"),
    [
        (
            "a/sdxl-second",
            ({**XL, "requires_aesthetics_score": True}, {**XL_UNET, "cross_attention_dim": 1280}),
            "the refiner of Stable Diffusion XL cannot be used",
        ),
        ("a/sdxl-turbo", (XL, XL_UNET), "a turbo model is distilled to few steps"),
        ("a/quick-xl", (XL, XL_UNET, EULER), "a turbo model is distilled to few steps"),
        (
            "a/sd-inpainting",
            ({"_class_name": "StableDiffusionInpaintPipeline", "unet": UNET}, {**SD_UNET, "in_channels": 9}),
            "a variant of Stable Diffusion for in-painting cannot be used",
        ),
        ("a/xl-fill", (XL, {**XL_UNET, "in_channels": 9}), "a variant of Stable Diffusion XL for in-painting"),
        ("a/sd3", ({"_class_name": "StableDiffusion3Pipeline"},), "a Stable Diffusion 3 model cannot be used"),
        ("a/flux", ({"_class_name": "FluxPipeline"},), "a FLUX model cannot be used"),
        ("a/dit", ({"_class_name": "DiTPipeline"},), "a DiTPipeline without UNet2DConditionModel cannot be used"),
    ],
)
def test_what_could_not_be_used_is_refused_before_its_weights_are_asked_for(
    hub: FolderHub, call: Call, name: str, described: tuple[Any, ...], what: str
) -> None:
    describe(hub, name, *described)
    code, out, err = call("pull", name)
    assert (code, out) == (4, "")
    assert err.startswith(f"error: {name}: {what}")
    assert not [file for _, file, _ in hub.downloads if file is None or not file.endswith(".json")]
    assert not hub.cache.exists()


def test_gated_models_are_refused_by_what_the_hub_says_of_them(
    hub: FolderHub, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(hub, "a/flux", {"_class_name": "FluxPipeline"})
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: pytest.fail("asked for a file"))
    assert "error: a/flux: a FLUX model cannot be used" in call("pull", "a/flux")[2]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (RepositoryNotFoundError, "a/flux cannot be downloaded: the hub has no such model"),
        (RevisionNotFoundError, "a/flux cannot be downloaded: it has no such revision"),
        (GatedRepoError, "a/flux cannot be downloaded: its licence has to be accepted first"),
        (OSError, "a/flux cannot be downloaded: 4xx Client Error. (Request ID: 1)"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    call: Call, monkeypatch: pytest.MonkeyPatch, fault: type[Exception], what: str
) -> None:
    error = fault.__new__(fault)  # the hub's own want a response
    error.args = ("4xx Client Error. (Request ID: 1)\n\nmore lines\n",)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: (_ for _ in ()).throw(error))
    code, out, err = call("pull", "a/flux")
    assert (code, out) == (4, "")
    assert err.startswith(f"error: {what}")
    assert "more lines" not in err


def test_a_repository_of_single_files_says_what_to_do(hub: FolderHub, call: Call) -> None:
    (hub.root / "a" / "single").mkdir(parents=True)
    (hub.root / "a" / "single" / "best.safetensors").write_bytes(b"")
    code, _, err = call("pull", "a/single")
    assert code == 4
    assert "a/single is no diffusers model (no model_index.json)" in err
    assert "download best.safetensors by hand, and give it as --model" in err


def test_a_missing_second_tokenizer_is_told_before_a_download(hub: FolderHub, call: Call) -> None:
    describe(hub, "a/half", XL, XL_UNET)
    shutil.rmtree(hub.root / "a/half/tokenizer_2")
    assert "a/half: the model has no second tokenizer" in call("pull", "a/half")[2]


def test_a_lora_with_a_name_has_no_variants(hub: FolderHub, call: Call) -> None:
    assert call("pull", "smooth-sd15", "--variant", "fp16")[0] == 2


def test_the_list_knows_base_models_and_loved_fine_tunes(call: Call) -> None:
    listed = call("list")[1]
    for name in ("sd15", "sdxl", "dreamshaper-8", "juggernaut-xl-v9"):
        assert name in listed
    assert {KNOWN[name].architecture for name in ("sdxl", "juggernaut-xl-v9")} == {"Stable Diffusion XL"}
