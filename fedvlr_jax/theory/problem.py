"""The problem whose constants are measured: a model on a data set, its exact objective, its rounds at any rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.federated.objectives import OBJECTIVES
from fedvlr_jax.federated.rounds import make_round
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.models.model import Model
from fedvlr_jax.theory.assumptions import require_analysed, require_own_loss
from fedvlr_jax.theory.objective import make_client_loss, make_total_loss
from fedvlr_jax.types import Array, ClientData, Dataset, FedState

BUCKET_GROWTH = 16  # few, wide buckets: compiling costs more here than padding


class Problem(NamedTuple):
    """A model on a data set, and what the analysis needs of it.

    Attributes:
      settings: nested, with all fields.
      algorithm: the algorithm they describe; ``algorithm.init(key)`` is the state before the first round.
      data: histories and features.
      num_users, num_items: n, |I|.
      client_loss: J_u, see `objective.make_client_loss`.
    """

    settings: Mapping[str, Any]
    algorithm: Algorithm
    data: ClientData
    num_users: int
    num_items: int
    client_loss: Callable

    @property
    def model(self) -> Model:
        """Host and variant."""
        return self.algorithm.model

    def local(self, steps: int, eta: Array | float) -> LocalSettings:
        """How a client trains with A = `steps` plain SGD steps at rate `eta`, private tables included."""
        client = self.settings["client"]
        objective = OBJECTIVES[self.settings["objective"]](
            self.num_items,
            steps=steps,
            negatives=client["negatives"],
            holdout=client["holdout"],
            confidence=self.settings["host"]["confidence"],
        )
        return self.algorithm.local._replace(objective=objective, optimizer=optax.sgd(eta), table_lr=eta, steps=steps)

    def total_loss(self, steps: int) -> Callable:
        """J, see `objective.make_total_loss`."""
        return make_total_loss(self.model, self.client_loss, steps, self.settings["server"]["l2"])

    def round(self, steps: int, cohort: Array | int, eta: Array | float) -> Callable[[FedState], FedState]:
        """One round of the library at rate `eta` for the server and the clients.

        The clients' gradients come A times a round and the server's L2 term once, so that term is multiplied by A:
        its weight in J is then the setting, whatever A is.
        """
        local, compute = self.local(steps, eta), self.settings["compute"]
        plan = plan_buckets(
            self.model, local, self.data.buckets, self.num_items, path=compute["path"], chunk=compute["chunk"]
        )
        round_ = make_round(
            self.model,
            local,
            optax.sgd(eta),
            plan,
            num_users=self.num_users,
            num_items=self.num_items,
            clients_per_round=cohort,
            server_l2=steps * self.settings["server"]["l2"],
        )
        return lambda state: round_(state, self.data)[0]


def make_problem(settings: Mapping[str, Any], dataset: Dataset) -> Problem:
    """Builds the problem.

    Raises:
      ConfigError: settings that the analysis does not cover.
    """
    require_analysed(settings)
    algorithm = make_algorithm(settings, dataset)
    require_own_loss(algorithm.model, settings)
    data = jax.device_put(make_client_data(dataset, min_length=BUCKET_GROWTH, growth=BUCKET_GROWTH))
    loss = make_client_loss(
        algorithm.model, algorithm.local, dataset.num_items, settings["objective"], settings["client"]["negatives"]
    )
    return Problem(settings, algorithm, data, dataset.num_users, dataset.num_items, loss)
