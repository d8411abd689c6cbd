"""What is wrong with a run, in plain words with numbers, and what to do about it.

early, late   mean levels at the beginning and at the end
displacement  policy error - reference error
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vipo_cli.analysis.history import History, Level, Measurement, moving_median
from vipo_cli.analysis.pictures import drift_text, drifted

SHORT = 30
"""Steps below which nothing is judged: early and late would be the same few batches."""

SURE = 3.0
"""Standard errors beyond which a mean over steps counts as different."""

DISPLACED, SPOILT = 0.02, 0.2
"""Winner error above the reference's, as a share of it, from which on it is told, and told as a
warning. A few per cent are usual where pictures gain: 5 % came with the embedded model's gain."""

COLLAPSED = 1.5
"""Error, relative to the reference's or to the first steps', of a model that denoises no more."""

DEAD = 0.05
"""Share of pairs with a gradient below which a step learns from next to nothing."""

VANISHED = 0.02
"""Gradient norm, relative to the first steps', that has gone: learning rates in use differ less."""

CHANCE = 0.53
"""Implicit accuracy up to which a run has learnt no preference worth the name."""

SATURATED = 0.5
"""Share of pairs with p outside [0.01, 0.99] from which on most pairs are decided."""

SPIKE, NEIGHBOURS = 5.0, 51
"""A gradient norm this many times the median of the steps around it is a spike."""

SPIKES = 0.02
"""Share of spikes from which on they are told: a few are what clipping is for."""

OVERFITTED = 0.1
"""Implicit accuracy in training above the held-out one from which on pairs are memorised."""

Advice = tuple[tuple[str, str], ...]
"""What to do, and the command that does it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a user should know.

    Attributes:
        name: one word for programs.
        level: `warning` asks for a change, `note` for attention, `good` for nothing.
        text: what was seen, with numbers.
        advice: what to do about it.
    """

    name: str
    level: Literal["warning", "note", "good"]
    text: str
    advice: Advice = ()

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        advice = [{"what": what, "command": command} for what, command in self.advice]
        return {"name": self.name, "level": self.level, "text": self.text, "advice": advice}


@dataclass(frozen=True, slots=True)
class About:
    """What advice may refer to.

    Attributes:
        run: the run directory.
        method, data: of its recipe; empty where it does not say.
        parameters: of its objective.
        learning_rate, steps: of its recipe, where it says.
        checkpoints: steps of the checkpoints that are there.
        has_curve: whether `vipo analyze gradients` can draw the method.
        has_reference: whether its beta pulls towards a reference; else it weighs the preference.
        clips: whether the model draws clips.
    """

    run: str
    method: str = ""
    data: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    steps: int | None = None
    checkpoints: tuple[int, ...] = ()
    has_curve: bool = False
    has_reference: bool = True
    clips: bool = False

    def again(self, key: str, value: float) -> str:
        """Return the command that runs the recipe with another setting."""
        return f"vipo train --recipe {self.run}/recipe.yaml --set {key}={value:g}"

    def other_rate(self, factor: float) -> Advice:
        """Advise another learning rate, where the recipe says which it was."""
        if self.learning_rate is None:
            return ()
        words = "learn faster" if factor > 1 else "learn more slowly"
        rate = float(f"{self.learning_rate * factor:.2g}")
        return ((words, self.again("optimizer.learning_rate", rate)),)

    def other_beta(self, factor: float) -> Advice:
        """Advise another beta, where the objective has one that is a number.

        Args:
            factor: above 1 to hold the policy closer to what it was.
        """
        beta = self.parameters.get("beta")
        if not isinstance(beta, (int, float)):
            return ()
        words = "hold the policy closer" if factor > 1 else "let pairs decide more slowly"
        if not self.has_reference:
            words = f"let the preference weigh {'less' if factor > 1 else 'more'}"
            factor = 1 / factor
        return ((words, self.again("objective.beta", beta * factor)),)

    def evaluate(self, step: int | None = None) -> Advice:
        """Advise to evaluate the run, or its checkpoint nearest to a step."""
        if self.clips:  # which no benchmark takes yet
            return (("see what it draws", f"open {self.run}/samples.png"),)
        if step is None or not self.checkpoints:
            return (("see what it draws", f"vipo eval geneval {self.run}"),)
        nearest = min(self.checkpoints, key=lambda each: (abs(each - step), each))
        folder = f"{self.run}/checkpoints/step-{nearest:06d}"
        return ((f"see what step {nearest} draws", f"vipo eval geneval {folder}"),)


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks look at: records, their early and late levels, and the run they are of."""

    history: History
    early: dict[str, Level]
    late: dict[str, Level]
    about: About

    def now(self, name: str) -> float | None:
        """Return the late level of something, if it was recorded."""
        return self.late[name].mean if name in self.late else None

    def held_out(self, metric: str) -> list[Measurement]:
        """Return the held-out measurements of a metric."""
        return [each for each in self.history.held_out if each.metric == metric]

    @property
    def best(self) -> Measurement | None:
        """The best held-out measurement: the highest accuracy, or the lowest error."""
        accuracies, errors = self.held_out("implicit_accuracy"), self.held_out("error")
        if accuracies:
            return max(accuracies, key=lambda each: each.value)
        return min(errors, key=lambda each: each.value) if errors else None


def findings(case: Case) -> tuple[Finding, ...]:
    """Return what the checks found, and that the run is sound where they found no warning."""
    unfinished = _unfinished(case)
    if len(case.history) < SHORT:
        text = f"{len(case.history)} steps are too few to judge: at least {SHORT} are needed"
        return (*unfinished, Finding("short", "note", text))
    checks = (
        _collapse, _decline, _chance, _no_gradient, _few_kept, _saturation, _displacement,
        _instability, _overfitting, _drift,
    )  # fmt: skip
    found = [finding for check in checks if (finding := check(case))]
    if any(finding.name == "collapse" for finding in found):  # of which displacement is a part
        found = [finding for finding in found if finding.name != "displacement"]
    if not any(finding.level == "warning" for finding in found):
        found.insert(0, _healthy(case))
    return (*found, *unfinished)


def _unfinished(case: Case) -> tuple[Finding, ...]:
    last, steps = int(case.history.step[-1]), case.about.steps
    if steps is None or last >= steps:
        return ()
    text = f"the records end at step {last} of {steps}: still running, interrupted, or diverged"
    return (Finding("unfinished", "note", text, (("go on", _resume(case)),)),)


def _resume(case: Case) -> str:
    return f"vipo train --resume {case.about.run}"


def _healthy(case: Case) -> Finding:
    if "implicit_accuracy" in case.late:
        seen = f"implicit accuracy {_change(case, 'implicit_accuracy', '.2f')} in training"
    else:
        seen = f"error on winners {_change(case, 'policy_w', '.3g')} in training"
    if case.history.held_out:
        first, last = case.history.held_out[0], case.history.held_out[-1]
        before = f"{first.value:.3g} -> " if first is not last else ""
        seen += f", {before}{last.value:.3g} [{last.low:.3g}, {last.high:.3g}] on held-out pairs"
    return Finding("healthy", "good", f"{seen}; {_looked_for(case)}", case.about.evaluate())


def _looked_for(case: Case) -> str:
    """Say what would have been found, and what this run's records do not tell."""
    needs = {
        "policy_w": "collapse",
        "gradient_norm": "instability",
        "kept_fraction": "dead pairs",
        "saturated": "saturation",
    }
    absent = [words for name, words in needs.items() if name not in case.late]
    if "reference_w" not in case.late and _last_gain(case) is None:
        absent.append("displacement")
    if not case.held_out("implicit_accuracy"):
        absent.append("overfitting")
    words = "nothing wrong found"
    return f"{words}; not recorded, so not checked: {', '.join(absent)}" if absent else words


def _change(case: Case, name: str, form: str) -> str:
    return f"{case.early[name].mean:{form}} -> {case.late[name].mean:{form}}"


def times_worse(early: Mapping[str, Level], late: Mapping[str, Level]) -> tuple[float, str] | None:
    """Return how many times as large the error on winners is, and what it is set against."""
    if "policy_w" not in late:
        return None
    if "reference_w" in late:
        before, against = late["reference_w"].mean, "the reference's"
    elif "policy_w" in early:
        before, against = early["policy_w"].mean, "that of the first steps"
    else:
        return None
    return (late["policy_w"].mean / before, against) if before > 0 else None


def displaced(late: Mapping[str, Level]) -> float | None:
    """Return how much worse winners are denoised than by the reference, as a share; 0 if unsure.

    None without a reference, and where errors are no errors: D3PO's are log-likelihoods.
    """
    moved, reference = late.get("displacement_w"), late.get("reference_w")
    if moved is None or reference is None or reference.mean <= 0:
        return None
    return moved.mean / reference.mean if moved.mean >= SURE * moved.stderr else 0.0


def _collapse(case: Case) -> Finding | None:
    """Errors exploded: the policy no longer denoises what it is paid to prefer."""
    found = times_worse(case.early, case.late)
    if found is None or found[0] <= COLLAPSED:
        return None
    times, against = found
    now = case.late["policy_w"].mean
    text = (
        f"collapse: the error on winners is {times:.1f} times {against} "
        f"({now:.3g} against {now / times:.3g}); the pictures will show it"
    )
    best = case.best
    advice = case.about.other_rate(1 / 3) + case.about.other_beta(2)
    return Finding(
        "collapse", "warning", text, advice + (case.about.evaluate(best.step) if best else ())
    )


def _decline(case: Case) -> Finding | None:
    """The last held-out value lies outside the interval of the best, on the wrong side."""
    best = case.best
    if best is None:
        return None
    last = case.held_out(best.metric)[-1]
    fell = last.value < best.low if best.metric == "implicit_accuracy" else last.value > best.high
    if not fell:
        return None
    text = (
        f"decline: held-out {best.metric.replace('_', ' ')} went from {best.value:.3g} "
        f"[{best.low:.3g}, {best.high:.3g}] at step {best.step} to {last.value:.3g} at step "
        f"{last.step}; what came after step {best.step} did harm"
    )
    stop = (("stop there", case.about.again("run.steps", best.step)),)
    return Finding(
        "decline",
        "warning",
        text,
        case.about.evaluate(best.step) + stop + case.about.other_rate(1 / 3),
    )


def _chance(case: Case) -> Finding | None:
    """Implicit accuracy never left one half, in training and on held-out pairs."""
    late = case.late.get("implicit_accuracy")
    if late is None or (late.mean - SURE * late.stderr > 0.5 and late.mean > CHANCE):
        return None
    held_out = case.held_out("implicit_accuracy")
    if held_out and held_out[-1].low > 0.5:
        return None
    text = (
        f"nothing learnt: implicit accuracy over the last {late.n} steps is {late.mean:.3f} "
        f"+- {late.stderr:.3f}, where a coin gives 0.5"
    )
    if held_out:
        text += f"; on held-out pairs {held_out[-1].value:.3f}"
    look: Advice = (("see whether rewards agree with the labels", _conflict(case)),)
    return Finding("chance", "warning", text, case.about.other_rate(3) + look)


def _conflict(case: Case) -> str:
    return f"vipo analyze conflict {case.about.data or 'DATA'}"


def _no_gradient(case: Case) -> Finding | None:
    early, late = case.early.get("gradient_norm"), case.late.get("gradient_norm")
    if early is None or late is None or late.mean >= VANISHED * early.mean:
        return None
    text = (
        f"dead loss: the gradient's norm fell from {early.mean:.3g} in the first steps to "
        f"{late.mean:.3g}; nothing moves any more"
    )
    return Finding("dead-gradient", "warning", text, case.about.other_beta(0.5) + _curves(case))


def _few_kept(case: Case) -> Finding | None:
    kept = case.now("kept_fraction")
    if kept is None or kept >= DEAD:
        return None
    text = (
        f"dead loss: over the last steps {kept:.1%} of the pairs have a gradient; "
        "the others are masked, clipped or satisfied"
    )
    return Finding("dead-pairs", "warning", text, _masked(case) + _curves(case))


def _masked(case: Case) -> Advice:
    if "mask" not in case.about.parameters:
        return ()
    return (("see which times are masked", f"vipo analyze timesteps {case.about.run}"),)


def _curves(case: Case) -> Advice:
    if not case.about.has_curve:
        return ()
    return (("see where it has a gradient", f"vipo analyze gradients {case.about.method}"),)


def _saturation(case: Case) -> Finding | None:
    share = case.now("saturated")
    if share is None or share <= SATURATED:
        return None
    text = (
        f"saturation: {share:.0%} of the pairs have an implicit probability outside [0.01, 0.99]; "
        "those the policy has right teach nothing more, those it has wrong pull at full strength"
    )
    advice = case.about.other_rate(1 / 3)
    if case.about.parameters.get("typical_logit") is None:
        advice += (("let beta follow the margin", case.about.again("objective.typical_logit", 1)),)
    if (_displaced(case) or 0) < DISPLACED:  # else a smaller beta would let it drift further
        advice = case.about.other_beta(0.5) + advice
    return Finding("saturation", "warning", text, advice)


def _displaced(case: Case) -> float | None:
    """Return how much worse the policy denoises winners at the end, as a share; None if unsure."""
    if "displacement_w" not in case.late:
        return _displaced_held_out(case)
    return displaced(case.late) or None


def _displaced_held_out(case: Case) -> float | None:
    """Say the same of an objective without a reference, from what was held out."""
    last, usual = _last_gain(case), _usual_error(case)
    if last is None or last.winner_gain is None or last.winner_gain_ci95 is None or usual is None:
        return None
    return -last.winner_gain / usual if last.winner_gain_ci95[1] < 0 else None


def _last_gain(case: Case) -> Measurement | None:
    measured = [each for each in case.history.held_out if each.winner_gain is not None]
    return measured[-1] if measured else None


def _usual_error(case: Case) -> float | None:
    """Return the reference's error on winners, or the policy's before it had learnt much."""
    if "reference_w" in case.late:
        return case.late["reference_w"].mean
    return case.early["policy_w"].mean if "policy_w" in case.early else None


def _displacement(case: Case) -> Finding | None:
    """Winners are denoised worse than before while the policy still tells them from losers."""
    share, accuracy = _displaced(case), case.now("implicit_accuracy")
    if accuracy is None and case.held_out("implicit_accuracy"):
        accuracy = case.held_out("implicit_accuracy")[-1].value
    if share is None or share < DISPLACED or accuracy is None or accuracy <= CHANCE:
        return None
    losers = ""
    if "displacement_l" in case.late and case.now("reference_l"):
        losers = f", losers {case.late['displacement_l'].mean / case.late['reference_l'].mean:+.1%}"
    text = (
        f"likelihood displacement: at the end the error on winners is {share:+.1%} against the "
        f"reference{losers}, at an implicit accuracy of {accuracy:.2f}: the margin grows because "
        "losers get worse faster, not because winners get better"
    )
    if share < SPOILT:
        text += "; a few per cent are usual and need not harm"
    text += _held_out_winners(case)
    level: Literal["warning", "note"] = "warning" if share >= SPOILT else "note"
    guard: Advice = ()
    if case.about.parameters.get("safeguard") is None:
        words = "let no step raise the winner's error"
        guard = ((words, case.about.again("objective.safeguard", 0.9)),)
    advice = case.about.evaluate() + guard + case.about.other_beta(2)
    return Finding("displacement", level, text, advice)


def _held_out_winners(case: Case) -> str:
    """Say how much worse held-out winners are denoised, where that was measured."""
    usual, last = _usual_error(case), _last_gain(case)
    if last is None or usual is None:
        return ""
    text = f"; held-out winners {-(last.winner_gain or 0) / usual:+.1%}"
    if last.winner_gain_ci95 is not None:
        low, high = last.winner_gain_ci95
        text += f" [{-high / usual:+.1%}, {-low / usual:+.1%}]"
    return text


def _instability(case: Case) -> Finding | None:
    norms = case.history.values["gradient_norm"]
    norms = norms[np.isfinite(norms)]
    if len(norms) < SHORT:
        return None
    ratio = norms / np.maximum(moving_median(norms, NEIGHBOURS), 1e-30)
    spikes = int((ratio > SPIKE).sum())
    if spikes <= SPIKES * len(norms):
        return None
    text = (
        f"instability: at {spikes} of {len(norms)} steps the gradient's norm is more than "
        f"{SPIKE:g} times that of the steps around it, up to {ratio.max():.0f} times"
    )
    return Finding(
        "instability", "warning", text, case.about.other_rate(1 / 3) + _larger_batch(case)
    )


def _larger_batch(case: Case) -> Advice:
    warm = max(10, (case.about.steps or 100) // 10)
    return (("warm up", case.about.again("optimizer.warmup_steps", warm)),)


def _overfitting(case: Case) -> Finding | None:
    training, measured = case.late.get("implicit_accuracy"), case.held_out("implicit_accuracy")
    if training is None or not measured:
        return None
    last = measured[-1]
    sure = training.mean - SURE * training.stderr > last.high
    if not sure or training.mean - last.value < OVERFITTED:
        return None
    best = max(measured, key=lambda each: each.value)
    text = (
        f"overfitting: implicit accuracy is {training.mean:.3f} on the pairs learnt from and "
        f"{last.value:.3f} [{last.low:.3f}, {last.high:.3f}] on pairs kept back; more pairs help "
        "most"
    )
    advice = case.about.other_beta(2)
    if best.step < last.step:
        advice = (("stop earlier", case.about.again("run.steps", best.step)), *advice)
    return Finding("overfitting", "warning", text, advice)


def _drift(case: Case) -> Finding | None:
    """The last validation samples no longer look like the base's."""
    if not case.history.pictures:
        return None
    last = case.history.pictures[-1]
    far = drifted(last.changes)
    if not far:
        return None
    text = (
        f"drift: the validation samples of step {last.step} are far from the base's for the same "
        f"prompts and noise: {drift_text(far)}; look at {case.about.run}/samples.png"
    )
    sound = [each.step for each in case.history.pictures if not drifted(each.changes)]
    stop = (("stop earlier", case.about.again("run.steps", sound[-1])),) if sound else ()
    return Finding(
        "drift", "warning", text, stop + case.about.other_rate(1 / 3) + case.about.other_beta(2)
    )
