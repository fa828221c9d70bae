"""`MoExInsertion`, which `insert_moex` adds to a model: the exchange at each site, and the draw for each forward.

A model with MoEx exchanges during training. Its `forward` and hooks are bound to objects that are copied with the
model, so a deep copy, such as an EMA model, has its own. `forwards.py` stores what each forward exchanges.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ..utils.checks import check_whole
from .draw import draw_own_share, draw_swap_index, take_generator
from .forwards import Forward, forwards_behind, keep_with
from .presets import SETTING_NAMES, MoExSettings
from .request import Exchange
from .site_exchange import SiteExchange
from .sites import Site
from .traced import new_token

__all__ = ["MoExInsertion"]


class MoExInsertion:
    """Settings, sites and draws of a model. `insert_moex` stores it as `model.moex`; it is not an `nn.Module`.

    Attributes:
        sites: One `SiteExchange` per site.
        settings: See `MoExSettings`. Each setting can be read as an attribute, and `prob` can be set.
        preset: Name of the preset that provided the defaults.
        epoch: The epoch set by the last `set_epoch`.
        forwards: Number of training forwards since the last `model.train()`.
        exchanged: Number of these forwards that exchanged.
        last_sites: The sites that exchanged in the last forward that drew.
    """

    def __init__(self, sites: Sequence[Site], aliases: dict[str, str], settings: MoExSettings, preset: str = "moex"):
        self.settings = settings
        self.preset = preset
        self.aliases = aliases
        self.sites = [SiteExchange(self, site, settings) for site in sites]
        self.epoch: int | None = None
        self._start()

    def _start(self) -> None:
        """Initialise the state that a copy does not share with its original."""
        self.token = new_token(self)
        self.mixes_labels = False  # a MoExLoss is bound to it
        self.last: Forward | None = None  # the last training forward that drew or exchanged
        self.evaluating = False
        self.ever_asked = False
        self.ever_exchanged = False
        self.direct_passes: dict[int, Forward] = {}  # by thread
        self.reset_counts()

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("settings", "preset", "aliases", "sites", "epoch")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __getattr__(self, name: str) -> Any:
        if name in SETTING_NAMES and "settings" in self.__dict__:
            return getattr(self.settings, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def prob(self) -> float:
        """Probability of an exchange, per batch or, with `per_site`, per batch and site."""
        return self.settings.prob

    @prob.setter
    def prob(self, value: float) -> None:
        self.settings = replace(self.settings, prob=value)

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(exchange.site.name for exchange in self.sites)

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, counted from 0."""
        check_whole("epoch", epoch)
        self.epoch = epoch

    def reset_counts(self) -> None:
        """Reset the counts of training forwards, as `model.train()` does."""
        self.forwards = self.exchanged = 0
        self.last_sites: tuple[str, ...] = ()

    # Draws

    def draws(self, training: bool) -> bool:
        """Return whether a forward draws: in training, with gradients, if lam is 1 or a loss mixes the labels."""
        if not training or self.settings.prob == 0 or not torch.is_grad_enabled():
            return False
        return self.settings.lam == 1 or self.mixes_labels

    @property
    def needs_loss(self) -> bool:
        """Whether a loss mixes the labels of the exchanges."""
        return self.mixes_labels and self.settings.lam < 1

    def draw(
        self,
        batch_size: int,
        device: torch.device,
        groups: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Exchange]:
        """Draw the exchanges of a batch: with `per_site`, independently per site, else at one random site."""
        settings, names = self.settings, self.site_names
        generator = take_generator() if generator is None else generator
        prob = settings.prob_at(self.epoch)
        donors: dict[str, Tensor | None] = {}
        if settings.per_site:
            donors = {name: draw_swap_index(batch_size, prob, generator, groups=groups) for name in names}
        elif (index := draw_swap_index(batch_size, prob, generator, groups=groups)) is not None:
            chosen = int(torch.randint(len(names), (), generator=generator, device="cpu")) if len(names) > 1 else 0
            donors = {names[chosen]: index}
        exchanges = {}
        for name, index in donors.items():
            if index is not None:
                share = None
                if settings.alpha:
                    share = draw_own_share(batch_size, settings.alpha, generator).to(device, non_blocking=True)
                exchanges[name] = Exchange(index.to(device, non_blocking=True), share)
        return exchanges

    def draw_forward(self, x: Tensor, groups: Tensor | None = None, **where: Any) -> Forward:
        """Begin a training forward that draws: count it, and keep its donors for the loss.

        Raises:
            RuntimeError: No loss has used the last draw.
        """
        if self.last is not None and self.last.seed is not None and not self.last.consumed:
            self.last = None
            raise RuntimeError(
                "the model was called again before MoExLoss mixed the labels of the last draw. Call the loss once for "
                "each training forward. For a forward without a loss, use model(x, swap_index=None); to repeat a "
                "draw, use model(x, swap_index=index). If the last step failed between the model and its loss, its "
                "draw has now been discarded, and the next call will succeed"
            )
        generator = take_generator()
        exchanges = self.draw(x.shape[0], x.device, groups, generator)
        forward = Forward(self, exchanges, seed=generator.initial_seed(), traced=False, **where)
        self.last_sites = tuple(exchanges)
        self.record(forward, trains=True)
        return forward

    def record(self, forward: Forward, trains: bool) -> None:
        """Record a forward that drew or was given donors; if it trains, count it and keep it for the loss."""
        exchanged = bool(forward.exchanges)
        self.ever_asked = True
        self.ever_exchanged = self.ever_exchanged or exchanged
        if trains:
            self.forwards += 1
            self.exchanged += exchanged
            self.let_loss_have(forward)

    # Donors for the loss

    def let_loss_have(self, forward: Forward) -> None:
        """Keep a forward for the loss bound to this MoEx. A plain one does not replace a draw that is still unused."""
        if forward.exchanges or forward.seed is not None:
            self.last = forward if self.needs_loss else None
        elif self.last is not None and self.last.consumed:
            self.last = None

    def donors_of(self, output: Any) -> Tensor | None:
        """Return the donors of the forward that computed `output`; None if it exchanged nothing.

        The forward is found through the autograd graph of the output. The graph of a compiled or frozen model does not
        record it, so the last forward is used.

        Raises:
            RuntimeError: A loss has already used these donors.
        """
        others = False
        for forward in forwards_behind(output):
            if forward.moex is self:
                return self.take(forward, again=forward.seed is None)
            others = True  # such as an EMA model
        if others or self.evaluating or self.last is None or self.last.consumed:
            return None
        keep_with(self.last, output)  # a second loss finds it there
        return self.take(self.last)

    def take(self, forward: Forward, again: bool = False) -> Tensor | None:
        """Return the donors of a forward for its loss, once; or any number of times if `again`.

        Raises:
            RuntimeError: A loss has already used these donors.
        """
        if forward.consumed and not again:
            raise RuntimeError(
                "MoExLoss was called twice for one forward; call it once, and mix other loss terms with "
                "timm_moex.mix_loss(criterion, output, target, swap_index, lam)"
            )
        forward.consumed = True
        return forward.donors

    def warn_if_unused(self, training: bool, reason: str) -> None:
        """Warn once if a model with lam < 1 is trained without a loss that mixes its labels."""
        if self.ever_asked or not training or not self.settings.prob or not torch.is_grad_enabled():
            return
        self.ever_asked = True
        warnings.warn(
            f"this model has moex_prob={self.prob} and moex_lam={self.settings.lam}, but no moments are exchanged in "
            f"training because {reason}: with lam < 1 the labels must be mixed. Train with "
            "criterion = timm_moex.MoExLoss(model, criterion) or with MoExTask (timm's train.py: --device-modules "
            "timm_moex.plugin). To draw the donors yourself, pass swap_index=draw_swap_index(batch_size, prob) and use "
            "mix_loss, or call the model in the body of timm_moex.exchanging. To train without an exchange, "
            "pass swap_index=None or set moex_prob=0.",
            stacklevel=_stacklevel(),
        )

    def extra_repr(self) -> str:
        shown = f"prob={self.prob}, lam={self.settings.lam}"
        if self.preset != "moex":
            shown += f", preset={self.preset!r}"
        names = ("alpha", "per_site", "off_epoch", "warmup_epochs")
        return shown + "".join(f", {name}={value}" for name in names if (value := getattr(self.settings, name)))

    def __repr__(self) -> str:
        sites = "".join(f"\n  {exchange.extra_repr()}" for exchange in self.sites)
        share = f"{self.exchanged} of {self.forwards} training forwards exchanged since the last train()"
        return f"MoExInsertion({self.extra_repr()}{sites}\n  {share}\n)"


def _stacklevel() -> int:
    """Return the `stacklevel` at which a warning points to the first frame outside torch, timm and timm_moex."""
    folders = tuple(str(Path(file).parent) for file in (torch.__file__, timm.__file__, Path(__file__).parent))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    return level
