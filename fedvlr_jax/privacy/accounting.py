"""From settings to a guarantee: which noise a budget asks for, and how much of the budget rounds have spent.

What is accounted is the sum of clipped uploads of every round, with noise on it: user-level, central, for clients
that are added or removed. Everything else that every run lets out is listed in `NOT_COVERED`.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedvlr_jax.privacy.subsampled import subsampled_epsilon

NEIGHBOURS = "add or remove one client with all that it has"
NEIGHBOURS_LOCAL = "any two histories of one client"
NOT_COVERED = (
    "the choice of the round and of settings on validation items",
    "losses, metrics and counts of clients in files and on the screen",
    "baselines printed beside the result",
    "other runs: budgets add up, and runs with the same seed share their noise",
    "whoever knows the seed of the run, which its noise is made of",
)
"""What every run lets out beside the noised sums."""

CHOICE_PRECISION, CHOICE_SHARE = 0.005, 0.1
"""The choice of what is made of the prior's noised sum: how precisely it reads a mean over clients of numbers within
[0, 1], and the share of epsilon that it takes at most."""

LOCAL_SENSITIVITY = 2.0
"""How far two uploads of one client can be apart, in units of the bound of each."""

LEAST_DELTA = 1e-14
"""For each round of a Poisson sample the least delta: losses are composed in double precision, whose errors could
otherwise be as large as what delta allows, in either direction."""

PRECISION = 1e-4
"""Relative precision of a noise multiplier that was solved for; the error is on the safe side."""


class Guarantee(NamedTuple):
    """What the noised sums of a run are worth.

    Attributes:
      noise_multiplier: sigma, the deviation of the noise on the sum over the bound of one upload.
      rate: q, the probability with which a client takes part in a round; 1 for all of them in every round.
      delta: of (epsilon, delta).
      prior_noise: deviation of the noise on the one sum that the prior is made of, which a client moves by 1; None
        for no such sum.
      choice_epsilon: what the choice among ways to use that sum spends, by the exponential mechanism, without delta.
      local: every client puts the noise on its own upload, and what is accounted is all that one client sends: any
        two of its histories give uploads that differ by twice the bound at most.
    """

    noise_multiplier: float
    rate: float
    delta: float
    prior_noise: float | None = None
    choice_epsilon: float = 0.0
    local: bool = False

    def epsilon(self, rounds: int) -> float:
        """epsilon after so many rounds, with the prior's sum and choice."""
        if self.local:
            return epsilon_of(self.noise_multiplier / LOCAL_SENSITIVITY, 1.0, rounds, self.delta)
        if self.prior_noise is None:
            return epsilon_of(self.noise_multiplier, self.rate, rounds, self.delta)
        if self.rate == 1 or rounds == 0:  # Gaussian mechanisms one after the other are one
            mu = math.hypot(math.sqrt(rounds) / self.noise_multiplier, 1 / self.prior_noise)
            return self.choice_epsilon + gaussian_epsilon(self.delta, mu)
        half = self.delta / 2
        of_rounds = epsilon_of(self.noise_multiplier, self.rate, rounds, half)
        return self.choice_epsilon + of_rounds + gaussian_epsilon(half, 1 / self.prior_noise)

    def describe(self, rounds: int, not_covered: Sequence[str] = ()) -> dict[str, Any]:
        """What a result says about it, with everything that a reader needs to compute it again.

        Args:
          rounds: so many were made.
          not_covered: what this run lets out beside `NOT_COVERED`.
        """
        full = self.rate == 1 or self.local
        of_prior = {"prior_noise": self.prior_noise, "choice_epsilon": self.choice_epsilon}
        return {
            "epsilon": self.epsilon(rounds),
            "delta": self.delta,
            "rounds": rounds,
            "noise_multiplier": self.noise_multiplier,
            **({} if self.prior_noise is None else of_prior),
            "mode": "local, single uploads" if self.local else "central, noised sums",
            "neighbours": NEIGHBOURS_LOCAL if self.local else NEIGHBOURS,
            "sampling": "all clients in every round" if full else f"poisson, rate {self.rate:g}",
            "accountant": "exact Gaussian" if full else "privacy loss distribution, connect the dots",
            "not_covered": [*NOT_COVERED, *not_covered],
        }


@functools.lru_cache(maxsize=1024)
def epsilon_of(noise_multiplier: float, rate: float, rounds: int, delta: float) -> float:
    """The epsilon of `rounds` noised sums of clipped uploads.

    >>> round(epsilon_of(1.0, 1.0, 100, 1e-5), 1)
    91.8

    Args:
      noise_multiplier: sigma, positive.
      rate: q within (0, 1].
      rounds: T; none of them is worth nothing.
      delta: within (0, 1).
    """
    if rounds == 0:
        return 0.0
    if rate == 1:
        return gaussian_epsilon(delta, math.sqrt(rounds) / noise_multiplier)
    return subsampled_epsilon(delta, noise_multiplier, rate, rounds)


@functools.lru_cache(maxsize=64)
def solve_noise_multiplier(epsilon: float, delta: float, rate: float, rounds: int) -> float:
    """The least noise multiplier with which `rounds` rounds stay within (epsilon, delta), up to `PRECISION`.

    >>> round(solve_noise_multiplier(8.0, 1e-5, 1.0, 100), 2)
    6.0

    Args:
      epsilon, delta, rate, rounds: as of `epsilon_of`, all positive.
    """
    log_mu = scipy.optimize.brentq(
        lambda log: gaussian_delta(epsilon, math.exp(log)) - delta, -50.0, 20.0, xtol=1e-12
    )
    if rate == 1:
        return math.sqrt(rounds) / math.exp(log_mu) * (1 + PRECISION)

    def excess(log_sigma: float) -> float:
        return math.log(max(epsilon_of(math.exp(log_sigma), rate, rounds, delta), 1e-9) / epsilon)

    # Many rounds are one Gaussian mechanism with mu^2 = q^2 T (exp(1 / sigma^2) - 1) in the limit: a good start.
    low = high = -0.5 * math.log(math.log1p(math.exp(2 * log_mu) / (rate**2 * rounds)))
    step = 0.05
    while excess(low) < 0:
        low, high, step = low - step, low, 2 * step
    while excess(high) > 0:
        low, high, step = high, high + step, 2 * step
    return float(np.exp(scipy.optimize.brentq(excess, low, high, xtol=PRECISION / 2) + PRECISION))


def guarantee_of(settings: Mapping[str, Any], num_users: int) -> Guarantee | None:
    """The guarantee that the settings ask for and give, or None without one: noise of a size and nothing else.

    Args:
      settings: nested, checked.
      num_users: clients in the data, which is taken as public.

    Raises:
      ConfigError: if nobody could say what epsilon is, or what was asked for cannot be had.
    """
    asked, aggregation, server = settings["privacy"], settings["aggregation"], settings["server"]
    target, delta = asked["target_epsilon"], asked["delta"]
    if delta == 0:
        if asked["prior_share"] > 0:
            raise ConfigError(
                f"privacy.prior_share: expected privacy.delta and privacy.target_epsilon, a budget of which it is a "
                f"share, found {asked['prior_share']:g} without"
            )
        return None
    transforms = aggregation["transforms"].split(",")
    local = "local_noise" in transforms
    if not local and "noise" not in transforms:
        raise ConfigError(
            f"privacy.delta: a guarantee needs uploads that are clipped and noise on their sum, or on each, so "
            f"expected aggregation.transforms clip,noise or clip,local_noise, found {aggregation['transforms']!r}"
        )
    given = aggregation["noise_multiplier"]
    if (target > 0) == (given > 0):
        raise ConfigError(
            f"privacy.target_epsilon: expected either a budget, for which the noise is solved, or "
            f"aggregation.noise_multiplier, found {target:g} and {given:g}"
        )
    if local:
        return _local_guarantee(asked, given, settings["rounds"])
    cohort = server["clients_per_round"] or num_users
    if cohort < num_users and server["sampling"] != "poisson":
        raise ConfigError(
            f"server.sampling: the accountant knows all clients in every round, or each of them with a probability "
            f"of its own, so expected poisson with server.clients_per_round {cohort}, found {server['sampling']}"
        )
    rate, share = cohort / num_users, asked["prior_share"]
    if rate < 1 and delta < LEAST_DELTA * settings["rounds"]:
        raise ConfigError(
            f"privacy.delta: the accountant of Poisson cohorts composes losses in double precision, so expected "
            f"{LEAST_DELTA * settings['rounds']:g} or more for rounds {settings['rounds']}, found {delta:g}"
        )
    if share == 0:
        noise = solve_noise_multiplier(target, delta, rate, settings["rounds"]) if target else given
        return Guarantee(noise, rate, delta)
    if target == 0:
        raise ConfigError(
            f"privacy.prior_share: expected privacy.target_epsilon, of which it is a share, found {share:g}"
        )
    choice = min(CHOICE_SHARE * target, 1 / (CHOICE_PRECISION * num_users))
    return _divided(target, delta, rate, settings["rounds"], share, choice)


def _local_guarantee(asked: Mapping[str, Any], given: float, rounds: int) -> Guarantee:
    """The guarantee of clients that put noise on their own uploads, and may be in every round."""
    if asked["prior_share"] > 0:
        raise ConfigError(
            f"privacy.prior_share: the prior is made of one noised sum, which needs a central budget, so expected 0 "
            f"with local_noise, found {asked['prior_share']:g}"
        )
    target, delta = asked["target_epsilon"], asked["delta"]
    noise = LOCAL_SENSITIVITY * solve_noise_multiplier(target, delta, 1.0, rounds) if target else given
    return Guarantee(noise, 1.0, delta, local=True)


def _divided(epsilon: float, delta: float, rate: float, rounds: int, share: float, choice: float) -> Guarantee:
    """The guarantee of a budget of which a choice takes some epsilon, the prior's sum a share of the rest, and rounds
    what is left.

    With all clients in every round sum and rounds are Gaussian mechanisms, whose squared mu add up, and the share is
    one of that sum; else it is one of epsilon, and each has half of delta.
    """
    rest = epsilon - choice
    if rate == 1:
        whole = solve_noise_multiplier(rest, delta, 1.0, 1)
        noise, of_prior = whole * math.sqrt(rounds / (1 - share)), whole / math.sqrt(share)
    else:
        noise = solve_noise_multiplier((1 - share) * rest, delta / 2, rate, rounds)
        of_prior = solve_noise_multiplier(share * rest, delta / 2, 1.0, 1)
    return Guarantee(noise, rate, delta, of_prior, choice_epsilon=choice)


def warn_of_a_weak_guarantee(guarantee: Guarantee, num_users: int) -> None:
    """A `RunWarning` where delta is so large that it allows to give somebody away whole."""
    if guarantee.delta > 1 / num_users:
        warnings.warn(
            f"privacy.delta: {guarantee.delta:g} is above 1 / {num_users}, one over the number of clients: letting "
            f"out all that one client in {num_users} has would be within such a guarantee",
            RunWarning,
            stacklevel=3,
        )
