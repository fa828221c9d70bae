"""Folders in the Hub's layout, and their way to the Hub and back."""

from .folder import load_model, load_twin, save_folder

__all__ = ["load_model", "load_twin", "save_folder"]
