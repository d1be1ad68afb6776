"""Functions run operation by operation: tracing takes longer than tiny networks on tiny photos."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Run every `tf.function` operation by operation."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
