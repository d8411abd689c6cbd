"""Benchmarks by name: registered ones, any reward, or one in a user's own file."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Asked, Metric, Task, Verdict, tasks
from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.registry import make, parameters_of
from vipo_cli.rewards import Reward, rewards
from vipo_cli.rewards.made import make_reward

Factory = Callable[..., Task]

REWARD_PROMPTS = "pickapic-test"
"""On which prompts a reward is a benchmark, where it has none of its own."""
PROMPTS_OF = {"hpsv2": "hpdv2", "videoalign": "vbench", "videoscore": "vbench"}
"""Others, by what the names of rewards begin with."""


@dataclass(frozen=True, slots=True)
class RewardTask:
    """A reward as a benchmark: its mean over the media."""

    reward: Reward
    name: str
    title: str
    metrics: tuple[Metric, ...]
    prompt_set: str = REWARD_PROMPTS
    version: str = "1"
    needs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    images_per_prompt: int = 1
    batch_size: int = 32

    @property
    def judge_fingerprint(self) -> list[str]:
        """Return the reward's name and fingerprint."""
        return [self.reward.name, self.reward.fingerprint]

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Score media together."""
        scores = self.reward.score(media, [str(each["prompt"]) for each in asked])
        return [Verdict({self.name: float(score)}) for score in scores]


def find_task(name: str, options: Mapping[str, Any], prompts: str | None = None) -> Task:
    """Return a benchmark.

    Args:
        name: of a benchmark or a reward, or `file.py` or `file.py:function`.
        options: of its factory.
        prompts: the prompt set in use, told to a factory that wants to know.

    Raises:
        UnknownName: there is none of that name.
        VipoError: options that it does not take, or a file without a benchmark.
    """
    if name.partition(":")[0].endswith(".py"):
        factory = _from_file(name)
    elif name in tasks:
        factory = tasks[name]
    elif name in rewards:
        return _reward_task(name, options)
    else:
        raise UnknownName("benchmark", name, sorted({*tasks.names(), *rewards.names()}))
    if prompts is not None and "prompts" in parameters_of(factory).model_fields:
        options = {"prompts": prompts, **options}
    task: Task = make(factory, name, options)
    return task


def _reward_task(name: str, options: Mapping[str, Any]) -> RewardTask:
    reward = make_reward(name, options)
    starts = (prompts for start, prompts in PROMPTS_OF.items() if name.startswith(start))
    return RewardTask(reward, name, name, (Metric(name),), next(starts, REWARD_PROMPTS))


def _from_file(name: str) -> Factory:
    """Return the one function of a file that makes a benchmark, or the one that is named."""
    place, _, wanted = name.partition(":")
    file = Path(place).expanduser()
    if not file.is_file():
        raise VipoError(f"no such file: `{place}`")
    module_name = f"vipo_task_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise VipoError(f"cannot load `{place}`: {type(error).__name__}: {error}") from error
    made: dict[str, Factory] = {
        key: value
        for key, value in vars(module).items()
        if _makes_task(value, module_name) and wanted in ("", key)
    }
    if len(made) != 1:
        found = ", ".join(f"`{each}`" for each in made) or "none"
        raise VipoError(
            f"`{name}` must hold one function that returns a `Task`, and holds {found}",
            hint=f"name the function: {place}:FUNCTION; it is annotated `-> Task`",
        )
    return next(iter(made.values()))


def _makes_task(value: Any, module: str) -> bool:
    if not callable(value) or getattr(value, "__module__", "") != module or isinstance(value, type):
        return False
    annotation = getattr(value, "__annotations__", {}).get("return")
    return annotation is Task or annotation == "Task"
