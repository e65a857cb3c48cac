"""The door of every command: its flags, its configuration, and what its exit code means.

0         done
1         done, and a check failed (check_convergence, check_complexity)
2         bad input or configuration, or a full disk: one message on stderr, nothing lost
130, 143  stopped by Ctrl-C or SIGTERM, the state is saved
"""

from __future__ import annotations

import errno
import io
import os
import pathlib
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from fedvlr_jax.commands import config_files
from fedvlr_jax.errors import ConfigError, UserError, suggest
from fedvlr_jax.io.compilation_cache import use_compilation_cache
from fedvlr_jax.io.files import discard_output
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.settings import tidy, unknown_field
from fedvlr_jax.settings.page import help_text

DEFAULT_CONFIG = "quickstart"
FULL = (errno.ENOSPC, errno.EDQUOT)


def run(
    body: Callable[[flags.FlagValues, Interrupt], int | None],
    *,
    about: str,
    define: Callable[[flags.FlagValues], None],
    with_config: bool,
    help_text: Callable[[], str] = help_text,
) -> int:
    """Parse the command line, run `body`, and turn what it raises into an exit code.

    Args:
      body: does the work; it may return an exit code of its own, such as 1 for a check that failed.
      about: the help text.
      define: defines the command's own flags.
      with_config: whether there are ``--config=FILE`` and ``--config.FIELD=VALUE``.
      help_text: gives the fields of the configuration for ``--help``.
    """
    logging.set_verbosity(logging.ERROR)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    values, argv = flags.FlagValues(), list(sys.argv)
    define(values)
    about_cache = (
        "find compiled programs of earlier calls, see docs/guides/train.md; --nocompilation_cache compiles anew"
    )
    flags.DEFINE_bool("compilation_cache", True, about_cache, flag_values=values)
    _print_anything()
    if {"-h", "--help", "-help"} & set(argv[1:]):
        print(_as_started(about.strip()), values.get_help(), *([help_text()] if with_config else []), sep="\n")
        return 0
    if with_config:
        argv = _with_config(argv)
        _define_config(values, argv)
    with Interrupt() as interrupt:
        try:
            _parse(values, argv)
            use_compilation_cache(os.environ, on=values.compilation_cache)
            return body(values, interrupt) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Interrupted as stop:
            again = [argument for argument in sys.argv if not re.match(r"--?(noresume$|resume\b)", argument)]
            python = ["python"] if _from_checkout() else []
            print(f"{stop}\nto go on: {shlex.join([*python, *again])}", file=sys.stderr)
            return 128 + stop.signum
        except BrokenPipeError:
            discard_output(sys.stdout)  # `... | head`: nobody is listening
            return 0
        except OSError as error:
            if error.errno not in FULL:
                raise
            place = f"{error.filename}: " if error.filename else ""
            print(
                f"error: {place}expected room to write, found: {error.strerror}; what was saved before is kept, so "
                "make room and run the same command again",
                file=sys.stderr,
            )
            return 2
    return 0


def _print_anything() -> None:
    """Where a locale lacks a character, print "?" for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def how_to_start(name: str) -> list[str]:
    """The words that start another command the way in which this one was started."""
    return ["python", f"experiments/{name}.py"] if _from_checkout() else [f"fedvlr-{name}"]


def _from_checkout() -> bool:
    """Whether this is experiments/<name>.py, not fedvlr-<name> of an installed package."""
    return sys.argv[0].endswith(".py")


def _as_started(about: str) -> str:
    """A help text with its commands as `how_to_start` has them."""
    return re.sub(r"python experiments/(\w+)\.py", lambda found: shlex.join(how_to_start(found[1])), about)


def define_resume(values: flags.FlagValues, what: str) -> None:
    """The flag ``--resume`` of a command that goes on with what lies in its workdir."""
    about = f"go on with the {what} in the workdir; --noresume deletes it and starts again"
    flags.DEFINE_bool("resume", True, about, flag_values=values)


def _define_config(values: flags.FlagValues, argv: list[str]) -> None:
    """The flag ``--config=FILE`` and its fields ``--config.FIELD=VALUE`` as they stand in `argv`."""
    config_flags.DEFINE_config_file(
        "config", help_string="configuration file, see configs/", flag_values=values, lock_config=True, sys_argv=argv
    )


def _with_config(argv: list[str]) -> list[str]:
    """The command line with its configuration file as it is found, the default one where it names none."""
    place = _place_of_config(argv)
    if not place:
        return [argv[0], f"--config={config_files.FOLDER / f'{DEFAULT_CONFIG}.py'}", *argv[1:]]
    words = 1 if "=" in argv[place] else 2  # --config=FILE or --config FILE
    return [*argv[:place], f"--config={_found(config_file(argv))}", *argv[place + words :]]


def _place_of_config(argv: list[str]) -> int:
    """Where --config is in the command line, 0 where it is not."""
    return next((k for k, argument in enumerate(argv) if k and re.match(r"--?config(=|$)", argument)), 0)


def _found(config: str) -> str:
    """A value of --config, ``FILE`` or ``FILE:METHOD``, with the file as `config_files.find` has it."""
    path, colon, method = config.partition(":")
    return f"{config_files.find(path)}{colon}{method}"


def plain_settings(config: ConfigDict) -> dict[str, Any]:
    """The configuration as a nested dict of plain values, lists of names as "a,b" however they were written."""
    return tidy(config.to_dict())


def _parse(values: flags.FlagValues, argv: list[str]) -> None:
    """Parse the command line into `values`; ConfigError for everything that is wrong with it."""
    path = config_file(argv)
    if "config" in values and (second := config_file(["", *argv[_place_of_config(argv) + 1 :]])):
        raise ConfigError(f"--config: expected one configuration file, found {path} and {second}")
    if "config" in values and not pathlib.Path(path.partition(":")[0]).is_file():
        raise ConfigError(f"--config={path}: no such file; configs/ has {config_files.names()}")
    config_files.make_importable(path.partition(":")[0])
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        raise ConfigError(f"unknown flag --{error.flagname}{suggest(error.flagname, values, '--')}") from error
    except (AttributeError, KeyError) as error:
        raise ConfigError(_unknown_field(argv, error)) from error
    except flags.Error as error:
        raise ConfigError(_without_traceback(str(error))) from error
    except Exception as error:  # the configuration is a program, it may raise anything
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    if rest[1:]:
        raise ConfigError(f"unexpected argument {rest[1]!r}; flags start with --, as in --config.rounds=100")


def _unknown_field(argv: list[str], error: Exception) -> str:
    """Name the field of the command line that the configuration lacks, and one that is spelled alike."""
    known = _fields(config_alone(config_file(argv)))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in known:
            return unknown_field(match[1], known, "--config.")
    return f"{config_file(argv)}: {str(error).strip()}"


def config_alone(path: str) -> ConfigDict:
    """A configuration file, as --config names it, without any field of the command line."""
    values, argv = flags.FlagValues(), ["", f"--config={_found(path)}"]
    _define_config(values, argv)
    try:
        values(argv)
        return values.config
    except Exception as error:
        message = _without_traceback(str(error))
        raise ConfigError(f"{path}: {type(error).__name__}: {message}") from error


def _fields(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all groups and leaves."""
    names = []
    for name, value in config.items():
        names.append(prefix + name)
        if isinstance(value, ConfigDict):
            names += _fields(value, f"{prefix}{name}.")
    return names


def config_file(argv: list[str]) -> str:
    """The value of --config."""
    for place, argument in enumerate(argv[1:], start=1):
        if match := re.match(r"--?config(?:=(.*))?$", argument):
            return match[1] if match[1] is not None else "".join(argv[place + 1 : place + 2])
    return ""


def _without_traceback(message: str) -> str:
    """A message of ml_collections without the traceback it may contain."""
    head, found, tail = message.partition("Traceback (most recent call last):")
    return f"{head.strip()} {tail.strip().splitlines()[-1].strip()}" if found else message.strip()
