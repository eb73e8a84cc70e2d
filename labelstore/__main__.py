"""``python -m labelstore`` is the command ``labelstore``."""

from labelstore.cli.main import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main(prog_name="labelstore")
