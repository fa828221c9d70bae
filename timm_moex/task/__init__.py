"""What any training loop uses: the loss that mixes the labels, and timm's task with it."""
