"""A federation of real processes over Flower against a simulation, with processes killed in the middle of rounds."""

from __future__ import annotations

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import TINY
from problems import relative_difference

pytest.importorskip("flwr", reason='a federation of processes needs flwr: pip install "fedvlr_jax[flower]"')

from commands import ROOT

from configs import base
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_histories
from fedvlr_jax.deploy.coordinator import ServerState, Timing
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.deploy.flower.loopback import loopback, shares
from fedvlr_jax.deploy.server_run import prepare_server
from fedvlr_jax.deploy.states import States
from fedvlr_jax.federated import sampling
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.writers import read_metrics
from fedvlr_jax.settings import override
from fedvlr_jax.types import Bucket, ClientData, FedState, content_of

SILOS, ROUNDS, COHORT = 3, 5, 8
FIELDS = TINY | {"rounds": ROUNDS, "eval.every": ROUNDS, "server.clients_per_round": COHORT}
