"""Pictures of predictions, exchanges and training curves. matplotlib is an extra: `timm-moex[plots]`."""
