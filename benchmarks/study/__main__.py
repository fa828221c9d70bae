"""`python -m benchmarks.study` trains the study."""

from .study import main

if __name__ == "__main__":
    main()
