"""Moment Exchange (MoEx) for timm. Importing it registers a twin, `moex_<arch>`, of every timm architecture."""

from . import cli as _cli  # noqa: F401  handles `timm-moex --help` etc. before importing PyTorch
from .version import __version__ as __version__

# isort: split
from . import models  # noqa: F401  registers architectures that timm lacks
from .comparison.compare import compare
from .exchange.distribution import match_distribution
from .exchange.functional import moment_exchange
from .exchange.layer import MomentExchange
from .hub import load_model, load_twin, save_folder
from .insertion.draw import draw_own_share, draw_swap_index
from .insertion.exchanging import exchanging
from .insertion.find import find_moex
from .insertion.insert import insert_moex, remove_moex
from .insertion.sites import moex_sites
from .models.twin import register_twin, register_twins
from .task.loss import MoExLoss, mix_loss
from .task.task import MoExTask, create_task
from .training.datasets import sample_dir

__all__ = [
    "MoExLoss",
    "MoExTask",
    "MomentExchange",
    "compare",
    "create_task",
    "draw_own_share",
    "draw_swap_index",
    "exchanging",
    "find_moex",
    "insert_moex",
    "load_model",
    "load_twin",
    "match_distribution",
    "mix_loss",
    "moex_sites",
    "moment_exchange",
    "register_twin",
    "remove_moex",
    "sample_dir",
    "save_folder",
]

register_twins()
