"""Sequences as files that play: animated WebP, GIF and PNG, WebM for browsers, MP4 where PyAV is installed.

Small frames are enlarged alike in all of them.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smoothtool.errors import SmoothtoolError, UsageError
from smoothtool.files.storage.writing import atomic_path, write_bytes_atomic, write_picture

SMALLEST_PX = 256  # players enlarge small frames without smoothing, and some refuse small videos
LONGEST_ENLARGED_PX = 4096


def save_webp(frames: list[Image.Image], path: Path, fps: float, ping_pong: bool) -> None:
    """An endless animated WebP; `ping_pong` plays the way back too."""
    _save_animation(frames, path, ping_pong, format="WEBP", duration=round(1000 / fps), quality=90, method=4)


def save_gif(frames: list[Image.Image], path: Path, fps: float, ping_pong: bool) -> None:
    """An endless GIF of 256 colours a frame; its clock has hundredths of a second and browsers start at two."""
    _save_animation(frames, path, ping_pong, format="GIF", duration=10 * max(2, round(100 / fps)))


def save_apng(frames: list[Image.Image], path: Path, fps: float, ping_pong: bool) -> None:
    """An endless animated PNG, every pixel as it is; programs that know plain PNG alone show the first frame."""
    _save_animation(frames, path, ping_pong, format="PNG", duration=round(1000 / fps))


def save_webm(frames: list[Image.Image], path: Path, fps: float) -> None:
    """A VP9 video through OpenCV, read back to be sure of it; odd sizes are padded by a pixel.

    Raises: SmoothtoolError when OpenCV cannot be loaded or its build cannot write VP9.
    """
    cv2 = _opencv()
    pictures = [_video_picture(frame) for frame in frames]
    height, width = pictures[0].shape[:2]
    with atomic_path(path) as temporary:
        with _quiet_stderr():
            writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"VP90"), fps, (width, height))
            for picture in pictures:
                writer.write(picture[..., ::-1])
            writer.release()
            written = _count_frames(cv2, temporary)
        if written != len(frames):
            temporary.write_bytes(bytes(sum(picture.nbytes for picture in pictures)))  # or is the disk full?
            raise SmoothtoolError(f"{path}: this build of OpenCV cannot write VP9 video", "pip install opencv-python")
        temporary.write_bytes(_without_chance(temporary.read_bytes()))


def _without_chance(webm: bytes) -> bytes:
    """The same video with the same bytes every time: the number of its track, which is drawn, follows from the rest.

    Matroska (RFC 9559): TrackUID is element 73C5 of eight bytes; tags repeat it; pictures begin at 1F43B675.
    """
    head, cluster, rest = webm.partition(b"\x1f\x43\xb6\x75")
    found = re.search(rb"\x73\xc5\x88(.{8})", head, re.DOTALL)
    if found is None:
        return webm
    blank = head.replace(found[1], bytes(8))
    number = hashlib.blake2b(blank + cluster + rest, digest_size=8).digest()
    return head.replace(found[1], number) + cluster + rest


def check_mp4() -> None:
    """Raises: UsageError when PyAV, which writes MP4, is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UsageError("MP4 needs PyAV", 'pip install "smoothtool[video]"') from error


def save_mp4(frames: list[Image.Image], path: Path, fps: float) -> None:
    """An H.264 video through PyAV, with the same sizes as `save_webm`.

    Raises: UsageError when PyAV is not installed.
    """
    check_mp4()
    import av

    pictures = [_video_picture(frame) for frame in frames]
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "18"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    write_bytes_atomic(path, buffer.getvalue())


def _save_animation(frames: list[Image.Image], path: Path, ping_pong: bool, **options: Any) -> None:
    first, *rest = [_enlarged(frame.convert("RGB")) for frame in frames]
    way_back = rest[-2::-1] if ping_pong else []
    write_picture(path, first, save_all=True, append_images=[*rest, *way_back], loop=0, **options)


def _video_picture(frame: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8 of even height and width."""
    frame = _enlarged(frame.convert("RGB"))
    margins = ((0, frame.height % 2), (0, frame.width % 2), (0, 0))
    return np.pad(np.asarray(frame), margins, mode="edge")


def _enlarged(frame: Image.Image) -> Image.Image:
    """A whole number of times as large, the short side at least 256 px, where that makes no monster of the long one."""
    factor = min(math.ceil(SMALLEST_PX / min(frame.size)), LONGEST_ENLARGED_PX // max(frame.size))
    if factor <= 1:
        return frame
    return frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.LANCZOS)


def _count_frames(cv2: Any, path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        remedy = "apt install libgl1, or opencv-python-headless in place of opencv-python"
        raise SmoothtoolError(f"OpenCV, which writes WebM video, cannot be loaded ({error})", remedy) from error
    return cv2


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """OpenCV complains from C, past its log level: of a tag for VP9 that it then finds by itself, of half a video."""
    if sys.stderr is None:  # closed by the caller: descriptor 2 may be anything
        yield
        return
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
