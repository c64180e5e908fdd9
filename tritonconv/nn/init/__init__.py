"""Filter banks that need no labels, in the manner of torch.nn.init: in place, and returned.

    random_filters_    drawn at random
    gabor_             designed by hand: what the first visual area of a brain computes
    kmeans_patches_    learned from images alone, by clustering their patches

Each filter has zero mean, so that constant brightness leaves no trace, and a known norm. A bank may
stay as it is, with only the layers above it trained, or be the start of training.

Source: Goodfellow, Bengio, Courville, Deep Learning, sections 9.9 and 9.10.
"""

from .gabor import gabor_
from .kmeans import kmeans_patches_
from .random import random_filters_

__all__ = ["gabor_", "kmeans_patches_", "random_filters_"]
