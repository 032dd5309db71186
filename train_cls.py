"""Train a classifier: python train_cls.py --config FILE [section.key=value ...], alone or under torchrun.

The same command goes on with a run that was stopped or killed. Exit status: 0 finished, 2 bad input, 75 stopped by a
signal with everything saved, 1 failed.
"""

import sys

from engine import cli, signals


def main() -> None:
    signals.watch()  # before torch is imported, so that a signal during start-up ends the run in order
    arguments = cli.parse("Train a classifier; the same command goes on with a run that was stopped.")
    from engine.config import as_yaml, load_config

    config = load_config(arguments.config, arguments.overrides)
    if arguments.print_config:
        print(as_yaml(config), end="")  # noqa: T201
        return
    from engine.run import train

    train(config)


if __name__ == "__main__":
    sys.exit(cli.run(main))
