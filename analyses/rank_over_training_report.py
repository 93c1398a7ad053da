from pathlib import Path
def tell(folder: Path, pictures: bool) -> None:
    pass
