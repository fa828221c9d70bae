"""Addresses of models: "hf-hub:ORG/NAME@REVISION", "local-dir:FOLDER", a registered name, or a folder."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.models import is_model, is_model_pretrained, parse_model_name

__all__ = ["Address", "hidden_model", "parse_address"]


class Address(NamedTuple):
    """Source of a model ("hf-hub", "local-dir", or "" for timm's registry), its place there, and a Hub repo's revision.

    The place is "ORG/NAME", the folder, or the registered name. The revision None is the default branch.
    """

    source: str
    place: str
    revision: str | None = None

    @property
    def timm_name(self) -> str:
        """Name to pass to `timm.create_model`."""
        place = self.place if self.revision is None else f"{self.place}@{self.revision}"
        return f"{self.source}:{place}" if self.source else place

    def weights_address(self) -> "Address":
        """Return the Hub repo with the weights of a registered name; return any other address unchanged."""
        if self.source or not is_model_pretrained(self.place):
            return self
        cfg: Any = timm.get_pretrained_cfg(self.place)
        return parse_address(f"hf-hub:{cfg.hf_hub_id}") if cfg.hf_hub_id else self


def parse_address(name: str | Path) -> Address:
    """Parse a user's name for a model; an existing folder counts as "local-dir".

    Raises:
        ValueError: timm does not support the prefix before the colon.
    """
    if isinstance(name, Path) or Path(name).is_dir():
        return Address("local-dir", str(name))
    source, place = parse_model_name(name)
    if source != "hf-hub":
        return Address(source or "", place)
    repo, _, revision = place.partition("@")
    return Address("hf-hub", repo, revision or None)


def hidden_model(place: str | Path) -> str:
    """Return a hint for an error message if a folder hides timm's model of the same name, else ""."""
    name = str(place)
    if not name or os.sep in name or not is_model(name):
        return ""
    return f". The folder ./{name} hides timm's model {name!r}: rename it or work in another folder"
