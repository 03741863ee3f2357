"""Cost of DragDiffusion's iterations beside a transcription of the published loop, same process and same weights.

    python tests/benchmarks/bench_drag.py [--device cuda] [--width 64]

The network has SD 1.5's shape at a fifth of its width (64 instead of 320 channels; --width 320 is SD 1.5 itself). The
published loop leaves weights requiring gradients, runs the whole UNet, and enlarges the whole feature map.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning

sys.path.insert(0, str(Path(__file__).parents[1]))
import tempfile

from drag_toys import transcribed_drag
from toys import tiny_model

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.methods.drag.dragdiffusion import DragSettings, DragTask, Sight, drag_steps, unet_look

ITERATIONS, SIDE, STEPS, STEP_INDEX = 3, 32, 50, 15
GRID = 4 * SIDE  # half of a picture of 8 pixels per latent
HANDLES, TARGETS = torch.tensor([[64.0, 40.0], [30.0, 90.0]]), torch.tensor([[70.0, 100.0], [90.0, 60.0]])


def sd_shaped_model(width: int, device: str) -> DiffusionModel:
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder))
    torch.manual_seed(0)
    model.unet = UNet2DConditionModel(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=16,
        sample_size=SIDE,
    )
    model.unet.requires_grad_(False).eval().to(device)
    model.device = torch.device(device)
    model.text.text_encoder.to(device)
    return model


def published(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, region: torch.Tensor | None
) -> list[list[list[float]]]:
    timestep, alpha, alpha_next = model.schedule.alpha_pairs(STEPS)[STEP_INDEX]

    def look(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        hook = model.unet.up_blocks[2].register_forward_hook(lambda module, inputs, out: kept.append(out))
        noise = model.unet(z, timestep, encoder_hidden_states=text.prompt_embeds).sample
        hook.remove()
        return kept[0], ddim_step(z, noise, alpha, alpha_next)

    model.unet.requires_grad_(True)
    handles, targets = list(HANDLES.to(latents)), list(TARGETS.to(latents))
    path, _ = transcribed_drag(look, latents, handles, targets, (GRID, GRID), region, ITERATIONS)
    model.unet.requires_grad_(False)
    model.unet.zero_grad(set_to_none=True)
    return [points.tolist() for points in path]


def ours(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, region: torch.Tensor | None
) -> list[list[list[float]]]:
    see = unet_look(model, STEP_INDEX, STEPS, text, text, 1.0, masked=region is not None)

    def look(z: torch.Tensor) -> Sight:
        return see(z * 1)  # the FLOP counter cannot watch a leaf of autograd enter a module

    task = DragTask(HANDLES.to(latents), TARGETS.to(latents), (GRID, GRID), region)
    return [s.handles_rc.tolist() for s in drag_steps(look, latents, task, DragSettings(iterations=ITERATIONS))]


def measure(run: Callable[..., Any], *arguments: Any) -> tuple[Any, int, float]:
    """Handle path, FLOPs of one run, and the faster of two."""
    with FlopCounterMode(display=False) as counter:
        path = run(*arguments)
    on_gpu, seconds = arguments[1].is_cuda, []
    clock = time.perf_counter if on_gpu else time.process_time  # on a CPU, other programs do not count
    for _ in range(2):
        started = clock()
        run(*arguments)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return path, counter.get_total_flops(), min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    model = sd_shaped_model(options.width, options.device)
    text = model.encode_prompts(["a fox"])
    latents = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(options.device)
    region = torch.zeros(1, 1, SIDE, SIDE, device=options.device)
    region[..., 4:28] = 1
    print(f"{ITERATIONS} iterations, width {options.width}, {options.device}")
    for name, mask, demanded in (("without a mask", None, 1.7), ("with a mask", region, 1.3)):
        path, flops, seconds = measure(published, model, latents, text, mask)
        own_path, own_flops, own_seconds = measure(ours, model, latents, text, mask)
        print(
            f"{name:16} published {flops / 1e9:8.1f} GFLOP {seconds:6.2f} s   smoothtool {own_flops / 1e9:8.1f} GFLOP "
            f"{own_seconds:6.2f} s   {flops / own_flops:.2f}x FLOPs, {seconds / own_seconds:.2f}x time "
            f"(demanded {demanded}x), handle paths equal: {path == own_path}"
        )


if __name__ == "__main__":
    main()
