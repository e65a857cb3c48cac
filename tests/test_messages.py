"""The messages of a federation: what goes in comes out, what does not fit is refused, bytes are as the costs say."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest
from federations import DATASET, federation_settings, make_silo
from problems import spread

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.deploy import messages
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.deploy.local_socket import ask, serve
from fedvlr_jax.deploy.messages import CLIENT_BYTES, ID_BYTES, TRAIN, Message, Spec, num_bytes, pack, unpack
from fedvlr_jax.deploy.silo_programs import shared_settings, sizes_of
from fedvlr_jax.deploy.worker import answer
from fedvlr_jax.errors import MessageError
from fedvlr_jax.types import content_of

ARRAYS = {
    "rows/views": np.arange(12, dtype=np.float32).reshape(3, 2, 2),
    "ids": np.int32([4, 7, 9]),
    "flag": np.array(True),
}
MESSAGE = Message(TRAIN, {"round": 3, "name": "é", "deep": {"a": [1, 2.5, None]}}, ARRAYS)


def test_what_is_packed_comes_out():
    found = unpack(pack(MESSAGE))
    assert (found.kind, found.fields) == (MESSAGE.kind, MESSAGE.fields)
    assert list(found.arrays) == list(ARRAYS)
    for name, x in ARRAYS.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (x.dtype, x.shape)
        assert np.array_equal(found.arrays[name], x)
    assert unpack(pack(messages.refusal("no"))).fields == {"reason": "no"}


def test_the_bytes_of_a_message_are_those_of_its_arrays_and_a_line_that_describes_them():
    assert len(pack(MESSAGE)) == num_bytes(ARRAYS) + len(messages.head_of(MESSAGE).encode()) + 8 * (
        1 + 1 + len(ARRAYS)
    )


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda x: b"", "found 0 bytes"),
        (lambda x: x[:-1], "expected parts and their lengths"),
        (lambda x: x + b"0", "expected parts and their lengths"),
        (lambda x: b"\xff" * 8 + x[8:], "expected parts and their lengths"),
        (lambda x: x.replace(b'"version": 1', b'"version": 2'), "expected version 1, found 2"),
        (lambda x: x.replace(b"float32", b"float64"), "cannot reshape|buffer size"),
        (lambda x: x.replace(b"float32", b"object1"), "object1"),
        (lambda x: x.replace(b'"kind"', b'"dnik"'), "kind"),
        (lambda x: x.replace(b"{", b"(", 1), "expected a head and its arrays"),
    ],
)
def test_what_is_no_message_is_refused(spoil, problem):
    with pytest.raises(MessageError, match=problem):
        unpack(spoil(pack(MESSAGE)))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"a": np.zeros((2, 3), np.float32)}, r"x: b: expected int32 \[2\], found no such array"),
        (
            {"a": np.zeros((2, 3)), "b": np.zeros(2, np.int32)},
            r"x: a: expected float32 \[n, 3\], found float64 \[2, 3\]",
        ),
        (
            {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int32)},
            r"x: b: expected int32 \[2\], found int32 \[4\]",
        ),
        ({"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int32), "c": np.zeros(1)}, "x: c: expected no such"),
    ],
)
def test_arrays_that_do_not_fit_a_layout_are_refused(arrays, problem):
    layout = {"a": Spec(("n", 3), "float32"), "b": Spec(("n",), "int32")}
    messages.require_layout({"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int32)}, layout, "x")
    with pytest.raises(MessageError, match=problem):
        messages.require_layout(arrays, layout, "x")


CASES = [("fedncf", "fedvlr", "bce"), ("fcf", "vbpr", "bce"), ("fcf", "base", "softmax")]


@pytest.mark.parametrize(("host", "variant", "objective"), spread(CASES, CASES[2:]))
def test_the_bytes_on_the_wire_are_those_of_the_cost_report(tmp_path, host, variant, objective):
    tree = federation_settings(host__name=host, variant=variant, objective=objective)
    algorithm = make_algorithm(tree, DATASET)
    cost = algorithm.cost
    broadcast, _ = algorithm.server.open_round(algorithm.init_public(jax.random.key(0)), content_of(DATASET))
    sent = {name: np.asarray(x) for name, x in flat(broadcast).items()}
    assert num_bytes(sent) == cost.bytes_down_per_client
    fields = {**sizes_of(DATASET)._asdict(), "settings": shared_settings(tree), "round": 0}
    users = {"user": np.int32([0, 1]), "counted": np.int32([-1, -1])}
    silo = make_silo(tree, tmp_path / "silo", range(0, 2), "silo")
    upload = unpack(answer(silo, pack(Message(TRAIN, fields, sent | users)))).arrays
    rows, clients = len(upload["ids"]), 2
    expected = rows * (cost.bytes_per_row + ID_BYTES) + clients * (cost.bytes_head + CLIENT_BYTES)
    assert num_bytes(upload) == expected
    if objective == "softmax":  # whole uploads
        assert expected == clients * (cost.bytes_up_per_client + CLIENT_BYTES + ID_BYTES * DATASET.num_items)


def test_questions_are_answered_over_a_socket_of_this_account_alone(tmp_path):
    path, stop = tmp_path / "s", threading.Event()
    thread = threading.Thread(target=serve, args=(path, lambda question: question[::-1], stop))
    thread.start()
    try:
        while not path.exists():
            pass
        assert path.stat().st_mode & 0o077 == 0
        content = np.random.default_rng(0).bytes(3_000_000)
        assert ask(str(path), content, 10.0) == content[::-1]
        assert ask(str(path), b"", 10.0) == b""
    finally:
        stop.set()
        thread.join()
    assert not path.exists()
    with pytest.raises(OSError, match="no client worker listens at"):
        ask(str(path), b"", 1.0)
    with pytest.raises(OSError, match="expected a path of at most 100 bytes"):
        serve(tmp_path / ("long" * 30), lambda question: question, stop)


def test_a_worker_refuses_what_is_no_message_and_survives_its_own_errors(tmp_path, capsys):
    silo = make_silo(federation_settings(), tmp_path / "silo", range(0, 2), "silo")
    assert "expected parts" in unpack(answer(silo, b"nonsense")).fields["reason"]
    assert (
        "expected one of join, train, rank, found 'sing'"
        in unpack(answer(silo, pack(Message("sing", {}, {})))).fields["reason"]
    )
    silo._people = None
    fields = {**sizes_of(DATASET)._asdict(), "settings": shared_settings(silo._settings)}
    assert (
        unpack(answer(silo, pack(Message("join", fields, {})))).fields["reason"]
        == "the client failed: AttributeError"
    )
    assert "Traceback" in capsys.readouterr().err
