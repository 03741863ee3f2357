"""Scenes of the sticker world as captioned pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from smoothtool.errors import InputError
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.stickers.world.icons import fetch_icons
from smoothtool.stickers.world.pool import pool_caption, pool_scene
from smoothtool.stickers.world.scenes import caption, render

STICKER_CAPTIONS = 3


def sticker_scenes(count: int, icons: Path, *, held_out: bool = False) -> list[CaptionedPicture]:
    """Scenes of the sticker world, the first `count` of the training pool; the icons are fetched when they are missing.

    held_out  of the pool with combinations that no training has seen, each with its plain caption
    """
    try:
        fetch_icons(icons)
    except Exception as error:  # npm missing, offline, a full disk: whatever it is, there are no icons
        raise InputError(
            f"stickers: the icons of the scenes cannot be fetched to {icons} ({error})", "npm and a network"
        ) from error
    if held_out:
        scenes = [pool_scene(index, held_out=True) for index in range(count)]
        return [
            CaptionedPicture(f"held-out-{index:06d}", (caption(scene),), partial(render, scene, icons))
            for index, scene in enumerate(scenes)
        ]
    return [
        CaptionedPicture(
            f"scene-{index:06d}",
            tuple(pool_caption(index, variant) for variant in range(STICKER_CAPTIONS)),
            partial(render, pool_scene(index), icons),
        )
        for index in range(count)
    ]
