"""The folder that ``flwr run`` submits: a description of the two apps, whose code is in the installed package."""

from __future__ import annotations

import json
import pathlib

from fedvlr_jax.io.files import write_bytes

DESCRIPTION = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedvlr-federation"
version = "1.0.0"
description = "A federation of fedvlr_jax"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "local"

[tool.flwr.app.components]
serverapp = "fedvlr_jax.deploy.flower.server_app:app"
clientapp = "fedvlr_jax.deploy.flower.client_app:app"

[tool.flwr.app.config]
workdir = {workdir}
"""


def write_app(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Writes the description of an app whose server works in `workdir`, a folder of the superlink's machine."""
    folder.mkdir(exist_ok=True)
    write_bytes(folder / "pyproject.toml", DESCRIPTION.format(workdir=json.dumps(str(workdir.resolve()))).encode())


def write_connection(
    home: pathlib.Path, address: str, *, name: str = "local", certificate: str | None = None
) -> None:
    """Writes ``config.toml`` of `home` ($FLWR_HOME), where ``flwr`` looks up a superlink by name.

    Args:
      home: is made if need be.
      address: host:port of the superlink.
      name: what the superlink is called.
      certificate: file with the certificate of the authority that signed the superlink's; None connects without TLS.
    """
    home.mkdir(parents=True, exist_ok=True)
    security = "insecure = true" if certificate is None else f"root-certificates = {json.dumps(certificate)}"
    lines = ["[superlink]", f'default = "{name}"', "", f"[superlink.{name}]", f'address = "{address}"', security, ""]
    write_bytes(home / "config.toml", "\n".join(lines).encode())
