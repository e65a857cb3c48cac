"""One client of a federation on a device. Needs jax and NumPy alone; copied beside exported programs.

    client = Client("client/")
    private = client.start(seed=7)
    private, upload, loss = client.update(private, history, round_=0)     # train for one round; send `upload`
    client.recommend(private, history, k=10)                              # item numbers, best first

`history` is the client's own item numbers in any order. A loss of NaN says that numbers were not finite: nothing
moved, and the upload is not to be sent. The private state never has to leave the device; `save` and `load` keep it in
a file. A seed that protects somebody is drawn from the operating system and kept secret.
"""

import json
import pathlib
import secrets

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

VERSION = 1


class Client:
    """The exported programs of a folder."""

    def __init__(self, folder):
        """Reads the manifest and the broadcast; programs are loaded when they are first called."""
        self.folder, self._programs = pathlib.Path(folder), {}
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        if self.manifest["version"] != VERSION:
            raise ValueError(f"{folder}: expected version {VERSION}, found {self.manifest['version']}")
        self.num_items = self.manifest["num_items"]
        with np.load(self.folder / "broadcast.npz") as arrays:
            self.receive({name: arrays[name] for name in arrays.files})

    def receive(self, broadcast):
        """Takes what the server publishes, arrays by name; refuses what does not fit the programs."""
        found = {name: [list(np.shape(x)), str(np.asarray(x).dtype)] for name, x in broadcast.items()}
        if found != self.manifest["broadcast"]:
            raise ValueError(f"broadcast: expected {self.manifest['broadcast']}, found {found}")
        self.broadcast = {name: jnp.asarray(x) for name, x in broadcast.items()}

    def start(self, seed):
        """The first private state, arrays by name."""
        return self._call("start", _key(seed))

    def update(self, private, history, round_, key=None, transform_key=None):
        """A round of training -> (private, upload, loss); keys are two uint32 numbers each, drawn where not given."""
        padded, width = self._padded(history)
        keys = [_secret_key() if k is None else jnp.asarray(k, jnp.uint32) for k in (key, transform_key)]
        return self._call(f"update_{width}", self.broadcast, private, padded, *keys, jnp.int32(round_))

    def score(self, private, history, key=(0, 0), user=0, round_=0):
        """Scores of all items, float32 [i]."""
        padded, width = self._padded(history)
        keys = jnp.asarray(key, jnp.uint32), jnp.int32(user), jnp.int32(round_)
        return self._call(f"score_{width}", self.broadcast, private, padded, *keys)

    def recommend(self, private, history, k=10):
        """The k best items that are not in the history, best first; of equal ones the lower number first."""
        scores = np.array(self.score(private, history))
        scores[np.asarray(history, int)] = -np.inf
        return np.argsort(-scores, kind="stable")[: min(k, self.num_items - len(set(history)))]

    def save(self, private, file):
        """Keeps a private state in a file."""
        np.savez(file, **{name: np.asarray(x, order="C") for name, x in private.items()})

    def load(self, file):
        """A private state that `save` wrote."""
        with np.load(file) as arrays:
            return {name: jnp.asarray(arrays[name]) for name in arrays.files}

    def _call(self, name, *arguments):
        if name not in self._programs:
            content = bytearray((self.folder / f"{name}.bin").read_bytes())
            self._programs[name] = jax.jit(export.deserialize(content).call)
        return self._programs[name](*arguments)

    def _padded(self, history):
        items = np.unique(np.asarray(history, np.int32))
        if items.size and not 0 <= items[0] <= items[-1] < self.num_items:
            raise ValueError(f"history: expected items 0 to {self.num_items - 1}, found {items[0]} to {items[-1]}")
        widths = [width for width in self.manifest["widths"] if width >= items.size]
        if not widths:
            raise ValueError(f"history: expected at most {self.manifest['widths'][-1]} items, found {items.size}")
        padding = np.full(widths[0] - items.size, self.num_items, np.int32)
        return jnp.asarray(np.concatenate([items, padding])), widths[0]


def _key(seed):
    return jax.random.key_data(jax.random.key(seed))


def _secret_key():
    return jnp.asarray(np.frombuffer(secrets.token_bytes(8), np.uint32))
