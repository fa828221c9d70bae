"""Pictures: of predictions, of an exchange, of training curves. matplotlib is an extra: `timm-moex[plots]`."""
