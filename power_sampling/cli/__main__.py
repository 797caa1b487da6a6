"""`python -m power_sampling.cli`."""

from power_sampling.cli import main

if __name__ == "__main__":
    main()
