import numpy as np
import pytest
from PIL import Image

from tests.chat_server import Server
from vipo_cli.building.judge import AskedInVain, find_judge, question, read_answer
from vipo_cli.building.judged import Choice, Matter, Said, choose, settle, verdicts_file
from vipo_cli.building.ways import Wish, build
from vipo_cli.chat import local
from vipo_cli.chat import server as module
from vipo_cli.chat.server import ServerChat
from vipo_cli.data.stored import entries_in
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import encode_clip, encode_png
from vipo_cli.run import finish, read_lines
from vipo_cli.shapes.rewards import measure_alignment


def eye(shown, prompt):
    """Judge as the embedded world's alignment does."""
    small = [np.asarray(each.resize((32, 32), Image.Resampling.BOX)) for each in shown]
    first, second = (measure_alignment(each, prompt) for each in small)
    if abs(first - second) < 0.2:
        return "They are alike.\nVERDICT: TIE"
    return f"One is right.\n**Verdict: {'first' if first > second else 'Second'}**"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.001)
    made = Server()
    yield made
    made.close()


def png(level=0):
    return encode_png(np.full((32, 32, 3), level, np.uint8))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("VERDICT: FIRST", "first"),
        ("At first sight the second.\n\n**Verdict:** second.", "second"),
        ("verdict - tie", "tie"),
        ("VERDICT: FIRST or VERDICT: SECOND? The latter. VERDICT: SECOND", "second"),
        ("Second", "second"),
        ("I prefer the first one", None),
        ("", None),
        ("VERDICT: NEITHER", None),
    ],
)
def test_answers_are_read(text, answer):
    assert read_answer(text) == answer


def test_a_question_shows_both_in_order_and_holds_the_rubric():
    instructions, parts = question("Count the dogs.", "two dogs", png(0), png(255))
    assert "Count the dogs." in instructions
    assert "two pictures" in instructions
    assert parts[0] == "Prompt: two dogs"
    assert [part for part in parts if isinstance(part, str)][1:] == [
        "First picture:", "Second picture:",
    ]  # fmt: skip
    black, white = (part for part in parts if not isinstance(part, str))
    assert (black.getpixel((0, 0)), white.getpixel((0, 0))) == ((0, 0, 0), (255, 255, 255))


def test_of_clips_three_frames_are_shown():
    clip = encode_clip(np.arange(5 * 32 * 32 * 3, dtype=np.uint8).reshape(5, 32, 32, 3), 8)
    instructions, parts = question("r", "p", clip, clip)
    assert "two clips" in instructions
    assert sum(not isinstance(part, str) for part in parts) == 6


def test_a_server_with_one_model_need_not_be_told_its_name(server, monkeypatch):
    monkeypatch.setenv("VIPO_JUDGE_KEY", "secret")
    judge = find_judge(server.url)
    assert judge.name == "eye-1"
    assert judge.ask("rules", ["Prompt: x"]) == "VERDICT: TIE"
    assert server.keys == {"Bearer secret"}
    assert "secret" not in repr(judge)
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == ("eye-1", 0)
    server.models = ["a", "b"]
    with pytest.raises(VipoError, match="has 2 models"):
        find_judge(server.url)
    assert find_judge(server.url, "b").name == "b"


def test_what_passes_is_asked_again_with_growing_pauses(server):
    pauses = []
    judge = ServerChat(server.url, "eye-1", None, 1, pauses.append)
    server.status = [500, 429, "garbage"]
    assert judge.ask("rules", ["Prompt: x"]) == "VERDICT: TIE"
    assert len(server.asked) == 4
    assert [pause for pause in pauses if pause] == [0.001, 0.002, 0.004]


def test_what_never_answers_is_given_up(server):
    judge = ServerChat(server.url, "eye-1", None, 1, lambda _: None)
    server.status = [503] * 5
    with pytest.raises(AskedInVain, match="5 attempts: 503"):
        judge.ask("rules", ["Prompt: x"])


def test_what_refuses_is_not_asked_again(server):
    judge = ServerChat(server.url, "eye-1", None, 1)
    server.status = [401]
    with pytest.raises(VipoError, match="refuses to judge: 401") as caught:
        judge.ask("rules", ["Prompt: x"])
    assert "VIPO_JUDGE_KEY" in caught.value.hint
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_told_of_at_once():
    with pytest.raises(VipoError, match="does not say which models"):
        find_judge("http://127.0.0.1:9/v1")


def test_what_is_compared_is_chosen_by_the_seed():
    matters, left_out = choose([3, 1, 2], Choice())
    assert [matter.entry for matter in matters] == [0, 2]
    assert all(one < other for one, other in (matter.places for matter in matters))
    assert left_out == {"fewer than two media": 1}
    found = {choose([4], Choice(1, seed))[0][0].places for seed in range(60)}
    assert len(found) == 6
    every, _ = choose([3, 2], Choice(per_prompt=9))
    assert [(matter.entry, matter.places) for matter in every] == [
        (0, (0, 1)), (0, (0, 2)), (0, (1, 2)), (1, (0, 1)),
    ]  # fmt: skip


def settled(*answers):
    matters = [Matter(number, (0, 1)) for number in range(len(answers))]
    said = {
        matter.key(order): Said(text)
        for matter, both in zip(matters, answers, strict=True)
        for order, text in enumerate(both)
    }
    return settle(matters, said)


FIRST, SECOND, TIE = ("VERDICT: FIRST", "VERDICT: SECOND", "VERDICT: TIE")


def test_only_what_is_said_both_times_counts():
    decided, report = settled(
        (FIRST, SECOND), (SECOND, FIRST), (FIRST, FIRST), (TIE, TIE), (FIRST, TIE), (FIRST, "?")
    )
    assert [(matter.entry, winner) for matter, winner in decided] == [(0, 0), (1, 1)]
    assert report["left_out"] == {
        "judged differently in the other order": 2,
        "judged a tie": 1,
        "an answer without a verdict": 1,
    }
    assert report["consistent"] == 3 / 5


def test_position_bias_is_the_share_for_what_is_shown_first():
    _, fair = settled(*[(FIRST, SECOND), (SECOND, FIRST)] * 10)
    assert fair["position_bias"]["value"] == 0.5
    _, biased = settled(*[(FIRST, FIRST)] * 15, *[(FIRST, SECOND)] * 15)
    bias = biased["position_bias"]
    assert bias["value"] == 0.75
    assert (bias["n"], bias["n_clusters"]) == (60, 30)
    assert 0.5 < bias["ci95"][0] < 0.75 < bias["ci95"][1]
    assert settled((FIRST, FIRST))[1]["position_bias"] is None  # one pair says nothing of spread
    assert settled((TIE, TIE))[1]["position_bias"] is None


def test_pairs_of_a_judge(candidates, server, tmp_path):
    server.answer = eye
    out = tmp_path / "pairs"
    wish = Wish(str(candidates), category="aesthetics", judge=server.url, per_prompt=3)
    built = finish(build(wish, out))
    assert len(server.asked) == 24
    assert built.report["consistent"] == 1
    assert built.report["position_bias"]["value"] == 0.5
    entries = list(entries_in(out))
    assert built.pairs == len(entries) == 8  # two right ones against the wrong one
    assert built.left_out == {"judged a tie": 4}
    assert len({entry.id for entry in entries}) == 8
    for entry in entries:
        assert entry.models[1] == "x"
        assert entry.votes == (2.0, 0.0)
        assert entry.annotator == "eye-1"
        assert entry.category == "aesthetics"
    assert "beautiful" in server.asked[0]["messages"][0]["content"]
    lines = read_lines(out / "verdicts.jsonl")
    assert len(lines) == 25
    assert not verdicts_file(out).exists()


def test_answers_that_are_there_are_not_asked_again(candidates, server, tmp_path, monkeypatch):
    server.answer = eye
    out = tmp_path / "pairs"
    wish = Wish(str(candidates), "judge", judge=server.url)
    finish(build(wish, tmp_path / "whole"))
    server.asked.clear()
    server.status = [200, 200, 200, 404]
    with pytest.raises(VipoError, match="404"):
        finish(build(Wish(str(candidates), "judge", judge=server.url, together=1), out))
    with verdicts_file(out).open("a") as stream:
        stream.write('{"question": "3.0')  # a process was killed at this
    known = len(read_lines(verdicts_file(out))) - 1
    assert 0 < known < 8
    server.asked.clear()
    finish(build(wish, out))
    assert len(server.asked) == 8 - known
    one, two = (folder / "part-00000.parquet" for folder in (out, tmp_path / "whole"))
    assert one.read_bytes() == two.read_bytes()


def test_verdicts_about_something_else_are_not_taken(candidates, server, tmp_path):
    server.status = [200, 404]
    wish = {"judge": server.url, "together": 1}
    with pytest.raises(VipoError):
        finish(build(Wish(str(candidates), "judge", **wish), tmp_path / "pairs"))
    other = Wish(str(candidates), category="portrait", by="judge", **wish)
    with pytest.raises(DataError, match="verdicts about something else"):
        finish(build(other, tmp_path / "pairs"))


def test_questions_without_an_answer_are_asked_again_next_time(
    candidates, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.answer = eye
    server.status = [503]
    wish = Wish(str(candidates), "judge", judge=server.url, together=1)
    built = finish(build(wish, tmp_path / "pairs"))
    assert built.left_out["the judge gave no answer"] == 1
    assert len(read_lines(tmp_path / "pairs" / "verdicts.jsonl")) == 8


def test_a_server_that_went_away_ends_the_work(candidates, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.status = [503] * 20
    wish = Wish(str(candidates), "judge", judge=server.url)
    with pytest.raises(VipoError, match="did not answer 8 questions") as caught:
        finish(build(wish, tmp_path / "pairs"))
    assert "same command again" in caught.value.hint


def test_a_rubric_of_one_s_own(candidates, server, tmp_path):
    server.answer = eye
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Only the hands count.")
    wish = Wish(str(candidates), "judge", judge=server.url, rubric=rubric)
    finish(build(wish, tmp_path / "pairs"))
    assert "Only the hands count." in server.asked[0]["messages"][0]["content"]
    with pytest.raises(DataError, match="cannot read the rubric"):
        finish(build(Wish(str(candidates), "judge", judge=server.url, rubric=tmp_path / "no"),
                     tmp_path / "other"))  # fmt: skip


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path):
    with pytest.raises(VipoError) as caught:
        find_judge(str(tmp_path / "nowhere"))
    assert "server" in caught.value.hint


def test_a_model_in_this_process_sees_both_pictures(tmp_path, monkeypatch):
    from tests.tiny.llava import build as build_llava

    judge = find_judge(str(build_llava(tmp_path / "llava")))
    monkeypatch.setattr(local, "TOKENS", 3)
    seen = {}
    plain = judge.model.generate

    def generate(**inputs):
        seen.update(inputs)
        return plain(**inputs)

    monkeypatch.setattr(judge.model, "generate", generate)
    words = judge.ask(*question("rubric", "a red circle", png(0), png(255)))
    assert len(words.split()) <= 3
    assert judge.ask(*question("rubric", "a red circle", png(0), png(255))) == words
    dark, light = seen["pixel_values"]
    assert dark.mean() < light.mean()
    text = judge.processor.tokenizer.decode(seen["input_ids"][0])
    assert "red circle" in text
