"""Batches prepared in threads of TensorFlow's while the network works on the ones before."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

PREFETCHED = 2  # batches


class Ahead:
    """Runs Python functions in a pipeline of tf.data, and hands on what goes wrong in them."""

    def __init__(self, num_workers: int):
        """Set up. `num_workers`: threads; 0: TensorFlow decides."""
        self._num_workers = num_workers or tf.data.AUTOTUNE
        self._failure: Exception | None = None  # TensorFlow garbles exceptions of its threads

    def draw(self, function: Callable[[int], Sequence[np.ndarray]], start: int,
             types: Sequence[tf.DType]) -> tf.data.Dataset:
        """Give the results of `function(start)`, `function(start + 1)`, ... in this order, several at a time."""
        guarded = self.guard(lambda number: function(int(number)))

        def run(number: tf.Tensor) -> list[tf.Tensor]:
            return tf.numpy_function(guarded, [number], types, stateful=False)

        numbers = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        return numbers.map(run, num_parallel_calls=self._num_workers, deterministic=True)

    def guard(self, function: Callable) -> Callable:
        """Make a function remember its first exception, for `iterate`."""
        def guarded(*args):
            try:
                return tuple(function(*args))
            except Exception as error:
                self._failure = self._failure or error  # what follows from it comes later
                raise

        return guarded

    def iterate(self, dataset: tf.data.Dataset, kind: Callable[..., Any]) -> Iterator[Any]:
        """Give the batches of a dataset as `kind(*arrays)`, a few of them prepared ahead.

        Raises:
            Exception: the one that a guarded function raised.
        """
        try:
            for batch in dataset.prefetch(PREFETCHED).as_numpy_iterator():
                yield kind(*batch)
        except tf.errors.OpError:
            if self._failure is None:
                raise
            raise self._failure from None
