"""`smoothtool train` refuses what cannot be meant before torch is loaded, naming the flag."""

from __future__ import annotations

import pytest

from smoothtool.cli.app import main


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rank", "0"], "--rank is 0"),
        (["--lambda", "-1"], "--lambda is -1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--compile", "--gradient", "double-backward"], "no second derivative"),
        (["--mixed-precision", "bf16"], "too coarse"),
    ],
)
def test_settings_that_cannot_be_meant_exit_with_2(capsys: pytest.CaptureFixture, flags: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "data", *flags])
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert told in err
