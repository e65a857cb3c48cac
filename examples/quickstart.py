"""Train on the generated data set, look at the metrics, recommend, and see what each user goes by.

python examples/quickstart.py          (with fedvlr_jax installed, or PYTHONPATH=. in a checkout)
"""

from __future__ import annotations

from typing import Any

import fedvlr_jax


def main(**changes: Any) -> None:
    """Everything in memory; nothing is written. `changes` are settings: ``main(rounds=100)``."""
    dataset = fedvlr_jax.load_dataset("synthetic")  # no files: 204 users, each with a planted preference
    settings = {"host.name": "fcf", "variant": "fedvlr", "rounds": 40, **changes}
    fitted = fedvlr_jax.fit(dataset, settings, on_progress=print)
    print(f"test NDCG@50: {100 * fitted.metrics['test']['NDCG@50']:.1f} %")

    print("for user 0:")
    for _, rank, item, score in fedvlr_jax.recommend(fitted, k=5, users=[0]):
        print(f"  {rank}. item {item} (score {score:.2f})")

    shares = dict(zip(fedvlr_jax.MODALITIES.values(), fedvlr_jax.preferences(fitted)[0], strict=True))
    print("user 0 goes by", ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()))


if __name__ == "__main__":
    main()
