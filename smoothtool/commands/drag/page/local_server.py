"""An HTTP server for one person at this machine: what others do to it costs neither threads nor words."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

MOST_CONNECTIONS = 16
"""A browser opens six; each holds a thread until its request is whole."""


class LocalServer(ThreadingHTTPServer):
    """Bound to 127.0.0.1; when too many connections are open, the oldest is closed."""

    daemon_threads = True
    request_queue_size = 128
    """Connections that come faster than they are accepted; with the five of the library, the next waits for seconds."""

    def __init__(self, handler: Any) -> None:
        self._open: OrderedDict[int, socket.socket] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[id(request)] = request
            surplus = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - MOST_CONNECTIONS)]
        for oldest in surplus:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its thread finds the end of it, and closes it
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no concern of the person's; answers say what is wrong with a request."""
