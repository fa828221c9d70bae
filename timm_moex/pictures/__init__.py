"""Pictures of predictions, exchanges and training curves. Matplotlib is optional: the extra `plots` installs it."""
