"""Make the embedded model: `python -m smoothtool.stickers.making STAGE --work DIR`. Every stage resumes.

From nothing: vae, unet, decoder (any time after vae), clip (when the text encoder is frozen), judge, pack, guidance,
measure.
To go on from the shipped weights: unpack, unet --start smoothtool/weights/stickers, decoder, clip --start (the same),
judge, pack, guidance, measure. When recipes/train-smooth-lora-stickers.yaml has made a LoRA for them: measure-smooth.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

RATE = 1.5e-3  # of the UNet
STEPS = {"vae": 2_000, "unet": 80_000, "decoder": 4_000, "clip": 3_000, "judge": 800}


def main() -> None:
    arguments = _parser().parse_args()
    from smoothtool.stickers.world.icons import fetch_icons

    fetch_icons(arguments.work / "icons")
    STAGES[arguments.stage](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m smoothtool.stickers.making", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--work", type=Path, required=True, help="working folder, outside the repository")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--device", default="cpu", help="of latents and unet; cuda: in bfloat16, all data on the GPU")
    unet = parser.add_argument_group("unet")
    unet.add_argument("--text-steps", type=int, default=12_000, help="the text encoder learns along so far")
    unet.add_argument("--decay", type=int, default=0, help="make a finished copy by so many steps at a falling rate")
    unet.add_argument("--batch", type=int, default=32, help="samples a step; 512 on a GPU")
    unet.add_argument("--workers", type=int, default=2, help="processes of one thread each, on a CPU")
    unet.add_argument("--minutes", type=float, default=float("inf"), help="save and stop after so long")
    unet.add_argument("--compile", action="store_true", help="compile the model first, on a GPU")
    parser.add_argument("--start", type=Path, help="of unet and clip: a model folder to go on from")
    parser.add_argument("--shard", default="0/1", help="of latents: INDEX/COUNT, for several processes")
    return parser


def _steps(arguments: Namespace) -> int:
    return int(arguments.steps or STEPS[arguments.stage])


def _rate(arguments: Namespace) -> dict[str, float]:
    """The rate that was asked for, if any; else the stage has its own."""
    return {} if arguments.rate is None else {"rate": arguments.rate}


def _vae(arguments: Namespace) -> None:
    from smoothtool.stickers.making.vae import train_vae

    train_vae(arguments.work, _steps(arguments), decoder_only=arguments.stage == "decoder", **_rate(arguments))


def _latents(arguments: Namespace) -> None:
    from smoothtool.stickers.making.latents import SHARDS, encode_shard, tokenize_shard

    index, count = map(int, arguments.shard.split("/"))
    for shard in range(index, SHARDS, count):
        print(encode_shard(arguments.work, shard, arguments.device), tokenize_shard(arguments.work, shard), flush=True)


def _unet(arguments: Namespace) -> None:
    from smoothtool.stickers.making.unet import train_unet

    train_unet(
        arguments.work,
        _steps(arguments),
        start=arguments.start,
        decay=arguments.decay,
        rate=arguments.rate or RATE,
        batch=arguments.batch,
        frozen_from=arguments.text_steps + 1,
        workers=arguments.workers,
        device=arguments.device,
        minutes=arguments.minutes,
        compiled=arguments.compile,
    )


def _clip(arguments: Namespace) -> None:
    from smoothtool.stickers.making.clip import train_clip

    train_clip(arguments.work, _steps(arguments), start=arguments.start, **_rate(arguments))


def _judge(arguments: Namespace) -> None:
    from smoothtool.stickers.making.judge import train_judge

    train_judge(arguments.work, _steps(arguments), **_rate(arguments))


def _unpack(arguments: Namespace) -> None:
    from smoothtool.stickers.making.pack import unpack

    unpack(arguments.work)


def _pack(arguments: Namespace) -> None:
    from smoothtool.stickers.making.pack import pack

    pack(arguments.work)


def _guidance(arguments: Namespace) -> None:
    from smoothtool.stickers.making.guidance import measure_guidance

    measure_guidance(arguments.work)


def _samples(arguments: Namespace) -> None:
    from smoothtool.stickers.world.samples import draw_samples

    draw_samples(arguments.work / "icons")


def _measure(arguments: Namespace) -> None:
    from smoothtool.stickers.making.measure import measure, measure_smooth

    (measure if arguments.stage == "measure" else measure_smooth)(arguments.work)


STAGES: dict[str, Callable[[Namespace], None]] = {
    "icons": lambda arguments: None,  # every stage begins with them
    "unpack": _unpack,
    "latents": _latents,
    "vae": _vae,
    "unet": _unet,
    "decoder": _vae,
    "clip": _clip,
    "judge": _judge,
    "pack": _pack,
    "guidance": _guidance,
    "samples": _samples,
    "measure": _measure,
    "measure-smooth": _measure,
}


if __name__ == "__main__":
    main()
