"""Sequences that play, read back frame by frame."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from storage_toys import limited_files

from smoothtool.errors import SmoothtoolError, StorageError, UsageError
from smoothtool.files.pictures.sequences import save_apng, save_gif, save_mp4, save_webm, save_webp
from smoothtool.jobs import InterpolateJob

Save = Callable[[list[Image.Image], Path, float, bool], None]
"""`save_webp` and its like: frames, path, frames a second, and whether the way back is played too."""


def frames(count: int, size: tuple[int, int] = (24, 16)) -> list[Image.Image]:
    return [Image.new("RGB", size, (250 * index // max(1, count - 1), 40, 60)) for index in range(count)]


def reds(path: Path) -> list[int]:
    with Image.open(path) as opened:
        found = []
        for index in range(opened.n_frames):
            opened.seek(index)
            found.append(opened.convert("RGB").getpixel((5, 5))[0])
        return found


def video_frames(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        good, picture = capture.read()
        if not good:
            return found
        found.append(picture[..., ::-1])


@pytest.mark.parametrize("save", [save_webp, save_gif, save_apng])
def test_ping_pong_comes_back_without_repeating_the_ends(tmp_path: Path, save: Save) -> None:
    save(frames(4), tmp_path / "a", 8, True)
    assert reds(tmp_path / "a") == pytest.approx([0, 83, 166, 250, 166, 83], abs=6)


@pytest.mark.parametrize("save", [save_webp, save_gif, save_apng])
def test_without_ping_pong_each_frame_is_there_once(tmp_path: Path, save: Save) -> None:
    save(frames(4), tmp_path / "a", 8, False)
    assert reds(tmp_path / "a") == pytest.approx([0, 83, 166, 250], abs=6)


@pytest.mark.parametrize("save", [save_webp, save_gif, save_apng])
def test_one_frame_alone_can_be_saved(tmp_path: Path, save: Save) -> None:
    save(frames(1), tmp_path / "a", 8, True)
    assert reds(tmp_path / "a") == pytest.approx([0], abs=6)


def test_a_webp_runs_at_the_speed_asked_for(tmp_path: Path) -> None:
    save_webp(frames(3), tmp_path / "a.webp", 8, False)
    with Image.open(tmp_path / "a.webp") as opened:
        opened.load()
        assert opened.info["duration"] == 125


@pytest.mark.parametrize("size", [(64, 64), (65, 63), (1, 300), (257, 301)])
def test_a_webm_of_any_size_has_every_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    save_webm(frames(3, size), tmp_path / "a.webm", 8)
    found = video_frames(tmp_path / "a.webm")
    assert [picture[0, 0, 0] for picture in found] == pytest.approx([0, 125, 250], abs=8)


SIZES = [((64, 80), (256, 320)), ((300, 258), (300, 258)), ((1, 300), (13, 3900))]


@pytest.mark.parametrize(("size", "shown"), SIZES)
def test_small_frames_are_enlarged_for_players(tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    save_webm(frames(2, size), tmp_path / "a.webm", 8)
    width, height = (side + side % 2 for side in shown)
    assert video_frames(tmp_path / "a.webm")[0].shape == (height, width, 3)


@pytest.mark.parametrize("save", [save_webp, save_gif, save_apng])
@pytest.mark.parametrize(("size", "shown"), SIZES)
def test_animations_are_enlarged_as_videos_are(
    tmp_path: Path, save: Save, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    save(frames(2, size), tmp_path / "a", 8, False)
    with Image.open(tmp_path / "a") as opened:
        assert opened.size == shown


def test_writing_a_webm_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_webm(frames(2), tmp_path / "a.webm", 8)
    assert capfd.readouterr().err == ""


def test_an_opencv_that_writes_nothing_is_noticed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute:
        fourcc = staticmethod(lambda *letters: 0)

        def __init__(self, *arguments: Any) -> None: ...
        def write(self, picture: np.ndarray) -> None: ...
        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", Mute)
    with pytest.raises(SmoothtoolError, match="VP9"):
        save_webm(frames(2), tmp_path / "a.webm", 8)
    assert list(tmp_path.iterdir()) == []


def test_equal_videos_have_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_webm(frames(4), tmp_path / f"{name}.webm", 8)
    save_webm(frames(5), tmp_path / "c.webm", 8)
    one, two, other = (track_number((tmp_path / f"{name}.webm").read_bytes()) for name in "abc")
    assert one == two != other
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()
    assert len(video_frames(tmp_path / "a.webm")) == 4


def track_number(webm: bytes) -> bytes:
    at = webm.index(b"\x73\xc5\x88") + 3
    return webm[at : at + 8]


@pytest.mark.parametrize("name", ["a.webm", "a.webp", "a.gif", "a.apng"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    save = {"webm": save_webm, "webp": save_webp, "gif": save_gif, "apng": save_apng}[name[2:]]
    rest = () if save is save_webm else (True,)
    with limited_files(2_000), pytest.raises(StorageError, match=f"{name}: cannot be written"):
        save([Image.fromarray(frame) for frame in noise], tmp_path / name, 8, *rest)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""  # nor does a library say so in its own way


@pytest.mark.parametrize("end", [0, 1])
def test_every_format_plays_at_the_slowest_and_the_fastest_speed(tmp_path: Path, end: int) -> None:
    bounds = [part for part in InterpolateJob.model_fields["fps"].metadata if hasattr(part, ("ge", "le")[end])]
    fps = getattr(bounds[0], ("ge", "le")[end])
    save_webm(frames(2), tmp_path / "a.webm", fps)
    save_webp(frames(2), tmp_path / "a.webp", fps, False)
    save_gif(frames(2), tmp_path / "a.gif", fps, False)
    assert len(video_frames(tmp_path / "a.webm")) == 2


def without(monkeypatch: pytest.MonkeyPatch, module: str, message: str) -> None:
    true_import = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if name == module:
            raise ImportError(message)
        return true_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_missing_libgl_is_a_sentence_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "cv2", "libGL.so.1: cannot open shared object file")
    with pytest.raises(SmoothtoolError, match=r"libGL\.so\.1.*apt install libgl1"):
        save_webm(frames(2), tmp_path / "a.webm", 8)


def test_mp4_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "av", "No module named 'av'")
    with pytest.raises(UsageError, match=r"smoothtool\[video\]"):
        save_mp4(frames(2), tmp_path / "a.mp4", 8)


def test_an_mp4_has_every_frame(tmp_path: Path) -> None:
    pytest.importorskip("av")
    save_mp4(frames(3, (65, 63)), tmp_path / "a.mp4", 8)
    found = video_frames(tmp_path / "a.mp4")
    assert [picture[0, 0, 0] for picture in found] == pytest.approx([0, 125, 250], abs=8)
