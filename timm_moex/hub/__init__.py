"""Save, load, verify and publish folders in the Hub's layout."""

from .folder import load_model, load_twin, save_folder

__all__ = ["load_model", "load_twin", "save_folder"]
