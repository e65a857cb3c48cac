"""Features of images and titles from encoders that the user has on disk: the extra ``features``.

`load_image_tower` and `load_text_tower` read weights, `encode_images` and `encode_texts` run them over all items,
`read_table` and `join` take features that are there already, and `fill_absent` puts the mean where there are none.
Nothing here is imported while training.
"""

from fedvlr_jax.data.encoders.blocks import Cache, Encoded, Progress
from fedvlr_jax.data.encoders.encode import encode_images, encode_texts, seal_images, seal_texts
from fedvlr_jax.data.encoders.joining import fill_absent, join, read_table, seal_table
from fedvlr_jax.data.encoders.towers import ImageTower, TextTower, load_image_tower, load_text_tower
from fedvlr_jax.data.encoders.weights import find_weights

__all__ = [
    "Cache",
    "Encoded",
    "ImageTower",
    "Progress",
    "TextTower",
    "encode_images",
    "encode_texts",
    "fill_absent",
    "find_weights",
    "join",
    "load_image_tower",
    "load_text_tower",
    "read_table",
    "seal_images",
    "seal_table",
    "seal_texts",
]
