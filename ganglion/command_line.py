"""The command `ganglion`: one subcommand per step from a task in simulation to a bag on a robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from ganglion import deployer, evaluator, sweeper, trainer
from ganglion.options import Command, cli
from runtime.errors import GanglionError
from runtime.extras import explain_missing

COMMANDS: dict[str, type[Command]] = {
    "tasks": trainer.Tasks,
    "train": trainer.Train,
    "sweep": sweeper.Sweep,
    "export": trainer.Export,
    "inspect": deployer.Inspect,
    "diff": deployer.Diff,
    "keygen": deployer.Keygen,
    "sign": deployer.Sign,
    "bench": deployer.Bench,
    "eval": trainer.Eval,
    "view": trainer.View,
    "video": trainer.Video,
    "sim": deployer.Sim,
    "run": deployer.Run,
    "status": deployer.Diagnostics,
    "stop": deployer.Stop,
    "engage": deployer.Engage,
    "record": deployer.Record,
    "preflight": deployer.Preflight,
    "demo": deployer.Demo,
    "replay": evaluator.Replay,
    "compare": evaluator.Compare,
    "collect": evaluator.Collect,
    "ope": evaluator.Ope,
}

_ON_ROS = ("sim", "run", "status", "stop", "engage", "record", "preflight")


def _parse(name: str, arguments: list[str]) -> Command:
    if name == "train":
        return trainer.parse_train(arguments)
    if name == "sweep":
        return sweeper.parse_sweep(arguments)
    if name in _ON_ROS and "--ros-args" in arguments:
        cut = arguments.index("--ros-args")
        return replace(_parse(name, arguments[:cut]), ros=tuple(arguments[cut:]))  # type: ignore[type-var]
    return cli(COMMANDS[name], name, arguments)


def _overview() -> str:
    lines = (f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}\n" for name, command in COMMANDS.items())
    return (
        "usage: ganglion COMMAND …\n\n"
        "Train a robot's controller in simulation, ship it as one ONNX file, run it on ROS 2, replay its bags.\n\n"
        f"{''.join(lines)}\n"
        "'ganglion COMMAND --help' tells more; 'ganglion --version' tells the version.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0, 1 if a robot does not fit or would notice a difference, 2 for an error, 130 on Ctrl-C.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        from ganglion import __version__

        sys.stdout.write(f"ganglion {__version__}\n")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise GanglionError(f"there is no command '{args[0]}'; expected one of {', '.join(COMMANDS)}")
        return _parse(args[0], args[1:]).run() or 0
    except (GanglionError, ModuleNotFoundError) as error:
        text = explain_missing(error) if isinstance(error, ModuleNotFoundError) else str(error)
        sys.stderr.write(f"error: {text}\n")
        return 2
    except KeyboardInterrupt:
        return 130
