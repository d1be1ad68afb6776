"""Quiets TensorFlow before any test imports it, and sets it up as the tools do."""

import os

from utils.tensorflow_setup import start_tensorflow

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # values are compared in float32 on the CPU
start_tensorflow()
