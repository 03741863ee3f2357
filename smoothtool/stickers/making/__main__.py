"""Make the embedded model: `python -m smoothtool.stickers.making STAGE --work DIR`. Every stage resumes.

From nothing: vae, unet, decoder (any time after vae), clip (when the text encoder is frozen), judge, pack, guidance,
measure.
To go on from the shipped weights: unpack, unet --start smoothtool/weights/stickers, decoder, clip --start (the same),
judge, pack, guidance, measure. When recipes/train-smooth-lora-stickers.yaml has made a LoRA for them: measure-smooth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

RATE = 1.5e-3  # of the UNet
STEPS = {"vae": 2_000, "unet": 80_000, "decoder": 4_000, "clip": 3_000, "judge": 800}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m smoothtool.stickers.making", description=__doc__)
    parser.add_argument(
        "stage",
        choices=["icons", "unpack", "latents", *STEPS, "pack", "guidance", "samples", "measure", "measure-smooth"],
    )
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
    arguments = parser.parse_args()
    rate = {} if arguments.rate is None else {"rate": arguments.rate}
    steps = arguments.steps or STEPS.get(arguments.stage, 0)
    from smoothtool.stickers.world.icons import fetch_icons

    fetch_icons(arguments.work / "icons")
    if arguments.stage in ("vae", "decoder"):
        from smoothtool.stickers.making.vae import train_vae

        train_vae(arguments.work, steps, decoder_only=arguments.stage == "decoder", **rate)
    elif arguments.stage == "latents":
        from smoothtool.stickers.making.latents import SHARDS, encode_shard, tokenize_shard

        index, count = map(int, arguments.shard.split("/"))
        for shard in range(index, SHARDS, count):
            print(
                encode_shard(arguments.work, shard, arguments.device), tokenize_shard(arguments.work, shard), flush=True
            )
    elif arguments.stage == "clip":
        from smoothtool.stickers.making.clip import train_clip

        train_clip(arguments.work, steps, start=arguments.start, **rate)
    elif arguments.stage == "judge":
        from smoothtool.stickers.making.judge import train_judge

        train_judge(arguments.work, steps, **rate)
    elif arguments.stage == "unpack":
        from smoothtool.stickers.making.pack import unpack

        unpack(arguments.work)
    elif arguments.stage == "pack":
        from smoothtool.stickers.making.pack import pack

        pack(arguments.work)
    elif arguments.stage == "guidance":
        from smoothtool.stickers.making.guidance import measure_guidance

        measure_guidance(arguments.work)
    elif arguments.stage == "samples":
        from smoothtool.stickers.world.samples import draw_samples

        draw_samples(arguments.work / "icons")
    elif arguments.stage == "measure":
        from smoothtool.stickers.making.measure import measure

        measure(arguments.work)
    elif arguments.stage == "measure-smooth":
        from smoothtool.stickers.making.measure import measure_smooth

        measure_smooth(arguments.work)
    elif arguments.stage == "unet":
        from smoothtool.stickers.making.unet import train_unet

        train_unet(
            arguments.work,
            steps,
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


if __name__ == "__main__":
    main()
