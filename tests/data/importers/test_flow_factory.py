import json

import pytest

from tests.small_clips import clip, found, put, shown


def record(**changed):
    """A preference as the documentation has it."""
    preference = {
        "schema_version": 2,
        "input": {"prompt": "A clean typographic poster.", "media": []},
        "supervision": {
            "type": "preference",
            "chosen": {"media": [{"type": "video", "path": "pairs/chosen.mp4", "fps": 24.0}]},
            "rejected": {"media": [{"type": "video", "path": "pairs/rejected.mp4", "fps": 24.0}]},
        },
        "metadata": {"annotator": "example", "license": "CC0", "steps": {"n": 3}},
    }
    return preference | changed


@pytest.fixture
def place(tmp_path):
    put(tmp_path / "pairs/chosen.mp4", 1)
    put(tmp_path / "pairs/rejected.mp4", 2)
    return tmp_path


@pytest.fixture
def write(place):
    def write(*records):
        lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
        (place / "train.jsonl").write_text("\n".join(lines))
        return place

    return write


def supervision(**changed):
    return record()["supervision"] | changed


def test_a_preference_becomes_a_pair(write):
    place = write(record())
    (place / "test.jsonl").write_text('{"prompt": "only a prompt", "images": []}')
    name, (entry,), reasons = found(place)
    assert name == "flow_factory"
    assert shown(entry) == [clip(1), clip(2)]
    assert (entry.label, entry.annotator, entry.split) == ("a", "example", "train")
    assert entry.metadata == {"license": "CC0", "steps": '{"n": 3}', "fps": [24.0, 24.0]}
    assert reasons == []


def test_a_demonstration_becomes_a_sample_that_was_liked(write):
    target = {"media": [{"type": "image", "path": "pairs/chosen.mp4"}]}
    _, (entry,), _ = found(write(record(supervision={"type": "demonstration", "target": target})))
    assert (entry.label, shown(entry)) == ("liked", [clip(1)])


def test_conditions_are_refused_unless_they_are_to_be_ignored(write):
    condition = {"prompt": "as a watercolour", "media": [{"type": "image", "path": "source.png"}]}
    place = write(record(input=condition))
    assert found(place)[2] == ["its input holds media (--set conditions=ignore takes the prompt)"]
    _, (entry,), _ = found(place, conditions="ignore")
    assert entry.prompt == "as a watercolour"
    assert entry.metadata["conditions"] == ["source.png"]


def test_sound_is_named_and_not_taken(write):
    seen = record()["supervision"]["chosen"]["media"]
    both = {"media": [*seen, {"type": "audio", "path": "a.wav", "sample_rate": 48000}]}
    _, (entry,), _ = found(write(record(supervision=supervision(chosen=both))))
    assert len(entry.media) == 2
    assert entry.metadata["sounds"] == [["a.wav"], []]


OTHERS = "chosen or rejected holds other than one picture or clip"
TWO = {"media": [{"type": "image", "path": "a.png"}] * 2}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (record(schema_version=1), "another schema_version than 2"),
        (record(schema_version=True), "another schema_version than 2"),
        (record(weight=3), "keys that the schema does not have"),
        (record(input="a poster"), "input or supervision is no object"),
        (record(supervision=None), "input or supervision is no object"),
        (
            record(supervision={"type": "ranking"}),
            "supervision is neither preference nor demonstration",
        ),
        (record(supervision=supervision(tie=True)), "keys that the schema does not have"),
        (record(supervision=supervision(chosen=TWO)), OTHERS),
        (record(supervision=supervision(chosen={"media": []})), OTHERS),
        (record(supervision=supervision(rejected=None)), OTHERS),
        (record(supervision=supervision(rejected={"media": [{"type": "image"}]})), OTHERS),
        (record(supervision=supervision(rejected={"media": [{"path": "a"}]})), OTHERS),
        (record(supervision=supervision(rejected={"media": "x"})), OTHERS),
        ("{", "not JSON, or a key stands there twice"),
    ],
)
def test_what_cannot_be_used_is_told(write, broken, reason):
    _, entries, reasons = found(write(record(), broken))
    assert len(entries) == 1
    assert reasons == [reason]
