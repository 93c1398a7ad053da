"""``rank-lab demo``."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    study: Annotated[Path, typer.Option("--study", "-o", help="Folder for everything that the demo makes.")] = Path(
        "demo-study"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each fine-tuning.")] = 100,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the dashboard in the end.")] = False,
) -> None:
    """Fine-tune a small real model in six ways and look at them with all that rank_lab has; minutes on two cores.

    Example: rank-lab demo -o demo-study/

    One that was stopped goes on where it was: run the same command again.
    """
    from rank_lab.demo.demo_plan import DemoPlan
    from rank_lab.demo.run import run_demo

    run_demo(study, DemoPlan(steps=steps), browser=not no_browser)
