"""Whatever bytes a file holds, opening and reading it gives tensors or a RankLabError, and nothing else.

Derandomised and bounded, so that every run tries the same files. Where the
safetensors library and this reader differ is written down in
:func:`test_safetensors_agrees_with_its_library`.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from rank_lab import Checkpoint, plan_updates
from rank_lab.adapter_config import AdapterRecipe, read_recipe
from rank_lab.errors import RankLabError
from tests.checkpoints import factors, raw_safetensors, save_adapter

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.zeros(0)}

few = settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def archive(tensors: dict[str, torch.Tensor], *, older: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not older)
    return buffer.getvalue()


NUMBERS = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400])
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=6)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
DTYPES = st.sampled_from(["F32", "BF16", "U8", "BOOL", "F64", "F4", "F8_E8M0", "C64", "X", ""])
SHAPES = st.lists(st.integers(0, 4) | NUMBERS, max_size=4) | JSON


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    """Tensors one behind the other, some of whose fields say something else."""
    found: dict[str, Any] = {}
    reached = 0
    for name in draw(st.lists(st.text(max_size=5), max_size=4, unique=True)):
        length = draw(st.integers(0, 3))
        entry: dict[str, Any] = {"dtype": "F32", "shape": [length], "data_offsets": [reached, reached + 4 * length]}
        reached += 4 * length
        field = draw(st.sampled_from(["", "", "", "dtype", "shape", "data_offsets", "more", "missing"]))
        if field == "dtype":
            entry["dtype"] = draw(DTYPES | JSON)
        elif field == "shape":
            entry["shape"] = draw(SHAPES)
        elif field == "data_offsets":
            entry["data_offsets"] = draw(st.lists(st.integers(-4, 16), min_size=1, max_size=3) | JSON)
        elif field == "more":
            entry["more"] = draw(JSON)
        elif field == "missing":
            entry.pop(draw(st.sampled_from(["dtype", "shape", "data_offsets"])))
        found[name] = entry
    if draw(st.booleans()):
        found["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | JSON)
    return found


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with some bytes changed, cut out or put in."""
    raw = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        what = draw(st.sampled_from(["change", "cut", "insert", "end", "copy"]))
        if what == "change":
            raw[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del raw[at : at + draw(st.integers(1, 8))]
        elif what == "insert":
            raw[at:at] = draw(st.binary(min_size=1, max_size=6))
        elif what == "copy":
            raw[at:at] = raw[at : at + draw(st.integers(1, 60))]
        else:
            del raw[at:]
    return bytes(raw)


def read(file: Path) -> dict[str, torch.Tensor] | None:
    """Every tensor that can be read, or None if the file is refused; any other exception is a failure of the test."""
    try:
        checkpoint = Checkpoint.open(file)
    except (RankLabError, OSError) as error:
        assert str(error)  # noqa: PT017 - refused or not, both are right
        return None
    found = {}
    for name, tensor in checkpoint.tensors.items():
        try:
            found[name] = tensor.read()
            tensor.digest()
        except (RankLabError, OSError) as error:
            assert str(file) in str(error)  # noqa: PT017
    return found


HEADER = entries().flatmap(
    lambda header: st.builds(
        raw_safetensors,
        st.just(header),
        st.just(bytes(max((e["data_offsets"][1] for e in header.values() if _is_placed(e)), default=0))),
    )
)


def _is_placed(entry: Any) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int and 0 <= n < 100 for n in offsets)


SAFETENSORS = HEADER | damaged(safetensors_bytes(TENSORS)) | st.binary(max_size=60)


@given(raw=SAFETENSORS)
@few
def test_safetensors_agrees_with_its_library(folder: Path, raw: bytes) -> None:
    """What we accept the library accepts, with equal names and shapes.

    The other way round we refuse more: a name twice, of which the library keeps
    the last; names that do not show; a file without a tensor.
    """
    file = folder / "model.safetensors"
    file.write_bytes(raw)
    found = read(file)
    try:
        with safe_open(file, "pt") as library:
            shapes = {name: tuple(library.get_slice(name).get_shape()) for name in library.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        shapes = None
    if found is not None:
        ours = {name: tensor.shape for name, tensor in Checkpoint.open(file).tensors.items()}
        known = all(tensor.dtype != "X" for tensor in Checkpoint.open(file).tensors.values())
        assert shapes == ours or not known
    elif shapes is not None:
        with pytest.raises(RankLabError, match=r"is there twice|holds control characters|holds no tensor"):
            Checkpoint.open(file)


@pytest.mark.parametrize("older", [False, True])
def test_a_torch_archive(folder: Path, older: bool) -> None:
    file = folder / "pytorch_model.bin"

    @given(raw=damaged(archive(TENSORS, older=older)))
    @settings(few, max_examples=600)
    def damage(raw: bytes) -> None:
        file.write_bytes(raw)
        read(file)

    damage()


@given(content=st.fixed_dictionaries({"weight_map": JSON}) | JSON, raw=st.none() | st.binary(max_size=30))
@few
def test_a_shard_index(folder: Path, content: Any, raw: bytes | None) -> None:
    place = folder / "sharded"
    place.mkdir(exist_ok=True)
    index = place / "model.safetensors.index.json"
    index.write_bytes(json.dumps(content).encode() if raw is None else raw)
    with pytest.raises(RankLabError, match=r"model\.safetensors\.index\.json|shards are missing|holds no tensor"):
        Checkpoint.open(place)


FIELDS = st.sampled_from(
    ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "use_dora",
     "init_r", "target_modules", "modules_to_save", "bias", "fan_in_fan_out", "trainable_token_indices", "unknown"]
)  # fmt: skip
PATTERNS = st.dictionaries(
    st.text(alphabet="ab.*+?()[]|{}\\d0-9,^$", max_size=12), st.integers(-1, 9) | st.floats() | JSON, max_size=3
)
CONFIGS = st.builds(
    lambda changes: {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | changes,
    st.dictionaries(FIELDS, JSON | PATTERNS | st.sampled_from(["LORA", "ADALORA", "SORA"]), max_size=4),
)


@given(config=CONFIGS)
@few
def test_an_adapter_config(folder: Path, config: dict[str, Any]) -> None:
    try:
        recipe = read_recipe(config, "adapter_config.json")
    except RankLabError as error:
        assert "adapter_config.json" in str(error)  # noqa: PT017
        return
    assert isinstance(recipe, AdapterRecipe)
    assert isinstance(recipe.scaling("model.layers.0.self_attn.q_proj"), float)


@given(config=CONFIGS, state=JSON | st.fixed_dictionaries({"global_step": JSON}), model=JSON)
@settings(few, max_examples=80)
def test_the_configurations_of_a_folder(folder: Path, config: Any, state: Any, model: Any) -> None:
    place = save_adapter(folder / "adapter", factors(torch.Generator().manual_seed(1)))
    for name, content in (("adapter_config", config), ("trainer_state", state), ("config", model)):
        (place / f"{name}.json").write_text(json.dumps(content))
    try:
        plan = plan_updates(Checkpoint.open(place))
    except RankLabError as error:
        assert str(place) in str(error)  # noqa: PT017
    else:
        assert len(plan.specs) == 1
