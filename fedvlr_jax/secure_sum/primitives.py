"""Cryptographic primitives, all of them of the package `cryptography`; the extra `secure`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.extras import require_extra
from fedvlr_jax.secure_sum.messages import ProtocolError

with require_extra("secure", "a secure sum"):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

RandomBytes = Callable[[int], bytes]
"""``(count) -> bytes`` that nobody else can guess, such as `secrets.token_bytes`."""

KEY_BYTES, NONCE_BYTES = 32, 12


class KeyPair(NamedTuple):
    """Of X25519, raw bytes [32] each."""

    private: bytes
    public: bytes


def key_pair(private: bytes) -> KeyPair:
    """The pair with this private key, 32 random bytes."""
    return KeyPair(private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def agreed_key(private: bytes, public: bytes, purpose: bytes) -> bytes:
    """The key [32] that two parties share, each from its own private and the other's public key, for one purpose.

    Raises:
      ProtocolError: a public key with which everybody has the same shared key (a point of small order, RFC 7748).
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            f"expected a public key of X25519, {KEY_BYTES} bytes and not of small order, found {public.hex()}"
        ) from error
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(shared)


def seal(key: bytes, nonce: bytes, message: bytes, context: bytes) -> bytes:
    """A message that only who has the key can read, and nobody can change; AES-256-GCM, nonce first.

    Args:
      key: 32 bytes. nonce: 12 bytes, never used twice with one key.
      message: any bytes.
      context: what the message is bound to, without being in it.
    """
    return nonce + AESGCM(key).encrypt(nonce, message, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes | None:
    """The message of `seal`, None if the key, the context or a bit of it is another one, or it was cut short."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        return None


def mask_words(key: bytes, count: int) -> np.ndarray:
    """uint32 [count], the key stream of AES-256 in counter mode; a key serves for one stream alone."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return np.frombuffer(stream, "<u4")
