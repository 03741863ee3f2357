"""One folder per verb: each `run.py` tells the story of its command, the files beside it hold its parts."""
