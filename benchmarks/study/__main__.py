"""`python -m benchmarks.study run|ablate` trains the study on Fashion-MNIST."""

from .fashion_mnist import main

if __name__ == "__main__":
    main()
