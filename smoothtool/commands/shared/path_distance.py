"""The distance that PPL and PDV are measured in: LPIPS where it can be had, else a stand-in under its own name."""

from __future__ import annotations

import torch

from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.reconstruction import lpips, lpips_missing
from smoothtool.metrics.sequences import PairDistance
from smoothtool.types import Track
from smoothtool.weights.models import STICKERS


def path_distance(side_px: int, track: Track) -> tuple[PairDistance, str]:
    """The distance between pictures of that shorter side, and its name; a note says why it is not LPIPS."""
    reason = lpips_missing(side_px)
    if not reason:
        return _lpips, "LPIPS (AlexNet)"
    clip = load_clip(STICKERS / "clip")
    name = f"patch distance of {clip.name}"
    track.note(f"distances are the {name}, not LPIPS, and compare with no paper: {reason}")
    return clip.patch_distance, name


def _lpips(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    found = lpips(first, second)
    assert found is not None, "asked for only where it is there"
    return found
