"""README and captions of an export: how each file was made, from what, and the command that makes it again."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rank_lab.exported import Exported
from rank_lab.plain_text import markdown, plain
from rank_lab.study_parts import StudyParts

__all__ = ["CAPTIONS_FILE", "README_FILE", "export_readme"]

README_FILE, CAPTIONS_FILE = "README.md", "captions.md"

_MOST_NAMED = 50


def export_readme(files: Sequence[Exported], folder: Path, study: Path, parts: StudyParts) -> list[Path]:
    """Write ``README.md`` and ``captions.md`` of an export.

    Parameters
    ----------
    files
        All that was written into the folder.
    folder
        Of the export.
    study
        What was exported.
    parts
        Of it.
    """
    text = [
        f"# Export of {markdown(str(study))}",
        "Every file, and the command that makes it again:",
        _table(
            ("file", "what", "command"),
            [
                (
                    f"`{_code(each.file.relative_to(folder).as_posix())}`",
                    markdown(each.what),
                    f"`{_code(each.command)}`",
                )
                for each in files
            ],
        ),
        *_others(files, folder),
        f"Whether the numbers still hold: `rank-lab verify {_code(shlex.quote(str(study)))}`.",
        "## Reports that it was made from",
        *(_origins(parts) or ["None: the study has a curve or scores alone."]),
    ]
    captioned = [each for each in files if each.caption]
    captions = ["# Captions", *(f"**{markdown(each.file.name)}**\n\n{each.caption}" for each in captioned)]
    written = []
    for name, content in ((README_FILE, text), (CAPTIONS_FILE, captions if captioned else [])):
        if content:
            (folder / name).write_text("\n\n".join(content) + "\n", encoding="utf-8")
            written.append(folder / name)
    return written


def _origins(parts: StudyParts) -> list[str]:
    kinds = ((parts.subspaces, ""), (parts.behavioural, ", behavioural rank"), (parts.functional, ", functional ranks"))
    beside = [_report(each.provenance, f"{name}{kind}") for reports, kind in kinds for name, each in reports.items()]
    return [*(_report(each.provenance) for each in parts.reports), *beside]


def _others(files: Sequence[Exported], folder: Path) -> list[str]:
    """A line on what lies in the folder and is not of this export."""
    own = {each.file.relative_to(folder).parts[0] for each in files} | {README_FILE, CAPTIONS_FILE}
    names = sorted(path.name for path in folder.iterdir() if path.name not in own)
    listed = ", ".join(f"`{_code(name)}`" for name in names[:_MOST_NAMED]) + (" ..." if names[_MOST_NAMED:] else "")
    return [f"Also in this folder, and not written by this export: {listed}."] if names else []


def _report(provenance: Mapping[str, Any], title: str = "") -> str:
    settings, base = provenance["settings"], provenance["base"]
    command = provenance.get("command") or []
    versions = provenance.get("versions") or {}
    tuned = provenance["tuned"] if "tuned" in provenance else [provenance["first"], provenance["second"]]
    chosen = {
        name: value for name, value in settings.items() if name not in ("run", "name") and value not in (None, False)
    }
    rows = [
        ("made", markdown(str(provenance.get("created_at", "not recorded")))),
        ("by", f"`{_code(shlex.join(map(str, command)))}`" if command else "not recorded"),
        ("tuned", "; ".join(map(_input, tuned))),
        ("base", "none" if base is None else _input(base)),
        *_texts(provenance.get("texts")),
        ("settings", _pairs(chosen)),
        ("versions", _pairs(versions) or "not recorded"),
        ("machine", markdown(f"{provenance.get('platform', 'not recorded')}, {provenance.get('device_name', '')}")),
    ]
    return f"### {markdown(title or str(settings['run']))}\n\n{_table(('', ''), rows)}"


def _texts(texts: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str]]:
    """The probe of functional ranks, or the sets that a behavioural rank was measured on."""
    if texts is None:
        return []
    if not isinstance(texts, Mapping):
        sets = (f"{each['name']} ({each['role']}): {each['source']}, sha256 {each['sha256'][:16]}" for each in texts)
        return [("texts", markdown("; ".join(sets)))]
    told = f"{texts['texts']} texts, {texts['tokens']} tokens, sha256 {texts['sha256'][:16]}"
    return [("probe texts", f"`{_code(str(texts['file']))}` ({markdown(told)})")]


def _input(checkpoint: Mapping[str, Any]) -> str:
    size = sum(int(each.get("bytes", 0)) for each in checkpoint.get("files") or [])
    told = [f"revision {checkpoint['revision']}"] if checkpoint.get("revision") else []
    told += [f"step {checkpoint['step']}"] if checkpoint.get("step") is not None else []
    told += [f"{size} bytes"] if size else []
    return f"`{_code(str(checkpoint['source']))}`" + (f" ({markdown(', '.join(told))})" if told else "")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{markdown(str(name))} {markdown(str(value))}" for name, value in values.items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(text: str) -> str:
    """Inside a code span and a table, where nothing but a bar and a backtick means anything."""
    return plain(text).replace("`", "'").replace("|", "\\|")
