"""`python -m ffcore` is `ffd`."""

from ffcore.cli import main

if __name__ == "__main__":
    main(prog_name="ffd")
