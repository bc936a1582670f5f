"""`python -m posterior_collapse` is the command `collapse`."""

from posterior_collapse.cli import main

if __name__ == "__main__":
    main()
