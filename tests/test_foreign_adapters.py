"""Adapters of other programs: each update against a merge by hand, as the program itself does it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d

from rank_lab import Checkpoint, analyze, plan_updates, read_update
from rank_lab.coverage import Plan
from rank_lab.errors import CheckpointError, PairingError, RankLabError, ShapeMismatchError, UnsupportedUpdateError
from tests.checkpoints import Tensors, assert_all_accounted_for, moved, rank_lab, save

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def planned(tuned: Path, base: Path | None = None, **options: Any) -> Plan:
    plan = plan_updates(Checkpoint.open(tuned), None if base is None else Checkpoint.open(base), **options)
    assert_all_accounted_for(plan, tuned, base)
    return plan


def changes(plan: Plan) -> dict[str, torch.Tensor]:
    return {spec.module: read_update(spec).to_dense() for spec in plan.specs}


def written(file: Path, tensors: Tensors, **metadata: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
        file,
        metadata=metadata or None,
    )
    return file


@pytest.fixture
def draw(generator: torch.Generator) -> Any:
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_kohya_scales_by_alpha_over_rank(tmp_path: Path, draw: Any) -> None:
    up, down, te_up, te_down = draw(6, 2), draw(2, 5), draw(4, 3), draw(3, 4)
    file = written(
        tmp_path / "kohya.safetensors",
        {
            f"{UNET}.lora_up.weight": up,
            f"{UNET}.lora_down.weight": down,
            f"{UNET}.alpha": torch.tensor(1.0),
            f"{TEXT}.lora_up.weight": te_up,
            f"{TEXT}.lora_down.weight": te_down,
        },
    )
    plan = planned(file)
    found = changes(plan)
    torch.testing.assert_close(found[UNET], up @ down * 0.5, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[TEXT], te_up @ te_down, rtol=1e-12, atol=0)
    specs = {spec.module: spec for spec in plan.specs}
    assert (specs[UNET].rank_bound, specs[UNET].identity.kind, specs[UNET].note) == (2, "q", "")
    assert specs[TEXT].note == "no alpha stored: taken as the rank, as kohya's and LyCORIS' programs load it"
    assert plan.method == "lora"


def test_kohya_s_convolutions_are_matrices(tmp_path: Path, draw: Any) -> None:
    up, down, core, tucker_down = draw(6, 2, 1, 1), draw(2, 4, 3, 3), draw(2, 2, 3, 3), draw(2, 4, 1, 1)
    file = written(
        tmp_path / "conv.safetensors",
        {
            "lora_unet_conv_in.lora_up.weight": up,
            "lora_unet_conv_in.lora_down.weight": down,
            "lora_unet_conv_in.alpha": torch.tensor(4.0),
            "lora_unet_conv_out.lora_up.weight": up,
            "lora_unet_conv_out.lora_down.weight": tucker_down,
            "lora_unet_conv_out.lora_mid.weight": core,
            "lora_unet_conv_out.alpha": torch.tensor(1.0),
        },
    )
    plan = planned(file)
    found = changes(plan)
    # as kohya's merge_lora.py does it: the up convolution runs over the down weight
    merged = conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3) * 2
    torch.testing.assert_close(found["lora_unet_conv_in"], merged.flatten(1), rtol=1e-12, atol=1e-12)
    given = draw(1, 4, 5, 5)
    through = conv2d(conv2d(conv2d(given, tucker_down), core), up) / 2
    whole = conv2d(given, found["lora_unet_conv_out"].view(6, 4, 3, 3))
    torch.testing.assert_close(whole, through, rtol=1e-10, atol=1e-10)
    assert {(spec.identity.kind, spec.shape, spec.rank_bound) for spec in plan.specs} == {("conv", (6, 36), 2)}


@pytest.mark.parametrize("tucker", [False, True])
def test_loha_is_an_elementwise_product(tmp_path: Path, draw: Any, tucker: bool) -> None:
    parts = {"hada_w1_a": draw(6, 2), "hada_w1_b": draw(2, 8), "hada_w2_a": draw(6, 2), "hada_w2_b": draw(2, 8)}
    expected = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    if tucker:
        parts |= {
            "hada_w1_a": draw(2, 6),
            "hada_w2_a": draw(2, 6),
            "hada_t1": draw(2, 2, 3, 3),
            "hada_t2": draw(2, 2, 3, 3),
        }
        halves = [
            torch.einsum("ijkl,jr,ip->prkl", parts[f"hada_t{n}"], parts[f"hada_w{n}_b"], parts[f"hada_w{n}_a"])
            for n in (1, 2)
        ]
        expected = (halves[0] * halves[1]).flatten(1)
    state = {f"{UNET}.{name}": value for name, value in parts.items()} | {f"{UNET}.alpha": torch.tensor(1.0)}
    plan = planned(written(tmp_path / "loha.safetensors", state))
    torch.testing.assert_close(changes(plan)[UNET], expected * 0.5, rtol=1e-10, atol=1e-12)
    assert (plan.method, plan.specs[0].update_kind, plan.specs[0].rank_bound) == ("loha", "loha", 4)


LOKR = {
    "whole": ({"lokr_w1": (2, 3), "lokr_w2": (4, 2)}, 1.0),
    "factored second": ({"lokr_w1": (3, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)}, 0.25),
    "factored both": (
        {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)},
        0.25,
    ),
    "convolution": ({"lokr_w1": (2, 3), "lokr_w2": (4, 2, 3, 3)}, 1.0),
    "tucker": ({"lokr_w1": (2, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 5), "lokr_t2": (2, 2, 3, 3)}, 0.25),
}


@pytest.mark.parametrize("form", LOKR)
def test_lokr_is_a_kronecker_product(tmp_path: Path, draw: Any, form: str) -> None:
    shapes, scale = LOKR[form]
    parts = {name: draw(*shape) for name, shape in shapes.items()}
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_t2" in parts:
        w2 = torch.einsum("ijkl,ip,jr->prkl", parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    else:
        w2 = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"] @ parts["lokr_w2_b"]
    expected = torch.kron(w1.reshape(*w1.shape, *(1,) * (w2.ndim - 2)), w2.contiguous()).flatten(1) * scale
    state = {f"{UNET}.{name}": value for name, value in parts.items()} | {f"{UNET}.alpha": torch.tensor(0.5)}
    plan = planned(written(tmp_path / "lokr.safetensors", state))
    torch.testing.assert_close(changes(plan)[UNET], expected, rtol=1e-10, atol=1e-12)
    assert plan.specs[0].shape == tuple(expected.shape)
    assert torch.linalg.matrix_rank(expected) == plan.specs[0].rank_bound
    assert ("trained with rs_lora" in plan.specs[0].note) == (form in {"whole", "convolution"})


def test_a_full_difference_is_the_update_itself(tmp_path: Path, draw: Any) -> None:
    difference, bias = draw(6, 2, 3, 3), draw(6)
    file = written(tmp_path / "full.safetensors", {f"{UNET}.diff": difference, f"{UNET}.diff_b": bias})
    plan = planned(file)
    assert changes(plan)[UNET].equal(difference.flatten(1))
    report = analyze(file)
    coverage = report.coverage.set_index("tensor")
    assert coverage.loc[f"{UNET}.diff_b", "frobenius_norm"] == pytest.approx(float(bias.norm()), rel=1e-12)
    assert coverage.loc[f"{UNET}.diff", "frobenius_norm"] == pytest.approx(float(difference.norm()), rel=1e-12)


def test_a_model_with_a_weight_called_diff_is_no_adapter(tmp_path: Path, draw: Any) -> None:
    state = {"h.0.q_proj.weight": draw(4, 4), "h.0.attn.diff": draw(4, 4)}
    base = save(tmp_path / "base", state)
    plan = planned(save(tmp_path / "tuned", moved(state, torch.Generator().manual_seed(1))), base)
    assert plan.method == "full"


def unet(draw: Any) -> Tensors:
    return {
        "conv_in.weight": draw(6, 4, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": draw(6, 5),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight": draw(6, 5),
    }


def test_kohya_s_names_are_found_in_the_base(tmp_path: Path, draw: Any) -> None:
    state = {f"{UNET}.lora_up.weight": draw(6, 2), f"{UNET}.lora_down.weight": draw(2, 5)}
    state |= {
        "lora_unet_conv_in.lora_up.weight": draw(6, 2, 1, 1),
        "lora_unet_conv_in.lora_down.weight": draw(2, 4, 3, 3),
    }
    state |= {f"{TEXT}.lora_up.weight": draw(4, 2), f"{TEXT}.lora_down.weight": draw(2, 4)}
    weights = unet(draw)
    file, base = written(tmp_path / "kohya.safetensors", state), save(tmp_path / "base", weights)
    plan = planned(file, base)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    specs = {spec.module: spec for spec in plan.specs}
    assert set(specs) == {name, "conv_in", TEXT}
    assert (specs[name].identity.stack, specs[name].identity.layer, specs[name].identity.kind) == (
        "down_blocks",
        0,
        "q",
    )
    assert specs[TEXT].note.endswith("the base holds no module of this part of the model: no norms relative to it")
    report = analyze(file, base)
    row = report.updates.set_index("module").loc["conv_in"]
    change = changes(plan)["conv_in"]
    expected = torch.linalg.matrix_norm(change) / weights["conv_in.weight"].norm()
    assert row["relative_frobenius"] == pytest.approx(float(expected), rel=1e-6)
    fates = {row.tensor: row.status for row in plan.coverage if row.side == "base"}
    assert fates == {f"{name}.weight": "analysed", "conv_in.weight": "analysed", f"{name[:-1]}k.weight": "identical"}


@pytest.mark.parametrize(
    ("change", "error"), [("shape", "the base is another model's"), ("name", "has no weight for 1")]
)
def test_a_base_of_another_model_is_refused(tmp_path: Path, draw: Any, change: str, error: str) -> None:
    state = {f"{UNET}.lora_up.weight": draw(6, 2), f"{UNET}.lora_down.weight": draw(2, 5)}
    weights = unet(draw)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    if change == "shape":
        weights[name] = draw(5, 6)
    else:
        weights["elsewhere.weight"] = weights.pop(name)
    with pytest.raises(RankLabError, match=error):
        planned(written(tmp_path / "kohya.safetensors", state), save(tmp_path / "base", weights))


PROCESSOR = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
DIFFUSERS = [
    ("unet.mid_block.attentions.0.to_k.lora.{}.weight", "unet.mid_block.attentions.0.to_k", ("up", "down")),
    (f"{PROCESSOR}.to_q_lora.{{}}.weight", PROCESSOR.replace(".processor", ".to_q"), ("up", "down")),
    (f"{PROCESSOR}.to_out_lora.{{}}.weight", PROCESSOR.replace(".processor", ".to_out.0"), ("up", "down")),
    ("text_encoder.text_model.encoder.layers.0.self_attn.to_v_lora.{}.weight",
     "text_encoder.text_model.encoder.layers.0.self_attn.v_proj", ("up", "down")),
    ("text_encoder.text_model.encoder.layers.0.self_attn.k_proj.lora_linear_layer.{}.weight",
     "text_encoder.text_model.encoder.layers.0.self_attn.k_proj", ("up", "down")),
    ("transformer.transformer_blocks.3.attn.to_q.{}.weight",
     "transformer.transformer_blocks.3.attn.to_q", ("lora_B", "lora_A")),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "module", "roles"), DIFFUSERS)
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_diffusers_names_and_scaling(
    tmp_path: Path, draw: Any, pattern: str, module: str, roles: tuple[str, str], alpha: float | None
) -> None:
    B, A = draw(6, 2), draw(2, 5)
    state = {pattern.format(roles[0]): B, pattern.format(roles[1]): A}
    if alpha is not None:
        state[f"{module}.alpha"] = torch.tensor(alpha)
    plan = planned(written(tmp_path / "pytorch_lora_weights.safetensors", state))
    torch.testing.assert_close(changes(plan)[module], B @ A * (0.5 if alpha else 1.0), rtol=1e-12, atol=0)


def test_the_config_in_diffusers_header_decides(tmp_path: Path, draw: Any) -> None:
    B, A = draw(6, 2), draw(2, 5)
    start = "transformer.transformer_blocks.0.attn"
    state = {
        f"{start}.{name}.{part}.weight": value
        for name in ("to_q", "to_k")
        for part, value in (("lora_B", B), ("lora_A", A))
    }
    config = {"r": 2, "lora_alpha": 8, "alpha_pattern": {"to_k": 1}, "rank_pattern": {}, "target_modules": ["to_q"]}
    header = json.dumps({f"transformer.{name}": value for name, value in config.items()})
    file = written(tmp_path / "any.safetensors", state, lora_adapter_metadata=header)
    found = changes(planned(file))
    torch.testing.assert_close(found[f"{start}.to_q"], B @ A * 4, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[f"{start}.to_k"], B @ A / 2, rtol=1e-12, atol=0)
    header = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})
    with pytest.raises(CheckpointError, match=r"gives rank 4 for 'transformer\..*', but its factors have rank 2"):
        planned(written(tmp_path / "wrong.safetensors", state, lora_adapter_metadata=header))


def mlx(folder: Path, tensors: Tensors, **config: Any) -> Path:
    written(folder / "adapters.safetensors", tensors)
    content = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}}
    (folder / "adapter_config.json").write_text(json.dumps(content | config))
    return folder


def test_mlx_factors_are_transposed_even_where_square(tmp_path: Path, draw: Any) -> None:
    weights = {
        "model.embed_tokens.weight": draw(9, 4),
        "model.layers.0.self_attn.q_proj.weight": draw(4, 4),
        "model.layers.0.mlp.up_proj.weight": draw(6, 4),
    }
    state: Tensors = {}
    for name, (rows, columns) in (("self_attn.q_proj", (4, 4)), ("mlp.up_proj", (6, 4))):
        state |= {f"model.layers.0.{name}.lora_a": draw(columns, 2), f"model.layers.0.{name}.lora_b": draw(2, rows)}
    state |= {"model.embed_tokens.lora_a": draw(9, 2), "model.embed_tokens.lora_b": draw(2, 4)}
    base = save(tmp_path / "base", weights)
    plan = planned(mlx(tmp_path / "adapter", state), base)
    for module, change in changes(plan).items():
        given = draw(3, 4)
        product = 20.0 * (state[f"{module}.lora_a"] @ state[f"{module}.lora_b"])
        if "embed" in module:
            assert change.shape == (9, 4)
            torch.testing.assert_close(change, product, rtol=1e-12, atol=1e-12)
        else:  # y = W x + scale * x A B, rows of x being tokens
            torch.testing.assert_close(given @ change.T, given @ product, rtol=1e-10, atol=1e-10)
        assert change.shape == weights[f"{module}.weight"].shape


def test_mlx_experts_are_updates_of_their_own(tmp_path: Path, draw: Any) -> None:
    name = "model.layers.0.mlp.switch_mlp.up_proj"
    a, b = draw(3 * 2, 5), draw(3, 7, 2)
    base = save(tmp_path / "base", {f"{name}.weight": draw(3, 7, 5)})
    plan = planned(mlx(tmp_path / "adapter", {f"{name}.lora_a": a, f"{name}.lora_b": b}), base)
    expected = 20.0 * b @ a.view(3, 2, 5)
    assert [spec.identity.expert for spec in plan.specs] == [0, 1, 2]
    for expert, change in enumerate(changes(plan).values()):
        torch.testing.assert_close(change, expected[expert], rtol=1e-12, atol=1e-12)
    assert not analyze(tmp_path / "adapter", base).updates["relative_frobenius"].isna().any()


def test_mlx_weights_trained_in_full_are_a_full_checkpoint(tmp_path: Path, draw: Any) -> None:
    weights = {"model.layers.0.self_attn.q_proj.weight": draw(4, 4), "model.layers.0.mlp.up_proj.weight": draw(6, 4)}
    base = save(tmp_path / "base", weights)
    tuned = moved(weights, torch.Generator().manual_seed(1))
    plan = planned(mlx(tmp_path / "tuned", tuned, fine_tune_type="full"), base)
    assert plan.method == "full"
    assert changes(plan)["model.layers.0.mlp.up_proj"].equal(
        tuned["model.layers.0.mlp.up_proj.weight"] - weights["model.layers.0.mlp.up_proj.weight"]
    )


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ({"fine_tune_type": "dora"}, UnsupportedUpdateError, "fine_tune_type dora is not scaled factors"),
        ({"lora_parameters": {"rank": 2}}, CheckpointError, "lora_parameters.scale is None, expected a number"),
        (
            {"lora_parameters": {"rank": 2, "scale": 10.0, "alpha": 16}},
            UnsupportedUpdateError,
            "scale \\* alpha / rank",
        ),
    ],
)
def test_an_mlx_scale_that_is_not_certain_is_refused(
    tmp_path: Path, draw: Any, config: dict[str, Any], error: type[Exception], says: str
) -> None:
    state = {"model.layers.0.q_proj.lora_a": draw(4, 2), "model.layers.0.q_proj.lora_b": draw(2, 4)}
    with pytest.raises(error, match=says):
        planned(mlx(tmp_path / "adapter", state, **config))


def test_torchtune_needs_alpha_or_a_config(tmp_path: Path, draw: Any) -> None:
    b, a = draw(6, 2), draw(2, 5)
    name = "layers.0.attn.q_proj"
    folder = tmp_path / "epoch_0"
    folder.mkdir()
    torch.save({f"{name}.lora_a.weight": a, f"{name}.lora_b.weight": b}, folder / "adapter_model.pt")
    with pytest.raises(CheckpointError, match=r"does not record alpha; give it as --lora-alpha .* rank 2"):
        planned(folder / "adapter_model.pt")
    torch.testing.assert_close(changes(planned(folder / "adapter_model.pt", lora_alpha=8))[name], b @ a * 4)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 16, "target_modules": ["q_proj"]}))
    torch.testing.assert_close(changes(planned(folder))[name], b @ a * 8)
    with pytest.raises(PairingError, match="its scaling is in the files; leave out --lora-alpha"):
        planned(folder, lora_alpha=8)


@pytest.mark.parametrize(
    ("extra", "error", "says"),
    [
        ({f"{UNET}.dora_scale": (6, 1)}, UnsupportedUpdateError, r"'.*dora_scale'.* \(DoRA\); not analysed"),
        ({"lora_unet_norm.w_norm": (6,)}, UnsupportedUpdateError, r"'.*w_norm'.* \(trained norms\)"),
        ({"lora_unet_x.oft_blocks": (2, 3, 3)}, UnsupportedUpdateError, r"'.*oft_blocks'.* \(OFT or BOFT\)"),
        ({"lora_unet_x.lora_up.weight": (6, 2)}, UnsupportedUpdateError, "has B but no A"),
        ({f"{UNET}.lora_up.weight": (6, 3)}, ShapeMismatchError, r"is \[6, 3\] and .* is \[2, 5\]"),
        ({f"{UNET}.alpha": (2,)}, CheckpointError, "expected one positive number"),
    ],
)
def test_what_is_not_scaled_factors_is_refused_by_name(
    tmp_path: Path, draw: Any, extra: dict[str, tuple[int, ...]], error: type[Exception], says: str
) -> None:
    state = {f"{UNET}.lora_up.weight": draw(6, 2), f"{UNET}.lora_down.weight": draw(2, 5)}
    state |= {name: draw(*shape) for name, shape in extra.items()}
    with pytest.raises(error, match=says):
        planned(written(tmp_path / "kohya.safetensors", state))


def test_a_foreign_adapter_is_no_base(tmp_path: Path, draw: Any) -> None:
    state = {f"{UNET}.lora_up.weight": draw(6, 2), f"{UNET}.lora_down.weight": draw(2, 5)}
    file = written(tmp_path / "kohya.safetensors", state)
    with pytest.raises(PairingError, match="the base is an adapter"):
        planned(save(tmp_path / "tuned", unet(draw)), file)


def test_the_command_line_reads_them(tmp_path: Path, draw: Any) -> None:
    parts = {"hada_w1_a": draw(6, 2), "hada_w1_b": draw(2, 8), "hada_w2_a": draw(6, 2), "hada_w2_b": draw(2, 8)}
    state = {f"{UNET}.{name}": value for name, value in parts.items()}
    state |= {f"{TEXT}.lora_up.weight": draw(8, 2), f"{TEXT}.lora_down.weight": draw(2, 8)}
    file = written(tmp_path / "mixed.safetensors", state)
    done = rank_lab("analyze", file, "-o", tmp_path / "study")
    assert done.code == 0, done.err
    report = analyze(file)
    assert report.updates["numerical_rank"].tolist() == [2, 4]
    refused = rank_lab("analyze", file, "-o", tmp_path / "study", "--lora-alpha", 8)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "a kohya adapter's scaling is in the files; leave out --lora-alpha" in refused.err
