"""Which tokens of a source prompt the tokens of a target prompt stand for (Hertz et al. 2022, section 3.2).

On purpose not as in the program: what follows the last word of the target stands for what follows the last word of the
source, however long both are. The program counts both from the end of the target, so that beside a longer source its
padding would look where the source's last words do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smoothtool.diffusion.tokens import PromptTokens


def replacement_matrix(source: PromptTokens, target: PromptTokens) -> torch.Tensor:
    """M [L, L] with A_target = A_source M: word k of the target takes the attention of word k of the source.

    Words of equal token counts are mapped token by token; otherwise the source word's attention is summed and shared
    equally, so that nothing is lost. Start goes to start, and what follows the last word to what follows the last word.
    Needs equal word counts.
    """
    length = len(source.ids)
    matrix = torch.zeros(length, length, device="cpu")
    matrix[0, 0] = 1
    for from_span, to_span in zip(source.spans, target.spans, strict=True):
        if len(from_span) == len(to_span):
            matrix[from_span, to_span] = 1
        else:
            for from_at in from_span:
                matrix[from_at, list(to_span)] = 1 / len(to_span)
    for behind in range(length - target.end):
        matrix[min(source.end + behind, length - 1), target.end + behind] = 1
    return matrix


def refinement_map(source: PromptTokens, target: PromptTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """(mapper [L], alpha [L]): target token k stands for source token mapper[k] where alpha[k] = 1, and is new at 0."""
    length = len(source.ids)
    pairs = align(source.ids[: source.end], target.ids[: target.end])
    mapper, alpha = torch.zeros(length, dtype=torch.long, device="cpu"), torch.zeros(length, device="cpu")
    for from_at, to_at in pairs:
        mapper[to_at], alpha[to_at] = from_at, 1
    for behind in range(length - target.end):
        mapper[target.end + behind] = min(source.end + behind, length - 1)
        alpha[target.end + behind] = 1
    return mapper, alpha


def align(source: Sequence[int], target: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of equal tokens in the best global alignment (Needleman & Wunsch 1970): gap 0, match 1, mismatch -1.

    With free gaps a mismatch never pays, so the score counts matches. Among alignments of equal score it is the one
    of Prompt-to-Prompt's program: a token is paired with the earliest that it can be.
    """
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, left in enumerate(source):
        for j, right in enumerate(target):
            paired = score[i][j] + (1 if left == right else -1)
            score[i + 1][j + 1] = max(score[i][j + 1], score[i + 1][j], paired)
    pairs, i, j = [], len(source), len(target)
    while i and j:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
