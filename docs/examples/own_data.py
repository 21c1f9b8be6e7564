"""A data set of one's own: a function that gives images and labels.

    rt-scale run own_data.yaml

It is called once; rt-scale keeps the images as a prepared set (``rt-scale data list``).
"""

import numpy as np


def stripes(images: int = 300, seed: int = 0):
    """Grey images of 8 x 8 pixels with stripes across or along, and noise.

    A data set gives training images, their labels, test images and their labels. Images are uint8 [N, H, W, C] or
    [N, H, W], or a list of PIL images; labels are names, or numbers from 0.
    """
    generator = np.random.default_rng(seed)
    along = generator.integers(0, 2, images).astype(bool)
    phases = generator.integers(0, 4, images)
    pattern = 127 * ((np.arange(8)[None, :] + phases[:, None]) // 2 % 2)
    drawn = np.where(along[:, None, None], pattern[:, :, None], pattern[:, None, :])
    pixels = (drawn + generator.integers(0, 128, (images, 8, 8))).astype(np.uint8)
    labels = np.where(along, "along", "across")
    half = images // 2
    return pixels[:half], labels[:half], pixels[half:], labels[half:]
