"""``python -m console`` is ``commin``."""

from console.cli import main

if __name__ == "__main__":
    main()
