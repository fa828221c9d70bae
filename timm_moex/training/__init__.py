"""The task, the recipes and the built-in trainer."""
