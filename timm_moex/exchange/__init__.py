"""Moment Exchange as a function and as a module, with several backends."""
