"""``python -m rank_lab`` is ``rank-lab``."""

from rank_lab.cli import main

if __name__ == "__main__":
    main()
