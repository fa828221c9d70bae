"""The loss that mixes labels, for any training loop, and timm's task with this loss."""
