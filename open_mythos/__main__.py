"""`python -m open_mythos` is the `open-mythos` command."""

from open_mythos.cli.main import app


if __name__ == "__main__":
    app(prog_name="open-mythos")
