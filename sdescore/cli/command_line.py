"""The command line of a command or a script: its settings, and errors of one line."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_loader
from jsonargparse._loaders_dumpers import yaml_load

from sdescore.cli.outputs import is_first_process

__all__ = ["construct", "parse", "parser_of", "run", "run_with_settings"]

Config = TypeVar("Config")
DEEPEST = 30  # levels of settings


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


def load_yaml(text: str) -> Any:
    """What YAML says. Raises YAMLError for aliases, whose expansion may never end, and for what is nested deeply."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise yaml.YAMLError(f"settings have no aliases, and at most {DEEPEST} levels")
    return yaml_load(text)


def parser_of(cls: type, program: str, description: str | None) -> ArgumentParser:
    """A parser of the settings of a dataclass, whose docstring makes --help, and of --config, a file of them."""
    set_loader("yaml", load_yaml, (yaml.YAMLError, ValueError))  # of text that is no YAML, and stays text
    parser = ArgumentParser(prog=program, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--config", action="config", help="File of settings, YAML or JSON; flags after it count more.")
    parser.add_class_arguments(cls)
    return parser


def construct(cls: type[Config], parser: ArgumentParser, given: Namespace) -> Config:
    """The settings as an object. What it refuses ends the program as a wrong flag does."""
    try:
        return cls(**{each.name: given[each.name] for each in fields(cls)})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def parse(cls: type[Config], program: str, description: str | None, arguments: Sequence[str] | None = None) -> Config:
    """The settings that arguments, by default those of the command line, give."""
    parser = parser_of(cls, program, description)
    return construct(cls, parser, parser.parse_args(arguments))


def run(program: str, task: Callable[[], None]) -> None:
    """Do what a program is for; what is wrong with its input ends it with one line instead of a traceback."""
    logging.basicConfig(level=logging.INFO if is_first_process() else logging.CRITICAL, format="%(message)s")
    logging.getLogger("sdescore.data.unreadable").setLevel(logging.WARNING)  # but each names what it cannot read
    try:
        task()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        raise SystemExit(f"{program}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{program}: interrupted") from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run_with_settings(
    cls: type[Config],
    task: Callable[[Config], None],
    program: str,
    description: str | None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Do a task with the settings that the command line gives; see parse() and run()."""
    run(program, lambda: task(parse(cls, program, description, arguments)))
