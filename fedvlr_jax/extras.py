"""Packages that only an extra of fedvlr_jax installs, and what is said when one is asked for and missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fedvlr_jax.errors import ConfigError


@contextlib.contextmanager
def require_extra(extra: str, asked: str) -> Iterator[None]:
    """A failed import inside is the user's to mend: the message has the line that installs the extra.

    Args:
      extra: a name of the optional dependencies in pyproject.toml.
      asked: what needs it, in the user's words, as in "data.source=tfds".

    Raises:
      ConfigError: in place of an ImportError.
    """
    try:
        yield
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f'{asked} needs packages that are not installed ({reason}): pip install "fedvlr_jax[{extra}]"'
        ) from error
