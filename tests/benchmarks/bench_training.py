"""Cost of the regulariser's gradients beside a plain LoRA step and a transcription of the reference program's step.

    python tests/benchmarks/bench_training.py [--shape stickers|sd15] [--device cuda] [--batch 4] [--repeats 5]

Same weights, same batch, one process. Shapes: `stickers` is the embedded model's UNet on 16 x 16 latents, `sd15` is
SD 1.5's own (860 M parameters, random weights) on 16 x 16 latents. Activation memory is what the graph keeps for
backward passes at its peak, without weights; on CUDA the allocator's peak above the resting level is printed as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1]))
from toys import tiny_model

from smoothtool.diffusion.batches import alphas_cumprod_at, predict_noise_at
from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.methods.smoothness.step_variation import NoisyBatch, Regularisation, loss_terms
from smoothtool.types import Conditioning

SIDE = 16
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


def reference_step(predict, batch: NoisyBatch) -> None:
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
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder))
    torch.manual_seed(0)
    model.unet = UNet2DConditionModel(sample_size=SIDE, **SHAPES[asked.shape]).requires_grad_(False).to(device)
    parameters = add_trainable_lora(model.unet, 8)
    if asked.checkpointing:
        model.unet.enable_gradient_checkpointing()
    unet = torch.compile(model.unet) if asked.compile else model.unet
    for parameter in parameters:
        parameter.data += 0.02 * torch.randn_like(parameter)
    shape = (asked.batch, 4, SIDE, SIDE)
    timesteps = torch.linspace(20, 980, asked.batch).long()
    latents, noise, probe = (torch.randn(shape, device=device) for _ in range(3))
    text = Conditioning(torch.randn(asked.batch, 77, model.unet.config.cross_attention_dim, device=device))
    abar, weights = alphas_cumprod_at(model, timesteps).to(device), torch.ones(asked.batch, device=device)
    batch = NoisyBatch(latents, noise, probe, abar, weights)
    running_mean = torch.tensor(0.5, device=device)

    def predict(noisy: torch.Tensor) -> torch.Tensor:
        return predict_noise_at(model, noisy, timesteps.to(device), text, unet)

    def ours(gradient: str) -> None:
        weight = 0.0 if gradient == "plain" else 1.0
        settings = Regularisation("central" if gradient == "plain" else gradient, weight, STEPS[gradient])
        for term in loss_terms(predict, batch, running_mean, settings, parameters):
            term.loss.backward()

    steps = {name: lambda name=name: ours(name) for name in STEPS}
    if not asked.checkpointing and not asked.compile:
        steps["reference"] = lambda: reference_step(predict, batch)
    print(f"{asked.shape}, batch {asked.batch}, latents {SIDE} x {SIDE}, {device}, torch {torch.__version__}")
    print(f"{'step':18} {'seconds':>9} {'ratio':>6} {'kept MB':>9} {'ratio':>6} {'allocated MB':>13} {'ratio':>6}")
    plain = None
    for name, step in steps.items():
        found = measure(step, list(model.unet.parameters()), asked.repeats, device.type == "cuda")
        plain = plain or found
        seconds, kept, allocated = found
        ratio = allocated / plain[2] if plain[2] else 0
        print(f"{name:18} {seconds:9.4f} {seconds / plain[0]:6.2f} {kept / 1e6:9.1f} {kept / plain[1]:6.2f} "
              f"{allocated / 1e6:13.1f} {ratio:6.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
