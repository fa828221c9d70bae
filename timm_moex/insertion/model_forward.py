"""The `forward` of a model with MoEx: draw or read `swap_index`, then run the class's own `forward`."""

import inspect
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from .direct import UNKNOWN_ORIGIN
from .draw import take_generator
from .forwards import Forward, close, drawn_from, is_recomputation, open_, recomputed, running
from .moex import MoExInsertion
from .request import DRAW, Exchange, requested_exchanges
from .traced import draw_in_graph, own_in_graph

__all__ = ["ModelForward"]

_CALLING_THE_SAME = ("_orig_mod", "_checkpoint_wrapped_module")  # set by torch.compile and checkpointing


class ModelForward:
    """Replacement for `model.forward`; not a method, because accelerate would rebind a method's function to the model.

    It draws or reads `swap_index`, then calls the `forward` of the model's class.
    """

    def __init__(self, model: nn.Module, moex: MoExInsertion, hooked: list[tuple[str, nn.Module]]) -> None:
        self.model = model
        self.moex = moex
        self.hooked = hooked  # dotted path and module of each site

    def install(self) -> None:
        """Override `forward` and the other methods that MoEx changes, as attributes of the model."""
        self.model.forward = self
        self.model.train = self.train  # type: ignore[method-assign]
        self.model.__prepare_scriptable__ = self.refuse_scripting  # type: ignore[assignment]
        self.model._replicate_for_data_parallel = self.replicate  # type: ignore[method-assign]

    @staticmethod
    def uninstall(model: nn.Module) -> None:
        """Remove these overrides from a model."""
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
        """Run the model. `exchanging` explains the keyword arguments of the exchange."""
        exchanges = requested_exchanges(self.moex, swap_index, swap_layer, own_share, groups)
        if exchanges is None:
            forward = self._without_donors(args, kwargs, groups)
        else:
            forward = self._with_donors(exchanges)
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

    def _with_donors(self, exchanges: dict[str, Exchange]) -> Forward:
        """Begin a forward with explicit donors; they replace a draw that no loss has used yet."""
        moex, trains = self.moex, self.model.training and torch.is_grad_enabled()
        if torch.compiler.is_compiling():
            exchanges = own_in_graph(moex, exchanges) if exchanges and trains and moex.needs_loss else exchanges
            return Forward(moex, exchanges)
        forward = Forward(moex, exchanges)
        moex.record(forward, trains)
        return forward

    def _without_donors(self, args: tuple, kwargs: dict[str, Any], groups: Tensor | None) -> Forward:
        """Begin a forward without `swap_index`: in a body, recomputed, drawn or plain."""
        moex, training = self.moex, self.model.training
        body = running(moex)
        if body is not None and body.is_body:
            if not body.draws:
                return Forward(moex, body.exchanges, outer=body)
            groups = body.groups if groups is None else groups
        draws = moex.draws(training)
        if torch.compiler.is_compiling():
            return Forward(moex, draw_in_graph(moex, self._images(args, kwargs), groups) if draws else {})
        if is_recomputation():
            return self._repeat(draws)
        if draws:
            return moex.draw_forward(self._images(args, kwargs), groups)
        moex.warn_if_unused(training, "it has no MoExLoss")
        forward = Forward(moex, {})
        moex.let_loss_have(forward)
        return forward

    def _repeat(self, draws: bool) -> Forward:
        """Begin the recomputation of a forward that lies entirely within a checkpointed segment."""
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
        """Return the first tensor of a call that draws."""
        self._check_call(args, kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.ndim:
                return value
        raise TypeError(f"{type(self.model).__name__} was called without a tensor, so the batch size is unknown")

    def _check_call(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Refuse to exchange if the batch is split or padded, or if a site's module is no longer in the model."""
        if getattr(self.model, "_is_replica", False):
            raise RuntimeError("MoEx does not work under nn.DataParallel, which splits the batch; use DDP")
        if kwargs.get("patch_valid") is not None or args and isinstance(args[0], dict):
            raise ValueError(
                "cannot exchange padded patches (NaFlex): the moments would include the padding. Pass batches of "
                "images (B, C, H, W)"
            )
        if torch.compiler.is_compiling():
            return
        for path, module in self.hooked:
            if _at(self.model, path) is not module:
                raise RuntimeError(
                    f"the module at {path} of {type(self.model).__name__} was replaced or wrapped after MoEx was "
                    "inserted, so it would not exchange (LoRA, fused or converted BatchNorms, …). Call "
                    "remove_moex(model) before such a change and insert_moex(model, …) after it"
                )

    def train(self, mode: bool = True) -> nn.Module:
        """Set the training mode. Reset the counts if training starts, or resumes after an evaluation."""
        self.moex.evaluating = not mode
        if mode and not self.model.training:  # some trainers call train() in every step
            self.moex.reset_counts()
        return type(self.model).train(self.model, mode)

    def replicate(self) -> nn.Module:
        """Make a replica for nn.DataParallel; it can evaluate but refuses to exchange."""
        replica = type(self.model)._replicate_for_data_parallel(self.model)
        replica.__dict__["forward"] = ModelForward(replica, self.moex, [])
        return replica

    def refuse_scripting(self) -> nn.Module:
        """Fail in `torch.jit.script` with a clearer message than TorchScript's own."""
        raise TypeError(
            "TorchScript cannot script hooks, so a model with MoEx cannot be scripted; create the twin with "
            "scriptable=True, or call remove_moex(model) first"
        )

    @property
    def __code__(self) -> CodeType:
        """Code of the class's `forward`, which torch.export reports."""
        return type(self.model).forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of the class's `forward`, plus the arguments of the exchange."""
        own = inspect.signature(type(self.model).forward)
        names = ("swap_index", "swap_layer", "own_share", "groups")
        added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
        parameters = [*list(own.parameters.values())[1:], *added]
        return own.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))


def _at(model: nn.Module, path: str) -> nn.Module | None:
    module: Any = model
    for name in path.split("."):
        module = module._modules.get(name)
        if module is None:
            return None
        for inner in _CALLING_THE_SAME:
            module = module._modules.get(inner, module)
    return module
