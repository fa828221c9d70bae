"""`--shard i/n` runs every n-th test of the zoo, starting with the i-th."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `benchmarks`


def pytest_addoption(parser):
    parser.addoption("--shard", default="1/1", help="i/n: the i-th of n parts of the selected tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    shard = config.getoption("--shard", "1/1")  # absent if this directory was not named on the command line
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--shard {shard}: expected i/n with 1 <= i <= n, such as 1/4")
    if int(parts) > 1:
        config.hook.pytest_deselected(items=[item for n, item in enumerate(items) if n % int(parts) != int(part) - 1])
        items[:] = items[int(part) - 1 :: int(parts)]
