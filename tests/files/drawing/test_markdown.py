"""Tables that people paste."""

from __future__ import annotations

from smoothtool.files.drawing.markdown import markdown_table


def test_columns_are_aligned_and_missing_figures_are_empty() -> None:
    table = markdown_table([{"method": "a|b", "psnr_db": 25.9812}, {"method": "long name", "psnr_db": None}])
    assert table.splitlines() == [
        "| method    | psnr_db |",
        "| --------- | ------: |",
        "| a\\|b      |   25.98 |",
        "| long name |         |",
    ]
