"""Questions and answers between processes of one machine, over a socket that only one account can open.

Needs the standard library alone. A question and its answer are bytes behind their length as uint64, and each question
has a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import stat
import struct
import threading
from collections.abc import Callable

LONGEST_PATH = 100  # bytes; the kernel takes 107 at most, less on some systems
MOST_BYTES = 1 << 34


def ask(path: str, question: bytes, timeout: float) -> bytes:
    """Sends a question and waits for the answer.

    Args:
      path: of the socket.
      question: any bytes.
      timeout: seconds without a sign of the other side.

    Raises:
      OSError: nobody listens, or the answer did not come.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
        except OSError as error:
            raise OSError(f"no client worker listens at {path} ({error}); start fedvlr-client") from error
        _send(connection, question)
        return _receive(connection)


def serve(path: pathlib.Path, answer: Callable[[bytes], bytes], stop: threading.Event) -> None:
    """Answers questions one after the other until `stop` is set.

    Args:
      path: of the socket, which is made for this user alone; what another process left there is replaced.
      answer: gives the answer to a question; it must not raise.
      stop: looked at a few times a second.

    Raises:
      OSError: the socket cannot be made.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(f"--socket={path}: expected a path of at most {LONGEST_PATH} bytes, which sockets can have")
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)  # the socket is never open to others, not even for a moment
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen()
        listener.settimeout(0.2)
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):  # whoever asked may be gone
                        connection.settimeout(60.0)
                        _send(connection, answer(_receive(connection)))
        finally:
            path.unlink(missing_ok=True)


def _send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(struct.pack("<Q", len(content)))
    if content:  # where nothing follows, the other side may have answered and hung up already
        connection.sendall(content)


def _receive(connection: socket.socket) -> bytes:
    (length,) = struct.unpack("<Q", _exactly(connection, 8))
    if length > MOST_BYTES:
        raise OSError(f"expected at most {MOST_BYTES} bytes, found {length}")
    return bytes(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytearray:
    content = bytearray()
    while len(content) < length:
        part = connection.recv(min(length - len(content), 1 << 20))
        if not part:
            raise OSError(f"the other side hung up after {len(content)} of {length} bytes")
        content += part
    return content
