"""Tasks of lm-eval through our path: the same scores as lm-eval's own, example by example."""

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.harness_scores import HarnessOptions, harness_rows
from rank_lab.evaluation.harness_tasks import LOCAL_TASKS, lm_eval_version, refuse_unknown, tasks_folder
from rank_lab.evaluation.standard_error import standard_error
from tests.evaluation.models import demo_base, demo_tokenizer, evaluated
from tests.evaluation.own_tasks import own_data

LIMITS = {"hellaswag": 16, "arc_challenge": 16, "winogrande": 24, "gsm8k": 2}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems of our own, which are always there."""
    return own_data(tmp_path_factory.mktemp("own"))


def own_of(task: str, data: Path, work: Path) -> dict[str, Any]:
    """lm-eval's own evaluation, of a recipe that is written here by hand."""
    import lm_eval.tasks
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    recipes = {
        "hellaswag": ("hellaswag/hellaswag.yaml", {"validation": "validation.jsonl"}, "training_split: null"),
        "arc_challenge": ("arc/arc_challenge.yaml", {"test": "test.jsonl"}, ""),
        "winogrande": ("winogrande/default.yaml", {"validation": "validation.jsonl"}, "training_split: null"),
        "gsm8k": ("gsm8k/gsm8k.yaml", {"train": "train.jsonl", "test": "test.jsonl"}, ""),
    }
    recipe, files, more = recipes[task]
    if task == "arc_challenge":
        more = "training_split: null\nvalidation_split: null"
    home = Path(lm_eval.tasks.__file__).parent
    lines = "".join(f"    {split}: {data / task / file}\n" for split, file in files.items())
    (work / "own.yaml").write_text(
        f"include: {home / recipe}\ntask: {task}\ndataset_path: json\ndataset_name: null\n{more}\n"
        f"dataset_kwargs:\n  cache_dir: {work / 'cache'}\n  data_files:\n{lines}"
    )
    model = HFLM(pretrained=demo_base(), tokenizer=demo_tokenizer(), batch_size=4, max_length=128)
    found = simple_evaluate(
        model=model, tasks=[task], limit=LIMITS[task], bootstrap_iters=100,
        task_manager=TaskManager(include_path=str(work), include_defaults=False),
        gen_kwargs={"max_gen_toks": 16} if task == "gsm8k" else None,
    )  # fmt: skip
    assert found is not None
    return dict(found)


@pytest.mark.parametrize("task", ["arc_challenge", "winogrande", "gsm8k"])
def test_scores_are_those_of_lm_eval(task: str, shared_data: Path, tmp_path: Path) -> None:
    assert same_as_lm_eval(task, shared_data, tmp_path) == LIMITS[task]


@pytest.mark.parametrize("task", list(LIMITS))
def test_scores_of_our_own_problems_are_those_of_lm_eval(task: str, own: Path, tmp_path: Path) -> None:
    rows = (own / task / f"{LOCAL_TASKS[task].split}.jsonl").read_text(encoding="utf-8").splitlines()
    assert same_as_lm_eval(task, own, tmp_path) == min(len(rows), LIMITS[task])


def same_as_lm_eval(task: str, data: Path, tmp_path: Path) -> int | None:
    """Whether every score is that of lm-eval, example by example; of how many examples."""
    options = HarnessOptions(data=data, limit=LIMITS[task], new_tokens=16 if task == "gsm8k" else None)
    model = evaluated(demo_base(), demo_tokenizer())
    rows = {row.metric: row for row in harness_rows(model, task, options, role="source")}
    own = own_of(task, data, tmp_path)
    theirs = {name: value for name, value in own["results"][task].items() if "," in name and "_stderr" not in name}
    assert {name if name.count(",none") == 0 else name.removesuffix(",none") for name in theirs} == set(rows)
    for name, value in theirs.items():
        metric, kept = name.split(",")
        row = rows[metric if kept == "none" else name]
        examples = [float(sample[metric]) for sample in own["samples"][task] if sample["filter"] == kept]
        assert row.value == value
        assert row.examples == tuple(examples)
        assert row.stderr == standard_error(examples)
        assert (row.n, row.role, row.few_shot) == (len(examples), "source", 5 if task == "gsm8k" else 0)
        assert (row.harness, row.harness_version, row.chance) == (
            "lm-eval", metadata.version("lm-eval"), LOCAL_TASKS[task].chance,
        )  # fmt: skip
        assert row.higher_is_better
    return next(iter(rows.values())).n


def test_a_standard_error_is_that_of_lm_eval(shared_data: Path, tmp_path: Path) -> None:
    options = HarnessOptions(data=shared_data, limit=LIMITS["winogrande"])
    (row,) = harness_rows(evaluated(demo_base(), demo_tokenizer()), "winogrande", options)
    own = own_of("winogrande", shared_data, tmp_path)["results"]["winogrande"]["acc_stderr,none"]
    assert row.stderr == pytest.approx(own, rel=1e-9)


def test_hellaswag_is_scored_by_the_likelihood_of_its_endings(shared_data: Path) -> None:
    """Computed here from the model's logits, without lm-eval."""
    import gzip

    import torch

    model, tokenizer, count = demo_base(), demo_tokenizer(), LIMITS["hellaswag"]
    options = HarnessOptions(data=shared_data, limit=count)
    rows = {row.metric: row for row in harness_rows(evaluated(model, tokenizer), "hellaswag", options)}
    with gzip.open(shared_data / "hellaswag" / "validation.jsonl.gz", "rt", encoding="utf-8") as lines:
        asked = [json.loads(next(lines)) for _ in range(count)]
    right: dict[str, list[float]] = {"acc": [], "acc_norm": []}
    for row in asked:
        query = f"{row['activity_label']}: {row['ctx']}".strip().replace("  ", " ")
        sums = []
        for ending in row["endings"]:
            whole = tokenizer(f"{query} {ending}")["input_ids"]
            start = len(tokenizer(query)["input_ids"])
            shown = whole[-129:]
            with torch.no_grad():
                logits = model(torch.tensor([shown[:-1]])).logits[0].log_softmax(-1)
            targets = range(len(shown) - (len(whole) - start), len(shown))
            sums.append(sum(float(logits[place - 1, shown[place]]) for place in targets))
        sizes = [len(ending) for ending in row["endings"]]
        right["acc"].append(float(np.argmax(sums) == row["label"]))
        right["acc_norm"].append(float(np.argmax(np.array(sums) / sizes) == row["label"]))
    assert rows["acc"].examples == tuple(right["acc"])
    assert rows["acc_norm"].examples == tuple(right["acc_norm"])
    assert "writes the second sentence with a capital" in rows["acc"].source


def test_requests_that_do_not_fit_are_counted(own: Path) -> None:
    options = HarnessOptions(data=own, limit=4, context=16)
    row = harness_rows(evaluated(demo_base(), demo_tokenizer()), "winogrande", options)[0]
    assert row.source.endswith("4 cut on the left to 16 tokens")


def test_answers_that_were_cut_by_the_time_are_counted(own: Path) -> None:
    model = evaluated(demo_base(), demo_tokenizer())
    options = HarnessOptions(data=own, few_shot=0, new_tokens=16, batch_size=2)
    late = harness_rows(model, "gsm8k", replace(options, seconds=0.001))
    assert all(re.search(r"[1-9] answers? out of time$", row.source) for row in late)
    assert all("out of time" not in row.source for row in harness_rows(model, "gsm8k", options))
    assert model.model.generation_config.max_time is None


def test_an_answer_that_ended_by_itself_is_in_time() -> None:
    from rank_lab.evaluation.harness_model import TimedModel

    tokenizer = demo_tokenizer()
    model = TimedModel(pretrained=demo_base(), tokenizer=tokenizer, batch_size=2, max_length=64)
    stopped, going_on = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("four. Q: And", "four"))
    assert model._ended(stopped, ["Q:"])
    assert model._ended([*going_on, tokenizer.eos_token_id], ["Q:"])
    assert not model._ended(going_on, ["Q:", ""])


def test_git_is_not_asked_where_there_is_no_repository(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    harness_rows(evaluated(demo_base(), demo_tokenizer()), "winogrande", HarnessOptions(data=own, limit=1))
    assert "fatal" not in capfd.readouterr().err


def test_few_shot_examples_need_a_training_file(own: Path) -> None:
    model, options = evaluated(demo_base(), demo_tokenizer()), HarnessOptions(data=own, few_shot=2, limit=2)
    with pytest.raises(DataError, match=r"winogrande/train\.jsonl: is not there \(nor \.gz\), needed for few-shot"):
        harness_rows(model, "winogrande", options)
    assert {row.few_shot for row in harness_rows(model, "arc_challenge", options)} == {2}


def test_more_to_write_than_the_model_can_is_refused(own: Path) -> None:
    with pytest.raises(RankLabError, match=r"Lower --new-tokens"):
        harness_rows(evaluated(demo_base(), demo_tokenizer()), "gsm8k", HarnessOptions(data=own, limit=1))


def test_a_task_that_needs_a_package_says_so(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval

    def lacking(**_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'langdetect'")

    monkeypatch.setattr(lm_eval, "simple_evaluate", lacking)
    with pytest.raises(RankLabError, match=r"could not carry it out \(No module named 'langdetect'"):
        harness_rows(evaluated(demo_base(), demo_tokenizer()), "winogrande", HarnessOptions(data=shared_data, limit=1))


@pytest.mark.parametrize(
    ("name", "nearest"), [("helaswag", "hellaswag"), ("winogrand", "winogrande"), ("human_eval", "humaneval")]
)
def test_a_task_that_is_not_known_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RankLabError, match=rf"task '{name}' is not known\. Nearest: .*{nearest}"):
        refuse_unknown(name, ["humaneval", "mbpp"])


def test_a_group_of_tasks_is_refused() -> None:
    with pytest.raises(RankLabError, match="is a group"):
        refuse_unknown("mmlu")
    refuse_unknown("arc_easy")


def test_files_that_are_not_there_or_lack_a_column_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="has no folder 'winogrande'"),
        tasks_folder("winogrande", tmp_path, few_shot=None),
    ):
        pass
    (tmp_path / "winogrande").mkdir()
    file = tmp_path / "winogrande" / "validation.jsonl"
    file.write_text(json.dumps({"sentence": "a _ b", "option1": "c", "option_2": "d", "answer": "1"}) + "\n")
    with (
        pytest.raises(DataError, match=r"no column 'option2'.*Nearest: option_2"),
        tasks_folder("winogrande", tmp_path, few_shot=None),
    ):
        pass
    file.write_text("")
    with pytest.raises(DataError, match="holds no row"), tasks_folder("winogrande", tmp_path, few_shot=None):
        pass


def test_a_task_without_a_recipe_for_local_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only of hellaswag"), tasks_folder("piqa", tmp_path, few_shot=None):
        pass


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(RankLabError, match=r"pip install 'rank-lab\[eval\]'"):
        lm_eval_version()
