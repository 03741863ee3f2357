"""Less memory for more time: the same results, by option and after memory has run out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from toys import tiny_model, tiny_xl_model
from track_toys import Told

from smoothtool.diffusion import strips
from smoothtool.diffusion.economies import Economies, keeping_all, offload
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import MemoryExhaustedError
from smoothtool.methods.drag.dragdiffusion import DragSettings, DragTask, drag_steps, unet_look
from smoothtool.methods.drag.identity_lora import fit_identity_lora
from smoothtool.methods.editing.pix2pix_zero import pix2pix_zero_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import Solver, adam_solver, gauss_newton_solver, null_text_steps

FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
STEPS = 3


@pytest.fixture(scope="module", params=[tiny_model, tiny_xl_model], ids=["sd", "sdxl"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DiffusionModel, DiffusionModel]:
    """The same model twice, the second with gradient checkpointing."""
    plain, saving = (request.param(tmp_path_factory.mktemp("model")) for _ in range(2))
    saving.economies.use("gradient_checkpointing")
    return plain, saving


@pytest.fixture
def model(tmp_path: Path) -> DiffusionModel:
    return tiny_model(tmp_path)


def latents_of(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("solver", [adam_solver(2), gauss_newton_solver(2)], ids=["adam", "gauss-newton"])
def test_null_text_inversion_is_the_same_with_gradient_checkpointing(
    pair: tuple[DiffusionModel, DiffusionModel], solver: Solver
) -> None:
    found = []
    for model in pair:
        text = model.encode_prompts(["a cat", "a dog"])
        start = latents_of(0, 2)
        pivots = trajectory_of(start, list(ddim_inversion_steps(model, start, text, STEPS)))
        found.append(list(null_text_steps(model, pivots, text, model.encode_null(), 3.0, solver))[-1])
    torch.testing.assert_close(found[0].null_embeds, found[1].null_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0].latents, found[1].latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_dragging_is_the_same_with_gradient_checkpointing(
    pair: tuple[DiffusionModel, DiffusionModel], masked: bool
) -> None:
    region = torch.ones(1, 1, 16, 16) if masked else None
    if region is not None:
        region[..., :4] = 0
    task = DragTask(torch.tensor([[4.0, 4.0]]), torch.tensor([[9.0, 9.0]]), (16, 16), region)
    ends = []
    for model in pair:
        look = unet_look(model, 1, STEPS, model.encode_prompts(["a cat"]), model.encode_null(), 1.0, masked=masked)
        ends.append(list(drag_steps(look, latents_of(1), task, DragSettings(iterations=3)))[-1].latents)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_a_picture_is_learned_as_well_with_gradient_checkpointing(tmp_path: Path) -> None:
    losses = []
    for saving in (False, True):
        model = tiny_model(tmp_path)
        if saving:
            model.economies.use("gradient_checkpointing")
        fit = fit_identity_lora(
            model, latents_of(2), model.encode_prompts(["a cat"]), 3, torch.Generator().manual_seed(0)
        )
        losses.append([step.loss for step in fit])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_under_a_control_are_the_same_with_gradient_checkpointing(
    pair: tuple[DiffusionModel, DiffusionModel],
) -> None:
    ends = []
    for model in pair:
        source, other, null = (model.encode_prompts([text]) for text in ("a cat", "a dog", ""))
        direction = other.combine(source, torch.sub)
        ends.append(list(pix2pix_zero_steps(model, latents_of(3), source, direction, null, STEPS, 3.0))[-1].latents)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)
    assert [model.unet.is_gradient_checkpointing for model in pair] == [False, True]


def test_checkpointing_is_back_after_an_error(pair: tuple[DiffusionModel, DiffusionModel]) -> None:
    unet = pair[1].unet
    with pytest.raises(ZeroDivisionError), keeping_all(unet):
        _ = 1 / unet.is_gradient_checkpointing
    assert unet.is_gradient_checkpointing


@pytest.mark.parametrize("fault", FAULTS, ids=["cuda", "mps", "cpu", "python"])
def test_work_with_gradients_begins_again_with_checkpointing_and_says_so(
    model: DiffusionModel, fault: Exception
) -> None:
    told, tried = Told(), []
    model.economies.tell(told.note)

    def work() -> str:
        tried.append(model.unet.is_gradient_checkpointing)
        if not tried[-1]:
            raise fault
        return "done"

    assert model.within_memory(work) == "done"
    assert tried == [False, True]
    assert told.notes == [
        "out of memory: going on with --gradient-checkpointing (backward passes compute again what they do not keep)"
    ]


def test_work_that_fits_in_no_way_is_one_sentence(model: DiffusionModel) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(MemoryExhaustedError, match="everything done to save it"):
        model.within_memory(work)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.within_memory(lambda: (_ for _ in ()).throw(RuntimeError("size mismatch")))


@pytest.mark.parametrize("fault", FAULTS, ids=["cuda", "mps", "cpu", "python"])
def test_pictures_are_divided_and_then_drawn_in_strips(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    told, decode, latents = Told(), model.vae.decode, latents_of(4, 2)
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 1024)
    expected = model.decode_latents(latents)
    model.economies.tell(told.note)

    def in_little_memory(scaled: torch.Tensor) -> DecoderOutput:
        if "vae_tiling" not in model.economies.active:
            raise fault
        return decode(scaled)

    monkeypatch.setattr(model.vae, "decode", in_little_memory)
    found = model.decode_latents(latents)
    assert torch.allclose(found, expected, atol=1e-4)
    assert model.max_pictures == 1
    assert told.notes == ["out of memory: going on with --vae-tiling (the VAE works strip by strip)"]


class Part(torch.nn.Module):
    """Writes down where it is sent and when it runs."""

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__()
        self.name, self.diary = name, diary

    def to(self, place: torch.device | str) -> Part:  # type: ignore[override]
        self.diary.append(f"{self.name} to {place}")
        return self

    def forward(self) -> None:
        self.diary.append(f"{self.name} runs")


def test_offloaded_parts_are_on_the_device_only_while_they_are_used() -> None:
    diary: list[str] = []
    unet, vae, text, text_2 = (Part(name, diary) for name in ("unet", "vae", "text", "text_2"))
    offload([[unet], [vae], [text, text_2]], torch.device("cuda"))
    assert diary == ["unet to cpu", "vae to cpu", "text to cpu", "text_2 to cpu"]
    diary.clear()
    for part in (text, text_2, unet, unet, vae):
        part()
    assert diary == [
        "text to cuda",
        "text_2 to cuda",
        "text runs",
        "text_2 runs",
        "text to cpu",
        "text_2 to cpu",
        "unet to cuda",
        "unet runs",
        "unet runs",
        "unet to cpu",
        "vae to cuda",
        "vae runs",
    ]


def test_a_part_is_brought_for_what_touches_its_weights() -> None:
    diary: list[str] = []
    own = Economies({"unet": Part("unet", diary), "vae": Part("vae", diary)}, torch.device("cuda"))
    own.bring("unet")
    assert not diary
    own.use("offload")
    diary.clear()
    own.bring("unet")
    assert diary == ["unet to cuda"]


def test_encoding_and_decoding_count_as_runs_of_the_vae(model: DiffusionModel) -> None:
    """diffusers' VAEs are not called but encode and decode."""
    moved: list[str] = []
    sent = {name: part.to for name, part in model.parts.items()}
    for name, part in model.parts.items():
        part.to = lambda place, name=name: moved.append(name) or sent[name](place)  # type: ignore[assignment]
    plain = model.decode_latents(latents_of(5))
    noise = model.predict_noise(latents_of(5), 500, model.encode_null())
    offload([[model.unet], [model.vae], [model.text.encoders["text_encoder"]]], model.device)
    moved.clear()
    assert torch.equal(model.decode_latents(latents_of(5)), plain)
    assert moved == ["vae"]
    assert torch.equal(model.predict_noise(latents_of(5), 500, model.encode_null()), noise)
    assert moved == ["vae", "vae", "unet"]


def test_offload_on_a_cpu_is_a_note(model: DiffusionModel) -> None:
    told = Told()
    model.economies.use("offload")
    model.economies.tell(told.note)
    assert told.notes == ["--offload has no effect on a CPU: the whole model is in its memory anyway"]
    assert not model.economies.active
