"""Cost of the regulariser's gradients beside a plain LoRA step and a transcription of the reference program's step.

    python tests/benchmarks/bench_training.py [--shape stickers|sd15] [--side 64] [--batch 4] [--device cuda]

Same weights, same batch, one process, nothing else running. Shapes: `stickers` is the embedded model's UNet on its own
16 x 16 latents, 16 pictures as in its recipe; `sd15` is SD 1.5's (860 M parameters, random weights), one picture on
32 x 32 latents: half its side, 1024 tokens in the largest attention. The reference's ratios grow with `--side` and
`--batch`: its attention keeps maps of tokens x tokens, and its second derivatives are many small passes over memory,
which are dear where activations leave the cache.

`central, every K` is the mean over K steps, of which the first has the regulariser (`train --every K`); "check of one
sample" is what one sample in 32 costs besides.

A plain step is one forward and one backward pass of frozen weights with a trained LoRA, fused attention, no VAE. FLOPs
are counted with attention as matrix products. Activation memory is what the graph keeps for backward passes at its
peak, without weights; on CUDA the allocator's peak above the resting level is printed as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from toys import tiny_model

from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.methods.smoothness.step_variation import (
    NoisyBatch,
    Regularisation,
    disagreement,
    loss_terms,
    noise_gradient,
)
from smoothtool.types import Conditioning

SIDE_BATCH_REPEATS = {"stickers": (16, 16, 5), "sd15": (32, 1, 2)}
"""By default: SD 1.5 takes some 0.2 TFLOP a forward pass there, and the five kinds of step together 24 passes."""
STEPS = {"plain": 3e-3, "central": 3e-3, "one-sided": 1e-3, "forward-variation": 3e-3}
SHAPES = {
    "stickers": {"block_out_channels": (64, 128, 192), "layers_per_block": 1, "cross_attention_dim": 128,
                 "attention_head_dim": 4, "norm_num_groups": 16, "down_block_types": ("CrossAttnDownBlock2D",) * 3,
                 "up_block_types": ("CrossAttnUpBlock2D",) * 3},
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8},
}  # fmt: skip


class SavedBytes:
    """Counts the bytes that autograd keeps, storages once each, weights left out."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, tensor: torch.Tensor) -> Held:
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if pointer in self.weights:
            size = 0
        if self.holders[pointer] == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[pointer] += 1
        return Held(self, tensor, pointer, size)


class Held:
    """A kept tensor; when autograd lets go of it, it no longer counts."""

    def __init__(self, counter: SavedBytes, tensor: torch.Tensor, pointer: int, size: int) -> None:
        self.counter, self.tensor, self.pointer, self.size = counter, tensor, pointer, size

    def __del__(self) -> None:
        self.counter.holders[self.pointer] -= 1
        if self.counter.holders[self.pointer] == 0:
            self.counter.now -= self.size


def reference_step(predict: Callable[[torch.Tensor], torch.Tensor], batch: NoisyBatch) -> None:
    """Equations 9 and 10 through create_graph, as the reference program computes them."""
    noise = batch.noise.clone().requires_grad_(True)
    latents = batch.noisy(noise)
    with sdpa_kernel(SDPBackend.MATH):
        noise_pred = predict(latents)
        x0_hat = (latents - batch.sigma * noise_pred) / batch.signal
        (gradient,) = torch.autograd.grad((x0_hat * batch.direction).sum(), noise, create_graph=True)
        norms = gradient.flatten(1).norm(dim=1)
        mean = 0.99 * 0.5 + 0.01 * norms.mean()
        loss = (noise_pred - batch.noise).square().mean() + (norms - mean).square().mean()
        loss.backward()


def gigaflops(step: Callable[[], None]) -> float:
    """Of convolutions and matrix products; fused attention on the CPU is not counted, so it is not used here."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def measure(step: Callable[[], None], weights: list[torch.Tensor], repeats: int, cuda: bool) -> tuple[float, ...]:
    """Median seconds, peak bytes kept by autograd, peak bytes of the CUDA allocator above rest."""
    times = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if repeat:
            times.append(time.perf_counter() - started)
    counter, resting = SavedBytes(weights), torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        step()
    allocated = torch.cuda.max_memory_allocated() - resting if cuda else 0
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda held: held.tensor):
        step()
    return statistics.median(times), counter.peak, allocated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="stickers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    side, size, repeats = (
        getattr(asked, name) or usual
        for name, usual in zip(("side", "batch", "repeats"), SIDE_BATCH_REPEATS[asked.shape], strict=True)
    )
    device = torch.device(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder))
    torch.manual_seed(0)
    model.unet = UNet2DConditionModel(sample_size=side, **SHAPES[asked.shape]).requires_grad_(False).to(device)
    parameters = add_trainable_lora(model.unet, 8)
    if asked.checkpointing:
        model.unet.enable_gradient_checkpointing()
    unet = torch.compile(model.unet) if asked.compile else model.unet
    for parameter in parameters:
        parameter.data += 0.02 * torch.randn_like(parameter)
    shape = (size, 4, side, side)
    timesteps = torch.linspace(20, 980, size).long() if size > 1 else torch.tensor([500])
    latents, noise, probe = (torch.randn(shape, device=device) for _ in range(3))
    text = Conditioning(torch.randn(size, 77, model.unet.config.cross_attention_dim, device=device))
    abar, weights = model.schedule.alpha_prods(timesteps).flatten().to(device), torch.ones(size, device=device)
    batch = NoisyBatch(latents, noise, probe, abar, weights)
    running_mean = torch.tensor(0.5, device=device)

    def predict_with(unet: torch.nn.Module, noisy: torch.Tensor) -> torch.Tensor:
        return model.predict_noise_at(noisy, timesteps.to(device), text, unet)

    predict = partial(predict_with, unet)

    def ours(gradient: str) -> None:
        weight = 0.0 if gradient == "plain" else 1.0
        settings = Regularisation("central" if gradient == "plain" else gradient, weight, STEPS[gradient])
        for term in loss_terms(predict, batch, running_mean, settings, parameters):
            term.loss.backward()

    def check_one() -> None:
        row, told = slice(0, 1), Conditioning(text.prompt_embeds[:1])
        one = partial(model.predict_noise_at, timesteps=timesteps[row].to(device), conditioning=told)
        disagreement(one, batch.rows(row), Regularisation("central", 1.0, STEPS["central"]), parameters)

    def lazy(every: int) -> None:
        """`--every K`: one step with the regulariser, and K - 1 without."""
        ours("central")
        for _ in range(every - 1):
            ours("plain")

    steps = {name: lambda name=name: ours(name) for name in STEPS}
    periods = {f"central, every {every}": every for every in (4, 8)}
    steps |= {name: lambda every=every: lazy(every) for name, every in periods.items()}
    steps["check of one sample"] = check_one
    if not asked.checkpointing and not asked.compile:
        steps["reference"] = lambda: reference_step(predict, batch)
    print(
        f"{asked.shape}, batch {size}, latents {side} x {side}, {device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    print("".join(f"{head:>18} {'ratio':>6}" for head in ("seconds", "kept MB", "allocated MB", "GFLOP")))
    if asked.compile:
        found, expected = (noise_gradient(partial(predict_with, of), batch, parameters) for of in (unet, model.unet))
        print(f"the compiled gradient to the noise is wrong by {(found - expected).norm() / expected.norm():.1e}")
    plain = None
    for name, step in steps.items():
        seconds, kept, allocated = measure(step, list(model.unet.parameters()), repeats, device.type == "cuda")
        flops, period = 0.0 if asked.compile else gigaflops(step), periods.get(name, 1)
        found = (seconds / period, kept / 1e6, allocated / 1e6, flops / period)
        plain = plain or found
        cells = (f"{value:18.4g} {value / base if base else 0:6.2f}" for value, base in zip(found, plain, strict=True))
        print("".join(cells), name, flush=True)


if __name__ == "__main__":
    main()
