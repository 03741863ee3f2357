"""A plain transcription of DragDiffusion's loop as its program runs it: the map enlarged whole, one point at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F


def transcribed_drag(
    look: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    latents: torch.Tensor,
    handles: Iterable[torch.Tensor],
    targets: Sequence[torch.Tensor] | torch.Tensor,
    size: tuple[int, int],
    region: torch.Tensor | None,
    iterations: int,
    rate: float = 0.01,
    r_m: int = 1,
    r_p: int = 3,
    weight: float = 0.1,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """look(latents) -> (feature, previous). Returns per iteration the handles, and the latents at the end."""

    def enlarged(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature, previous = look(z)
        return F.interpolate(feature, size, mode="bilinear"), previous

    with torch.no_grad():
        first, previous_first = enlarged(latents)
    z = latents.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=rate)
    handles = [h.clone() for h in handles]
    starts, path = [h.clone() for h in handles], []
    for iteration in range(iterations):
        feature, previous = enlarged(z)
        if iteration:
            handles = [_tracked(first, feature, s, h, r_p) for s, h in zip(starts, handles, strict=True)]
        path.append(torch.stack(handles))
        if all((h - t).norm() < 2 for h, t in zip(handles, targets, strict=True)):
            break
        loss = torch.zeros(())
        for h, t in zip(handles, targets, strict=True):
            if (t - h).norm() < 2:
                continue
            d = (t - h) / (t - h).norm()
            r, c = int(h[0]), int(h[1])
            kept = feature[:, :, r - r_m : r + r_m + 1, c - r_m : c + r_m + 1].detach()
            loss = loss + (2 * r_m + 1) ** 2 * F.l1_loss(kept, _shifted(feature, r, c, d, r_m))
        if region is not None:
            loss = loss + weight * ((previous - previous_first) * (1 - region)).abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return path, z.detach()


def _tracked(
    first: torch.Tensor, feature: torch.Tensor, start: torch.Tensor, handle: torch.Tensor, r_p: int
) -> torch.Tensor:
    wanted = first[:, :, int(start[0]), int(start[1])]
    r, c = max(0, int(handle[0]) - r_p), max(0, int(handle[1]) - r_p)
    window = feature[:, :, r : int(handle[0]) + r_p + 1, c : int(handle[1]) + r_p + 1].detach()
    best = (wanted[..., None, None] - window).abs().sum(dim=1)[0]
    row, col = divmod(int(best.argmin()), best.shape[-1])
    return torch.tensor([float(r + row), float(c + col)])


def _shifted(feature: torch.Tensor, r: int, c: int, d: torch.Tensor, r_m: int) -> torch.Tensor:
    r0, c0 = r - r_m + torch.floor(d[0]).long(), c - r_m + torch.floor(d[1]).long()
    dr, dc = d[0] - torch.floor(d[0]), d[1] - torch.floor(d[1])
    k = 2 * r_m + 1

    def at(i: int, j: int) -> torch.Tensor:
        return feature[:, :, r0 + i : r0 + i + k, c0 + j : c0 + j + k]

    return (1 - dr) * ((1 - dc) * at(0, 0) + dc * at(0, 1)) + dr * ((1 - dc) * at(1, 0) + dc * at(1, 1))
