"""The sticker world, and the program that makes the embedded model which knows it."""
