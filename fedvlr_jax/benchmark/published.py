"""The numbers of tables 2 and 4 of the paper (arXiv 2410.08478), to be shown beside ours; what is known about them.

They are HR@50 and NDCG@50 in percent as printed: of seven data sets in ``published_table2.csv``, and of FedVLR under
noise, on KU alone, in ``published_table4.csv``.
"""

from __future__ import annotations

import functools
import pathlib

from fedvlr_jax.io.files import read_csv

PAPER_HOSTS = {"fedavg": "FedAvg", "fcf": "FCF", "fedncf": "FedNCF", "pfedrec": "PFedRec", "fedrap": "FedRAP"}
"""The federated frameworks of the paper, in its order, by the name of our host."""

PAPER_VARIANTS = {"base": "", "mlp": "+MLP", "vbpr": "+VBPR", "fedvlr": "+FedVLR"}
PAPER_BASELINES = {"vbpr": "VBPR", "bm3": "BM3", "mgcn": "MGCN", "pgl": "PGL"}
ROWS = {
    **PAPER_BASELINES,
    **{
        f"{host}+{variant}": PAPER_HOSTS[host] + suffix
        for host in PAPER_HOSTS
        for variant, suffix in PAPER_VARIANTS.items()
    },
}
"""Rows of the paper by the name of our method; the paper has only some of the hosts' vbpr variants."""

NOISE = "gradient noise"
"""Our label of methods under the paper's kind of noise (configs/benchmark/privacy_ku.py)."""

NOISY_ROWS = {f"{host}+fedvlr, {NOISE}": f"{name}+FedVLR with noise" for host, name in PAPER_HOSTS.items()}
"""Rows of table 4 by the name of our method."""

PAPER_METRICS = ("HR@50", "NDCG@50")
"""What the paper prints of every method."""

CONSTANT_NOTE = (
    "On KU the published FCF+FedVLR (55.39/15.97) equals, to the digit, what a scorer that gives all items one score "
    "gets when ties go to the lowest item index, and the published FedAvg+FedVLR (54.90/16.04) what it gets when "
    "item 0 is excluded as well; with exact ties that scorer has 9.29/2.40. To see it: "
    "`FEDVLR_DATA=data python -m pytest tests/test_evaluation_real.py`."
)
_LIKE_A_CONSTANT = {("KU", "FCF+FedVLR"), ("KU", "FedAvg+FedVLR")}
_TABLES = [pathlib.Path(__file__).with_name(f"published_table{number}.csv") for number in (2, 4)]


def published(dataset: str, method: str) -> dict[str, float]:
    """The published test metrics of one of our methods.

    Args:
      dataset: name of the set, in any case.
      method: name of the method, such as "fcf+fedvlr" or "bm3".

    Returns:
      Fractions by the names of `PAPER_METRICS`; empty where the paper has no such number.
    """
    row = _table().get((ROWS | NOISY_ROWS).get(method, ""), {})
    cells = {metric: row.get(f"{dataset}_{metric.partition('@')[0]}".lower()) for metric in PAPER_METRICS}
    # Two decimals of percent are four of the fraction; without rounding 55.39 / 100 has a tail of digits.
    return {name: round(float(cell) / 100, 4) for name, cell in cells.items() if cell}


def equals_constant(dataset: str, method: str) -> bool:
    """Whether the published row is the score of a constant function under index-order ties (`CONSTANT_NOTE`)."""
    return (dataset.upper(), ROWS.get(method)) in _LIKE_A_CONSTANT


@functools.cache
def _table() -> dict[str, dict[str, str]]:
    """Cells by row name and lower-case column."""
    rows = [row for table in _TABLES for row in read_csv(table)]
    return {row["method"]: {column.lower(): cell for column, cell in row.items()} for row in rows}
