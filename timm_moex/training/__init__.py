"""Recipes, data and the built-in trainer."""
