"""The sweep as tests, one per architecture: `pytest tests/zoo -m zoo --shard 1/4` runs a quarter of them."""

import pytest
from sweep import architectures, sweep

pytestmark = pytest.mark.zoo


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", architectures())
def test_twin_is_created_and_every_site_fires_once_with_and_without_checkpointing(arch):
    row = sweep(arch)
    assert row.outcome == "ok", row.note
    assert row.keys_equal
    assert row.fires_ckpt in ("-", row.fires)
