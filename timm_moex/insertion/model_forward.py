"""The `forward` of a model that holds MoEx: it draws, or takes `swap_index` out of the call, and runs the class's."""

import inspect
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from .draw import take_generator
from .forwards import Forward, close, drawn_from, is_recomputation, open_, recomputed, running
from .moex import UNKNOWN_ORIGIN, MoEx
from .request import DRAW, Exchange
from .traced import draw_in_graph, own_in_graph

__all__ = ["ModelForward"]

_CALLING_THE_SAME = ("_orig_mod", "_checkpoint_wrapped_module")  # in torch.compile's and checkpointing's wrappers


class ModelForward:
    """Take the place of `model.forward`. A plain object, since accelerate binds the functions of methods to the model.

    Args:
        model: The model; its class's `forward` is called.
        moex: Its MoEx.
        hooked: Dotted path and module of each site in the model.
    """

    def __init__(self, model: nn.Module, moex: MoEx, hooked: list[tuple[str, nn.Module]]) -> None:
        self.model = model
        self.moex = moex
        self.hooked = hooked

    def install(self) -> None:
        """Put this, and what else a model that holds MoEx must do, into the model's own attributes."""
        self.model.forward = self
        self.model.train = self.train  # type: ignore[method-assign]
        self.model.__prepare_scriptable__ = self.refuse_scripting  # type: ignore[assignment]
        self.model._replicate_for_data_parallel = self.replicate  # type: ignore[method-assign]

    @staticmethod
    def uninstall(model: nn.Module) -> None:
        """Take it out of a model again."""
        for name in ("forward", "train", "__prepare_scriptable__", "_replicate_for_data_parallel"):
            model.__dict__.pop(name, None)

    def __call__(
        self,
        *args: Any,
        swap_index: Any = DRAW,
        swap_layer: str | None = None,
        own_share: Any = None,
        groups: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model.

        Args:
            *args: The model's own.
            swap_index: Donor of each sample, (B,), int64; a mapping from site to donors; None for a forward without an
                exchange. Left out, the model draws while it trains.
            swap_layer: The site, if there are several and `swap_index` is a tensor.
            own_share: Share of a sample's own moments, (B,), or by site; None for 0.
            groups: Group of each sample, (B,): the model draws donors from other groups.
            **kwargs: The model's own.
        """
        if swap_index is DRAW:
            if swap_layer is not None or own_share is not None:
                self.moex.plan(None, swap_layer, own_share)  # raises
            forward = self._begin(args, kwargs, groups)
        else:
            if groups is not None:
                raise ValueError("groups with swap_index: the donors are given already; leave one of them out")
            exchanges = self.moex.plan(swap_index, swap_layer, own_share)
            if torch.compiler.is_compiling():
                mixed = self.moex.mixes_labels and self.moex.settings.lam < 1 and self.model.training
                exchanges = own_in_graph(self.moex, exchanges) if mixed and exchanges else exchanges
            else:
                self._note_own(exchanges)
            forward = Forward(self.moex, exchanges)
        if forward.exchanges:
            self._check_call(args, kwargs)
        open_(forward)
        output = None
        try:
            output = type(self.model).forward(self.model, *args, **kwargs)
        finally:
            close(forward, output)
        forward.check_exchanged_once()
        return output

    def _note_own(self, exchanges: dict[str, Exchange]) -> None:
        """Note a call that says itself what is exchanged; it takes the place of a draw that no loss has used yet."""
        moex = self.moex
        moex.ever_asked = True
        moex.ever_exchanged = moex.ever_exchanged or bool(exchanges)
        if self.model.training and torch.is_grad_enabled():
            moex.count(bool(exchanges))
            moex.consumed = False
            if exchanges:
                moex.let_loss_have(exchanges, drawn=False)

    def _begin(self, args: tuple, kwargs: dict[str, Any], groups: Tensor | None) -> Forward:
        """Begin a forward that does not say what it exchanges: part of a body, a repetition, a draw, or plain."""
        moex, training = self.moex, self.model.training
        body = running(moex)
        if body is not None and body.is_body:
            if not body.draws:
                return Forward(moex, body.exchanges, outer=body)
            groups = body.groups if groups is None else groups
        if torch.compiler.is_compiling():
            if not moex.draws(training):
                return Forward(moex, {})
            return Forward(moex, draw_in_graph(moex, self._images(args, kwargs), groups))
        draws = moex.draws(training)
        if is_recomputation():
            return self._repeat(draws)
        if not draws:
            moex.consumed = False
            moex.warn_if_unused(training, "it has no MoExLoss")
            return Forward(moex, {})
        images = self._images(args, kwargs)
        self._check_call(args, kwargs)
        generator = take_generator()
        exchanges = moex.draw_forward(images, groups, generator)
        return Forward(moex, exchanges, seed=generator.initial_seed())

    def _repeat(self, draws: bool) -> Forward:
        """Begin the repetition of a forward that a checkpointed segment contains as a whole."""
        found = recomputed(self.moex)
        if found is not None and found.seed is None and not found.draws:
            return Forward(self.moex, found.exchanges)
        if not draws:
            return Forward(self.moex, {})
        found = drawn_from(self.moex, take_generator().initial_seed())  # checkpoint has restored torch's generator
        if found is None:
            raise RuntimeError(UNKNOWN_ORIGIN)
        return Forward(self.moex, found.exchanges)

    def _images(self, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim:
                return value
        self._check_call(args, kwargs)
        raise TypeError(f"{type(self.model).__name__} is called without a tensor, so the batch size is unknown")

    def _check_call(self, args: tuple, kwargs: dict[str, Any]) -> None:
        if getattr(self.model, "_is_replica", False):
            raise RuntimeError("MoEx does not work under nn.DataParallel, which splits the batch; use DDP")
        if kwargs.get("patch_valid") is not None or args and isinstance(args[0], dict):
            raise ValueError(
                "an exchange with padded patches (NaFlex): the moments would be those of the padding too. "
                "Exchange batches of images (B, C, H, W)"
            )
        if torch.compiler.is_compiling():
            return
        for path, module in self.hooked:
            if _at(self.model, path) is not module:
                raise RuntimeError(
                    f"the module at {path} of {type(self.model).__name__} is no longer the one that exchanges: it was "
                    "replaced or wrapped after MoEx was inserted (LoRA, fused or converted BatchNorms, …). Call "
                    "remove_moex(model) before such a change and insert_moex(model, …) after it"
                )

    def train(self, mode: bool = True) -> nn.Module:
        """Switch the mode of the model; training that begins, or resumes after an evaluation, is counted from 0."""
        self.moex.evaluating = not mode
        if mode and not self.model.training:  # some trainers call train() in every step
            self.moex.reset_counts()
        return type(self.model).train(self.model, mode)

    def replicate(self) -> nn.Module:
        """Make a replica for nn.DataParallel, which evaluates, but refuses to exchange."""
        replica = type(self.model)._replicate_for_data_parallel(self.model)
        replica.__dict__["forward"] = ModelForward(replica, self.moex, [])
        return replica

    def refuse_scripting(self) -> nn.Module:
        """Answer `torch.jit.script`, which would fail on the hooks with a message of its own."""
        raise TypeError(
            "TorchScript cannot script hooks, so a model that holds MoEx cannot be scripted; create the twin with "
            "scriptable=True, or call remove_moex(model) first"
        )

    @property
    def __code__(self) -> CodeType:
        """Where torch.export says that the model's code is."""
        return type(self.model).forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        """The model's own, and the arguments of the exchange."""
        own = inspect.signature(type(self.model).forward).replace
        parameters = list(inspect.signature(type(self.model).forward).parameters.values())[1:]
        names = ("swap_index", "swap_layer", "own_share", "groups")
        added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        last = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        return own(parameters=[*(p for p in parameters if p not in last), *added, *last])


def _at(model: nn.Module, path: str) -> nn.Module | None:
    module: Any = model
    for name in path.split("."):
        module = module._modules.get(name)
        if module is None:
            return None
        for inner in _CALLING_THE_SAME:
            module = module._modules.get(inner, module)
    return module
