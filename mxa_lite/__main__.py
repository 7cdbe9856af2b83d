"""`python -m mxa_lite`, and `accelerate launch -m mxa_lite run RECIPE`."""

from mxa_lite.cli import main

if __name__ == "__main__":
    main()
