"""Every kind of LoRA as one form: a pair of matrices whose product is added to a layer's weight.

    LoRA    up down                                                    (Hu et al. 2021, arXiv:2106.09685, eq. 3)
    LoCon   the same on convolutions, with a kernel of its own between the two (`mid`) or without
    LoHa    (w1_a w1_b) * (w2_a w2_b), element by element              (Hyeon-Woo et al. 2022, arXiv:2108.06098, eq. 3)
    LoKr    w1 (x) w2, the Kronecker product, each whole or of two     (Yeh et al. 2024, arXiv:2309.14859, sec. 3)
    full    the difference of the whole weight, `diff`
    DoRA    m (W + change) / ||W + change|| - W, of any of these       (Liu et al. 2024, arXiv:2402.09353, eq. 5)

A change of full rank is written as itself times the identity. The pair stands for the change at scale 1; other scales
are that many times the change, for DoRA too, as ComfyUI has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

Pieces = Mapping[str, torch.Tensor]
"""Role -> tensor in float32, of one layer."""

_FORMS = {
    "down": {"down", "up"},
    "hada_w1_a": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "diff": {"diff"},
}
_OTHERS = (
    (("oft_blocks", "oft_diag", "oft_R", "boft_"), "an OFT adapter"),
    (("ia3_", ".on_input"), "an IA3 adapter"),
    (("bundle_emb.", "emb_params", "string_to_param"), "a textual inversion (an embedding of a word)"),
    (("lora_transformer_", "double_blocks", "single_blocks", "single_transformer_blocks"), "a LoRA of Flux"),
    (("joint_blocks", "joint_transformer"), "a LoRA of Stable Diffusion 3"),
    (("lora_unet_joint", "llm_adapter", "lora_te3_"), "a LoRA of another family of models"),
    ((".diff_b", ".w_norm", ".b_norm"), "a difference of biases and norms (LyCORIS full)"),
    (("lllite", "control_model", "controlnet"), "a ControlNet"),
    (("ip_adapter", "image_proj"), "an IP-Adapter"),
    (("motion_modules",), "an AnimateDiff module"),
    (("model.diffusion_model.", "first_stage_model.", "conv_in.weight"), "a whole model"),
    ((".a1.weight", ".b1.weight"), "a GLoRA adapter"),
)


@dataclass(frozen=True)
class LowRankChange:
    """W + (alpha / r) up down.

    down  [r, in], for a convolution [r, in, k, k]
    up    [out, r], for a convolution [out, r, 1, 1]
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    def scaled(self, factor: float) -> LowRankChange:
        """That many times the change."""
        return LowRankChange(self.down, self.up, self.alpha * factor)


class WrongShapeError(Exception):
    """A tensor does not fit its layer: (shape found, shape needed)."""


def lacks_pieces(roles: Iterable[str]) -> bool:
    """Whether these are only a part of any kind, or of several at once."""
    has = set(roles) - {"alpha", "dora_scale", "magnitude", "mid", "hada_t1", "hada_t2", "lokr_t2"}
    if any(role.startswith("lokr_") for role in has):
        whole = all({f"lokr_{w}"} <= has or {f"lokr_{w}_a", f"lokr_{w}_b"} <= has for w in ("w1", "w2"))
        return not whole or any(not role.startswith("lokr_") for role in has)
    return has not in _FORMS.values()


def other_kind(keys: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a file is whose keys are no LoRA's, by name, or an empty string. `shapes` are those of the whole file."""
    for key in keys:
        for marks, kind in _OTHERS:
            if any(mark in key for mark in marks):
                return kind
        if key.endswith(".weight") and key.startswith("lora_unet_") and len(shapes[key]) == 1:
            return "an IA3 adapter"
    if shapes and all("." not in key and len(shape) <= 2 for key, shape in shapes.items()):
        return "a textual inversion (an embedding of a word)"
    return ""


def low_rank_change(pieces: Pieces, alpha: float, weight: torch.Tensor) -> LowRankChange:
    """The change that these tensors make to a layer of that weight, [out, in] or [out, in, k, k].

    alpha  the change counts alpha / rank times; ignored where no rank is given
    Raises: WrongShapeError.
    """
    if empty := next((list(piece.shape) for piece in pieces.values() if not piece.numel()), None):
        raise WrongShapeError(empty, "numbers in it")
    if "down" in pieces:
        change = _lora(pieces, alpha, weight)
    elif "hada_w1_a" in pieces:
        change = _loha(pieces, alpha, weight)
    elif "diff" in pieces:
        _need(pieces["diff"], tuple(weight.shape))
        change = _whole(pieces["diff"])
    else:
        change = _lokr(pieces, alpha, weight)
    return _dora(change, pieces, weight) if {"dora_scale", "magnitude"} & pieces.keys() else change


def _lora(pieces: Pieces, alpha: float, weight: torch.Tensor) -> LowRankChange:
    down, up = pieces["down"], pieces["up"]
    rank = _length(down)
    if "mid" in pieces:
        middle = pieces["mid"]
        _need_kernel(middle, weight)
        _need(down, (rank, weight.shape[1], *(1 for _ in weight.shape[2:])))
        _need(middle, (len(middle), rank, *weight.shape[2:]))
        down = torch.einsum("jrkl,ri->jikl", middle, down.flatten(1))
        rank = len(middle)
    want_down, want_up = (rank, *weight.shape[1:]), (len(weight), rank, *(1 for _ in weight.shape[2:]))
    return LowRankChange(_fitted(down, want_down), _fitted(up, want_up), alpha)


def _loha(pieces: Pieces, alpha: float, weight: torch.Tensor) -> LowRankChange:
    out, columns = len(weight), weight[0].numel()
    factors = [(pieces[f"hada_w{n}_a"], pieces[f"hada_w{n}_b"], pieces.get(f"hada_t{n}")) for n in "12"]
    rank = _length(factors[0][1])
    scale = alpha / max(1, rank)
    if all(core is None for _, _, core in factors):
        for left, right, _ in factors:
            _need(left, (out, _length(right)))
            _need(right, (_length(right), columns))
        (left, right, _), (left_2, right_2, _) = factors
        if len(right) * len(right_2) < min(out, columns):  # the product's own rank: columns and rows of both, paired
            up = torch.einsum("oi,oj->oij", left, left_2).flatten(1)
            down = torch.einsum("ic,jc->ijc", right, right_2).flatten(0, 1)
            return LowRankChange(down.view(-1, *weight.shape[1:]), _pointwise(up, weight), scale * len(down))
    first, second = (_rebuilt(*factor, weight) for factor in factors)
    return _whole(scale * (first * second).view(weight.shape))


def _lokr(pieces: Pieces, alpha: float, weight: torch.Tensor) -> LowRankChange:
    left, rank_1 = _kronecker_part(pieces, "w1")
    right, rank_2 = _kronecker_part(pieces, "w2")
    rank = rank_2 or rank_1
    scale = 1.0 if rank is None else alpha / max(1, rank)
    out, columns = len(weight), weight[0].numel()
    fits = left.ndim == 2 and right.ndim >= 2 and len(left) * len(right) == out
    if not fits or left.shape[1] * right[0].numel() != columns:
        raise WrongShapeError([*left.shape, "x", *right.shape], list(weight.shape))
    kernel = weight.shape[2:]
    right = right.reshape(len(right), -1, *kernel)
    product = torch.einsum("ab,cd...->acbd...", left, right).reshape(weight.shape)
    return _whole(scale * product)


def _kronecker_part(pieces: Pieces, which: str) -> tuple[torch.Tensor, int | None]:
    """One factor, and its rank where it is itself a product."""
    if f"lokr_{which}" in pieces:
        return pieces[f"lokr_{which}"], None
    left, right, core = pieces[f"lokr_{which}_a"], pieces[f"lokr_{which}_b"], pieces.get("lokr_t2")
    rank = _length(right)
    if core is not None and which == "w2":
        if core.ndim != 4 or left.ndim != 2 or right.ndim != 2:
            raise WrongShapeError(list(core.shape), [rank, rank, "k", "k"])
        _need(left, (rank, *left.shape[1:]))
        _need(core, (rank, rank, *core.shape[2:]))
        return torch.einsum("ijkl,jr,ip->prkl", core, right, left), rank
    _need(left, (*left.shape[:1], rank))
    _need(right, (rank, *right.shape[1:2]))
    return left @ right, rank


def _rebuilt(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    """One factor of LoHa as [out, in k k]; with a core (Tucker) its kernel is the core's."""
    if core is None:
        _need(left, (len(weight), _length(right)))
        _need(right, (_length(right), weight[0].numel()))
        return left @ right
    _need_kernel(core, weight)
    rank = _length(left)
    _need(left, (rank, len(weight)))
    _need(right, (rank, weight.shape[1]))
    _need(core, (rank, rank, *weight.shape[2:]))
    return torch.einsum("ijkl,jr,ip->prkl", core, right, left).flatten(1)


def _dora(change: LowRankChange, pieces: Pieces, weight: torch.Tensor) -> LowRankChange:
    """Rows (or, in older files, columns) of W + change get the lengths that were learned."""
    weight = weight.detach().float().cpu()
    moved = weight + (change.alpha / change.rank * (change.up.flatten(1) @ change.down.flatten(1))).view(weight.shape)
    if "magnitude" in pieces or pieces["dora_scale"].shape[:1] == weight.shape[:1]:
        length, dims = pieces.get("magnitude", pieces.get("dora_scale")), tuple(range(1, weight.ndim))
        view = (-1, *(1 for _ in weight.shape[1:]))
    else:
        length, dims = pieces["dora_scale"], (0, *range(2, weight.ndim))
        view = (1, -1, *(1 for _ in weight.shape[2:]))
    assert length is not None
    norm = torch.linalg.vector_norm(moved, dim=dims, keepdim=True)
    if length.numel() != norm.numel():
        raise WrongShapeError(list(length.shape), [norm.numel()])
    return _whole(moved * (length.view(view) / norm.clamp_min(torch.finfo(norm.dtype).tiny)) - weight)


def _whole(change: torch.Tensor) -> LowRankChange:
    """[out, in, …] of any rank, times the identity of the smaller side."""
    out, inner = len(change), change.shape[1]
    if change.ndim > 2 or out <= inner:
        return LowRankChange(change, _pointwise(torch.eye(out, device=change.device), change), float(out))
    return LowRankChange(torch.eye(inner, device=change.device), change, float(inner))


def _pointwise(up: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[out, r], with two ones behind where the layer is a convolution."""
    return up.view(*up.shape, *(1 for _ in weight.shape[2:]))


def _fitted(tensor: torch.Tensor, want: tuple[int, ...]) -> torch.Tensor:
    """1 x 1 convolutions are stored with or without their two ones."""
    spatial = tensor.shape[2:]
    same = tensor.shape == want or (
        tensor.shape[:2] == want[:2] and spatial.numel() == torch.Size(want[2:]).numel() == 1
    )
    if not same or 0 in want:
        raise WrongShapeError(list(tensor.shape), list(want))
    return tensor.reshape(want)


def _length(tensor: torch.Tensor) -> int:
    return len(tensor) if tensor.ndim else 0


def _need_kernel(core: torch.Tensor, weight: torch.Tensor) -> None:
    """A tensor between the two has a kernel, which only a convolution has."""
    if weight.ndim != 4 or core.shape[2:] != weight.shape[2:]:
        raise WrongShapeError(list(core.shape), ["r", "r", *weight.shape[2:]])


def _need(tensor: torch.Tensor, want: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(want) or 0 in want:
        raise WrongShapeError(list(tensor.shape), list(want))
