"""`python -m power_sampling`."""

from power_sampling.cli import main

if __name__ == "__main__":
    main()
