"""Quiets TensorFlow before any test imports it, and sets it up as the tools do."""

import os
from dataclasses import replace

import pytest

from utils.tensorflow_setup import start_tensorflow
from utils.weights import manifest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # values are compared in float32 on the CPU
for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # the processes of pytest share the cores
start_tensorflow()


@pytest.fixture
def unhashed(monkeypatch):
    """Let files of any content stand in for published weights."""
    entries = {name: replace(entry, file_sets=tuple(
        replace(files, files=tuple(manifest.WeightFile(file.name) for file in files.files))
        for files in entry.file_sets)) for name, entry in manifest.load_manifest().items()}
    monkeypatch.setattr(manifest, "load_manifest", lambda *_: entries)
