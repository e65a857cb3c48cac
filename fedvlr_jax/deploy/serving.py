"""Answers about the users of a trained run over HTTP: what to show them, why, and whether the service is well.

Everything about the users of the run is computed once at the start, since their private states no longer change: a
request reads rows of arrays. A posted history is scored as it comes, by programs that are compiled at the start. A
deployed federation scores on its devices instead (`export`); this is for looking at a run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.api import Fitted, preferences
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.data.ids import ids_or_numbers
from fedvlr_jax.data.posted import item_numbers
from fedvlr_jax.deploy.posted import AskNew, BadRequest, answer_history, make_ask, parse_posted
from fedvlr_jax.errors import suggest
from fedvlr_jax.extras import require_extra
from fedvlr_jax.training import job
from fedvlr_jax.types import MODALITIES, Dataset

MOST = 100  # items that are kept for each user


class Answers(NamedTuple):
    """What is served.

    Attributes:
      about: of the run, for ``/health``.
      dataset: ids, titles and histories.
      number: a user's number by its id as text.
      history: numbers of the train items of every user.
      item_uk, score_uk: the best `MOST` items of every user, -1 where there are fewer.
      preference_um: float32 [u, 3], in the order of `MODALITIES`.
      known: numbers of items by their ids as text.
      ask: the `MOST` best items for the users of posted histories, or None where states are not on one device.
    """

    about: Mapping[str, Any]
    dataset: Dataset
    number: Mapping[str, int]
    history: list[np.ndarray]
    item_uk: np.ndarray
    score_uk: np.ndarray
    preference_um: np.ndarray
    known: Mapping[str, int]
    ask: AskNew | None


def prepare_answers(fitted: Fitted) -> Answers:
    """Ranks for all users and reads their preferences, once."""
    dataset, result = fitted.dataset, fitted.metrics
    item_uk, score_uk = job.best_items(fitted.experiment, fitted.trained, k=min(MOST, dataset.num_items))
    ids = ids_or_numbers(dataset.user_ids, dataset.num_users).tolist()
    about = {name: result[name] for name in ("dataset", "host", "variant", "best_round")}
    return Answers(
        about=about | {"status": "ok", "users": dataset.num_users, "items": dataset.num_items},
        dataset=dataset,
        number={str(id_): number for number, id_ in enumerate(ids)},
        history=split_by_user(dataset, dataset.train_item),
        item_uk=item_uk,
        score_uk=score_uk,
        preference_um=preferences(fitted),
        known=item_numbers(dataset),
        ask=make_ask(fitted, MOST),
    )


def recommended(answers: Answers, user: str, k: int) -> dict[str, Any]:
    """The answer to ``/recommend``: the k best items of a user, best first.

    Raises:
      BadRequest: an unknown user, or a `k` that is not kept.
    """
    number = _number(answers, user)
    if not 1 <= k <= MOST:
        raise BadRequest(400, f"k: expected 1 to {MOST}, found {k}")
    rows = zip(answers.item_uk[number, :k].tolist(), answers.score_uk[number, :k].tolist(), strict=True)
    return {"user": user, "items": _ranked(answers.dataset, rows)}


def recommended_to_new(answers: Answers, content: bytes) -> dict[str, Any]:
    """The answer to a posted ``{"history": [ids, the oldest first], "k": 10}``; ids that no item has are ``ignored``.

    Raises:
      BadRequest: no such object, no known item in it, a `k` that is not kept, or a run that cannot be asked.
    """
    history, k = parse_posted(content, MOST)
    rows, ignored = answer_history(answers.dataset, answers.known, answers.ask, history)
    return {"items": _ranked(answers.dataset, rows[:k]), "ignored": list(ignored)}


def _ranked(dataset: Dataset, rows: Iterable[tuple[int, float]]) -> list[dict[str, Any]]:
    items = [item_of(dataset, item) | {"score": score} for item, score in rows if item >= 0]
    return [{"rank": rank} | item for rank, item in enumerate(items, start=1)]


def preferred(answers: Answers, user: str) -> dict[str, Any]:
    """The answer to ``/preferences``: a user's shares for item identity, looks and words."""
    shares = answers.preference_um[_number(answers, user)].tolist()
    return {"user": user} | dict(zip(MODALITIES.values(), shares, strict=True))


def item_of(dataset: Dataset, number: int) -> dict[str, Any]:
    """The id of an item as the caller knows it, and its title where there is one."""
    item = {"item": number if dataset.item_ids is None else dataset.item_ids[number].item()}
    title = "" if dataset.item_titles is None else str(dataset.item_titles[number])
    return item | ({"title": title} if title else {})


def page(answers: Answers, user: str) -> str:
    """The answer to ``/``: a user's history, preferences as bars, and the ten best items, as HTML."""
    number = _number(answers, user)
    bars = "".join(
        f"<dt>{escape(name)}</dt><dd><meter value='{share:.4f}'></meter> {100 * share:.1f} %</dd>"
        for name, share in preferred(answers, user).items()
        if name != "user"
    )
    history = "".join(f"<li>{_name(answers.dataset, item)}</li>" for item in answers.history[number].tolist())
    best = "".join(
        f"<li>{_name(answers.dataset, item)}</li>" for item in answers.item_uk[number, :10].tolist() if item >= 0
    )
    return _PAGE.format(
        title=escape("{dataset}, {host} + {variant}".format(**answers.about)),
        user=escape(user, quote=True),
        bars=bars,
        history=history,
        best=best,
    )


def make_app(answers: Answers) -> Callable[..., Any]:
    """The service as an ASGI application.

    Raises:
      ConfigError: the extra ``serve`` is not installed.
    """
    with require_extra("serve", "serving"):
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route

    def answering(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            try:
                found = answer(request)
                return await found if isinstance(found, Awaitable) else found
            except BadRequest as error:
                return JSONResponse({"error": str(error)}, error.status)

        return respond

    async def post(request: Request) -> Response:
        return JSONResponse(recommended_to_new(answers, await request.body()))

    routes = {
        "/recommend": lambda r: JSONResponse(recommended(answers, _given(r.query_params), _whole(r.query_params))),
        "/preferences": lambda r: JSONResponse(preferred(answers, _given(r.query_params))),
        "/health": lambda r: JSONResponse(answers.about),
        "/": lambda r: HTMLResponse(page(answers, r.query_params.get("user") or next(iter(answers.number)))),
    }
    posting = Route("/recommend", answering(post), methods=["POST"])
    return Starlette(routes=[posting, *(Route(path, answering(answer)) for path, answer in routes.items())])


def _given(query: Mapping[str, str]) -> str:
    if "user" not in query:
        raise BadRequest(400, "user: expected ?user=ID, found none")
    return query["user"]


def _whole(query: Mapping[str, str]) -> int:
    text = query.get("k", "10")
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise BadRequest(400, f"k: expected a whole number, found {text[:40]!r}")
    return int(text)


def _number(answers: Answers, user: str) -> int:
    if user not in answers.number:
        near = suggest(user, answers.number, "") if len(user) <= 100 and len(answers.number) <= 10_000 else ""
        raise BadRequest(404, f"user: expected an id of {answers.about['dataset']}, found {user[:100]!r}{near}")
    return answers.number[user]


def _name(dataset: Dataset, number: int) -> str:
    item = item_of(dataset, number)
    return escape(f"{item['title']} ({item['item']})" if "title" in item else str(item["item"]))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; }} dd {{ margin: 0; }}
meter {{ width: 12rem; max-width: 60%; }} ol.history {{ max-height: 16rem; overflow: auto; }}
</style></head><body><h1>{title}</h1>
<form><label>User <input name="user" value="{user}"></label> <button>Show</button></form>
<h2>Preferences</h2><dl>{bars}</dl>
<h2>Best items</h2><ol class="best">{best}</ol>
<h2>History</h2><ol class="history">{history}</ol>
</body></html>
"""
