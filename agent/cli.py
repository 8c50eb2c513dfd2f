"""The command `warmslice`. Each command is one function; exit code 0: done, 1: refused or not so, 2: bad input."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args, get_type_hints

from agent import VERSION
from agent.model.answer import Answer
from agent.model.errors import AgentError, BadInputError
from agent.model.reach import Reach
from agent.settings import DEFAULT_FILE, ENVIRONMENT_PREFIX, Settings, from_process

_PLACES = ("node_name", "kubeconfig", "mig_config_label", "layouts_file", "pod_resources_socket", "proc_directory")
"""Settings that say where to look."""

_PLACES_HERE = ("node_name", "kubeconfig", "pod_resources_socket", "proc_directory")

_OF_A_CLUSTER = ("kubeconfig", "mig_config_label")

_PLACES_OF_A_DOCTOR = (
    *_PLACES_HERE,
    "role",
    "layouts_file",
    "catalog_file",
    "cache_directory",
    "state_directory",
    "device_directory",
)

_OF_THE_HISTORY = ("state_directory",)

_PLACES_BY_HAND = (
    "node_name",
    "layouts_file",
    "pod_resources_socket",
    "proc_directory",
    "state_directory",
    "before_commands",
    "refresh_commands",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. A mistake of the caller is one sentence on stderr."""
    options = command_line().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except BadInputError as error:
        print(f"warmslice: {error}", file=sys.stderr)
        return 2
    except AgentError as error:
        print(f"warmslice: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command_line() -> argparse.ArgumentParser:
    """Every command with its options. Reference page, man page and shell completion are made from it."""
    parser = argparse.ArgumentParser(
        prog="warmslice", description="MIG layouts by node label, warm weights, slice metrics."
    )
    parser.add_argument("--version", action="version", version=f"warmslice {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_plan(commands)
    _add_apply(commands)
    _add_layouts(commands)
    _add_check(commands)
    _add_status(commands)
    _add_cache(commands)
    _add_advise(commands)
    _add_doctor(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="run the agent on this node",
        description="Run the agent on this node until SIGTERM. Every setting may stand in the settings file, as "
        f"{ENVIRONMENT_PREFIX}<NAME> in the environment, or as a flag; later ones win.",
    )
    _add_settings(parser)
    parser.set_defaults(command=_run)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "plan",
        help="what a layout would keep, destroy and create, and whom it would move",
        description="Say what a layout would do, and do nothing: to one GPU on paper (--gpu), to a node by its node object "
        "(--node), or to this host with all that is known here (--here). Exit code 1: refused, 3: something is in the way.",
    )
    parser.add_argument("--gpu", metavar="MODEL", help="GPU model, such as H100-80GB-SXM")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--node", metavar="NAME", help="a node, through the API server")
    where.add_argument("--here", action="store_true", help="this host: NVML, PodResources, and the API server if any")
    parser.add_argument(
        "--from", dest="start", default="", metavar="LAYOUT", help="on paper: layout now (default: empty)"
    )
    parser.add_argument(
        "--to", metavar="LAYOUT", help="layout wished, such as 1x3g.40gb_4x1g.10gb (default: the label)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(parser, _PLACES)
    parser.set_defaults(command=_plan)


def _add_apply(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "apply",
        help="change this host's layout by hand, without Kubernetes",
        description="Change the GPUs of this host, with the agent's guards: slices with processes are never touched, what fails "
        "or is interrupted is undone. Exit code 0: done, 1: refused, failed or undone, 2: bad input, 3: blocked.",
    )
    wish = parser.add_mutually_exclusive_group(required=True)
    wish.add_argument("layout", nargs="?", metavar="LAYOUT", help="layout wished, such as 1x3g.40gb_4x1g.10gb")
    wish.add_argument("--resume", action="store_true", help="end a change that was killed: on to its layout, or back")
    parser.add_argument(
        "--gpu-index", type=int, nargs="+", default=[], metavar="N", help="these GPUs only (default: all)"
    )
    parser.add_argument(
        "--timeout-seconds", type=float, default=600.0, metavar="S", help="then it is undone (default: 600)"
    )
    _add_settings(parser, _PLACES_BY_HAND)
    parser.set_defaults(command=_apply)


def _add_layouts(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "layouts",
        help="which layouts a GPU model can have; the device plugin's part of those in a file",
        description="List the maximal geometries of a GPU model: nothing more fits beside any of them. With slices that are held "
        "(--holding), or held on this host (--here): those that leave them alone. Or print the ConfigMap that NVIDIA's device "
        "plugin needs for the layouts of a file that are shared.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--gpu", metavar="MODEL", help="GPU model, such as H100-80GB-SXM")
    what.add_argument("--here", action="store_true", help="this host: NVML, PodResources, and the API server if any")
    what.add_argument(
        "--device-plugin-config",
        nargs="?",
        const=Settings().layouts_file,
        metavar="FILE",
        help=f"print the ConfigMap for this layouts file (default: {Settings().layouts_file})",
    )
    parser.add_argument("--holding", metavar="SLICES", help="with --gpu: these stay, such as '3g.40gb@4:4 1g.10gb@0:1'")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(parser, _PLACES_HERE)
    parser.set_defaults(command=_layouts)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check",
        help="check a layouts file or a model catalog",
        description="Read a layouts file (mig-parted v1) and say every mistake in it, as FILE:LINE:COLUMN: what is wrong; "
        "or a model catalog. Exit code 2: the file has mistakes; 1: the GPU model cannot have a layout.",
    )
    parser.add_argument("file", help="file to check")
    parser.add_argument("--gpu", metavar="MODEL", help="also say which layouts this GPU model cannot have")
    parser.set_defaults(command=_check)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="how a node stands, or all of them",
        description="Print what the agent says of a node: layout, state, reason, since when, models. With --all a table of all "
        "nodes, with the slices that are free. Exit code 1: the last word on a node is failed.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("node", nargs="?", help="name of the node")
    which.add_argument("--all", action="store_true", help="every node that has a layout, a model or an agent")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(parser, _OF_A_CLUSTER)
    parser.set_defaults(command=_status)


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "cache", help="the model cache of this host", description="Look after the model cache of this host."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    texts = {
        "pull": "fetch and verify models of the catalog (all, or those named)",
        "ls": "list the models of the catalog: label, revision, size, readiness",
        "verify": "read every cached file again and compare its hash",
    }
    for action, text in texts.items():
        sub = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("names", nargs="*", metavar="NAME", help="names of models in the catalog")
        _add_settings(sub)
        sub.set_defaults(command=_cache, action=action)

    sub = actions.add_parser(
        "doctor",
        help="look for what others, or a kill, have left in the cache",
        description="Say what is odd in the cache: what other programs put there, broken downloads, files that pods cannot read. "
        "Exit code 1: something was found.",
    )
    sub.add_argument("--fix", action="store_true", help="adopt, open or remove it")
    _add_settings(sub)
    sub.set_defaults(command=_cache_doctor)
    sub = actions.add_parser(
        "gc",
        help="remove what has to go for the budget, or for a model to come",
        description="Remove revisions that nobody uses: earlier ones beyond cache_keep_revisions, and as many more as the "
        "budget, or --free, asks for. Exit code 1: there is not room enough, and what holds it is named.",
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would go, and do nothing")
    sub.add_argument(
        "--free", type=_bytes, default=0, metavar="BYTES", help="room for so much more, such as 20e9 or 20GB"
    )
    _add_settings(sub)
    sub.set_defaults(command=_cache_gc)


def _add_advise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "advise",
        help="how the slices of this node could be used better",
        description="Say by the agent's own history which slices are larger than what is used of them, which nobody uses, and "
        "which geometry would free a larger one. Nothing is changed. Runs where the agent does: it reads the history that the "
        "partition role writes, and the GPUs from NVML, or where that is not there as the history saw them last.",
    )
    parser.add_argument("--history", metavar="FILE", help="another history: from it alone (default: state_directory)")
    parser.add_argument("--here", action="store_true", help="the GPUs of this host, by NVML, or none")
    parser.add_argument(
        "--min-days",
        type=float,
        default=1.0,
        metavar="N",
        help="say nothing of what was observed for less (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(parser, _OF_THE_HISTORY)
    parser.set_defaults(command=_advise)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what is wrong with a cluster, a node or this host, and what to change",
        description="Look at a cluster through the API server (with NODE at that node, and at what is no node's alone), or at "
        "this host (--here); say what is wrong and what to change; change nothing. Exit code 0: nothing found, 1: something was "
        "found, 2: bad input, 3: nothing was found, but not everything could be looked at.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("node", nargs="?", metavar="NODE", help="name of a node (default: all)")
    where.add_argument("--here", action="store_true", help="this host, with what the API server says of it if any")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(parser, _PLACES_OF_A_DOCTOR)
    parser.set_defaults(command=_doctor)


def _bytes(text: str) -> int:
    """A number, with one of GB, MB, kB, GiB, MiB, KiB behind it or none."""
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kKMGT]i?B)?", text)
    try:
        number = float(match[1]) if match is not None else None
    except ValueError:
        number = None
    if match is None or number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes: write 20000000000 or 20GB")
    unit = match[2] or ""
    return int(number * (1024 if "i" in unit else 1000) ** " kMGT".index((unit or " ")[0].replace("K", "k")))


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] = Settings.__struct_fields__) -> None:
    parser.add_argument("--settings", metavar="FILE", help=f"settings file (default: {DEFAULT_FILE}, if it is there)")
    defaults = Settings()
    hints = get_type_hints(Settings)
    for name in names:
        choices = [value for value in get_args(hints[name]) if isinstance(value, str)]
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=f"setting_{name}",
            choices=choices or None,
            metavar=None if choices else "VALUE",
            help=f"default: {getattr(defaults, name)!r}".replace("%", "%%"),
        )


def _settings(options: argparse.Namespace) -> Settings:
    flags = {
        name: value
        for name in Settings.__struct_fields__
        if (value := getattr(options, f"setting_{name}", None)) is not None
    }
    return from_process(options.settings, flags)


def _run(options: argparse.Namespace) -> int:
    from agent.daemon import run

    return run(_settings(options))


def _plan(options: argparse.Namespace) -> int:
    from agent.report.drawing import drawn

    answer = _answer(options)
    print(_indented(answer.to_json()) if options.json else drawn(answer))
    return {"refused": 1, "wait": 3}.get(answer.verdict, 0)


def _answer(options: argparse.Namespace) -> Answer:
    from agent.adapters import clock
    from agent.commands.plan import plan_for_node, plan_here
    from agent.reconcile.paper import plan_on_paper

    settings = _settings(options)
    if options.here:
        return asyncio.run(plan_here(settings, options.to))
    if options.node:
        return asyncio.run(plan_for_node(settings, options.node, options.to, options.gpu))
    if not options.gpu or options.to is None:
        raise BadInputError("say of what: --gpu MODEL with --to LAYOUT, --node NAME, or --here")
    return plan_on_paper(options.gpu, options.start, options.to, settings.layouts_file, clock.now())


def _apply(options: argparse.Namespace) -> int:
    from agent.commands.apply import apply
    from agent.report.log import configure

    # What happens is said in words; the log is for a service.
    configure("critical")
    settings, say = _settings(options), partial(print, flush=True)
    return asyncio.run(apply(settings, options.layout, options.gpu_index, options.timeout_seconds, say))


def _layouts(options: argparse.Namespace) -> int:
    from agent.commands.layouts import layouts_here
    from agent.reconcile.check import plugin_config
    from agent.reconcile.paper import layouts_on_paper
    from agent.reconcile.reach import reach_on_paper

    if options.holding is not None and options.gpu is None:
        raise BadInputError("--holding names slices on paper: it goes with --gpu MODEL (--here finds out what is held)")
    if options.device_plugin_config is not None:
        return _say(0, plugin_config(options.device_plugin_config).rstrip())
    if options.here:
        return _say_reach(asyncio.run(layouts_here(_settings(options))), options.json)
    if options.holding is not None:
        return _say_reach(reach_on_paper(options.gpu, options.holding), options.json)
    return _say(*layouts_on_paper(options.gpu, options.json))


def _say_reach(reach: Reach, as_json: bool) -> int:
    from agent.report.reach import reach_drawn

    return _say(0, _indented(reach.to_json()) if as_json else reach_drawn(reach))


def _check(options: argparse.Namespace) -> int:
    from agent.reconcile.check import check_file

    code, text = check_file(options.file, options.gpu)
    print(text, file=sys.stderr if code == 2 else sys.stdout)
    return code


def _status(options: argparse.Namespace) -> int:
    from agent.commands.fleet import print_fleet
    from agent.commands.status import print_status

    settings = _settings(options)
    if options.all:
        fleet = print_fleet(settings.mig_config_label, settings.kubeconfig, options.json, time.time)
        return _say(*asyncio.run(fleet))
    return _say(*asyncio.run(print_status(options.node, settings, options.json)))


def _advise(options: argparse.Namespace) -> int:
    from agent.commands.advise import advise
    from agent.report.advise import advice_drawn

    found = asyncio.run(advise(_settings(options), options.history, options.here, options.min_days))
    return _say(0, _indented(found.to_json()) if options.json else advice_drawn(found))


def _doctor(options: argparse.Namespace) -> int:
    from agent.commands.doctor import doctor, doctor_here
    from agent.report.doctor import diagnosis_drawn

    settings = _settings(options)
    found = asyncio.run(doctor_here(settings) if options.here else doctor(settings, options.node or ""))
    return _say(found.exit_code, _indented(found.to_json()) if options.json else diagnosis_drawn(found))


def _cache_doctor(options: argparse.Namespace) -> int:
    from agent.commands.cache import doctor_command

    return doctor_command(_settings(options), options.fix, print)


def _cache_gc(options: argparse.Namespace) -> int:
    from agent.commands.cache import gc_command

    return gc_command(_settings(options), options.free, options.dry_run, print)


def _cache(options: argparse.Namespace) -> int:
    from agent.commands.cache import cache_command

    return asyncio.run(cache_command(_settings(options), options.action, options.names, print))


def _indented(document: str) -> str:
    return json.dumps(json.loads(document), indent=2)


def _say(code: int, text: str) -> int:
    print(text)
    return code
