"""Your own interactions and features: ids of any kind go in, and the same ids come out.

python examples/own_data.py          (with fedvlr_jax installed, or PYTHONPATH=. in a checkout)
"""

from __future__ import annotations

import numpy as np

import fedvlr_jax


def interactions(num_users: int = 30, num_days: int = 12) -> tuple[list[str], list[str], list[int]]:
    """Stands for a log of yours: who took what when."""
    rng = np.random.default_rng(0)
    users, items, days = [], [], []
    for user in range(num_users):
        taste = rng.integers(2)  # even or odd recipes
        for day, number in enumerate(rng.choice(30, num_days, replace=False)):
            users.append(f"user-{user:02}")
            items.append(f"recipe-{2 * number + taste}")
            days.append(day)
    return users, items, days


def vectors() -> dict[str, np.ndarray]:
    """Stands for the text embeddings of the items, by id; one of them is new and was taken by nobody."""
    rng = np.random.default_rng(1)
    tastes = rng.normal(size=(2, 16))
    return {f"recipe-{number}": tastes[number % 2] + 0.3 * rng.normal(size=16) for number in range(61)}


def main(rounds: int = 60) -> None:
    """The last item of every user is the test item, the one before is for validation."""
    users, items, days = interactions()
    dataset = fedvlr_jax.from_arrays(users, items, timestamps=days, textual=vectors(), name="recipes")
    print(f"{dataset.name}: {dataset.num_users} users, {dataset.num_items} items")

    settings = {"variant": "fedvlr", "fusion.dim": 16, "rounds": rounds}
    fitted = fedvlr_jax.fit(dataset, settings, on_progress=lambda event: event.round < 50)  # False stops the run
    print(f"stopped after round {fitted.metrics['rounds']}, best was round {fitted.metrics['best_round']}")

    # "seen" leaves out the validation and the test item too: the user has them.
    for user, rank, item, _ in fedvlr_jax.recommend(fitted, k=3, users=["user-00", "user-07"], exclude="seen"):
        print(user, rank, item)


if __name__ == "__main__":
    main()
