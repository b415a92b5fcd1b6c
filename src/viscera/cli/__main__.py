"""`python -m viscera.cli` is the command `viscera`."""

from viscera.cli.command import entry

if __name__ == "__main__":
    entry()
