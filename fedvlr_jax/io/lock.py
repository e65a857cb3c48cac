"""One writer a folder: the first process owns it, the second is refused and told who was first.

The lock is the kernel's, on the file ``.lock``: it goes with the process that holds it, however that ends. Beside it,
``lock.json`` names the owner for whoever is refused; the owner touches it every few seconds. On a file system whose
locks reach one machine only, or that has none, that sign of life decides: an owner on another machine counts as dead
when it has given none for `STALE` seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import platform
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.mesh import agreed
from fedvlr_jax.io.elapsed import repeated
from fedvlr_jax.io.files import write_json

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

LOCK, NOTE = ".lock", "lock.json"
HEARTBEAT, STALE = 10.0, 60.0  # seconds between two signs of life, and without any until an owner counts as dead
PATIENCE = 1.0  # seconds: for a note that is about to be written; without locks, for others that write one


class Owner(NamedTuple):
    """Which process owns a folder.

    Attributes:
      process: its number.
      machine: the name of the one it runs on.
      started: when it started, in the clock of that machine's kernel; "" where there is no /proc. Numbers of
        processes come again, with another start.
      since: since when it owns the folder, local time.
    """

    process: int
    machine: str
    started: str
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.machine}, since {self.since}"


@contextlib.contextmanager
def own(folder: pathlib.Path) -> Iterator[None]:
    """While active, this run alone writes into the folder; all its processes call it, process 0 takes the lock.

    Raises:
      ConfigError: as `hold`, in all processes.
    """
    refusal = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(hold(folder))
            except ConfigError as error:
                refusal = error
        if agreed(refusal is not None):
            raise refusal or ConfigError(f"--workdir={folder} was refused to process 0 of this run, see there")
        yield


@contextlib.contextmanager
def hold(*folders: pathlib.Path) -> Iterator[None]:
    """While active, this process alone holds the folders, which exist and can be written.

    Raises:
      ConfigError: one of them is held by a living process; its name is in the message.
    """
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_hold_one(folder))
        stack.enter_context(_signs_of_life([folder / NOTE for folder in folders]))
        yield


@contextlib.contextmanager
def _hold_one(folder: pathlib.Path) -> Iterator[None]:
    note = folder / NOTE
    try:
        descriptor, is_locked = _open_lock(folder / LOCK)
    except BlockingIOError:
        raise _refusal(folder, _wait_for_note(note)) from None
    try:
        other = _read_note(note)
        if other is not None and _may_live(other, folder, is_locked):
            raise _refusal(folder, other)
        owner = _this_process()
        write_json(note, owner._asdict())
        if not is_locked:
            time.sleep(PATIENCE)  # whoever else found the folder free has written by now, and the last one stays
            if (other := _read_note(note)) != owner:
                raise _refusal(folder, other)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _open_lock(path: pathlib.Path) -> tuple[int, bool]:
    """The open lock file, and whether it is locked (False: the file system has no locks).

    Raises:
      BlockingIOError: another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_locked = _lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise
        if not is_locked or _is_same_file(descriptor, path):
            return descriptor, is_locked
        os.close(descriptor)  # its last owner removed it after it was opened here


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # ENOLCK, EOPNOTSUPP
        return False
    return True


def _is_same_file(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _may_live(owner: Owner, folder: pathlib.Path, is_locked: bool) -> bool:
    """Whether the owner that a note names may be alive, seen by a process that has the lock, if there are locks."""
    if owner.machine == platform.node():
        if is_locked:
            return False  # it would have the lock
        if owner.started:
            return _start_of(owner.process) == owner.started
    os.utime(folder / LOCK)  # the time of the file system's own clock
    try:
        return (folder / LOCK).stat().st_mtime - (folder / NOTE).stat().st_mtime < STALE
    except FileNotFoundError:
        return False


def _this_process() -> Owner:
    now = datetime.datetime.now().isoformat(" ", "seconds")
    return Owner(os.getpid(), platform.node(), _start_of(os.getpid()), now)


def _start_of(process: int) -> str:
    """When a process of this machine started, in ticks since the machine did; "" if there is no such process."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return fields[19].decode()


def _read_note(note: pathlib.Path) -> Owner | None:
    """The owner that a note names; None without a note, or for one that makes no sense."""
    try:
        return Owner(**json.loads(note.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _wait_for_note(note: pathlib.Path) -> Owner | None:
    """The owner of a lock that is held: its note may be about to come, and a dead owner's may still be there."""
    end = time.monotonic() + PATIENCE
    while True:
        owner = _read_note(note)
        is_here = owner is not None and owner.machine == platform.node() and owner.started
        if owner is not None and (not is_here or _start_of(owner.process) == owner.started):
            return owner
        if time.monotonic() > end:
            return None
        time.sleep(PATIENCE / 50)


def _refusal(folder: pathlib.Path, owner: Owner | None) -> ConfigError:
    return ConfigError(
        f"{folder} is in use by {owner or 'another process'}; wait for it, or choose another --workdir"
    )


@contextlib.contextmanager
def _signs_of_life(notes: Sequence[pathlib.Path]) -> Iterator[None]:
    """Touches the notes every `HEARTBEAT` seconds, in a thread, so that other machines see who is alive."""

    def beat() -> None:
        for note in notes:
            with contextlib.suppress(OSError):
                os.utime(note)

    with repeated(beat, HEARTBEAT):
        yield
