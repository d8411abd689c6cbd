"""Pairs that a judge decides: asked in both orders, and only what it says both times counts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.analysis.intervals import clustered_mean
from vipo_cli.building.best import as_pair
from vipo_cli.building.build import Plan, Planned
from vipo_cli.building.judge import AskedInVain, Judge, question, read_answer
from vipo_cli.data.entry import Entry
from vipo_cli.data.row_groups import RowGroups, read_columns
from vipo_cli.data.scores import media_keys
from vipo_cli.data.stored import entry_in, read_manifest, stored_rows
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import content_hash, media_bytes
from vipo_cli.run import Progress, Work, append_line, end_last_line, fingerprint, read_lines

STAGE = "asking the judge"
GIVE_UP = 8
"""Questions one after another without an answer after which there is no point in asking on."""
ORDERS = (0, 1)
"""The media as they stand, and the other way round."""


@dataclass(frozen=True, slots=True)
class Matter:
    """Two media of an entry, by their places in it, of which the judge says which is better."""

    entry: int
    places: tuple[int, int]

    def key(self, order: int) -> str:
        """Name the question."""
        return f"{self.entry}.{self.places[0]}.{self.places[1]}.{order}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which media are compared.

    Attributes:
        per_prompt: pairs of each entry, where it has as many.
        seed: of the chance that picks them.
    """

    per_prompt: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a question: an answer, or why there is none."""

    text: str | None
    problem: str = ""
    again: bool = False


def verdicts_file(out: Path) -> Path:
    """Return where answers are kept until the data set is there, for whoever goes on."""
    return out.with_name(f"{out.name}.verdicts.jsonl")


def plan_judged(
    data: Path, judge: Judge, rubric: str, out: Path, choice: Choice, category: str | None
) -> Work[Plan]:
    """Let a judge decide pairs of each entry; answers that are there already are not asked again.

    Args:
        data: a stored data set.
        judge: who.
        rubric: by what.
        out: folder of the data set.
        choice: which media are compared.
        category: of all pairs; None keeps the entries' own.

    Raises:
        VipoError: the judge cannot be asked.
    """
    manifest = read_manifest(data)
    about = {
        "made": "pairs",
        "by": "judge",
        "judge": judge.name,
        "rubric": rubric,
        **asdict(choice),
        "category": category,
        "data": fingerprint([shard["sha256"] for shard in manifest["shards"]]),
        "data_from": manifest["from"],
    }
    matters, left_out = choose(media_keys(data).counts.tolist(), choice)
    rows = stored_rows(data)
    said = yield from _ask_all(judge, rubric, rows, matters, verdicts_file(out), about)
    decided, report = settle(matters, said)
    own = read_columns(rows.files, ["category"]).column("category").to_pylist()
    pairs = [
        Planned(
            category or own[matter.entry],
            partial(_pair, rows, matter, winner, judge.name, category),
        )
        for matter, winner in decided
    ]
    left_out += Counter(report["left_out"])
    return Plan(about, pairs, left_out, {key: report[key] for key in report if key != "left_out"})


def choose(counts: Sequence[int], choice: Choice) -> tuple[list[Matter], Counter[str]]:
    """Choose what to compare of each entry that has two media or more."""
    matters, left_out = [], Counter[str]()
    for entry, count in enumerate(counts):
        pairs = list(combinations(range(count), 2))
        if not pairs:
            left_out["fewer than two media"] += 1
            continue
        rng = np.random.default_rng((choice.seed, entry))
        number = min(choice.per_prompt, len(pairs))
        chosen = np.sort(rng.choice(len(pairs), number, replace=False)).tolist()
        matters += [Matter(entry, pairs[place]) for place in chosen]
    return matters, left_out


def settle(
    matters: Sequence[Matter], said: Mapping[str, Said]
) -> tuple[list[tuple[Matter, int]], dict[str, Any]]:
    """Return the matters that are decided, with the place of the winner, and what to tell.

    Position bias is the share of verdicts, ties left out, for what was shown first: 0.5 for a judge
    that does not care. Pairs are the unit of its interval.
    """
    decided: list[tuple[Matter, int]] = []
    left_out: Counter[str] = Counter()
    firsts: list[float] = []
    of_pair: list[int] = []
    for matter in matters:
        answers = [said[matter.key(order)] for order in ORDERS]
        verdicts = [read_answer(each.text or "") for each in answers]
        for verdict in verdicts:
            if verdict in ("first", "second"):
                firsts.append(float(verdict == "first"))
                of_pair.append(matter.entry)
        if problem := next((each.problem for each in answers if each.problem), ""):
            left_out[problem] += 1
        elif None in verdicts:
            left_out["an answer without a verdict"] += 1
        elif verdicts == ["tie", "tie"]:
            left_out["judged a tie"] += 1
        elif "tie" in verdicts or verdicts[0] == verdicts[1]:
            left_out["judged differently in the other order"] += 1
        else:
            decided.append((matter, 0 if verdicts[0] == "first" else 1))
    bias: dict[str, Any] | None = None
    if len(set(of_pair)) > 1:
        share = clustered_mean(firsts, of_pair)
        bias = {"value": share.value, "ci95": [share.low, share.high], "n": share.n,
                "n_clusters": share.n_clusters}  # fmt: skip
    consistent = len(decided) + left_out["judged a tie"]
    asked = consistent + left_out["judged differently in the other order"]
    report = {
        "pairs_judged": len(matters),
        "consistent": consistent / asked if asked else None,
        "position_bias": bias,
        "left_out": left_out,
    }
    return decided, report


def _ask_all(
    judge: Judge,
    rubric: str,
    rows: RowGroups,
    matters: Sequence[Matter],
    file: Path,
    about: Mapping[str, Any],
) -> Work[dict[str, Said]]:
    """Return what was said to each question; answers are written down as they come."""
    said = _known(file, about)
    todo = [matter for matter in matters if any(matter.key(order) not in said for order in ORDERS)]
    total = len(ORDERS) * len(matters)
    yield Progress(STAGE, len(said), total)
    in_vain = 0
    with ThreadPoolExecutor(judge.together) as pool:
        for first in range(0, len(todo), judge.together):
            block = list(_questions(rows, todo[first : first + judge.together], said))
            answers = pool.map(partial(_ask, judge, rubric), [media for _, media in block])
            for (key, _), answer in zip(block, answers, strict=True):
                said[key] = answer
                if not answer.again:
                    record = {"question": key, "answer": answer.text, "problem": answer.problem}
                    append_line(file, record)
                in_vain = in_vain + 1 if answer.again else 0
                if in_vain >= GIVE_UP:
                    raise VipoError(
                        f"the judge did not answer {GIVE_UP} questions one after another",
                        details=[answer.text or ""],
                        hint="what it answered is kept; give the same command again",
                    )
            yield Progress(STAGE, len(said), total)
    return said


def _known(file: Path, about: Mapping[str, Any]) -> dict[str, Said]:
    """Return the answers that are written down, after a first line that says what about.

    Raises:
        DataError: they are about something else.
    """
    lines = read_lines(file)
    if not lines:
        file.unlink(missing_ok=True)  # a first line that was not finished
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, {"about": about})
        return {}
    if lines[0].get("about") != json.loads(json.dumps(about)):
        raise DataError(
            f"`{file}` holds verdicts about something else",
            hint=f"choose another --out, or remove it: rm {file}",
        )
    end_last_line(file)
    return {line["question"]: Said(line["answer"], line["problem"]) for line in lines[1:]}


Question = tuple[str, bytes, bytes]
"""Prompt, what is shown first, and what second."""


def _questions(
    rows: RowGroups, matters: Sequence[Matter], said: Mapping[str, Said]
) -> Iterator[tuple[str, Question]]:
    for matter in matters:
        entry = entry_in(*rows.row(matter.entry))
        both = [media_bytes(entry.media[place]) for place in matter.places]
        for order in ORDERS:
            if matter.key(order) not in said:
                first, second = both[:: 1 - 2 * order]
                yield matter.key(order), (entry.prompt, first, second)


def _ask(judge: Judge, rubric: str, asked: Question) -> Said:
    """Ask one question.

    Raises:
        VipoError: the judge will answer none.
    """
    prompt, first, second = asked
    if content_hash(first) == content_hash(second):
        return Said(None, "both media are the same")
    try:
        instructions, parts = question(rubric, prompt, first, second)
    except DataError:
        return Said(None, "a medium cannot be decoded")
    try:
        return Said(judge.ask(instructions, parts))
    except AskedInVain as error:
        return Said(error.message, "the judge gave no answer", again=True)


def _pair(rows: RowGroups, matter: Matter, winner: int, judge: str, category: str | None) -> Entry:
    entry = entry_in(*rows.row(matter.entry))
    places = matter.places if winner == 0 else matter.places[::-1]
    pair = as_pair(entry, places, {}, "judge", None, category)
    one, other = matter.places
    own = None if entry.id is None else f"{entry.id}.{one}-{other}"
    return replace(pair, votes=(2.0, 0.0), annotator=judge, id=own)
