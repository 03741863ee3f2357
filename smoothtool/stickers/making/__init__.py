"""The program that makes the embedded `stickers` model: `python -m smoothtool.stickers.making`."""
