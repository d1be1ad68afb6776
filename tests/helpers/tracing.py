"""Functions run operation by operation: tracing takes longer than tiny networks on tiny photos."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# arguments of Python, before a tool's path and its arguments
UNTRACED = ("-c", "import runpy, sys, tensorflow; tensorflow.config.run_functions_eagerly(True); del sys.argv[0]; "
                  "runpy.run_path(sys.argv[0], run_name='__main__')")


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Run every `tf.function` operation by operation."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
