"""A small convolutional classifier of the sticker world: the judge of samples, independent of the model it judges."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from smoothtool.stickers.making.latents import judged_batch
from smoothtool.stickers.making.loop import Run
from smoothtool.stickers.world.icons import CONCEPTS, STYLES
from smoothtool.stickers.world.pool import held_out_pixel_values, pool_scene
from smoothtool.stickers.world.scenes import COLOURS, Scene

BATCH = 64
HEADS = {"concept": tuple(CONCEPTS), "style": STYLES, "colour": tuple(COLOURS)}


class Judge(nn.Module):
    """pixel_values [B, 3, 64, 64] -> logits per head: concepts (several may be present), style, colour."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (3, 32, 64, 128, 192), []
        for into, out in pairwise(widths):
            layers += [
                nn.Conv2d(into, out, 3, stride=2, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(words)) for name, words in HEADS.items()})

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.body(pixel_values)
        features = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return {name: head(features) for name, head in self.heads.items()}


def _targets(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    concepts = torch.zeros(len(scenes), len(CONCEPTS))
    for row, scene in enumerate(scenes):
        for item in scene.items:
            concepts[row, HEADS["concept"].index(item.concept)] = 1
    return {
        "concept": concepts,
        "style": torch.tensor([STYLES.index(scene.style) for scene in scenes]),
        "colour": torch.tensor([HEADS["colour"].index(scene.colour) for scene in scenes]),
    }


def train_judge(work: Path, steps: int, *, rate: float = 2e-3) -> None:
    """Train to `work/judge.pt` on pool scenes, drawn and decoded; the log tells its accuracy on held-out drawings."""
    torch.manual_seed(0)
    model = Judge()
    run = Run("judge", model, work, rate=rate, steps=steps, average=0.99)
    scenes = [pool_scene(index, held_out=True) for index in range(400)]
    unseen = held_out_pixel_values(work, 400)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        indices, x = judged_batch(work, np.random.default_rng([4, step]), BATCH)
        out = model(x + 0.05 * torch.randn_like(x))  # samples are never as crisp as drawings
        truth = _targets([pool_scene(int(index)) for index in indices])
        concept = F.binary_cross_entropy_with_logits(out["concept"], truth["concept"], reduction="sum") / BATCH
        return {"loss": concept + sum(F.cross_entropy(out[name], truth[name]) for name in ("style", "colour"))}

    def measure() -> dict[str, float]:
        return accuracy(load_judge(work), unseen, scenes)

    run.train(loss_of, measure=measure)


def load_judge(work: Path) -> Judge:
    """The trained judge, with the weights of the last step (batch statistics do not average)."""
    model = Judge()
    model.load_state_dict(torch.load(work / "judge.pt", weights_only=True)["model"])
    return model.eval()


@torch.no_grad()
def accuracy(judge: Judge, pixel_values: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """How often the first choice is right. Concepts are counted on scenes of one item, first among all 50."""
    out, truth = judge(pixel_values), _targets(scenes)
    single = [row for row, scene in enumerate(scenes) if len(scene.items) == 1]
    right = out["concept"][single].argmax(dim=1) == truth["concept"][single].argmax(dim=1)
    figures = {"concept": float(right.float().mean())}
    for name in ("style", "colour"):
        figures[name] = float((out[name].argmax(dim=1) == truth[name]).float().mean())
    return figures
