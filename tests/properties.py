"""Hypothesis, set up so that runs repeat each other, are bounded and leave nothing behind."""

import tempfile

from hypothesis import HealthCheck, configuration, settings

# what it remembers of the source code would lie in the repository otherwise; removed when the process ends
MEMORY = tempfile.TemporaryDirectory(prefix="hypothesis-")
configuration.set_hypothesis_home_dir(MEMORY.name)
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, print_blob=False,
                          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                                 HealthCheck.data_too_large])
settings.load_profile("repeatable")
