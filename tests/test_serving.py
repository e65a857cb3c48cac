"""The service: answers in the caller's ids, and one line for each request that has to be mended."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from problems import tiny_dataset
from test_api import SMALL, named

import fedvlr_jax
from fedvlr_jax.deploy.serving import MOST, make_app, prepare_answers

TITLES = {"i03": "Tea & <b>cake</b>"}


@pytest.fixture(scope="module")
def fitted():
    dataset = tiny_dataset()
    return fedvlr_jax.fit(named(visual=dataset.V, textual=dataset.C, item_titles=TITLES), SMALL)


@pytest.fixture(scope="module")
def answers(fitted):
    return prepare_answers(fitted)


def ask(answers, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and body of a GET request, or of a POST request with a body."""
    name, _, query = path.partition("?")
    method = "GET" if body is None else "POST"
    scope = {"type": "http", "method": method, "path": name, "query_string": query.encode(), "headers": []}
    sent = []

    async def receive():
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(make_app(answers)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


def test_recommendations_are_those_of_the_api(fitted, answers):
    status, body = ask(answers, "/recommend?user=u03&k=4")
    assert status == 200
    expected = fedvlr_jax.recommend(fitted, k=4, users=["u03"])
    found = json.loads(body)
    assert found["user"] == "u03"
    assert [item["item"] for item in found["items"]] == expected["item"].tolist()
    assert [item["rank"] for item in found["items"]] == [1, 2, 3, 4]
    np.testing.assert_allclose([item["score"] for item in found["items"]], expected["score"], rtol=1e-6)


def test_preferences_and_health(fitted, answers):
    _, body = ask(answers, "/preferences?user=u03")
    assert list(json.loads(body).values())[1:] == fedvlr_jax.preferences(fitted)[3].tolist()
    _, body = ask(answers, "/health")
    assert json.loads(body)["status"] == "ok"
    assert json.loads(body)["users"] == fitted.dataset.num_users


def test_the_page_shows_titles_as_text(fitted, answers):
    holder = int(fitted.dataset.train_user[np.flatnonzero(fitted.dataset.train_item == 3)[0]])
    status, body = ask(answers, f"/?user=u{holder:02}")
    assert status == 200
    assert "<li>Tea &amp; &lt;b&gt;cake&lt;/b&gt; (i03)</li>" in body
    assert "<b>cake" not in body
    assert ask(answers, "/")[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/recommend", 400, "user: expected ?user=ID, found none"),
        ("/recommend?user=u3", 404, "user: expected an id of tiny, found 'u3'; did you mean"),
        ("/?user=%3Cscript%3E", 404, "found '<script>'"),
        ("/recommend?user=u03&k=0", 400, f"k: expected 1 to {MOST}, found 0"),
        ("/recommend?user=u03&k=1000000", 400, "found '1000000'"),
        ("/recommend?user=u03&k=-1", 400, "k: expected a whole number, found '-1'"),
        ("/recommend?user=u03&k=%D9%A3", 400, "k: expected a whole number"),
    ],
)
def test_what_has_to_be_mended_is_said_in_one_line(answers, path, status, message):
    found, body = ask(answers, path)
    assert found == status
    assert message in json.loads(body)["error"]


def test_other_paths_are_not_found(answers):
    assert ask(answers, "/etc/passwd")[0] == 404


# ---- posted histories


def test_a_posted_history_gets_what_the_api_gives_a_new_user(fitted, answers):
    history = ["i05", "unheard of", "i01", "i30"]
    status, body = ask(answers, "/recommend", json.dumps({"history": history, "k": 4}).encode())
    assert status == 200
    found = json.loads(body)
    assert found["ignored"] == ["unheard of"]
    with pytest.warns(fedvlr_jax.DataWarning, match="ignored 1 items in histories of 1 of 1 users"):
        expected = fedvlr_jax.recommend_new(fitted, {"guest": history}, k=4)
    assert [item["item"] for item in found["items"]] == expected["item"].tolist()
    np.testing.assert_allclose([item["score"] for item in found["items"]], expected["score"], rtol=1e-4, atol=1e-5)
    assert not {"i05", "i01", "i30"} & set(expected["item"].tolist())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "expected an object of JSON"),
        (b"[1]", "history: expected"),
        (b'{"history": "i01"}', "history: expected"),
        (b'{"history": [["i01"]]}', "history: expected"),
        (b'{"history": []}', "history: expected an item of tiny, found none in 0"),
        (b'{"history": ["x"]}', "history: expected an item of tiny, found none in 1"),
        (b'{"history": ["i01"], "k": 0}', f"k: expected 1 to {MOST}, found 0"),
        (b'{"history": ["i01"], "k": true}', f"k: expected 1 to {MOST}, found True"),
    ],
)
def test_a_posted_history_that_has_to_be_mended(answers, body, message):
    status, found = ask(answers, "/recommend", body)
    assert status == 400
    assert message in json.loads(found)["error"]
