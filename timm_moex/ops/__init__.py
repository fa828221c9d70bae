"""Implementations of the exchange; `timm_moex.functional` chooses between them."""
