"""``python -m spliteasy`` is the command ``spliteasy``."""

from spliteasy.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
