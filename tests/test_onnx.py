"""Scoring as ONNX against the library, in onnxruntime and, in a page without a server, in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chromium import PROGRAM, browser
from problems import relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.deploy.export import LOADER, client_programs, flat
from fedvlr_jax.deploy.onnx_export import RUNTIME, Scoring, scoring_graph, scoring_page
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.router import ROUTERS
from fedvlr_jax.types import content_of

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra features is not installed")

DATASET = tiny_dataset(num_users=6, num_items=24)
HISTORY = [3, 11, 17, 20]
WIDTH = 16
FAST = ["fcf fedvlr", "fedrap vbpr"]
CASES = [
    *FAST,
    *("fedncf fedvlr", "fedavg mlp"),
    *(f"fedavg fedvlr fusion__router={name}" for name in ROUTERS),
    *(f"fedavg fedvlr fusion__activation={name}" for name in ("gelu", "softplus")),
]
PACKAGE = pathlib.Path(os.environ.get("ONNXRUNTIME_WEB") or "node_modules/onnxruntime-web")


def scored(host, variant, *changes):
    """The graph of a host and variant, a private state away from its start, and the library's scores."""
    changed = dict(change.split("=") for change in changes)
    tree = settings(host__name=host, variant=variant, fusion__operators="id,visual", **changed)
    algorithm = make_algorithm(tree, DATASET)
    state = algorithm.init(jax.random.key(3))
    broadcast, _ = algorithm.server.open_round(state.public, content_of(DATASET))
    programs = client_programs(algorithm, broadcast, DATASET.num_items, longest=10)
    graph = scoring_graph(programs, broadcast, {"dataset": DATASET.name})
    random = np.random.default_rng(1)
    private = {
        name: np.asarray(x[2] + (0.3 * random.normal(size=x[2].shape) if x.dtype == np.float32 else 0), x.dtype)
        for name, x in flat(state.private).items()
    }
    history = np.array([*HISTORY, *[DATASET.num_items] * (WIDTH - len(HISTORY))], np.int32)
    unused = jnp.zeros(2, jnp.uint32), jnp.int32(0), jnp.int32(0)
    expected = jax.jit(programs.functions[f"score_{WIDTH}"])(flat(broadcast), private, history, *unused)
    return graph, private, history, np.array(expected)


def run(model, feeds):
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {x.name: np.asarray(feeds[x.name]) for x in session.get_inputs()})[0]


@pytest.mark.parametrize("case", spread(CASES, FAST))
def test_the_graph_scores_as_the_library_does(case):
    graph, private, history, expected = scored(*case.split())
    found = run(graph.model, {**private, "history": history})
    assert relative_difference(found, expected) <= 1e-5
    assert np.ptp(expected) > 0.1  # not the same for all items
    assert graph.width == WIDTH
    assert graph.state == {name: private[name].shape for name in graph.state}
    about = {entry.key: entry.value for entry in onnx.load_from_string(graph.model).metadata_props}
    assert about == {"dataset": "tiny"}


FUNCTIONS = {
    "rows out of range are filled": lambda x, i: x.at[i].get(mode="fill", fill_value=-7),
    "rows out of range read the nearest": lambda x, i: x.at[i].get(mode="clip"),
    "products with shared and contracted axes": lambda x, i: jnp.einsum("ij,kj,k->ki", x, x, x.sum(axis=1)) @ x,
    "softmax": lambda x, i: jax.nn.softmax(x, axis=0),
    "choices": lambda x, i: jnp.where((x > 0) & (x != 1), jnp.log1p(jnp.abs(x)), x**3),
    "parts that nothing reads": lambda x, i: (jnp.sort(x), x - jnp.max(x, axis=1, keepdims=True))[1],
    "functions in functions": lambda x, i: jax.jit(jax.nn.relu)(x) + jax.jit(lambda y: 2 * y)(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation_means_what_it_does_in_jax(name):
    from fedvlr_jax.deploy.onnx_graph import to_onnx

    feeds = {
        "x": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32),
        "i": np.array([4, 0, 5, 9], np.int32),
    }
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in feeds.values()]
    model = to_onnx(FUNCTIONS[name], arguments, list(feeds), {}, "y", {})
    np.testing.assert_allclose(
        run(model.SerializeToString(), feeds),
        FUNCTIONS[name](*map(jnp.asarray, feeds.values())),
        rtol=1e-6,
        atol=1e-6,
    )


def test_what_onnx_lacks_is_refused_by_name():
    from fedvlr_jax.deploy.onnx_graph import to_onnx

    with pytest.raises(ConfigError, match=r"expected scores of products, .* found the operation sort"):
        to_onnx(lambda x: jnp.sort(x), [jax.ShapeDtypeStruct((3,), np.float32)], ["x"], {}, "y", {})


@pytest.mark.slow
def test_a_host_that_trains_before_it_scores_is_refused():
    with pytest.raises(ConfigError, match=r"a host that trains before it scores \(pfedrec,"):
        scored("pfedrec", "base")


def titled(title):
    """The data set with ids that are not numbers, the first of them with this title."""
    names = np.array([f"item {number}" for number in range(DATASET.num_items)])
    return dataclasses.replace(DATASET, item_ids=np.char.add("b", names), item_titles=np.array([title, *names[1:]]))


def test_the_page_has_everything_inside_and_may_connect_to_nothing(tmp_path):
    graph = Scoring(b"a graph", {"params/theta/b": (), "params/theta/w": (8,)}, WIDTH)
    with pytest.raises(ConfigError, match=r"--web=.*: expected the npm package onnxruntime-web with dist/ort"):
        scoring_page(graph, DATASET, "tiny", tmp_path)
    (tmp_path / "dist").mkdir()
    for name in RUNTIME.values():
        (tmp_path / name).write_bytes(name.encode())
    page = scoring_page(graph, titled("</script><b>"), "tiny & small", tmp_path).decode()
    parts = dict(re.findall(r'<script type="[^"]*" id="(.*?)">(.*?)</script>', page, re.DOTALL))
    assert base64.b64decode(parts["model"]) == graph.model
    assert {name: base64.b64decode(parts[name]).decode() for name in RUNTIME} == RUNTIME
    about = json.loads(parts["about"])
    assert about["items"][:2] == [["bitem 0", "</script><b>"], ["bitem 1", "item 1"]]
    assert about["state"] == {"params/theta/b": [], "params/theta/w": [8]}
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy.replace("&#39;", "'")
    assert f"'sha256-{digest}'" in policy.replace("&#39;", "'").replace("&#43;", "+")
    assert "<title>tiny &amp; small</title>" in page


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
@pytest.mark.skipif(not PACKAGE.is_dir(), reason="npm install onnxruntime-web, or ONNXRUNTIME_WEB=its folder")
def test_a_browser_ranks_without_a_server_and_sends_nothing(tmp_path):
    from safetensors.numpy import save_file

    graph, private, _, scores = scored("fcf", "fedvlr")
    dataset = titled("The first <b>")
    (tmp_path / "index.html").write_bytes(scoring_page(graph, dataset, "tiny", PACKAGE))
    np.savez(tmp_path / "state.npz", **private)
    save_file({name.removeprefix("params/"): private[name] for name in graph.state}, tmp_path / "own.safetensors")
    np.savez(tmp_path / "other.npz", **{**private, "params/theta/w": np.zeros(3, np.float32)})
    (tmp_path / "text.npz").write_text("no archive, but longer than the end of one would be")
    scores[HISTORY] = -np.inf
    best = [dataset.item_ids[item] for item in np.argsort(-scores, kind="stable")[:10]]
    history = (
        ", ".join(dataset.item_ids[item] for item in HISTORY[:2]) + "\n" + "\n".join(dataset.item_ids[HISTORY[2:]])
    )

    with browser(tmp_path / "profile") as tab:

        def ranked(file, typed):
            tab.choose("#state", tmp_path / file)
            tab.evaluate(f"document.getElementById('history').value = {json.dumps(typed)}")
            tab.click("#rank")
            tab.wait(
                "!document.getElementById('rank').disabled && document.getElementById('said').textContent != '…'"
            )
            items = tab.evaluate("[...document.querySelectorAll('#best li')].map((line) => line.dataset.item)")
            return items or tab.evaluate("document.getElementById('said').textContent")

        tab.call("Page.navigate", url=(tmp_path / "index.html").as_uri())
        tab.wait("document.getElementById('said')?.textContent === 'ready'", seconds=120)
        assert ranked("state.npz", history) == best
        assert ranked("own.safetensors", history) == best
        shown = tab.evaluate("[...document.querySelectorAll('#best li')].map((line) => line.textContent)")
        titles = dict(zip(dataset.item_ids, dataset.item_titles, strict=True))
        assert shown == [f"{titles[item]} ({item})" for item in best]
        assert ranked("other.npz", history) == "state: params/theta/w: expected float32 [8], found [3]"
        assert "expected an archive of NumPy or safetensors" in ranked("text.npz", history)
        assert ranked("state.npz", "bitem 1, bitem 99") == "history: expected ids of tiny, found bitem 99"
        assert tab.evaluate(
            "fetch('https://127.0.0.1:9/', {method: 'POST'}).then(() => 'sent', () => 'refused')"
        ) == ("refused")
        assert tab.evaluate("navigator.sendBeacon('https://127.0.0.1:9/', 'x') && document.images.length") == 0
        assert {address.split(":")[0] for address in tab.addresses()} == {"file", "blob"}


@pytest.mark.skipif(shutil.which("node") is None, reason="no program node")
def test_a_state_whose_columns_come_first_is_no_state_with_its_rows_mixed_up(tmp_path):
    """NumPy writes an array as it lies in memory, and says so in its head."""
    script = (LOADER.parent / "templates" / "page.js").read_text()
    reader = script[script.index("function readNpz") : script.index("async function readState")]
    (tmp_path / "read.mjs").write_text(
        f"import fs from 'fs';\n{reader}\nconst x = fs.readFileSync(process.argv[2]);\n"
        "const found = readNpz(x.buffer.slice(x.byteOffset, x.byteOffset + x.length));\n"
        "console.log(JSON.stringify([...found].map(([name, { shape, data }]) => [name, shape, [...data]])));\n"
    )

    def read(array):
        np.savez(tmp_path / "state.npz", w=array)
        command = ["node", str(tmp_path / "read.mjs"), str(tmp_path / "state.npz")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert json.loads(read(rows).stdout) == [["w", [2, 3], [0, 1, 2, 3, 4, 5]]]
    assert "state: w: expected rows one after the other, found columns" in read(np.asfortranarray(rows)).stderr
