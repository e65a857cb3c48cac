"""The scoring of one client as ONNX, and a page that ranks items in a browser with nothing behind it.

`score.onnx` has what the server published inside; its inputs are the client's private parameters and its padded
history. The page has the graph, the runtime and the titles inside: one file, opened from a disk, whose content policy
lets the browser connect to nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jinja2
import numpy as np
from markupsafe import Markup

from fedvlr_jax.data.ids import ids_or_numbers
from fedvlr_jax.deploy.export import Programs, flat
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.files import read_content
from fedvlr_jax.types import Dataset, PyTree

SCORES, HISTORY = "scores", "history"
RUNTIME = {"runtime": "dist/ort.wasm.bundle.min.mjs", "wasm": "dist/ort-wasm-simd-threaded.wasm"}
"""The files of the npm package onnxruntime-web that a page needs, by what the page calls them."""


class Scoring(NamedTuple):
    """Scoring as ONNX.

    Attributes:
      model: the content of score.onnx.
      state: the shapes of the private parameters among its inputs, by name.
      width: of a padded history.
    """

    model: bytes
    state: Mapping[str, tuple[int, ...]]
    width: int


def scoring_graph(programs: Programs, broadcast: PyTree, about: Mapping[str, Any]) -> Scoring:
    """The program ``score`` of the widest history as ONNX.

    Args:
      programs: of `export.client_programs`.
      broadcast: that becomes part of the graph.
      about: metadata of the model.

    Raises:
      ConfigError: the extra ``onnx`` is not installed, or a host that trains before it scores.
    """
    from fedvlr_jax.deploy.onnx_graph import to_onnx

    width = programs.widths[-1]
    name = f"score_{width}"
    function, arguments = programs.functions[name], programs.arguments[name]
    names = [*sorted(arguments[0]), *sorted(arguments[1]), HISTORY, "key", "user", "round"]
    published = {name: np.asarray(x) for name, x in jax.device_get(flat(broadcast)).items()}
    model = to_onnx(function, arguments, names, published, SCORES, about)
    inputs = {x.name: tuple(size.dim_value for size in x.type.tensor_type.shape.dim) for x in model.graph.input}
    state = {name: shape for name, shape in inputs.items() if name != HISTORY}
    return Scoring(model.SerializeToString(), state, width)


def scoring_page(scoring: Scoring, dataset: Dataset, title: str, package: pathlib.Path) -> bytes:
    """The page as one file of HTML.

    Args:
      scoring: of `scoring_graph`.
      dataset: whose items have ids, and titles where somebody gave some.
      title: of the page.
      package: folder of the npm package onnxruntime-web.

    Raises:
      ConfigError: a file of the package is not there.
    """
    content = {"model": scoring.model}
    for name, place in RUNTIME.items():
        try:
            content[name] = read_content(package / place)
        except OSError as error:
            raise ConfigError(
                f"--web={package}: expected the npm package onnxruntime-web with {place}, found {error.strerror}"
            ) from error
    ids = ids_or_numbers(dataset.item_ids, dataset.num_items).tolist()
    titles = [""] * len(ids) if dataset.item_titles is None else dataset.item_titles.tolist()
    items = [[str(id_), str(title)] for id_, title in zip(ids, titles, strict=True)]
    about = {"dataset": dataset.name, "items": items, "state": scoring.state, "width": scoring.width}
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("fedvlr_jax.deploy"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    script = templates.get_template("page.js").render()
    page = templates.get_template("page.html").render(
        title=title,
        policy=_policy(script),
        about=Markup(json.dumps(about).replace("<", "\\u003c")),
        parts={name: Markup(base64.b64encode(x).decode()) for name, x in content.items()},
        script=Markup(script),
    )
    return page.encode()


def _policy(script: str) -> str:
    """Nothing but this script, the runtime that it makes of its own bytes, and this page's styles."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}' blob: 'wasm-unsafe-eval'",
        "style-src": "'unsafe-inline'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in sources.items())
