"""Several processes that build together: each does its share alone, and all wait at the end.

Work is shared out by what it is about and not by when a process comes to it, so that none has to
ask another, and whatever was killed is gone on with by any number of processes.
"""

from vipo_cli.run import ALONE, Team
from vipo_cli.training.launch import started_processes


def join_team() -> Team:
    """Meet the other processes that a launcher started, if it started any.

    Raises:
        VipoError: more processes than GPUs.
    """
    if started_processes() == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    from vipo_cli.training.devices import refuse_crowding

    refuse_crowding()
    found = torch.accelerator.current_accelerator(check_available=True)
    PartialState(cpu=found is None or found.type == "mps")
    team = _team()
    team.wait()
    return team


def wait_for_team() -> None:
    """Wait until all processes have come here."""
    _team().wait()


def is_mine(number: int) -> bool:
    """Tell whether a piece of work, by a number that is always its own, is for this process."""
    return _team().mine(number)


def _team() -> Team:
    """Return the team that has met."""
    if started_processes() == 1:
        return ALONE
    from vipo_cli.training.devices import process_count, process_rank, wait

    return Team(process_rank(), process_count(), wait)
