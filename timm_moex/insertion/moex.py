"""What `insert_moex` puts into a model: the exchange at each site, and a `forward` that draws what is exchanged.

A model that holds MoEx exchanges while it trains. Its `forward`, and the hooks at the sites, belong to objects that are
copied with the model, so a deep copy (an EMA, say) has its own. What a forward exchanges is kept with that forward, in
`forwards.py`.
"""

import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .draw import draw_own_share, draw_swap_index, take_generator
from .forwards import Forward, forwards_behind, recomputed, remember, running
from .presets import SETTING_NAMES, MoExSettings
from .request import Exchange, requested_exchanges
from .site_exchange import SiteExchange
from .sites import Site
from .traced import draw_in_graph, new_token

__all__ = ["UNKNOWN_ORIGIN", "MoEx"]


class MoEx:
    """What `insert_moex` puts into a model as `model.moex`: settings, sites and what was drawn. It is no module.

    Attributes:
        sites: The exchanges, a `SiteExchange` each.
        settings: See `MoExSettings`; each of them can be read as an attribute, and `prob` can be set.
        preset: The preset that the settings started from.
        epoch: What `set_epoch` stated last.
        forwards: Number of training forwards since the last `model.train()`.
        exchanged: How many of them exchanged.
        last_sites: The sites that exchanged in the last one that drew.
    """

    def __init__(self, sites: Sequence[Site], aliases: dict[str, str], settings: MoExSettings, preset: str = "moex"):
        self.settings = settings
        self.preset = preset
        self.aliases = aliases
        self.sites = [SiteExchange(self, site, settings) for site in sites]
        self.epoch: int | None = None
        self._start()

    def _start(self) -> None:
        """Set what a copy does not share with its original."""
        self.token = new_token(self)
        self.mixes_labels = False  # a MoExLoss is bound to it
        self.pending: tuple[Tensor | None, bool] | None = None  # the donors of a forward, and whether they were drawn
        self.consumed = False  # a loss has used the last donors
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
        """Probability that a batch is exchanged, or with `each_site` a batch at one site."""
        return self.settings.prob

    @prob.setter
    def prob(self, value: float) -> None:
        self.settings = replace(self.settings, prob=value)

    @property
    def site_names(self) -> tuple[str, ...]:
        return tuple(exchange.site.name for exchange in self.sites)

    def prob_at(self, epoch: int | None) -> float:
        """Return the probability of an exchange in an epoch, see `MoExSettings.prob_at`."""
        return self.settings.prob_at(epoch)

    def set_epoch(self, epoch: int) -> None:
        """State the epoch that the next forwards belong to, counted from 0.

        Raises:
            ValueError: It is no whole number >= 0.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch={epoch!r}: expected a whole number >= 0")
        self.epoch = epoch

    def reset_counts(self) -> None:
        """Start to count training forwards again, as `model.train()` does."""
        self.forwards = self.exchanged = 0
        self.last_sites: tuple[str, ...] = ()

    # What a forward exchanges

    def draws(self, training: bool) -> bool:
        """Return whether a forward draws: in training, with gradients, and if labels are kept or a loss mixes them."""
        if not training or self.settings.prob == 0 or not torch.is_grad_enabled():
            return False
        return self.settings.lam == 1 or self.mixes_labels

    def plan(self, swap_index: Any, swap_layer: str | None = None, own_share: Any = None) -> dict[str, Exchange]:
        """Return the exchanges that a call asks for, see `requested_exchanges`."""
        return requested_exchanges(
            swap_index, swap_layer, own_share, sites=self.site_names, aliases=self.aliases, lam=self.settings.lam
        )

    def draw(
        self,
        batch_size: int,
        device: torch.device,
        groups: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Exchange]:
        """Draw what a batch exchanges: a coin and a permutation for each site, or one of the sites.

        Args:
            batch_size: Number of samples B.
            device: Where the features are.
            groups: Group of each sample, (B,), see `draw_swap_index`.
            generator: See `draw_swap_index`.

        Returns:
            The exchanges by the name of the site, on the device; empty if the coins say no.
        """
        settings, names = self.settings, self.site_names
        generator = take_generator() if generator is None else generator
        prob = settings.prob_at(self.epoch)
        donors: dict[str, Tensor | None] = {}
        if settings.each_site:
            donors = {name: draw_swap_index(batch_size, prob, generator, groups=groups) for name in names}
        elif (index := draw_swap_index(batch_size, prob, generator, groups=groups)) is not None:
            chosen = int(torch.randint(len(names), (), generator=generator, device="cpu")) if len(names) > 1 else 0
            donors = {names[chosen]: index}
        exchanges = {}
        for name, index in donors.items():
            if index is not None:
                share = draw_own_share(batch_size, settings.alpha, generator) if settings.alpha else None
                share = share if share is None else share.to(device, non_blocking=True)
                exchanges[name] = Exchange(index.to(device, non_blocking=True), share)
        return exchanges

    def draw_forward(
        self, x: Tensor, groups: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Exchange]:
        """Draw for a training forward: count it, and let the loss have the donors."""
        self.check_consumed()
        exchanges = self.draw(x.shape[0], x.device, groups, generator)
        self.ever_asked = True
        self.count(bool(exchanges))
        self.last_sites = tuple(exchanges)
        self.let_loss_have(exchanges, drawn=True)
        return exchanges

    def count(self, exchanged: bool) -> None:
        """Count a training forward."""
        self.forwards += 1
        self.exchanged += exchanged
        self.ever_exchanged = self.ever_exchanged or exchanged

    # What the loss has of it

    def let_loss_have(self, exchanges: Mapping[str, Exchange], drawn: bool) -> None:
        """Keep the donors of a forward for the loss that is bound to this MoEx."""
        if self.mixes_labels and self.settings.lam < 1:
            self.pending = next((exchange.swap_index for exchange in exchanges.values()), None), drawn
            self.consumed = False

    def check_consumed(self) -> None:
        """Refuse a second draw before a loss has mixed the labels of the first one.

        Raises:
            RuntimeError: There is such a draw.
        """
        if self.pending is not None and self.pending[1]:
            self.pending = None
            raise RuntimeError(
                "the model was called again before MoExLoss mixed the labels of the last draw. Call the loss once for "
                "each training forward; a forward without a loss is model(x, swap_index=None), and one that repeats a "
                "draw is model(x, swap_index=index)"
            )

    def donors_of(self, output: Any) -> Tensor | None:
        """Hand the donors of the forward that computed `output` to the loss; None if it exchanged nothing.

        The autograd graph of the output names the forward. A compiled model's does not: its last forward is meant.

        Raises:
            RuntimeError: A loss had them already.
        """
        forward = None
        for forward in forwards_behind(output):
            if forward.moex is self:
                break
        if forward is None:
            return None if self.evaluating else self.take_donors()
        if forward.moex is not self:  # an EMA's, for example
            return None
        donors = next((exchange.swap_index for exchange in forward.exchanges.values()), None)
        if forward.seed is None:
            return donors
        if forward.consumed:
            raise RuntimeError(_TWICE)
        forward.consumed = self.consumed = True
        self.pending = None
        return donors

    def take_donors(self) -> Tensor | None:
        """Hand the donors of the last forward to the loss; None if it exchanged nothing.

        Raises:
            RuntimeError: A loss had them already.
        """
        if self.pending is None:
            if self.consumed:
                raise RuntimeError(_TWICE)
            return None
        donors, self.pending, self.consumed = self.pending[0], None, True
        return donors

    # Layers that are called one by one

    def forward_at(self, name: str, module: nn.Module, x: Any) -> Forward | None:
        """Return the forward that runs through a site, and count its exchange there; None for a plain one."""
        forward = running(self)
        if forward is not None and not forward.draws:
            if name in forward.exchanges:
                forward.note_exchange(name)
            return forward
        groups = None if forward is None else forward.groups
        if torch.compiler.is_compiling():
            return self._traced_direct(name, module, x, groups)
        if torch._C._current_graph_task_id() != -1:
            return self._recomputed_direct(name, module)
        return self._direct_pass(name, module, x, groups)

    def _traced_direct(self, name: str, module: nn.Module, x: Any, groups: Tensor | None) -> Forward | None:
        if not self.draws(module.training):
            return None
        if len(self.sites) > 1 and not self.settings.each_site:
            raise RuntimeError("compiled layers cannot draw one of several sites; compile the model's own call")
        return Forward(self, {name: draw_in_graph(self, x, groups)[name]})

    def _direct_pass(self, name: str, module: nn.Module, x: Any, groups: Tensor | None) -> Forward:
        """Return the pass through the layers that this site is a part of; a site met again begins the next one."""
        key, node = threading.get_ident(), torch.autograd._get_sequence_nr()
        forward = self.direct_passes.get(key)
        if forward is None or name in forward.met:
            if forward is not None:
                forward.end_node = node
            draws = self.draws(module.training)
            if not draws:
                self.warn_if_unused(module.training, "its layers are called directly (forward_features, …)")
            generator = take_generator() if draws else None
            exchanges = self.draw_forward(x, groups, generator) if draws else {}
            first_node = 0 if forward is None else forward.last_node
            seed = None if generator is None else generator.initial_seed()
            forward = Forward(self, exchanges, seed=seed, first_node=first_node, is_direct=True)
            forward.first_site = name
            self.direct_passes[key] = forward
        forward.met.add(name)
        forward.last_node = node
        remember(forward)
        return forward

    def _recomputed_direct(self, name: str, module: nn.Module) -> Forward | None:
        forward = recomputed(self)
        if forward is None or forward.draws or (forward.is_direct and forward.without_grad):
            if self.ever_exchanged or self.draws(module.training):
                raise RuntimeError(UNKNOWN_ORIGIN)
            return None
        if forward.is_direct and forward.seed is not None and forward.first_site == name:
            take_generator()  # as the first computation did, so that what follows draws the same numbers
        return forward

    def warn_if_unused(self, training: bool, reason: str) -> None:
        """Warn once if a model that was made to exchange is trained without a loss that mixes its labels."""
        if self.ever_asked or not training or not self.settings.prob or not torch.is_grad_enabled():
            return
        self.ever_asked = True
        warnings.warn(
            f"this model was made with moex_prob={self.prob} and moex_lam={self.settings.lam}, but it is being trained "
            f"and {reason}, so no moments are exchanged: with lam < 1 the labels must be mixed. Train with "
            "criterion = timm_moex.MoExLoss(model, criterion) or with MoExTask (timm's train.py: --device-modules "
            "timm_moex.plugin). If you draw yourself, pass swap_index=draw_swap_index(batch_size, prob) and use "
            "mix_loss, or call the model within timm_moex.exchanging. If you want no exchange, say so: "
            "model(x, swap_index=None) or moex_prob=0.",
            stacklevel=_stacklevel(),
        )

    def extra_repr(self) -> str:
        shown = f"prob={self.prob}, lam={self.settings.lam}"
        if self.preset != "moex":
            shown += f", preset={self.preset!r}"
        names = ("alpha", "each_site", "off_epoch", "ramp_epochs")
        return shown + "".join(f", {name}={value}" for name in names if (value := getattr(self.settings, name)))

    def __repr__(self) -> str:
        sites = "".join(f"\n  {exchange.extra_repr()}" for exchange in self.sites)
        share = f"{self.exchanged} of {self.forwards} training forwards exchanged since the last train()"
        return f"MoEx({self.extra_repr()}{sites}\n  {share}\n)"


_TWICE = (
    "MoExLoss was called twice for one forward; call it once, and mix further terms with "
    "timm_moex.mix_loss(criterion, output, target, swap_index, lam)"
)
UNKNOWN_ORIGIN = (
    "gradient checkpointing computes a segment again, but timm_moex does not know in which forward it was computed "
    "first, so it cannot repeat the exchange; use use_reentrant=False (use_reentrant=True runs the segment without "
    "gradients first, where nothing is drawn), preserve_rng_state=True and torch.compile(fullgraph=True), or call the "
    "model within timm_moex.exchanging(model, swap_index)"
)


def _stacklevel() -> int:
    """Return, for a warning by the caller, the level of the first frame outside of torch, timm and timm_moex."""
    folders = tuple(str(Path(file).parent) for file in (torch.__file__, timm.__file__, Path(__file__).parent))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    return level
