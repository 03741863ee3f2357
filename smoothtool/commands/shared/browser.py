"""A page of ours in the person's browser."""

from __future__ import annotations

import threading
import webbrowser


def open_in_browser(address: str) -> None:
    """Ask for it and go on: a browser that stays in the foreground must not hold up the page it shows.

    address  is seen by all users of the machine, in the list of its processes: it must open the page only once
    """
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
