"""Show, on KU, statements about published numbers that docs/reproduction.md makes; half a minute.

FEDVLR_DATA=/where/the/sets/are python experiments/show_findings.py [--config=configs/ku.py]
"""

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_integer("trained_rounds", 60, "rounds of the run whose private state is lost", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Compute and print."""
    from fedvlr_jax.benchmark import findings
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.training.experiment import make_experiment

    del interrupt  # nothing to save
    settings = cli.plain_settings(values.config)
    require_backend()
    dataset = load_configured(settings["data"], settings["seed"])
    experiment = make_experiment(settings, dataset)

    def show(title: str, pair: tuple[float, float]) -> None:
        print(f"  {title:<58} HR@50 {100 * pair[0]:6.2f}  NDCG@50 {100 * pair[1]:6.2f}")

    print(f"{dataset.name}, test rows, percent")
    print("Equal scores for all items, and how ties are broken:")
    show("lowest item id first", findings.constant_by_index(dataset))
    show("lowest item id first, item 0 no candidate", findings.constant_by_index(dataset, without=(0,)))
    for name, pair in findings.simple_rows(dataset, experiment.clients.buckets).items():
        show({"constant": "expectation over random order (tie-exact)"}.get(name, f"{name}, tie-exact"), pair)
    print("What the treatment of unseen items alone does to a total:")
    for model in ("ease", "fed_prior"):
        for name, pair in findings.rows_with_unseen_items_moved(dataset, experiment.clients.buckets, model).items():
            show(f"{name}, tie-exact", pair)
    print(f"Median item id: {findings.median_ids(dataset)}")
    print(f"Without any train row: {findings.unseen_rows(dataset)}")
    print(f"Router weights (0.98, 0.02, 0.00) after a second softmax: {findings.normalised_twice((0.98, 0.02, 0.0))}")
    print(f"{settings['host']['name']} + {settings['variant']} after {values.trained_rounds} rounds, private state:")
    for name, pair in findings.without_private_state(experiment, values.trained_rounds).items():
        show(name, pair)


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
