import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.data.importers import verl_omni

PROMPTS = ["A red circle", "A blue square", "A green triangle", "A grey box"]


def messages(prompt):
    return [
        {"role": "system", "content": "You are a helpful image generation assistant."},
        {"role": "user", "content": prompt},
    ]


@pytest.fixture
def write(tmp_path):
    """Write pairs as the public code does, tensors and all, with the pictures of three."""

    def write(**changed):
        for number in range(3):
            for side in ("win", "lose"):
                put(tmp_path / f"images/{number:06}_{side}.png", 2 * number + (side == "lose"))
        rows = {
            "data_source": ["offline_dpo"] * 4,
            "prompt": [messages(prompt) for prompt in PROMPTS],
            "negative_prompt": [messages("blurry")] * 4,
            "img_win": [f"images/{number:06}_win.png" for number in range(4)],
            "img_lose": [f"images/{number:06}_lose.png" for number in range(4)],
            "img_win_latents": [bytes(1000)] * 4,
            "img_lose_latents": [bytes(1000)] * 4,
            "prompt_embeds": [bytes(1000)] * 4,
            "win_score": [1.0, 0.5, 0.2, 1.0],
            "lose_score": [0.0, 0.5, 0.8, 0.0],
            "extra_info": [
                {
                    "split": "train",
                    "index": number,
                    "raw_prompt": prompt,
                    "raw_negative_prompt": "blurry",
                    "win_seed": 7,
                    "lose_seed": 8 + number,
                    "candidate_scores": [1.0, 0.5],
                }
                for number, prompt in enumerate(PROMPTS)
            ],
        } | changed
        kept = {name: column for name, column in rows.items() if column is not None}
        pq.write_table(pa.table(kept), tmp_path / "train.parquet")
        return tmp_path

    return write


def test_pairs_are_read_without_their_tensors(write):
    name, entries, reasons = found(write())
    assert name == "verl_omni"
    first, second = entries
    assert shown(first) == [clip(0), clip(1)]
    assert (first.prompt, first.label, first.scores) == ("A red circle", "a", {"score": (1, 0)})
    assert (first.seeds, first.id, first.split) == ((7, 8), "0", "train")
    assert first.metadata == {"negative_prompt": "blurry", "candidate_scores": [1.0, 0.5]}
    assert second.label == "tie"
    assert reasons == [
        "win_score is below lose_score",
        "holds latents, but its pictures are not there",
    ]
    assert not any("latents" in column or "embeds" in column for column in verl_omni.READ)


def test_the_prompt_may_stand_in_the_messages_alone(write):
    assert found(write(extra_info=None))[1][0].prompt == "A red circle"
    _, (first, *_), _ = found(write(extra_info=None, prompt=PROMPTS))
    assert (first.prompt, first.metadata) == ("A red circle", {"negative_prompt": "blurry"})


def test_latents_alone_are_recognised_and_of_no_use(write):
    name, entries, reasons = found(write(img_win=None, img_lose=None))
    assert (name, entries) == ("verl_omni", [])
    assert reasons == ["holds latents, but its pictures are not there"] * 4


def test_scores_may_be_missing(write):
    _, entries, _ = found(write(win_score=None, lose_score=None))
    assert [each.label for each in entries] == ["a"] * 3
    assert entries[0].scores == {}
