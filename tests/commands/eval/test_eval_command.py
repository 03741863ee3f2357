"""`eval` on small folders: the same figures as the metrics themselves, named for what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import tiny_clip

from smoothtool.commands.eval import run as evaluate
from smoothtool.errors import InputError
from smoothtool.jobs import EvalJob
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.fid import frechet_distance
from smoothtool.types import Report, silent


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders with four pictures each, of the same names."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / name / f"{index}.png")
    return [tmp_path / "a", tmp_path / "b"]


def pixel_values(folder: Path) -> torch.Tensor:
    pictures = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def measure(metric: str, folders: list[Path], **settings: Any) -> Report:
    job = EvalJob(metric=metric, folders=[str(f) for f in folders], output=folders[0].parent / "out", **settings)
    return evaluate.run(job, silent)


def test_reconstruction_is_the_mean_over_pairs_with_a_stand_in_named_as_such(folders: list[Path], clip: Path) -> None:
    report = measure("recon", folders, clip=str(clip))
    a, b = (pixel_values(folder) for folder in folders)
    assert report.figures["mse"] == pytest.approx(float((a - b).square().mean()), rel=1e-5)
    assert report.figures["pictures"] == 4
    if report.figures["lpips"] is None:
        name = report.figures["stand_in"]
        distances = load_clip(clip).patch_distance(a, b).tolist()
        assert report.figures[name] == pytest.approx(sum(distances) / 4, rel=1e-5)
        assert [row[name] for row in report.figures["per_picture"].values()] == pytest.approx(distances, rel=1e-5)
    assert (report.folder / "report.json").is_file()


def test_folders_of_unequal_counts_are_refused(folders: list[Path], clip: Path) -> None:
    (folders[1] / "3.png").unlink()
    with pytest.raises(InputError, match=r"has 4 pictures, .* has 3"):
        measure("recon", folders, clip=str(clip))


def test_pictures_of_another_size_are_named(folders: list[Path], clip: Path) -> None:
    Image.new("RGB", (16, 32)).save(folders[1] / "2.png")
    with pytest.raises(InputError, match=r"2\.png.*32x32 and 16x32"):
        measure("recon", folders, clip=str(clip))


def test_frames_are_taken_in_natural_order(tmp_path: Path, clip: Path) -> None:
    for name, at in (("f{}.png", 0), ("f{:03d}.png", 1)):
        (tmp_path / str(at)).mkdir()
        for index in range(11):
            Image.new("RGB", (32, 32), (20 * index,) * 3).save(tmp_path / str(at) / name.format(index))
    figures = measure("walk", [tmp_path / "0", tmp_path / "1"], clip=str(clip)).figures
    plain, padded = (row["adjacent_l2"]["population_std"] for row in figures.values())
    assert plain == padded < 0.1


def test_a_picture_where_a_folder_is_meant_is_told_so(folders: list[Path], clip: Path) -> None:
    with pytest.raises(InputError, match="this is a file"):
        measure("recon", [folders[0] / "0.png", folders[1]], clip=str(clip))


def test_differing_names_are_paired_in_order_and_noted(folders: list[Path], clip: Path) -> None:
    (folders[1] / "3.png").rename(folders[1] / "9.png")
    assert any("order of their names" in note for note in measure("recon", folders, clip=str(clip)).notes)


def test_a_frechet_distance_in_clip_features_is_never_called_fid(folders: list[Path], clip: Path) -> None:
    report = measure("fid", folders, features="clip", clip=str(clip))
    a, b = (load_clip(clip).image_features(pixel_values(folder)) for folder in folders)
    assert report.figures["clip_frechet_distance"] == pytest.approx(frechet_distance(a, b), rel=1e-4)
    assert "fid" not in report.figures
    assert report.figures["features"].endswith("/clip")
    assert "4 pictures are few" in report.notes[0]


def test_clip_score_takes_prompts_from_a_file_or_from_beside_the_pictures(
    folders: list[Path], clip: Path, tmp_path: Path
) -> None:
    prompts = ["a cat", "a dog", "a fox", "a cake"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    from_file = measure("clip", folders[:1], clip=str(clip), prompts=str(tmp_path / "prompts.txt"))
    for index, prompt in enumerate(prompts):
        (folders[0] / f"{index}.txt").write_text(prompt)
    beside = measure("clip", folders[:1], clip=str(clip), force=True)
    assert beside.figures == from_file.figures
    expected = load_clip(clip).score(pixel_values(folders[0]), prompts)
    assert from_file.figures["clip_score"]["mean"] == pytest.approx(float(expected.mean()), abs=1e-3)


def test_a_picture_without_a_prompt_is_named(folders: list[Path], clip: Path) -> None:
    with pytest.raises(InputError, match=r"0\.png: has no prompt"):
        measure("clip", folders[:1], clip=str(clip))


def test_each_folder_is_a_walk_with_its_figures(folders: list[Path], clip: Path) -> None:
    report = measure("walk", folders, clip=str(clip))
    frames = pixel_values(folders[1])
    distances = (frames.diff(dim=0) / 2).flatten(1).norm(dim=1)
    figures = report.figures[str(folders[1])]
    assert figures["adjacent_l2"]["distances"] == pytest.approx(distances.tolist(), rel=1e-5)
    assert figures["path"]["ppl"] == pytest.approx(sum(figures["path"]["distances"]))


def test_a_walk_of_one_frame_is_refused(folders: list[Path], clip: Path) -> None:
    for index in (1, 2, 3):
        (folders[0] / f"{index}.png").unlink()
    with pytest.raises(InputError, match="needs two frames, this has 1"):
        measure("walk", folders, clip=str(clip))


def test_missing_and_empty_folders_are_named(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "empty", "no pictures")):
        with pytest.raises(InputError, match=words):
            measure("fid", [folder, folder], clip=str(clip))


@pytest.mark.parametrize(("metric", "count"), [("recon", 1), ("fid", 3), ("clip", 2)])
def test_a_wrong_number_of_folders_is_refused(metric: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"are {count}"):
        EvalJob(metric=metric, folders=["x"] * count)
