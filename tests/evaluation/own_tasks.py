"""Problems of our own in the layouts of public tasks, so that nothing has to be fetched to test how they are read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

HUMANEVAL: Sequence[Row] = (
    {
        "task_id": "Own/0",
        "prompt": 'def doubled_sum(numbers):\n    """Twice the sum.\n    >>> doubled_sum([1, 2])\n    6\n    """\n',
        "entry_point": "doubled_sum",
        "canonical_solution": "    return 2 * sum(numbers)\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 6\n    assert candidate([]) == 0\n",
    },
    {
        "task_id": "Own/1",
        "prompt": "from typing import List\n\n\ndef longest(words: List[str]) -> str:\n"
        '    """The first of the longest words; nothing of none."""\n',
        "entry_point": "longest",
        "canonical_solution": "    best = ''\n    for word in words:\n        if len(word) > len(best):\n"
        "            best = word\n    return best\n",
        "test": "\n\ndef check(candidate):\n    assert candidate(['a', 'bcd', 'efg']) == 'bcd'\n"
        "    assert candidate([]) == ''\n",
    },
    {
        "task_id": "Own/2",
        "prompt": 'import math\n\n\ndef hypotenuse(a, b):\n    """Of a right triangle."""\n',
        "entry_point": "hypotenuse",
        "canonical_solution": "    return math.sqrt(a * a + b * b)\n",
        "test": "def check(candidate):\n    assert abs(candidate(3, 4) - 5) < 1e-12\n",
    },
)

MBPP: Sequence[Row] = (
    {
        "task_id": 1, "text": "Write a function that counts how often a letter is in a word.",
        "code": "def count_of(word, letter):\r\n    return word.count(letter)", "test_setup_code": "",
        "test_list": ["assert count_of('banana', 'a') == 3", "assert count_of('', 'a') == 0"],
        "challenge_test_list": [],
    },
    {
        "task_id": 2, "text": "Write a function that gives the sum of the squares up to n.",
        "code": "def squares(n):\n    return sum(i * i for i in range(n + 1))",
        "test_setup_code": "expected = [0, 1, 5, 14]",
        "test_list": ["assert [squares(n) for n in range(4)] == expected"], "challenge_test_list": [],
    },
)  # fmt: skip

_PLACES = (("kitchen", "pan"), ("garden", "rake"), ("office", "pen"), ("stable", "horse"), ("harbour", "boat"))

HELLASWAG: Sequence[Row] = tuple(
    {
        "ind": number, "activity_label": f"Work in the {place}", "ctx": f"A woman goes into the {place}. she",
        "ctx_a": f"A woman goes into the {place}.", "ctx_b": "she", "label": number % 4,
        "endings": [f"takes the {thing} and begins.", f"eats the {thing} slowly.", "sings [title] a song.", "leaves."],
    }
    for number, (place, thing) in enumerate(_PLACES)
)  # fmt: skip

ARC: Sequence[Row] = tuple(
    {
        "id": f"own-{number}", "question": f"Where is a {thing} most often found?",
        "choices": {"text": [place, "on the moon", "in a cloud", "in a well"][:count], "label": list(labels[:count])},
        "answerKey": labels[0],
    }
    for number, (place, thing) in enumerate(_PLACES)
    for count, labels in [(3 + number % 2, "1234" if number == 2 else "ABCD")]
)  # fmt: skip

WINOGRANDE: Sequence[Row] = tuple(
    {
        "sentence": f"The {thing} did not fit into the {place} because the _ was too small.",
        "option1": thing, "option2": place, "answer": str(1 + number % 2),
    }
    for number, (place, thing) in enumerate(_PLACES)
)  # fmt: skip

GSM8K: Sequence[Row] = tuple(
    {
        "question": f"Ann has {number} apples and buys {number + 2} more. How many has she?",
        "answer": f"She has {number}+{number + 2}=<<{number}+{number + 2}={2 * number + 2}>>{2 * number + 2}.\n"
                  f"#### {2 * number + 2}",
    }
    for number in range(1, 10)
)  # fmt: skip

FILES: Mapping[str, Sequence[Row]] = {
    "humaneval/test.jsonl": HUMANEVAL,
    "mbpp/test.jsonl": MBPP,
    "hellaswag/validation.jsonl": HELLASWAG,
    "arc_challenge/train.jsonl": ARC[2:],
    "arc_challenge/test.jsonl": ARC,
    "winogrande/validation.jsonl": WINOGRANDE,
    "gsm8k/train.jsonl": GSM8K[3:],
    "gsm8k/test.jsonl": GSM8K[:3],
}
"""As the folder of data holds them."""


def own_data(folder: Path) -> Path:
    """Write all of them."""
    for name, rows in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
