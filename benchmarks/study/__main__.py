"""Train the study on Fashion-MNIST: `python -m benchmarks.study run|ablate`."""

from .fashion_mnist import main

if __name__ == "__main__":
    main()
